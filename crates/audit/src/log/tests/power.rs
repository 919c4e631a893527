//! The power goes at random points of a run: what was acknowledged is there, and what is there verifies.
//!
//! A run is a process of its own under strace(1), with threads, checkpoints, receipts, segments that fill, closes and starts.
//! Its calls are told again to a disk in memory ([`disk`]) up to a random point, of what was not synced by then a random
//! part is kept, and the log is opened on that. Some of those disks begin the next run, so that the power goes during
//! recoveries too.
//!
//! The same with every sync left out must be found out: it shows that the checks can fail.
//!
//! `STRONGROOM_POWER_LOSSES` of them, 300 if not set; `cargo xtask audit` runs the long form.

mod disk;
mod trace;

use super::*;
use disk::{Disk, Told};
use std::collections::BTreeMap;
use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::Command;
use trace::{Event, Recording};

/// xorshift64* (Vigna 2014): the same points every time, of runs that differ.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % bound
    }
}

/// What somebody outside knows at a point of a run.
#[derive(Debug, Clone, Default)]
struct Known {
    /// By caller: how many entries were acknowledged, one after the other.
    acknowledged: BTreeMap<usize, usize>,
    /// Index and number of entries of which somebody has a receipt.
    receipts: Vec<(usize, usize)>,
    /// What the boundary signed last.
    signed: Option<(u64, Hash)>,
}

impl Known {
    fn note(&mut self, note: &str) {
        let mut words = note.split(' ');
        let kind = words.next().unwrap();
        let mut word = || words.next().unwrap();
        match kind {
            "acknowledged" => {
                let number: usize = word().parse().unwrap();
                self.acknowledged.insert(number / CALLER, number % CALLER + 1);
            }
            "receipt" => self.receipts.push((word().parse().unwrap(), word().parse().unwrap())),
            "signed" => self.signed = Some((word().parse().unwrap(), root_of(word()))),
            other => panic!("{other} is no note"),
        }
    }

    /// Opens the log in `root` as the next start would, goes on with it, and looks.
    /// Tells whether tiles were said to be on the disk.
    async fn check(&self, root: &Path) -> Result<bool, String> {
        let rig = rig(root, self.signed);
        let place = rig.place();
        // as far as a checkpoint covers them
        let marked = signing::read(&rig.dir).map_or(0, |asked| asked.tiles).min(rig.published().unwrap_or(0));
        let marked = place.whole(marked);
        let found = found(&place).map_err(|error| error.to_string())?;
        if found.tree.asked.map_or(0, |asked| asked.tiles) < marked {
            return Err(format!("tiles of the first {marked} entries were said to be on the disk, and are not"));
        }
        self.compare(&rig.entries())?;
        let log =
            Log::go_on(place, Arc::clone(&rig.boundary) as _, 64 << 10, found).map_err(|error| error.to_string())?;
        let receipt = log.lane().append_for_receipt(draft(LAST)).receipt.await;
        receipt.map_err(|error| format!("after recovery: {error}"))?;
        let mut standings = log.standings();
        let told = standings.wait_for(|standing| *standing != Standing::Unknown);
        let standing = tokio::time::timeout(Duration::from_secs(5), told).await;
        let standing = standing.map_or(Standing::Unknown, |told| told.map_or(Standing::Unknown, |told| *told));
        drop(log);
        if standing != Standing::Agreed || rig.boundary.state().forked > 0 {
            return Err(format!("the boundary says that it is {standing:?}"));
        }
        let entries = rig.entries();
        self.compare(&entries)?;
        let verified = catch_unwind(AssertUnwindSafe(|| rig.verified().size));
        match verified {
            Ok(size) if size == entries.len() as u64 => Ok(marked > 0),
            Ok(size) => Err(format!("{} entries, of which {size} are signed after a close", entries.len())),
            Err(_) => Err("it does not verify".to_owned()),
        }
    }

    /// Whether all that was acknowledged is there, each once, in its caller's order.
    fn compare(&self, entries: &[Vec<u8>]) -> Result<(), String> {
        let mut by_caller = BTreeMap::<usize, Vec<usize>>::new();
        for entry in entries {
            let number = number_of(entry).ok_or("an entry is none of ours")?;
            by_caller.entry(number / CALLER).or_default().push(number % CALLER);
        }
        for (caller, count) in &self.acknowledged {
            let found = by_caller.get(caller).map_or(0, Vec::len);
            if found < *count {
                return Err(format!("caller {caller} has {found} entries, and was told of {count}"));
            }
        }
        if by_caller.values().any(|numbers| !numbers.iter().copied().eq(0..numbers.len())) {
            return Err("entries of a caller are missing, double or out of order".to_owned());
        }
        for (index, number) in &self.receipts {
            if entries.get(*index) != Some(&entry(*number)) {
                return Err(format!("the receipt of entry {index} is of another"));
            }
        }
        Ok(())
    }
}

/// Where syncs cost nothing, if there is such a place: what they do is told by the recording.
fn folder() -> TempDir {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { tempfile::tempdir_in(memory).unwrap() } else { tempfile::tempdir().unwrap() }
}

fn number_of(entry: &[u8]) -> Option<usize> {
    let text = TestForm.is_entry(entry).then(|| std::str::from_utf8(&entry[..entry.len() - 4]).ok())??;
    text.strip_prefix("entry ")?.parse().ok()
}

fn root_of(hex: &str) -> Hash {
    let mut root = Hash::default();
    hex::decode_to_slice(hex, &mut root).unwrap();
    root
}

/// A log that stands in a folder of `root`, whose boundary has signed that.
fn rig(root: &Path, signed: Option<(u64, Hash)>) -> Rig {
    let [pace, sync_every] = [4, 15].map(Duration::from_millis);
    let rig = Rig { dir: root.join("audit"), pace, sync_every, ..Rig::of(64) };
    rig.boundary.state().last = signed;
    rig
}

/// Notes what is known outside, a line a call of write(2).
#[derive(Debug, Clone)]
struct Notes(Arc<Mutex<File>>);

impl Notes {
    fn write(&self, note: &str) {
        self.0.lock().unwrap().write_all(format!("{note}\n").as_bytes()).unwrap();
    }
}

/// The boundary of the run.
#[derive(Debug)]
struct Noted {
    boundary: Arc<Boundary>,
    notes: Notes,
}

impl CheckpointSigner for Noted {
    fn verifier(&self) -> [u8; 32] {
        self.boundary.verifier()
    }

    fn sign(
        &self,
        origin: String,
        size: u64,
        root: Hash,
        proof: Vec<Hash>,
    ) -> BoxFuture<'static, Result<[u8; 64], SignError>> {
        let (signed, notes) = (self.boundary.sign(origin, size, root, proof), self.notes.clone());
        async move {
            let signed = signed.await?;
            notes.write(&format!("signed {size} {}", hex::encode(root)));
            Ok(signed)
        }
        .boxed()
    }

    fn sign_batch(&self, batch: crate::receipt::Batch) -> BoxFuture<'static, Result<[u8; 64], SignError>> {
        self.boundary.sign_batch(batch)
    }
}

/// Appends so many, one after the other; every third for a receipt.
async fn call(lane: Arc<dyn AuditSink>, notes: Notes, caller: usize, count: usize) {
    for at in 0..count {
        let number = caller * CALLER + at;
        if (at + caller).is_multiple_of(3) {
            let receipt = lane.append_for_receipt(draft(number)).receipt.await.unwrap();
            notes.write(&format!("receipt {} {number}", receipt.index()));
        } else {
            lane.append(draft(number)).await.unwrap();
        }
        notes.write(&format!("acknowledged {number}"));
    }
}

/// The run that is recorded: three logs one after the other; the last is left open.
async fn run(root: &Path, first_caller: usize, signed: Option<(u64, Hash)>) {
    let rig = rig(root, signed);
    let notes = Notes(Arc::new(Mutex::new(File::create(root.join(NOTES)).unwrap())));
    for phase in 0..3 {
        let place = rig.place();
        let found = found(&place).unwrap();
        let signer = Arc::new(Noted { boundary: Arc::clone(&rig.boundary), notes: notes.clone() });
        let log = Log::go_on(place, signer, 64 << 10, found).unwrap();
        for half in 0..2 {
            let callers = (0..CALLERS).map(|caller| {
                let caller = first_caller + (2 * phase + half) * CALLERS + caller;
                tokio::spawn(call(log.lane(), notes.clone(), caller, 12))
            });
            for caller in callers.collect::<Vec<_>>() {
                caller.await.unwrap();
            }
        }
        if phase == 2 {
            // not amid a call of which nobody would know whether it was carried out
            tokio::time::sleep(Duration::from_millis(300)).await;
            std::process::exit(0);
        }
        drop(log);
    }
}

/// What is recorded: the tests of power losses start it themselves, as a process. Without their order it does nothing.
#[test]
fn recorded() {
    let Some(order) = std::env::var_os(ORDER) else { return };
    let order = order.into_string().unwrap();
    let words: Vec<_> = order.split(' ').collect();
    let [root, first_caller, size, hash] = words[..] else { panic!("{order}") };
    let signed = (hash != "-").then(|| (size.parse().unwrap(), root_of(hash)));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(run(Path::new(root), first_caller.parse().unwrap(), signed));
}

/// Runs it in `root` under strace(1).
fn record(root: &Path, round: usize, known: &Known) -> Recording {
    let before = Disk::of(root);
    let folder = folder();
    let trace = folder.path().join("trace");
    let (size, hash) = known.signed.map_or((0, "-".to_owned()), |(size, root)| (size, hex::encode(root)));
    let order = format!("{} {} {size} {hash}", root.display(), round * 100);
    let child = Command::new("strace")
        .args(["-f", "-y", "-xx", "-s", &trace::STRING_BYTES_MAX.to_string(), "-e", &format!("trace={}", trace::CALLS)])
        .arg("-o")
        .arg(&trace)
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "log::tests::power::recorded", "--nocapture"])
        .env(ORDER, order)
        .output()
        .expect("strace starts: `cargo xtask test` installs it");
    assert!(
        child.status.success(),
        "{}{}",
        String::from_utf8_lossy(&child.stdout),
        String::from_utf8_lossy(&child.stderr)
    );
    Recording::of(&std::fs::read_to_string(trace).unwrap(), root, NOTES, before)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Syncs {
    Count,
    /// As if none had been asked for.
    Ignored,
}

/// A run, told again up to one point after the other.
struct Replay<'a> {
    recording: &'a Recording,
    syncs: Syncs,
    told: Told,
    known: Known,
    /// Events that were told.
    at: usize,
}

impl<'a> Replay<'a> {
    fn of(recording: &'a Recording, known: &Known, syncs: Syncs) -> Self {
        Self { recording, syncs, told: Told::on(recording.before.clone()), known: known.clone(), at: 0 }
    }

    fn go_on_to(&mut self, point: usize) {
        for event in self.recording.events.get(self.at..point).unwrap_or_default() {
            match event {
                Event::Op { ended, op } => self.told.op(*ended, op.clone()),
                Event::Sync { began, of } if self.syncs == Syncs::Count => self.told.sync(*of, *began),
                Event::Sync { .. } => {}
                Event::Note(note) => self.known.note(note),
            }
        }
        self.at = point;
    }

    /// In a folder: the disk after the power went here.
    fn lose_power(&self, random: &mut Random) -> TempDir {
        let root = folder();
        self.told.after_power_loss(random).lay_out(root.path());
        root
    }
}

/// Of so many random points.
#[derive(Debug, Default)]
struct Looks {
    /// Were found faulty. With `Syncs::Count` none may be.
    faulty: usize,
    /// Had tiles that were said to be on the disk, and were.
    marked: usize,
}

async fn lose_power(
    recording: &Recording,
    known: &Known,
    (points, syncs): (usize, Syncs),
    random: &mut Random,
) -> Looks {
    let events = recording.events.len();
    // each third while the log is opened, which is a small part of the run, and when little can be missed
    let opening = |point: usize| syncs == Syncs::Count && point.is_multiple_of(3);
    let bound = |point: usize| if opening(point) { events.min(OPENING) } else { events };
    let mut at: Vec<_> = (0..points).map(|point| random.below(bound(point) + 1)).collect();
    at.sort_unstable();
    let (mut replay, mut looks) = (Replay::of(recording, known, syncs), Looks::default());
    for point in at {
        replay.go_on_to(point);
        let root = replay.lose_power(random);
        match replay.known.check(root.path()).await {
            Err(error) if syncs == Syncs::Count => {
                panic!("after event {point} of {events}: {error}; see {}", root.keep().display())
            }
            Err(_) => looks.faulty += 1,
            Ok(marked) => looks.marked += usize::from(marked),
        }
    }
    looks
}

/// Rounds, each of which begins with a disk that the one before left when the power went.
async fn rounds(rounds: usize, points: usize, seed: u64) {
    let mut random = Random(seed);
    let (mut root, mut known) = (folder(), Known::default());
    for round in 0..rounds {
        let recording = record(root.path(), round, &known);
        let Looks { marked, .. } = lose_power(&recording, &known, (points, Syncs::Count), &mut random).await;
        assert!(marked > 0, "nowhere were tiles said to be on the disk");
        let unsynced = points.div_ceil(4);
        let Looks { faulty, .. } = lose_power(&recording, &known, (unsynced, Syncs::Ignored), &mut random).await;
        assert!(faulty * 2 > unsynced, "without syncs only {faulty} of {unsynced} points were found faulty");
        told(round, (points, marked), &recording, (faulty, unsynced));
        let mut last = Replay::of(&recording, &known, Syncs::Count);
        last.go_on_to(random.below(recording.events.len() + 1));
        (root, known) = (last.lose_power(&mut random), last.known);
        // what stands in it is known already; where the power went before it was made, there is none
        let _ = std::fs::remove_file(root.path().join(NOTES));
    }
}

#[expect(clippy::print_stdout, reason = "the long form's result")]
fn told(round: usize, (points, marked): (usize, usize), recording: &Recording, (faulty, unsynced): (usize, usize)) {
    let syncs = recording.events.iter().filter(|event| matches!(event, Event::Sync { .. })).count();
    println!(
        "round {round}: {} events, {syncs} syncs; {points} power losses, {marked} with tiles said to be on the disk, none found faulty; {faulty} of {unsynced} without syncs",
        recording.events.len()
    );
}

/// How many power losses are asked for; `None` for the quick form.
fn losses() -> Option<usize> {
    let losses = std::env::var_os("STRONGROOM_POWER_LOSSES")?;
    Some(losses.to_str().and_then(|losses| losses.parse().ok()).expect("STRONGROOM_POWER_LOSSES is a number"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_the_power_goes_all_that_was_acknowledged_stays_and_verifies() {
    let Some(losses) = losses() else { return rounds(3, 100, 0x5eed).await };
    for seed in 1..=losses.div_ceil(ROUNDS * POINTS) {
        rounds(ROUNDS, POINTS, seed as u64).await;
    }
}

/// Of the long form.
const ROUNDS: usize = 4;
const POINTS: usize = 500;
/// So many events begin with the opening of the log.
const OPENING: usize = 100;
const CALLERS: usize = 8;
/// From one caller's first number to the next one's.
const CALLER: usize = 10_000;
/// What is appended after a recovery.
const LAST: usize = 9_999 * CALLER;
/// What the child is to do: folder, first caller, and what the boundary signed.
const ORDER: &str = "STRONGROOM_POWER_ORDER";
const NOTES: &str = "notes";
