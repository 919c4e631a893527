//! A log in C2SP's layout against what others wrote: Go's sumdb packages, Tessera's client and fsck.
//!
//! Always: what passes untouched is what was altered, so that "found" means the alteration.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test ends where it fails")]

use audit::checkpoint::Checkpoint;
use audit::note::{Note, VerifierKey};
use audit::proof::Proof;
use audit::receipt::{Batch, Receipt, SignedBatch};
use audit::tile::{TileFolder, TileId, Tiles, consistency_proof, entries_path, partials_at};
use audit::witness::{AddCheckpoint, Cosigner, Witness, cosignatures};
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use envelope::merkle::{Layers, leaf_hash};
use envelope::secret::SecretKey;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::LazyLock;
use tests::workspace;

const ORIGIN: &str = "strongroom.audit/00112233445566778899aabbccddeeff/1";
const BIG: u64 = 70_000;
/// Six full tiles and partial ones at two levels.
const SMALL: u64 = 1_567;
const MUTATIONS: u64 = 10_000;

/// Built once: the modules come from Go's proxy and are checked against `go.sum`.
static PROGRAM: LazyLock<PathBuf> = LazyLock::new(|| {
    let program = workspace().join("target/tlog_go");
    let mut go = Command::new("go");
    go.args(["build", "-mod=readonly", "-o"]).arg(&program).arg(".").current_dir(workspace().join("tests/tlog_go"));
    let output = go.output().unwrap_or_else(|error| panic!("this test needs Go 1.26: {error}"));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    program
});

/// Go, asked about folders one after another.
struct Go {
    child: Child,
    answers: BufReader<ChildStdout>,
}

impl Go {
    fn start(witness: &Witness) -> Self {
        let [ed25519, _] = witness.keys();
        let mut child = Command::new(&*PROGRAM)
            .args([log_key().to_string(), ed25519.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let answers = BufReader::new(child.stdout.take().unwrap());
        Self { child, answers }
    }

    fn verify(&mut self, dir: &Path) -> String {
        self.ask(&dir.display().to_string())
    }

    fn ask(&mut self, line: &str) -> String {
        writeln!(self.child.stdin.as_ref().unwrap(), "{line}").unwrap();
        let mut answer = String::new();
        self.answers.read_line(&mut answer).unwrap();
        assert!(answer.ends_with('\n'), "Go ended");
        answer.trim_end().to_owned()
    }

    fn finds(&mut self, dir: &Path, what: &str) {
        let answer = self.verify(dir);
        assert!(answer.starts_with("not verified: "), "{what}: {answer}");
    }
}

impl Drop for Go {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}

fn log_pair() -> Ed25519KeyPair {
    Ed25519KeyPair::from_seed_unchecked(&[42; 32]).unwrap()
}

fn log_key() -> VerifierKey {
    VerifierKey::ed25519(ORIGIN, log_pair().public_key().as_ref().try_into().unwrap()).unwrap()
}

fn witness(dir: &Path) -> Witness {
    let seed = |with| SecretKey::init_with(|bytes| bytes.fill(with));
    let cosigner = Cosigner::new("auditor.example/w1", &seed(1), &seed(2)).unwrap();
    Witness::open(dir, cosigner, vec![log_key()]).unwrap()
}

/// Numbers that nobody chose, the same each time (splitmix64).
#[derive(Clone)]
struct Scattered(u64);

impl Scattered {
    fn below(&mut self, bound: u64) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((z ^ (z >> 31)) % bound).unwrap()
    }
}

/// An entry of any length that the format has, the short ones the most.
fn entry(index: u64) -> Vec<u8> {
    let mut random = Scattered(index);
    let length = match index {
        7 => usize::from(u16::MAX),
        8 => 1,
        _ => 1 + random.below(300),
    };
    (0..length).map(|_| u8::try_from(random.below(256)).unwrap()).collect()
}

/// A whole log of `size` entries under `dir`, with the witness's cosignature, receipts of some entries and proofs that it
/// extends some of its former sizes.
fn write_log(dir: &Path, witness: &Witness, size: u64) {
    let (folder, mut tiles) = (TileFolder::new(dir), Tiles::default());
    let mut bundle = Vec::new();
    for index in 0..size {
        let entry = entry(index);
        bundle.extend(u16::try_from(entry.len()).unwrap().to_be_bytes());
        bundle.extend(&entry);
        tiles.push(leaf_hash(&entry));
        if tiles.size() % 256 == 0 || tiles.size() == size {
            let path = dir.join(entries_path(index / 256, u16::try_from(index % 256 + 1).unwrap()));
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, std::mem::take(&mut bundle)).unwrap();
        }
    }
    for (id, hashes) in tiles.take_full().into_iter().chain(tiles.partials()) {
        folder.write(id, &hashes).unwrap();
    }
    let checkpoint = Checkpoint { origin: ORIGIN.into(), size, root: tiles.root() };
    let signature = log_pair().sign(checkpoint.body().as_bytes()).as_ref().try_into().unwrap();
    let note = cosigned(witness, checkpoint.sign(&log_key(), signature).unwrap());
    std::fs::write(dir.join("checkpoint"), note.encode()).unwrap();
    std::fs::create_dir(dir.join("proofs")).unwrap();
    for index in [0, 1, 255, 256, size / 2, size - 2, size - 1] {
        let proof = Proof::prove(&folder, index, size, note.clone()).unwrap();
        proof.verify(&log_key(), &leaf_hash(&entry(index))).unwrap();
        std::fs::write(dir.join(format!("proofs/{index}.tlog-proof")), proof.encode()).unwrap();
    }
    for (first, count, at) in [(0, 1, 0), (size - 1, 1, 0), (250, 40, 39), (300, 7, 2), (size - 300, 300, 177)] {
        let bytes = receipt(first, count, at).encode();
        std::fs::write(dir.join(format!("proofs/{first}-{count}.receipt")), bytes).unwrap();
    }
    for old in [1, 2, 255, 256, 257, size / 2, size - 1, size] {
        let proof = consistency_proof(&folder, old, size).unwrap();
        let request = AddCheckpoint { old, proof, checkpoint: note.clone() };
        std::fs::write(dir.join(format!("proofs/{old}.consistency")), request.encode()).unwrap();
    }
}

/// Of entry `at` of the `count` from `first` on, as if they had become durable together.
fn receipt(first: u64, count: u32, at: usize) -> Receipt {
    let tree = Layers::over((first..first + u64::from(count)).map(|index| leaf_hash(&entry(index))).collect());
    let batch = Batch { origin: ORIGIN.into(), first, count, root: tree.root() };
    let signature = log_pair().sign(batch.body().as_bytes()).as_ref().try_into().unwrap();
    SignedBatch::of(&batch, &tree, &log_key(), signature).receipt(at).unwrap()
}

/// With the Ed25519 line of the two: Go's packages know no ML-DSA-44.
fn cosigned(witness: &Witness, note: Note) -> Note {
    let request = AddCheckpoint { old: 0, proof: vec![], checkpoint: note.clone() };
    let response = witness.answer("POST", "/add-checkpoint", request.encode().as_bytes(), 1_679_315_147);
    let [ed25519, _] = witness.keys();
    let lines = cosignatures(&note, &response.body, &[ed25519]).unwrap();
    note.signed(lines.into_iter().next().unwrap()).unwrap()
}

/// Runs `alter` on a file's bytes, asks Go, puts the file back.
fn altered(go: &mut Go, dir: &Path, file: &str, what: &str, alter: impl FnOnce(&mut Vec<u8>)) {
    let path = dir.join(file);
    let good = std::fs::read(&path).unwrap();
    let mut bytes = good.clone();
    alter(&mut bytes);
    assert_ne!(bytes, good, "{file}: {what} alters nothing");
    std::fs::write(&path, bytes).unwrap();
    go.finds(dir, &format!("{file}: {what}"));
    std::fs::write(&path, good).unwrap();
}

#[test]
fn go_verifies_seventy_thousand_entries_and_finds_what_was_done_to_them() {
    let (state, dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (witness, dir) = (witness(state.path()), dir.path());
    write_log(dir, &witness, BIG);
    let mut go = Go::start(&witness);
    assert_eq!(go.verify(dir), format!("ok {BIG}"));
    let flip = |at: usize| move |bytes: &mut Vec<u8>| bytes[at] ^= 1;
    for file in ["tile/entries/000", "tile/entries/272", "tile/entries/273.p/112", "tile/0/000", "tile/0/273.p/112"] {
        altered(&mut go, dir, file, "a bit", flip(40));
    }
    altered(&mut go, dir, "tile/1/000", "the last bit", flip(8191));
    altered(&mut go, dir, "tile/1/001.p/17", "a bit", flip(0));
    altered(&mut go, dir, "tile/2/000.p/1", "a bit", flip(31));
    tessera_alone_finds_a_bit_of_each_file(&mut go, dir);
    altered(&mut go, dir, "checkpoint", "the origin", flip(0));
    altered(&mut go, dir, "checkpoint", "the size", flip(ORIGIN.len() + 1));
    altered(&mut go, dir, "checkpoint", "the root", flip(ORIGIN.len() + 8));
    altered(&mut go, dir, "proofs/35000.tlog-proof", "a bit of the path", flip(200));
    // its key, batch, place, leaf, path and signature; and one that the log has not kept
    for at in [3, 7, 10, 12, 30, 100, 200, 240] {
        altered(&mut go, dir, "proofs/250-40.receipt", "a bit", flip(at));
    }
    let stranger = receipt(BIG - 10, 20, 3).encode();
    altered(&mut go, dir, "proofs/300-7.receipt", "one that was lost", |bytes| *bytes = stranger);
    altered(&mut go, dir, "proofs/35000.consistency", "a bit of the proof", flip(20));
    altered(&mut go, dir, "tile/entries/200", "an entry deleted", |bytes| {
        let end = 2 + usize::from(u16::from_be_bytes([bytes[0], bytes[1]]));
        bytes.drain(..end);
    });
    altered(&mut go, dir, "tile/entries/200", "an entry inserted", |bytes| {
        bytes.splice(0..0, [0, 3, b'n', b'e', b'w']);
    });
    altered(&mut go, dir, "tile/entries/200", "entries reordered", |bytes| {
        let end = 2 + usize::from(u16::from_be_bytes([bytes[0], bytes[1]]));
        let next = end + 2 + usize::from(u16::from_be_bytes([bytes[end], bytes[end + 1]]));
        bytes[..next].rotate_left(end);
    });
    let (one, other) = (dir.join("tile/entries/100"), dir.join("tile/entries/101"));
    swap(&one, &other);
    go.finds(dir, "bundles reordered");
    swap(&one, &other);
    for missing in ["tile/0/200", "tile/entries/200", "tile/1/000", "checkpoint"] {
        std::fs::rename(dir.join(missing), dir.join("aside")).unwrap();
        go.finds(dir, missing);
        std::fs::rename(dir.join("aside"), dir.join(missing)).unwrap();
    }
    assert_eq!(go.verify(dir), format!("ok {BIG}"), "all is as it was");
}

/// What `go` finds otherwise, the sumdb packages find first.
fn tessera_alone_finds_a_bit_of_each_file(go: &mut Go, dir: &Path) {
    let fsck = format!("fsck {}", dir.display());
    for file in
        ["tile/entries/100", "tile/entries/273.p/112", "tile/0/100", "tile/1/000", "tile/2/000.p/1", "checkpoint"]
    {
        let path = dir.join(file);
        let good = std::fs::read(&path).unwrap();
        let mut bytes = good.clone();
        bytes[20] ^= 1;
        std::fs::write(&path, bytes).unwrap();
        assert!(go.ask(&fsck).starts_with("not verified: "), "{file}");
        std::fs::write(&path, good).unwrap();
    }
    assert_eq!(go.ask(&fsck), "ok 0");
}

#[test]
fn go_finds_each_of_ten_thousand_random_mutations() {
    let (state, dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (witness, dir) = (witness(state.path()), dir.path());
    write_log(dir, &witness, SMALL);
    let mut go = Go::start(&witness);
    assert_eq!(go.verify(dir), format!("ok {SMALL}"));
    let mut files: Vec<String> = partials_at(SMALL).iter().map(TileId::path).collect();
    files.extend((0..SMALL / 256).map(|index| TileId { level: 0, index, width: 256 }.path()));
    files.extend((0..SMALL / 256).map(|index| entries_path(index, 256)));
    files.push(entries_path(SMALL / 256, u16::try_from(SMALL % 256).unwrap()));
    files.push("checkpoint".into());
    let mut random = Scattered(2026);
    for number in 0..MUTATIONS {
        let file = files[random.below(files.len() as u64)].clone();
        altered(&mut go, dir, &file, &format!("mutation {number}"), |bytes| mutate(bytes, &mut random));
    }
    assert_eq!(go.verify(dir), format!("ok {SMALL}"), "all is as it was");
}

/// A bit, bytes gone, bytes more, or two stretches in each other's place.
fn mutate(bytes: &mut Vec<u8>, random: &mut Scattered) {
    let before = bytes.clone();
    while *bytes == before {
        let (len, at) = (bytes.len() as u64, random.below(bytes.len() as u64));
        match random.below(5) {
            0 | 1 => bytes[at] ^= 1 << random.below(8),
            2 => drop(bytes.drain(at..(at + 1 + random.below(64)).min(before.len()))),
            3 => {
                let more: Vec<u8> = (0..=random.below(64)).map(|_| u8::try_from(random.below(256)).unwrap()).collect();
                bytes.splice(at..at, more);
            }
            _ => {
                let width = 1 + random.below((len / 2).min(64));
                let mut starts = [random.below(len - width as u64 + 1), random.below(len - width as u64 + 1)];
                starts.sort_unstable();
                if starts[0] + width <= starts[1] {
                    let (left, right) = bytes.split_at_mut(starts[1]);
                    left[starts[0]..starts[0] + width].swap_with_slice(&mut right[..width]);
                }
            }
        }
    }
}

fn swap(one: &Path, other: &Path) {
    let (first, second) = (std::fs::read(one).unwrap(), std::fs::read(other).unwrap());
    std::fs::write(one, second).unwrap();
    std::fs::write(other, first).unwrap();
}
