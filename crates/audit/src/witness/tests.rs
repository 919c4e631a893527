use super::*;
use crate::note::KeyKind;
use crate::tile::{TileError, TileId, TileReader, Tiles, consistency_proof};
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use envelope::merkle::leaf_hash;
use envelope::secret::SecretKey;
use std::os::unix::fs::PermissionsExt;

pub(super) const NOW: u64 = 1_679_315_147;
const NAME: &str = "witness.example/w1";
pub(super) const ORIGIN: &str = "example.com/log";

fn cosigner(seed: u8) -> Cosigner {
    let filled = |with| SecretKey::init_with(|bytes| bytes.fill(with));
    Cosigner::new(NAME, &filled(seed), &filled(seed + 1)).unwrap()
}

/// A log that holds every size of one history.
pub(super) struct History {
    pair: Ed25519KeyPair,
    origin: &'static str,
    leaves: Vec<Hash>,
    tiles: Tiles,
}

struct Nothing;

impl TileReader for Nothing {
    fn tile(&self, level: u8, index: u64, width: u16) -> Result<Vec<Hash>, TileError> {
        Err(TileError::Missing(TileId { level, index, width }))
    }
}

impl History {
    /// Two of the same `origin` share leaves up to `forked`.
    pub(super) fn new(origin: &'static str, forked: usize, mark: u8) -> Self {
        let leaf = |i: usize| leaf_hash(&[i.to_be_bytes().as_slice(), &[if i < forked { 0 } else { mark }]].concat());
        let (leaves, mut tiles) = ((0..600).map(leaf).collect::<Vec<_>>(), Tiles::default());
        leaves.iter().for_each(|leaf| tiles.push(*leaf));
        Self { pair: Ed25519KeyPair::from_seed_unchecked(&[1; 32]).unwrap(), origin, leaves, tiles }
    }

    pub(super) fn key(&self) -> VerifierKey {
        VerifierKey::ed25519(self.origin, self.pair.public_key().as_ref().try_into().unwrap()).unwrap()
    }

    fn root(&self, size: usize) -> Hash {
        envelope::merkle::root(&self.leaves[..size])
    }

    fn signed(&self, body: &str) -> Note {
        let line = self.key().line(self.pair.sign(body.as_bytes()).as_ref().to_vec());
        Note::new(body.into(), vec![line]).unwrap()
    }

    pub(super) fn note(&self, size: usize) -> Note {
        self.signed(&Checkpoint { origin: self.origin.into(), size: size as u64, root: self.root(size) }.body())
    }

    pub(super) fn request(&self, old: usize, new: usize) -> AddCheckpoint {
        let proof = consistency_proof(&self.tiles.over(&Nothing), old as u64, new as u64).unwrap_or_default();
        AddCheckpoint { old: old as u64, proof, checkpoint: self.note(new) }
    }
}

fn open(dir: &Path, log: &History) -> Witness {
    Witness::open(dir, cosigner(2), vec![log.key()]).unwrap()
}

fn ask(witness: &Witness, request: &AddCheckpoint) -> Answer {
    witness.answer("POST", "/add-checkpoint", request.encode().as_bytes(), NOW)
}

#[test]
fn the_specifications_request_is_read_and_written() {
    let example = "old 20852014\n\
        PlRNCrwHpqhGrupue0L7gxbjbMiKA9temvuZZDDpkaw=\n\
        jrJZDmY8Y7SyJE0MWLpLozkIVMSMZcD5kvuKxPC3swk=\n\
        5+pKlUdi2LeF/BcMHBn+Ku6yhPGNCswZZD1X/6QgPd8=\n\
        /6WVhPs2CwSsb5rYBH5cjHV/wSmA79abXAwhXw3Kj/0=\n\
        \n\
        example.com/behind-the-sofa\n\
        20852163\n\
        CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n\
        \n\
        \u{2014} example.com/behind-the-sofa Az3grlgtzPICa5OS8npVmf1Myq/5IZniMp+ZJurmRDeOoRDe4URYN7u5/Zhcyv2q1gGzGku9nTo+zyWE+xeMcTOAYQ8=\n\
        \u{2014} example.com/behind-the-sofa opLqBQsREYCgu6xQkYQwJr9fo45a62DN9EdmHXnZdXNqlcVGlCum2Wks+49/V6267UEjw6QUXTS5Rovnzv++qbSzm9Q=\n";
    let request = AddCheckpoint::parse(example.as_bytes()).unwrap();
    assert_eq!((request.old, request.proof.len(), request.checkpoint.signatures().len()), (20_852_014, 4, 2));
    assert_eq!(request.encode(), example);
    let proof_line = example.lines().nth(1).unwrap();
    for wrong in [
        String::new(),
        example.replace("old 2", "old 02"),
        example.replace("old 2", "old -2"),
        example.replace("old ", "old"),
        example.replace("old ", "size "),
        example.replacen("\n\n", "\n", 1),
        example.replace(proof_line, &proof_line[4..]),
        example.replace(proof_line, &vec![proof_line; 61].join("\n")),
        example.trim_end().into(),
    ] {
        assert_eq!(AddCheckpoint::parse(wrong.as_bytes()), None, "{wrong}");
    }
    let most = example.replace(proof_line, &vec![proof_line; 60].join("\n"));
    assert_eq!(AddCheckpoint::parse(most.as_bytes()).unwrap().proof.len(), 63);
}

#[test]
fn a_log_that_grows_gets_both_cosignatures_and_monitors_get_the_checkpoint() {
    let dir = tempfile::tempdir().unwrap();
    let log = History::new(ORIGIN, 600, 0);
    let witness = open(dir.path(), &log);
    let monitored = format!("/{}/checkpoint", hex::encode(envelope::mac::sha256(ORIGIN.as_bytes())));
    assert_eq!(witness.answer("GET", &monitored, b"", NOW).status, 404);
    for (old, new) in [(0, 0), (0, 1), (1, 1), (1, 256), (256, 257), (257, 600), (600, 600)] {
        let answer = ask(&witness, &log.request(old, new));
        assert_eq!(answer.status, 200, "{old} to {new}: {}", answer.body);
        let lines = cosignatures(&log.note(new), &answer.body, &witness.keys()).unwrap();
        assert_eq!(lines.len(), 2);
        let cosigned = lines.into_iter().fold(log.note(new), |note, line| note.signed(line).unwrap());
        for key in witness.keys() {
            assert_eq!((key.name(), cosigned.cosigned_at(&key)), (NAME, Ok(NOW)), "{:?}", key.kind());
        }
        let shown = witness.answer("GET", &monitored, b"", NOW);
        assert_eq!((shown.status, shown.body), (200, cosigned.encode()));
    }
    assert_eq!(witness.keys().map(|key| key.kind()), [KeyKind::CosignatureEd25519, KeyKind::CosignatureMlDsa44]);
}

#[test]
fn each_refusal_has_the_status_of_the_specification_and_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (log, fork) = (History::new(ORIGIN, 600, 0), History::new(ORIGIN, 100, 1));
    let witness = open(dir.path(), &log);
    let root_of = |size| log.root(size);
    let body = |size: u64, root| Checkpoint { origin: ORIGIN.into(), size, root }.body();
    assert_eq!(
        ask(&witness, &AddCheckpoint { checkpoint: log.signed(&body(0, [0; 32])), ..log.request(0, 0) }).status,
        422
    );
    assert_eq!(ask(&witness, &AddCheckpoint { proof: vec![[0; 32]], ..log.request(0, 200) }).status, 422);
    assert_eq!(ask(&witness, &log.request(0, 200)).status, 200);
    let recorded = witness.newest(&format!("/{}/checkpoint", folder::origin_hash(ORIGIN))).unwrap();

    let stranger =
        History { pair: Ed25519KeyPair::from_seed_unchecked(&[9; 32]).unwrap(), ..History::new(ORIGIN, 600, 0) };
    let forged = Note::new(body(300, root_of(300)), vec![log.key().line(vec![7; 64])]).unwrap();
    let spoilt = log.note(300).signed(log.key().line(vec![7; 64])).unwrap();
    let good = log.request(200, 300);
    for (status, why, request) in [
        (404, "another log", History::new("example.com/another", 600, 0).request(0, 300)),
        (403, "another key", stranger.request(200, 300)),
        (403, "a forged signature", AddCheckpoint { checkpoint: forged, ..good.clone() }),
        (403, "a good and a forged signature", AddCheckpoint { checkpoint: spoilt, ..good.clone() }),
        (400, "backwards", AddCheckpoint { old: 301, ..good.clone() }),
        (400, "no checkpoint", AddCheckpoint { checkpoint: log.signed("prose\n"), ..good.clone() }),
        (409, "an older size", log.request(100, 300)),
        (409, "a newer size", log.request(201, 300)),
        (409, "from nothing", log.request(0, 300)),
        (409, "an older checkpoint", log.request(100, 150)),
        (422, "a fork", fork.request(200, 300)),
        (422, "a fork of the same size", fork.request(200, 200)),
        (422, "no proof", AddCheckpoint { proof: vec![], ..good.clone() }),
        (422, "a hash too many", AddCheckpoint { proof: [good.proof.as_slice(), &[[0; 32]]].concat(), ..good.clone() }),
        (422, "a proof at equal sizes", AddCheckpoint { proof: vec![[0; 32]], ..log.request(200, 200) }),
    ] {
        let answer = ask(&witness, &request);
        assert_eq!(answer.status, status, "{why}: {}", answer.body);
        assert!(!answer.body.contains('\u{2014}'), "{why}: no cosignature leaves");
        if status == 409 {
            assert_eq!((answer.content_type, answer.body.as_str()), ("text/x.tlog.size", "200\n"), "{why}");
        }
        assert_eq!(witness.newest(&format!("/{}/checkpoint", folder::origin_hash(ORIGIN))).unwrap(), recorded, "{why}");
    }
    assert_eq!(witness.answer("POST", "/add-checkpoint", b"garbage", NOW).status, 400);
    assert_eq!(witness.answer("GET", "/add-checkpoint", b"", NOW).status, 404);
    assert_eq!(witness.answer("PUT", "/add-checkpoint", b"", NOW).status, 405);
    assert_eq!(witness.answer("POST", "/sign-subtree", b"", NOW).status, 404);
    assert_eq!(witness.answer("POST", "/add-checkpoint", good.encode().as_bytes(), 0).status, 500, "no clock");
    assert_eq!(ask(&witness, &good).status, 200, "and the log goes on");
}

#[test]
fn unknown_lines_are_ignored_and_not_published() {
    let dir = tempfile::tempdir().unwrap();
    let log = History::new(ORIGIN, 600, 0);
    let witness = open(dir.path(), &log);
    let stranger = VerifierKey::ed25519("example.com/stranger", [3; 32]).unwrap();
    let checkpoint = log.note(5).signed(stranger.line(vec![7; 64])).unwrap();
    assert_eq!(ask(&witness, &AddCheckpoint { checkpoint, ..log.request(0, 5) }).status, 200);
    let shown = witness.newest(&format!("/{}/checkpoint", folder::origin_hash(ORIGIN))).unwrap();
    assert!(!shown.contains("stranger") && Note::parse(shown.as_bytes()).unwrap().verify(&log.key()).is_ok());
}

#[test]
fn what_was_cosigned_outlives_the_process_and_forks_find_no_way_round() {
    let dir = tempfile::tempdir().unwrap();
    let (log, fork) = (History::new(ORIGIN, 600, 0), History::new(ORIGIN, 100, 1));
    let mut seen = 0;
    // the log and its fork compete; restarts in between, and what a crash leaves: an unfinished file
    for (step, size) in [101, 130, 131, 400, 599].into_iter().enumerate() {
        let witness = open(dir.path(), &log);
        for other in [101, size, 600].into_iter().filter(|_| seen > 0) {
            assert_ne!(ask(&witness, &fork.request(seen, other)).status, 200, "the fork from {seen} to {other}");
            assert_ne!(ask(&witness, &fork.request(100, other)).status, 200, "the fork from 100 to {other}");
        }
        assert_eq!(ask(&witness, &log.request(seen, size)).status, 200, "{seen} to {size}");
        seen = size;
        drop(witness);
        let unfinished = dir.path().join("log").join(folder::origin_hash(ORIGIN)).join("new");
        std::fs::write(unfinished, vec![b'x'; step * 100]).unwrap();
    }
}

#[test]
fn of_two_requests_at_once_one_is_cosigned() {
    let dir = tempfile::tempdir().unwrap();
    let (log, fork) = (History::new(ORIGIN, 600, 0), History::new(ORIGIN, 100, 1));
    let witness = open(dir.path(), &log);
    assert_eq!(ask(&witness, &log.request(0, 100)).status, 200);
    let requests: Vec<AddCheckpoint> =
        (101..109).flat_map(|new| [log.request(100, new), fork.request(100, new)]).collect();
    let statuses: Vec<u16> = std::thread::scope(|scope| {
        let asked: Vec<_> = requests.iter().map(|request| scope.spawn(|| ask(&witness, request).status)).collect();
        asked.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(statuses.iter().filter(|status| **status == 200).count(), 1, "{statuses:?}");
    assert_eq!(statuses.iter().filter(|status| **status == 409).count(), 15, "{statuses:?}");
}

#[test]
fn no_cosignature_leaves_that_is_not_recorded() {
    let dir = tempfile::tempdir().unwrap();
    let log = History::new(ORIGIN, 600, 0);
    let witness = open(dir.path(), &log);
    assert_eq!(ask(&witness, &log.request(0, 10)).status, 200);
    let folder = dir.path().join("log").join(folder::origin_hash(ORIGIN));
    // nothing can be staged: refused, and in place again when the cause goes away
    std::fs::create_dir(folder.join("new")).unwrap();
    let refused = ask(&witness, &log.request(10, 20));
    assert!(refused.status == 500 && !refused.body.contains('\u{2014}'), "{refused:?}");
    std::fs::remove_dir(folder.join("new")).unwrap();
    assert_eq!(ask(&witness, &log.request(10, 20)).status, 200);
    // the record cannot be replaced: what stands is not known before a restart
    std::fs::rename(folder.join("checkpoint"), folder.join("aside")).unwrap();
    std::fs::create_dir(folder.join("checkpoint")).unwrap();
    assert_eq!(ask(&witness, &log.request(20, 30)).status, 500);
    std::fs::remove_dir(folder.join("checkpoint")).unwrap();
    std::fs::rename(folder.join("aside"), folder.join("checkpoint")).unwrap();
    assert_eq!(ask(&witness, &log.request(20, 30)).status, 500);
    drop(witness);
    assert_eq!(ask(&open(dir.path(), &log), &log.request(20, 30)).status, 200);
}

#[test]
fn a_witness_does_not_start_on_a_state_that_is_not_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let log = History::new(ORIGIN, 600, 0);
    let witness = open(dir.path(), &log);
    assert_eq!(ask(&witness, &log.request(0, 10)).status, 200);
    let again = Witness::open(dir.path(), cosigner(2), vec![log.key()]);
    assert!(matches!(again, Err(OpenError::Locked)));
    drop(witness);
    let refused = Witness::open(dir.path(), cosigner(7), vec![log.key()]);
    assert!(matches!(refused, Err(OpenError::Damaged { .. })), "other keys than those that signed it");
    let record = dir.path().join("log").join(folder::origin_hash(ORIGIN)).join("checkpoint");
    assert_eq!(std::fs::metadata(&record).unwrap().permissions().mode() & 0o777, 0o600);
    let good = std::fs::read(&record).unwrap();
    let flipped = |at: usize| good.iter().enumerate().map(|(i, byte)| if i == at { byte ^ 1 } else { *byte }).collect();
    for wrong in [vec![], good[..good.len() - 1].to_vec(), flipped(ORIGIN.len() + 1), flipped(good.len() - 9)] {
        std::fs::write(&record, &wrong).unwrap();
        let refused = Witness::open(dir.path(), cosigner(2), vec![log.key()]);
        assert!(matches!(refused, Err(OpenError::Damaged { .. })), "{} bytes", wrong.len());
    }
    std::fs::write(&record, &good).unwrap();
    assert_eq!(ask(&open(dir.path(), &log), &log.request(10, 20)).status, 200);
}

#[test]
fn a_response_of_witnesses_is_taken_apart_with_care() {
    let dir = tempfile::tempdir().unwrap();
    let log = History::new(ORIGIN, 600, 0);
    let witness = open(dir.path(), &log);
    let (note, [ed25519, ml_dsa]) = (log.note(9), witness.keys());
    let response = ask(&witness, &log.request(0, 9)).body;
    let stranger = VerifierKey::new("w", KeyKind::CosignatureEd25519, vec![5; 32]).unwrap();
    let foreign = format!("{}{response}", stranger.line(vec![7; 72]));
    assert_eq!(cosignatures(&note, &foreign, &[ed25519.clone(), ml_dsa]).unwrap().len(), 2);
    assert_eq!(cosignatures(&note, &foreign, std::slice::from_ref(&ed25519)).unwrap().len(), 1);
    assert_eq!(cosignatures(&note, &response, &[]).unwrap(), vec![]);
    let spoilt = format!("{response}{}", ed25519.line(vec![7; 72]));
    assert_eq!(cosignatures(&note, &spoilt, std::slice::from_ref(&ed25519)), Err(NoteError::Rejected));
    assert_eq!(cosignatures(&log.note(10), &response, &[ed25519]), Err(NoteError::Rejected), "another checkpoint");
    assert_eq!(cosignatures(&note, "garbage\n", &[stranger]), Err(NoteError::Malformed));
}
