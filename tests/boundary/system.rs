//! The system's own services: the barrier keyring, audit checkpoints, counters of uses.

use crate::signing::verifies;
use crate::suite::{AAD, Answer, Gives, Refuses, Suite, TENANT, ask, encrypt};
use bytes::Bytes;
use envelope::{SecretBytes, merkle};
use hsm_api::message::ITEM_BYTES_MAX;
use hsm_api::{CounterPage, HsmError, KeyId, KeyToken, Reply, Request, Role, SigningAlgorithm, checkpoint};

pub(crate) fn seal(suite: &mut Suite) {
    let (key, other, aes) = (suite.system_key(), suite.system_key(), suite.aes());
    assert!(suite.stand.status().clusters.contains(&TENANT), "the cluster is bound to this module");
    let seal = |len: usize| Request::SystemSeal {
        key: key.clone(),
        epoch: 3,
        aad_digest: AAD,
        plaintext: SecretBytes::from_vec(vec![8; len]),
    };
    let out = Refuses(HsmError::OutOfRange);
    for (len, answer) in [(0, out), (1, Gives), (ITEM_BYTES_MAX, Gives), (ITEM_BYTES_MAX + 1, out)] {
        suite.row(format!("{len} bytes"), &[], seal(len), answer);
    }
    let Some(Reply::Blob(sealed)) = suite.row("a keyring", &[], seal(100), Gives) else { panic!() };
    assert_eq!(envelope::sealed::parse_system(&sealed).unwrap().header.generation, 3);
    let mut altered = sealed.to_vec();
    *altered.last_mut().unwrap() ^= 1;
    let mut epoch = sealed.to_vec();
    epoch[47] ^= 1;
    let blob = suite.encrypt(&aes, b"text");
    type Place<'a> = (&'a str, &'a KeyToken, [u8; 32], &'a [u8], Answer);
    let table: [Place<'_>; 8] = [
        ("in its place", &key, AAD, &sealed, Gives),
        ("in another place", &key, [0; 32], &sealed, Refuses(HsmError::Rejected)),
        ("altered", &key, AAD, &altered, Refuses(HsmError::Rejected)),
        ("of another epoch", &key, AAD, &epoch, Refuses(HsmError::Rejected)),
        ("by another key", &other, AAD, &sealed, Refuses(HsmError::IncorrectKey)),
        ("a caller's blob", &key, AAD, &blob, Refuses(HsmError::MalformedBlob)),
        ("cut", &key, AAD, &sealed[..50], Refuses(HsmError::MalformedBlob)),
        ("too long", &key, AAD, &[0; ITEM_BYTES_MAX + 500], out),
    ];
    for (what, key, aad_digest, sealed, answer) in table {
        let request = Request::SystemOpen { key: key.clone(), aad_digest, sealed: Bytes::copy_from_slice(sealed) };
        if let Some(Reply::Secret(keyring)) = suite.row(what, &[], request, answer) {
            assert_eq!(keyring.expose(), [8; 100]);
        }
    }
    assert_eq!(suite.decrypt(&aes, &sealed, AAD), Err(HsmError::MalformedBlob), "the keyring is no blob");
    suite.count(true);
}

const ORIGIN: &str = "log.example/conformance";

fn checkpoint_of(key: &KeyToken, origin: &str, leaves: &[merkle::Hash], proof: Vec<merkle::Hash>) -> Request {
    let (size, root) = (leaves.len() as u64, merkle::root(leaves));
    Request::SignCheckpoint { key: key.clone(), origin: origin.to_owned(), size, root, proof }
}

fn leaves(bytes: &[u8]) -> Vec<merkle::Hash> {
    bytes.iter().map(|byte| merkle::leaf_hash(&[*byte])).collect()
}

/// A fork is never signed, not even after a restart, where the module can remember.
pub(crate) fn checkpoints(suite: &mut Suite) {
    let key = suite.log_key();
    let tree = leaves(&[0, 1, 2, 3, 4, 5, 6, 7, 8]);
    let forked = leaves(&[0, 1, 2, 3, 4, 5, 6, 99, 100]);
    let proof = |old: usize, leaves: &[merkle::Hash]| merkle::consistency_proof(leaves, old);
    let request = checkpoint_of(&key.token, ORIGIN, &tree[..3], vec![]);
    let Some(Reply::Signature(signature)) = suite.row("the first", &[], request, Gives) else { panic!() };
    let body = checkpoint::note_body(ORIGIN, 3, &merkle::root(&tree[..3]));
    assert!(verifies(SigningAlgorithm::Ed25519Sha512, &key.public_key, &body, &signature));
    let request = checkpoint_of(&key.token, ORIGIN, &tree[..7], proof(3, &tree[..7]));
    suite.row("one that extends it", &[], request, Gives);
    for restarted in [false, true] {
        if restarted {
            suite.stand.restart();
        }
        let remembers = !restarted || suite.capabilities.remembers_checkpoints;
        let fork = if remembers { Refuses(HsmError::CheckpointForked) } else { Gives };
        let table: [(&str, &[merkle::Hash], Vec<merkle::Hash>, Answer); 5] = [
            ("the same again", &tree[..7], vec![], Gives),
            ("without a proof", &tree, vec![], fork),
            ("with a proof from elsewhere", &tree, proof(3, &tree), fork),
            ("a smaller one", &tree[..3], vec![], fork),
            ("another one of its size", &forked[1..8], vec![], fork),
        ];
        // without a memory the first one after a restart sets the mark: only that one is asked for
        let rows = if remembers { table.len() } else { 1 };
        for (what, leaves, proof, answer) in table.into_iter().take(rows) {
            suite.row(what, &[], checkpoint_of(&key.token, ORIGIN, leaves, proof), answer);
        }
    }
    suite.row("one that extends it", &[], checkpoint_of(&key.token, ORIGIN, &tree, proof(7, &tree)), Gives);
    let fork = checkpoint_of(&key.token, ORIGIN, &forked, proof(7, &forked));
    suite.row("a fork with its own proof", &[], fork, Refuses(HsmError::CheckpointForked));
    let (longest, longer) = ("x".repeat(255), "x".repeat(256));
    let out = Refuses(HsmError::OutOfRange);
    // what the protocol has no room for is refused where it is decoded
    let not_spoken = Refuses(HsmError::Protocol);
    for (origin, answer) in [("", out), ("two\nlines", out), (&longest, Gives), (&longer, not_spoken)] {
        let request = checkpoint_of(&key.token, origin, &tree[..1], vec![]);
        suite.row(format!("an origin of {} bytes", origin.len()), &[], request, answer);
    }
}

/// A batch says nothing of what stands before it: no fork of it is refused, and none passes for a checkpoint.
pub(crate) fn batches(suite: &mut Suite) {
    let key = suite.log_key();
    let root = merkle::root(&leaves(&[0, 1, 2]));
    let ask = |origin: &str, first: u64, count: u32| Request::SignBatch {
        key: key.token.clone(),
        origin: origin.to_owned(),
        first,
        count,
        root,
    };
    for again in 0..2 {
        let row = suite.row(format!("a batch, asked {again} times before"), &[], ask(ORIGIN, 9, 3), Gives);
        let Some(Reply::Signature(signature)) = row else { panic!() };
        let body = checkpoint::batch_body(ORIGIN, 9, 3, &root);
        assert!(verifies(SigningAlgorithm::Ed25519Sha512, &key.public_key, &body, &signature));
        let body = checkpoint::note_body(ORIGIN, 9, &root);
        assert!(!verifies(SigningAlgorithm::Ed25519Sha512, &key.public_key, &body, &signature));
    }
    let out = Refuses(HsmError::OutOfRange);
    for (what, origin, first, count, answer) in [
        ("the last that can be", ORIGIN, u64::MAX - 1, 1, Gives),
        ("one too far", ORIGIN, u64::MAX, 1, out),
        ("an empty batch", ORIGIN, 9, 0, out),
        ("nobody's", "", 9, 3, out),
        ("lines that are not its own", "two\nlines", 9, 3, out),
    ] {
        suite.row(what, &[], ask(origin, first, count), answer);
    }
}

fn page(suite: &mut Suite, role: Role, after: Option<KeyId>, limit: u16, challenge: [u8; 32]) -> CounterPage {
    match suite.row_as(role, "a page", &[], Request::Counters { after, limit, challenge }, Gives) {
        Some(Reply::Counters(page)) => page,
        other => panic!("{other:?}"),
    }
}

pub(crate) fn counters(suite: &mut Suite) {
    let key = suite.key(hsm_api::KeySpec::Aes256);
    for request in [
        Request::GenerateDataKeys { key: key.token.clone(), asks: vec![ask(32), ask(32), ask(0)] },
        encrypt(&key.token, b"text"),
    ] {
        suite.stand.user(request).unwrap();
    }
    let blob = suite.encrypt(&key.token, b"text");
    assert!(suite.decrypt(&key.token, &blob, [0; 32]).is_err(), "what gives nothing is no use");
    suite.decrypt(&key.token, &blob, AAD).unwrap();
    let status = suite.stand.status();
    let challenge = [4; 32];
    for role in [Role::User, Role::Officer, Role::Auditor] {
        let page = page(suite, role, None, 2048, challenge);
        assert!(!page.more && page.uses.is_sorted() && page.boot_epoch == status.boot_epoch);
        assert_eq!(page.uses.iter().find(|(id, _)| *id == key.key_id), Some(&(key.key_id, 5)));
        let genuine = |challenge: &[u8; 32]| {
            let signed = page.signed_bytes(&status.module_id, challenge);
            let identity =
                aws_lc_rs::signature::UnparsedPublicKey::new(&aws_lc_rs::signature::ED25519, &status.identity_key);
            identity.verify(&signed, &page.signature).is_ok()
        };
        assert!(genuine(&challenge) && !genuine(&[5; 32]));
    }
    let all = page(suite, Role::Auditor, None, 2048, challenge).uses;
    let (mut paged, mut after) = (Vec::new(), None);
    loop {
        let page = page(suite, Role::Auditor, after, 4, challenge);
        after = page.uses.last().map(|(id, _)| *id);
        paged.extend(page.uses);
        if !page.more {
            break;
        }
        suite.rows -= 1; // all pages are one row
    }
    assert_eq!(paged, all);
    for limit in [0, 2049] {
        let request = Request::Counters { after: None, limit, challenge };
        suite.row(format!("a page of {limit}"), &[], request, Refuses(HsmError::OutOfRange));
    }
}
