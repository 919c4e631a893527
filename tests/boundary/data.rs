//! Data keys, encryption, re-encryption, random bytes: lengths, limits, places.

use crate::suite::{AAD, Answer, Gives, Refuses, Suite, ask, encrypt, flips, open, seal};
use bytes::Bytes;
use envelope::SecretBytes;
use hsm_api::message::ITEM_BYTES_MAX;
use hsm_api::{DataKeyAsk, HsmError, KeySpec, KeyToken, KeyUsage, NewKey, Reply, Request, SealAsk};

pub(crate) fn data_keys(suite: &mut Suite) {
    let key = suite.aes();
    let request = |asks| Request::GenerateDataKeys { key: key.clone(), asks };
    let quiet = DataKeyAsk { plaintext: false, ..ask(32) };
    let asks = vec![ask(0), ask(1), ask(16), ask(32), ask(1024), ask(1025), quiet];
    let Some(Reply::DataKeys(made)) = suite.row("a mixed batch", &[], request(asks), Gives) else { panic!() };
    let out = Refuses(HsmError::OutOfRange);
    suite.items("data keys of 0 to 1025 bytes", &made, &[out, Gives, Gives, Gives, Gives, out, Gives]);
    for (made, len) in made.iter().flatten().zip([1, 16, 32, 1024, 32]) {
        let opened = suite.decrypt(&key, &made.blob, AAD).unwrap();
        assert_eq!(opened.len(), len);
        assert!(made.plaintext.as_ref().is_none_or(|plaintext| plaintext.expose() == opened));
    }
    let quiet = made[6].as_ref().unwrap();
    assert!(quiet.plaintext.is_none() && made[3].as_ref().unwrap().blob != quiet.blob);
    for (count, answer) in [(0, out), (1, Gives), (128, Gives), (129, Refuses(HsmError::Protocol))] {
        suite.row(format!("{count} items"), &[], request(vec![ask(32); count]), answer);
    }
}

pub(crate) fn encrypt_and_decrypt(suite: &mut Suite) {
    let key = suite.aes();
    let out = Refuses(HsmError::OutOfRange);
    for (len, answer) in [(0, out), (1, Gives), (ITEM_BYTES_MAX, Gives), (ITEM_BYTES_MAX + 1, out)] {
        let plaintext = vec![5; len];
        let Some(Reply::Blobs(blobs)) = suite.row(format!("{len} bytes"), &[], encrypt(&key, &plaintext), Gives) else {
            panic!()
        };
        suite.items("a plaintext", &blobs, &[answer]);
        if let Some(Ok(blob)) = blobs.first() {
            assert_eq!(suite.decrypt(&key, blob, AAD).unwrap(), plaintext);
            suite.count(false);
        }
    }
    for (count, answer) in [(0, out), (128, Gives), (129, Refuses(HsmError::Protocol))] {
        let asks: Vec<SealAsk> = (0..count).map(|_| seal(b"text")).collect();
        suite.row(format!("{count} items"), &[], Request::Encrypt { key: key.clone(), asks }, answer);
        let asks = vec![open(b"x", AAD); count];
        suite.row(format!("{count} items"), &[], Request::Decrypt { key: key.clone(), asks }, answer);
    }

    let blob = suite.encrypt(&key, b"text");
    let other_key = suite.encrypt(&suite.aes(), b"text");
    let altered = |at: usize| {
        let mut altered = blob.to_vec();
        altered[at] ^= 1;
        altered
    };
    let trailing = [&blob[..], b"x"].concat();
    let rejected = Refuses(HsmError::Rejected);
    let malformed = Refuses(HsmError::MalformedBlob);
    let table: [(&[u8], [u8; 32], Answer); 13] = [
        (&blob, AAD, Gives),
        (&blob, [0; 32], rejected),
        (&altered(blob.len() - 1), AAD, rejected),
        (&altered(blob.len() - 18), AAD, rejected),
        (&altered(50), AAD, rejected),
        (&other_key, AAD, Refuses(HsmError::IncorrectKey)),
        (&blob[..blob.len() - 1], AAD, rejected),
        (&trailing, AAD, rejected),
        (&blob[..40], AAD, malformed),
        (b"", AAD, malformed),
        (&vec![0; ITEM_BYTES_MAX + 500], AAD, out),
        (key.bytes(), AAD, malformed),
        (&blob, AAD, Gives),
    ];
    let asks = table.iter().map(|(blob, aad, _)| open(blob, *aad)).collect();
    let request = Request::Decrypt { key: key.clone(), asks };
    let Some(Reply::Plaintexts(opened)) = suite.row("a mixed batch", &[], request, Gives) else { panic!() };
    suite.items("opening", &opened, &table.map(|(_, _, answer)| answer));
    for opened in opened.iter().flatten() {
        assert_eq!(opened.expose(), b"text");
    }

    let refusals = [HsmError::Rejected, HsmError::IncorrectKey, HsmError::MalformedBlob];
    let blobs: Vec<Vec<u8>> = flips(&blob).collect();
    for some in blobs.chunks(100) {
        let asks = some.iter().map(|blob| open(blob, AAD)).collect();
        let Ok(Reply::Plaintexts(opened)) = suite.stand.user(Request::Decrypt { key: key.clone(), asks }) else {
            panic!()
        };
        assert!(opened.iter().all(|item| item.as_ref().is_err_and(|error| refusals.contains(error))));
    }
    suite.count(true);
    assert_eq!(suite.decrypt(&key, &blob, AAD).unwrap(), b"text", "altered blobs never look like a dead device");
    suite.count(false);
}

/// A blob opens under the very key version that made it.
pub(crate) fn versions_and_splices(suite: &mut Suite) {
    let first = suite.key(KeySpec::Aes256);
    let further =
        |key_id, version| NewKey { key_id, version, ..suite.new_key(KeySpec::Aes256, KeyUsage::EncryptDecrypt) };
    let second = suite.make(further(Some(first.key_id), 2)).token;
    let first = first.token;
    let (of_first, of_second) = (suite.encrypt(&first, b"first"), suite.encrypt(&second, b"second"));
    let incorrect = Some(HsmError::IncorrectKey);
    let rejected = Some(HsmError::Rejected);
    // another version's header in front of this body, and this header in front of another body
    let header = [&of_second[..48], &of_first[48..]].concat();
    let body = [&of_first[..48], &of_second[48..]].concat();
    let table: [(&str, &KeyToken, &[u8], Option<HsmError>); 8] = [
        ("version 1 with its own blob", &first, &of_first, None),
        ("version 2 with its own blob", &second, &of_second, None),
        ("version 1 with a blob of 2", &first, &of_second, incorrect),
        ("version 2 with a blob of 1", &second, &of_first, incorrect),
        ("2's header on 1's body, asked of 1", &first, &header, incorrect),
        ("2's header on 1's body, asked of 2", &second, &header, rejected),
        ("1's header on 2's body, asked of 1", &first, &body, rejected),
        ("1's header on 2's body, asked of 2", &second, &body, incorrect),
    ];
    for (what, key, blob, expected) in table {
        assert_eq!(suite.decrypt(key, blob, AAD).err(), expected, "{:?}: {what}", suite.stand.kind);
        suite.count(expected.is_some());
    }
}

pub(crate) fn re_encrypt(suite: &mut Suite) {
    let (from, to, system) = (suite.aes(), suite.aes(), suite.system_key());
    let blob = suite.encrypt(&from, b"moving");
    let request = |from: &KeyToken, to: &KeyToken, aad, blob: &[u8]| Request::ReEncrypt {
        from: from.clone(),
        to: to.clone(),
        from_aad_digest: aad,
        to_aad_digest: [9; 32],
        blob: Bytes::copy_from_slice(blob),
    };
    let Some(Reply::Blob(moved)) = suite.row("to another key", &[], request(&from, &to, AAD, &blob), Gives) else {
        panic!()
    };
    assert_eq!(suite.decrypt(&to, &moved, [9; 32]).unwrap(), b"moving");
    assert_eq!(suite.decrypt(&to, &moved, AAD), Err(HsmError::Rejected));
    assert_eq!(suite.decrypt(&from, &moved, [9; 32]), Err(HsmError::IncorrectKey));
    let Some(Reply::Blob(renewed)) = suite.row("to the same key", &[], request(&from, &from, AAD, &blob), Gives) else {
        panic!()
    };
    assert_eq!(suite.decrypt(&from, &renewed, [9; 32]).unwrap(), b"moving");
    for (what, request, error) in [
        ("another context", request(&from, &to, [0; 32], &blob), HsmError::Rejected),
        ("keys the other way round", request(&to, &from, AAD, &blob), HsmError::IncorrectKey),
        ("into the system's key", request(&from, &system, AAD, &blob), HsmError::UsageForbidden),
        ("out of the system's key", request(&system, &to, AAD, &blob), HsmError::UsageForbidden),
        ("no blob", request(&from, &to, AAD, b"SR"), HsmError::MalformedBlob),
        ("a blob that is too long", request(&from, &to, AAD, &vec![0; ITEM_BYTES_MAX + 500]), HsmError::OutOfRange),
    ] {
        suite.row(what, &[], request, Refuses(error));
    }
}

pub(crate) fn random(suite: &mut Suite) {
    let out = Refuses(HsmError::OutOfRange);
    for (bytes, answer) in [(0, out), (1, Gives), (32, Gives), (1024, Gives), (1025, out)] {
        let reply = suite.row(format!("{bytes} bytes"), &[], Request::Random { bytes }, answer);
        if let Some(Reply::Secret(secret)) = reply {
            assert_eq!(secret.len(), usize::from(bytes));
        }
    }
    let draw = || match suite.stand.user(Request::Random { bytes: 32 }) {
        Ok(Reply::Secret(secret)) => SecretBytes::expose(&secret).to_vec(),
        other => panic!("{other:?}"),
    };
    assert_ne!(draw(), draw());
    suite.count(false);
}

/// Requests of one moment share frames and come back to who asked.
pub(crate) fn many_at_once(suite: &mut Suite) {
    let key = suite.aes();
    let requests = (0..600u16).map(|n| encrypt(&key, &n.to_be_bytes())).collect();
    let blobs = suite.stand.ask_together(requests);
    let opens = blobs.iter().map(|reply| match reply {
        Ok(Reply::Blobs(blobs)) => {
            Request::Decrypt { key: key.clone(), asks: vec![open(blobs[0].as_ref().unwrap(), AAD)] }
        }
        other => panic!("{other:?}"),
    });
    for (n, reply) in (0..600u16).zip(suite.stand.ask_together(opens.collect())) {
        let Ok(Reply::Plaintexts(plaintexts)) = reply else { panic!("{reply:?}") };
        assert_eq!(plaintexts[0].as_ref().unwrap().expose(), n.to_be_bytes());
    }
    suite.count(false);
}
