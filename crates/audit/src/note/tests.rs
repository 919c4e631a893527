use super::*;
use crate::checkpoint::Checkpoint;
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair, ML_DSA_44_SIGNING, PqdsaKeyPair};

/// The example of c2sp.org/signed-note, "Verifier keys".
const FOO_KEY: &str = "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k";
const FOO_NOTE: &str = "This is an example message.\n\n\
    \u{2014} example.com/foo Uw2QOkn8srV1yJGh2VYRlL1Tnagv1YEq6TfXppzi2ONncAlTgK7Ztg1ERYNZXsYjOBH3mFXmRKuwHjG1Yu72IneyaQM=\n";

/// The example of golang.org/x/mod/sumdb/note.
const NEUMANN_KEY: &str = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW";
const NEUMANN_NOTE: &str = "If you think cryptography is the answer to your problem,\n\
    then you don't know what your problem is.\n\n\
    \u{2014} PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n";

/// The examples of c2sp.org/signed-note (its head) and c2sp.org/tlog-cosignature, whose keys are not told.
const QUASIMODO: &str = "Ognuno sta solo sul cuor della terra\ntrafitto da un raggio di sole:\n\ned è subito sera.\n\n\
    \u{2014} quasimodo.example/salvatore NnugSzTjtVAewIS+Z/iJhUPeFDkO/5QQ2i5ddnGITLlC+EhfLW9oJKONrMouFSQU0xMcXxj99ihAQwaqP3ZekRwNtIc=\n";
const COSIGNED: &str = "example.com/behind-the-sofa\n20852163\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n\n\
    \u{2014} example.com/behind-the-sofa Az3grlgtzPICa5OS8npVmf1Myq/5IZniMp+ZJurmRDeOoRDe4URYN7u5/Zhcyv2q1gGzGku9nTo+zyWE+xeMcTOAYQ8=\n\
    \u{2014} witness.example.com/w1 jWbPPwAAAABkGFDLEZMHwSRaJNiIDoe9DYn/zXcrtPHeolMI5OWXEhZCB9dlrDJsX3b2oyin1nPZqhf5nNo0xUe+mbIUBkBIfZ+qnA==\n";

const TIME: u64 = 1_679_315_147;

fn pair(seed: u8) -> Ed25519KeyPair {
    Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).unwrap()
}

fn key_of(name: &str, kind: KeyKind, pair: &Ed25519KeyPair) -> VerifierKey {
    VerifierKey::new(name, kind, pair.public_key().as_ref().to_vec()).unwrap()
}

fn timed(time: u64, signature: &[u8]) -> Vec<u8> {
    [time.to_be_bytes().as_slice(), signature].concat()
}

#[test]
fn published_notes_verify_under_their_keys_and_no_other() {
    for (vkey, note) in [(FOO_KEY, FOO_NOTE), (NEUMANN_KEY, NEUMANN_NOTE)] {
        let key = VerifierKey::parse(vkey).unwrap();
        assert_eq!((key.to_string().as_str(), key.kind()), (vkey, KeyKind::Ed25519));
        let parsed = Note::parse(note.as_bytes()).unwrap();
        assert_eq!(parsed.verify(&key), Ok(()));
        assert_eq!(parsed.cosigned_at(&key), Err(NoteError::Unsigned), "a log's line has no time");
        assert_eq!(parsed.encode(), note);
        let other = key_of(key.name(), KeyKind::Ed25519, &pair(1));
        assert_eq!(parsed.verify(&other), Err(NoteError::Unsigned));
    }
}

#[test]
fn published_notes_without_keys_are_read_and_written() {
    for (note, lines) in [(QUASIMODO, 1), (COSIGNED, 2)] {
        let parsed = Note::parse(note.as_bytes()).unwrap();
        assert_eq!((parsed.encode().as_str(), parsed.signatures().len()), (note, lines));
    }
    let parsed = Note::parse(QUASIMODO.as_bytes()).unwrap();
    assert!(parsed.text().ends_with("sole:\n\ned è subito sera.\n"), "empty lines of the text are the text's");
    let cosigned = Note::parse(COSIGNED.as_bytes()).unwrap();
    let witness = &cosigned.signatures()[1];
    assert_eq!((witness.name(), witness.id()), ("witness.example.com/w1", [0x8d, 0x66, 0xcf, 0x3f]));
    assert_eq!(witness.bytes()[..8], TIME.to_be_bytes());
    assert_eq!(witness.bytes().len(), 8 + 64);
}

#[test]
fn every_altered_byte_of_a_note_is_found() {
    let key = VerifierKey::parse(FOO_KEY).unwrap();
    let mut tried = 0;
    for at in 0..FOO_NOTE.len() {
        for flip in [1, 0x20, 0x80] {
            let mut bytes = FOO_NOTE.as_bytes().to_vec();
            bytes[at] ^= flip;
            assert!(Note::parse(&bytes).and_then(|note| note.verify(&key)).is_err(), "byte {at} with {flip}");
            tried += 1;
        }
        let shorter = [&FOO_NOTE.as_bytes()[..at], &FOO_NOTE.as_bytes()[at + 1..]].concat();
        assert!(Note::parse(&shorter).and_then(|note| note.verify(&key)).is_err(), "without byte {at}");
    }
    assert!(tried > 400);
}

#[test]
fn a_key_that_is_known_must_verify_on_each_of_its_lines_and_others_are_ignored() {
    let (mine, other) = (pair(1), pair(2));
    let (key, stranger) = (key_of("a", KeyKind::Ed25519, &mine), key_of("b", KeyKind::Ed25519, &other));
    let text = "text\n";
    let good = key.line(mine.sign(text.as_bytes()).as_ref().to_vec());
    let bad = key.line(other.sign(text.as_bytes()).as_ref().to_vec());
    let foreign = stranger.line(vec![7; 64]);
    for (lines, verified) in [
        (vec![&good], Ok(())),
        (vec![&foreign, &good, &foreign], Ok(())),
        (vec![&good, &good], Ok(())),
        (vec![&good, &bad], Err(NoteError::Rejected)),
        (vec![&bad, &good], Err(NoteError::Rejected)),
        (vec![&foreign], Err(NoteError::Unsigned)),
    ] {
        let note = Note::new(text.into(), lines.into_iter().cloned().collect()).unwrap();
        assert_eq!(Note::parse(note.encode().as_bytes()).unwrap().verify(&key), verified, "{note:?}");
    }
}

#[test]
fn what_is_no_note_is_refused() {
    let line = &FOO_NOTE[FOO_NOTE.find('\u{2014}').unwrap()..];
    let many = |count| format!("text\n\n{}", line.repeat(count));
    for text in [
        String::new(),
        "text\n".into(),
        "text\n\n".into(),
        "text\n\n\n".into(),
        format!("text\n{line}"),
        format!("text\n\n{}", line.trim_end()),
        format!("text\n\n{line}\n"),
        format!("text\n\n{line}text\n"),
        format!("te\txt\n\n{line}"),
        format!("te\rxt\n\n{line}"),
        format!("te\0xt\n\n{line}"),
        format!("text\n\n{}", line.replace('\u{2014}', "-")),
        format!("text\n\n{}", line.replace(" Uw2", "  Uw2")),
        format!("text\n\n{}", line.replace("com/foo", "com/+foo")),
        format!("text\n\n{}", line.replace("com/foo", "com/\u{a0}foo")),
        "text\n\n\u{2014} example.com/foo AAAAAA==\n".into(),
        "text\n\n\u{2014} example.com/foo \n".into(),
        "text\n\n\u{2014}  AAAAAAA=\n".into(),
        // the same bytes, base64 with other left-over bits
        format!("text\n\n{}", line.replace("aQM=\n", "aQN=\n")),
        many(SIGNATURES_MAX + 1),
        format!("{}\n\n{line}", "a".repeat(NOTE_BYTES_MAX)),
    ] {
        assert_eq!(Note::parse(text.as_bytes()), Err(NoteError::Malformed), "{:?}", text.get(..80));
    }
    assert_eq!(Note::parse(b"te\xffxt\n\n\xe2\x80\x94 a AAAAAAA=\n"), Err(NoteError::Malformed));
    assert_eq!(Note::parse(many(SIGNATURES_MAX).as_bytes()).unwrap().signatures().len(), SIGNATURES_MAX);
}

#[test]
fn what_is_no_verifier_key_is_refused() {
    for vkey in [
        "",
        "example.com/foo",
        "example.com/foo+530d903a",
        "+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k",
        "example.com/foo+530d903b+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k",
        "example.com/foo+530D903A+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k",
        "example.com/fop+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k",
        "example com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k",
        "example.com/foo+530d903a+AukyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k",
        "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U",
        "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k\n",
        "example.com/foo+530d903a+",
    ] {
        assert_eq!(VerifierKey::parse(vkey), Err(MalformedKey), "{vkey:?}");
    }
    for name in ["", "a b", "a+b", "a\nb", "a\u{2003}b", "a\u{1}b"] {
        assert_eq!(VerifierKey::ed25519(name, [0; 32]), Err(MalformedKey), "{name:?}");
    }
    assert_eq!(VerifierKey::new("a", KeyKind::CosignatureMlDsa44, vec![0; 32]), Err(MalformedKey));
}

#[test]
fn an_ed25519_cosignature_is_over_time_and_text() {
    let pair = pair(3);
    let witness = key_of("witness.example.com/w1", KeyKind::CosignatureEd25519, &pair);
    assert_ne!(witness.id(), key_of(witness.name(), KeyKind::Ed25519, &pair).id(), "a kind, an ID");
    assert_eq!(VerifierKey::parse(&witness.to_string()), Ok(witness.clone()));
    let text = Note::parse(COSIGNED.as_bytes()).unwrap().text().to_owned();
    // the message as the specification shows it, "Ed25519 signed message"
    let shown = "cosignature/v1\ntime 1679315147\nexample.com/behind-the-sofa\n20852163\n\
        CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n";
    let note = |time: u64, signed: &[u8]| {
        let line = witness.line(timed(time, pair.sign(signed).as_ref()));
        Note::parse(COSIGNED.as_bytes()).unwrap().signed(line).unwrap()
    };
    assert_eq!(note(TIME, shown.as_bytes()).cosigned_at(&witness), Ok(TIME));
    let at = |time| format!("cosignature/v1\ntime {time}\n{text}");
    for (time, signed) in [
        (TIME + 1, shown.to_owned()),
        (TIME, text.clone()),
        (TIME, at("01679315147".into())),
        (0, at("0".into())),
        (1 << 63, at((1u64 << 63).to_string())),
    ] {
        assert_eq!(note(time, signed.as_bytes()).cosigned_at(&witness), Err(NoteError::Rejected), "{time} {signed}");
    }
    let twice = note(TIME, shown.as_bytes());
    let later = witness.line(timed(TIME + 9, pair.sign(at((TIME + 9).to_string()).as_bytes()).as_ref()));
    assert_eq!(twice.signed(later).unwrap().cosigned_at(&witness), Ok(TIME + 9), "the latest of two");
}

#[test]
fn an_ml_dsa_44_cosignature_is_over_names_time_and_head() {
    let pair = PqdsaKeyPair::from_seed(&ML_DSA_44_SIGNING, &[4; 32]).unwrap();
    let name = "witness.example.com/w1";
    let witness = VerifierKey::new(name, KeyKind::CosignatureMlDsa44, pair.public_key().as_ref().to_vec()).unwrap();
    assert_eq!(VerifierKey::parse(&witness.to_string()), Ok(witness.clone()));
    let unsigned = Note::parse(COSIGNED.as_bytes()).unwrap();
    let root = Checkpoint::parse(unsigned.text()).unwrap().root;
    // "ML-DSA-44 signed message", field by field
    let message = |cosigner: &str, end: u64| {
        let mut message = b"subtree/v1\n\0".to_vec();
        message.push(u8::try_from(cosigner.len()).unwrap());
        message.extend(cosigner.as_bytes());
        message.extend(TIME.to_be_bytes());
        message.extend(b"\x1bexample.com/behind-the-sofa");
        message.extend([0; 8]);
        message.extend(end.to_be_bytes());
        message.extend(root);
        message
    };
    let cosigned = |message: &[u8]| {
        let mut signature = vec![0; ML_DSA_44_SIGNING.signature_len()];
        pair.sign(message, &mut signature).unwrap();
        assert_eq!(signature.len(), 2420);
        unsigned.clone().signed(witness.line(timed(TIME, &signature))).unwrap()
    };
    assert_eq!(cosigned(&message(name, 20_852_163)).cosigned_at(&witness), Ok(TIME));
    for wrong in [message("witness.example.com/w2", 20_852_163), message(name, 20_852_164)] {
        assert_eq!(cosigned(&wrong).cosigned_at(&witness), Err(NoteError::Rejected));
    }
    let no_checkpoint = Note::new("text\n".into(), vec![witness.line(vec![1; 2428])]).unwrap();
    assert_eq!(no_checkpoint.verify(&witness), Err(NoteError::Rejected));
}

#[test]
fn a_checkpoint_is_believed_of_its_own_origins_key() {
    let pair = pair(5);
    let key = key_of("example.com/log", KeyKind::Ed25519, &pair);
    let checkpoint = Checkpoint { origin: key.name().into(), size: 7, root: [9; 32] };
    let signature = |text: &str| -> [u8; 64] { pair.sign(text.as_bytes()).as_ref().try_into().unwrap() };
    let note = checkpoint.sign(&key, signature(&checkpoint.body())).unwrap();
    assert_eq!(Checkpoint::open(&note, &key), Ok(checkpoint.clone()));
    assert_eq!(checkpoint.sign(&key, [0; 64]), Err(NoteError::Rejected));
    let foreign = Checkpoint { origin: "example.com/another".into(), ..checkpoint };
    assert_eq!(foreign.sign(&key, signature(&foreign.body())), Err(NoteError::Unsigned), "another origin");
    let prose = Note::new("text\n".into(), vec![key.line(signature("text\n").to_vec())]).unwrap();
    assert_eq!(Checkpoint::open(&prose, &key), Err(NoteError::Malformed));
}
