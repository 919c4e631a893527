use super::*;
use crate::{CommitId, Memory};
use proptest::collection::vec;
use proptest::prelude::*;

const CLUSTER: [u8; 16] = [7; 16];

fn keyring(seed: u8, epochs: u8) -> Keyring {
    let key = |number: u8| SecretKey::init_with(|key| key.fill(seed ^ number));
    let epochs: BTreeMap<u32, SecretKey> = (1..=epochs).map(|epoch| (u32::from(epoch), key(epoch))).collect();
    let epoch = *epochs.keys().last().unwrap();
    Keyring { epochs, epoch, lookup: key(0xff) }
}

fn barrier_of(cluster: [u8; 16], keyring: Keyring) -> (Arc<Memory>, Barrier) {
    let memory = Arc::new(Memory::new());
    (Arc::clone(&memory), Barrier::new(memory, cluster, keyring))
}

fn barrier() -> Barrier {
    barrier_of(CLUSTER, keyring(1, 1)).1
}

fn path(raw: &str) -> EntryPath {
    EntryPath::parse(raw).unwrap()
}

fn opened(result: Result<SecretBytes, BarrierError>) -> Result<Vec<u8>, BarrierError> {
    result.map(|value| value.expose().to_vec())
}

#[test]
fn what_was_sealed_opens_in_its_place() {
    let barrier = barrier();
    for value in [&b""[..], b"v", &[0x55; 4096]] {
        let sealed = barrier.seal(&path("t/a"), value).unwrap();
        assert_eq!(sealed.len(), value.len() + SUITE1_OVERHEAD_BYTES);
        assert_eq!(opened(barrier.open(&path("t/a"), &sealed)).unwrap(), value);
        assert_ne!(sealed, barrier.seal(&path("t/a"), value).unwrap(), "never twice the same");
        assert!(value.len() < 16 || !sealed.windows(16).any(|window| value.windows(16).any(|part| part == window)));
    }
}

#[test]
fn every_bit_counts_and_every_byte_is_needed() {
    let barrier = barrier();
    let sealed = barrier.seal(&path("t/a"), b"value").unwrap().to_vec();
    for bit in 0..sealed.len() * 8 {
        let mut altered = sealed.clone();
        altered[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(opened(barrier.open(&path("t/a"), &altered)), Err(BarrierError::Altered(path("t/a"))), "bit {bit}");
    }
    for length in 0..sealed.len() {
        assert!(matches!(barrier.open(&path("t/a"), &sealed[..length]), Err(BarrierError::Altered(_))), "{length}");
    }
    for more in [&[0][..], b"x", &sealed] {
        let longer = [&sealed[..], more].concat();
        assert!(matches!(barrier.open(&path("t/a"), &longer), Err(BarrierError::Altered(_))));
    }
}

#[test]
fn a_value_opens_nowhere_else() {
    let (_, ours) = barrier_of(CLUSTER, keyring(1, 1));
    let (_, other_cluster) = barrier_of([8; 16], keyring(1, 1));
    let (_, other_keys) = barrier_of(CLUSTER, keyring(2, 1));
    let sealed = ours.seal(&path("t/a"), b"value").unwrap();
    for (barrier, at) in [
        (&ours, "t/b"),
        (&ours, "t/a/b"),
        (&ours, "t"),
        (&ours, "u/a"),
        (&ours, "t/A"),
        (&other_cluster, "t/a"),
        (&other_keys, "t/a"),
    ] {
        assert_eq!(opened(barrier.open(&path(at), &sealed)), Err(BarrierError::Altered(path(at))), "{at}");
    }
}

#[test]
fn epochs_open_what_they_sealed_and_nothing_else() {
    let (_, first) = barrier_of(CLUSTER, keyring(1, 1));
    let (_, third) = barrier_of(CLUSTER, keyring(1, 3));
    let old = first.seal(&path("t/a"), b"old").unwrap();
    let new = third.seal(&path("t/a"), b"new").unwrap();
    assert_eq!(opened(third.open(&path("t/a"), &old)).unwrap(), b"old");
    assert_eq!(opened(third.open(&path("t/a"), &new)).unwrap(), b"new");
    assert_eq!(
        opened(first.open(&path("t/a"), &new)),
        Err(BarrierError::UnknownEpoch { path: path("t/a"), epoch: 3 }),
        "the keyring is older than the store"
    );
    // header bytes 24..28 tell the key version, 44..48 the generation: both are the epoch
    for (version, generation) in [(2, 2), (1, 3), (3, 1), (2, 3)] {
        let mut renamed = new.to_vec();
        renamed[24..28].copy_from_slice(&u32::to_be_bytes(version));
        renamed[44..48].copy_from_slice(&u32::to_be_bytes(generation));
        assert!(matches!(third.open(&path("t/a"), &renamed), Err(BarrierError::Altered(_))), "{version} {generation}");
    }
}

#[test]
fn what_others_sealed_is_no_barrier_value() {
    let barrier = barrier();
    let sealed = barrier.seal(&path("t/a"), b"value").unwrap().to_vec();
    for kind in [0, 1, 2, 4, 0xff] {
        let mut other = sealed.clone();
        other[3] = kind;
        assert!(matches!(barrier.open(&path("t/a"), &other), Err(BarrierError::Altered(_))), "kind {kind}");
    }
}

#[test]
fn a_value_may_fill_an_entry_and_no_more() {
    let barrier = barrier();
    let longest = barrier.seal(&path("t/a"), &vec![1; PLAINTEXT_BYTES_MAX]).unwrap();
    assert_eq!(longest.len(), VALUE_BYTES_MAX);
    let over = barrier.seal(&path("t/a"), &vec![1; PLAINTEXT_BYTES_MAX + 1]);
    assert_eq!(over, Err(BarrierError::Storage(StorageError::TooLarge)));
}

#[tokio::test]
async fn reads_open_and_name_what_was_swapped() {
    let (memory, barrier) = barrier_of(CLUSTER, keyring(1, 1));
    let id = |number: u8| CommitId([number; 16]);
    let sealed = |at: &str, value: &str| barrier.seal(&path(at), value.as_bytes()).unwrap();
    let batch = Batch::new(id(1)).put(path("t/a"), sealed("t/a", "1")).put(path("t/b"), sealed("t/b", "2"));
    let revision = barrier.commit(batch).await.unwrap();
    let (read_at, entries) = barrier.get(&[path("t/a"), path("t/c")], AtLeast::Latest).await.unwrap();
    assert_eq!(read_at, revision);
    let entry = entries[0].as_ref().unwrap();
    assert_eq!((entry.value.expose(), entry.revision), (&b"1"[..], revision));
    assert!(entries[1].is_none());
    let page = barrier.scan(&path("t"), None, 1, AtLeast::Latest).await.unwrap();
    assert_eq!((page.entries.len(), page.more, page.entries[0].1.value.expose()), (1, true, &b"1"[..]));

    let (_, raw) = memory.get(&[path("t/a"), path("t/b")], AtLeast::Latest).await.unwrap();
    let raw: Vec<Bytes> = raw.into_iter().flatten().map(|entry| entry.value).collect();
    let swapped = Batch::new(id(2)).put(path("t/a"), raw[1].clone()).put(path("t/b"), raw[0].clone());
    memory.commit(swapped).await.unwrap();
    let altered = BarrierError::Altered(path("t/a"));
    assert_eq!(barrier.get(&[path("t/c"), path("t/a")], AtLeast::Latest).await.unwrap_err(), altered);
    assert_eq!(barrier.scan(&path("t"), None, 10, AtLeast::Latest).await.unwrap_err(), altered);
    // freshness is not promised: a whole old row opens
    memory.commit(Batch::new(id(3)).put(path("t/a"), raw[0].clone())).await.unwrap();
    let (_, entries) = barrier.get(&[path("t/a")], AtLeast::Latest).await.unwrap();
    assert_eq!(entries[0].as_ref().unwrap().value.expose(), b"1");
}

/// A store whose answers to commits get lost on the way: the next so many, after they were carried out or before.
#[derive(Debug)]
struct Lossy {
    memory: Memory,
    losses: std::sync::atomic::AtomicUsize,
    carried_out: bool,
}

#[async_trait::async_trait]
impl Storage for Lossy {
    async fn get(
        &self,
        paths: &[EntryPath],
        at: AtLeast,
    ) -> Result<(Revision, Vec<Option<crate::Entry>>), StorageError> {
        self.memory.get(paths, at).await
    }
    async fn scan(
        &self,
        prefix: &EntryPath,
        after: Option<&EntryPath>,
        limit: u32,
        at: AtLeast,
    ) -> Result<crate::Page, StorageError> {
        self.memory.scan(prefix, after, limit, at).await
    }
    async fn commit(&self, batch: Batch) -> Result<Revision, CommitError> {
        use std::sync::atomic::Ordering::Relaxed;
        let lost = self.losses.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1)).is_ok();
        if lost && !self.carried_out {
            return Err(CommitError::Unknown);
        }
        let outcome = self.memory.commit(batch).await;
        if lost { Err(CommitError::Unknown) } else { outcome }
    }
    async fn committed(&self, id: CommitId) -> Result<Option<Revision>, StorageError> {
        self.memory.committed(id).await
    }
    fn watch(&self, prefix: &EntryPath, from: Revision) -> futures_util::stream::BoxStream<'static, crate::Change> {
        self.memory.watch(prefix, from)
    }
    fn hearing(&self) -> Option<tokio::sync::watch::Receiver<crate::Moment>> {
        self.memory.hearing()
    }
    async fn claim(&self, queue: &EntryPath, limit: u32, for_: Duration) -> Result<Vec<crate::Claim>, StorageError> {
        self.memory.claim(queue, limit, for_).await
    }
    async fn backup(&self, to: &std::path::Path) -> Result<Revision, StorageError> {
        self.memory.backup(to).await
    }
}

#[tokio::test]
async fn a_commit_whose_answer_was_lost_counts_once() {
    for (losses, carried_out, expected) in [
        (0, true, Ok(Revision(1))),
        (1, true, Ok(Revision(1))),
        (1, false, Ok(Revision(1))),
        (4, false, Ok(Revision(1))),
        (5, false, Err(CommitError::Unknown)),
    ] {
        let lossy = Lossy { memory: Memory::new(), losses: losses.into(), carried_out };
        let barrier = Barrier::new(Arc::new(lossy), CLUSTER, keyring(1, 1));
        // a batch that would conflict with itself
        let batch = Batch::new(CommitId([1; 16])).absent(path("t/a")).put(path("t/a"), "sealed");
        assert_eq!(barrier.commit(batch).await, expected, "{losses} {carried_out}");
        let (head, _) = barrier.storage().get(&[], AtLeast::Latest).await.unwrap();
        assert_eq!(head, Revision(u64::from(expected.is_ok())));
    }
}

#[test]
fn a_keyed_hash_depends_on_key_label_and_value_with_their_bounds() {
    let (_, ours) = barrier_of(CLUSTER, keyring(1, 1));
    let (_, others) = barrier_of(CLUSTER, keyring(2, 1));
    let hashes = [
        ours.keyed_hash(b"token", b"value").unwrap(),
        ours.keyed_hash(b"token", b"valu").unwrap(),
        ours.keyed_hash(b"tokenv", b"alue").unwrap(),
        ours.keyed_hash(b"", b"tokenvalue").unwrap(),
        others.keyed_hash(b"token", b"value").unwrap(),
    ];
    for (i, hash) in hashes.iter().enumerate() {
        assert!(!hashes[..i].contains(hash), "{i}");
    }
    assert_eq!(hashes[0], ours.keyed_hash(b"token", b"value").unwrap());
    let (_, rotated) = barrier_of(CLUSTER, keyring(1, 3));
    assert_eq!(
        hashes[0],
        rotated.keyed_hash(b"token", b"value").unwrap(),
        "a new epoch does not lose what is looked up"
    );
}

#[test]
fn a_keyring_comes_back_from_its_bytes_and_from_no_others() {
    for epochs in [1, 2, 5] {
        let made = keyring(3, epochs);
        let encoded = made.encode();
        let decoded = Keyring::decode(&encoded).unwrap();
        assert_eq!((decoded.epoch(), decoded.encode().expose()), (u32::from(epochs), encoded.expose()));
        let bytes = encoded.expose();
        for length in 0..bytes.len() {
            assert!(Keyring::parse(&bytes[..length]).is_none(), "{length}");
        }
        assert!(Keyring::parse(&[bytes, &[0]].concat()).is_none());
        for version in [0, 2, 0xff] {
            assert!(Keyring::parse(&[&[version], &bytes[1..]].concat()).is_none());
        }
    }
    let lookup = [9; 32];
    let slot = |epoch: u32| [&epoch.to_be_bytes()[..], &[1; 32]].concat();
    let keyring = |count: u32, epochs: &[u32]| {
        let slots: Vec<u8> = epochs.iter().flat_map(|epoch| slot(*epoch)).collect();
        [&[VERSION][..], &lookup, &count.to_be_bytes(), &slots].concat()
    };
    let many: Vec<u32> = (1..=257).collect();
    for (count, epochs, sound) in [
        (1, &[1][..], true),
        (2, &[1, 9], true),
        (256, &many[..256], true),
        (257, &many, false),
        (0, &[], false),
        (1, &[0], false),
        (2, &[2, 1], false),
        (2, &[1, 1], false),
        (1, &[1, 2], false),
        (2, &[1], false),
        (u32::MAX, &[1], false),
    ] {
        assert_eq!(Keyring::parse(&keyring(count, epochs)).is_some(), sound, "{count} {epochs:?}");
    }
}

#[test]
fn a_keyring_advances_and_keeps_what_it_had() {
    let mut advanced = Keyring::generate().unwrap();
    let (_, first) = barrier_of(CLUSTER, Keyring::decode(&advanced.encode()).unwrap());
    let sealed = first.seal(&path("t/a"), b"value").unwrap();
    for epoch in 2..=256 {
        advanced = advanced.advance().unwrap();
        assert_eq!(advanced.epoch(), epoch);
    }
    let (_, last) = barrier_of(CLUSTER, Keyring::decode(&advanced.encode()).unwrap());
    assert_eq!(opened(last.open(&path("t/a"), &sealed)).unwrap(), b"value");
    assert!(matches!(advanced.advance(), Err(BarrierError::MalformedKeyring)), "it is bounded");
    let (one, other) = (Keyring::generate().unwrap(), Keyring::generate().unwrap());
    assert_ne!(one.encode().expose(), other.encode().expose());
}

#[test]
fn nothing_prints_a_key() {
    let keyring = Keyring::decode(&keyring(0x41, 1).encode()).unwrap();
    let printed = format!("{keyring:?} {:?}", Barrier::new(Arc::new(Memory::new()), CLUSTER, self::keyring(0x41, 1)));
    for shown in ["AAAA", "4141", "65, 65", "64, 64", "0x41", "0x40"] {
        assert!(!printed.contains(shown), "{printed}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn whatever_stands_in_a_row_either_opens_or_is_named(bytes in vec(any::<u8>(), 0..300)) {
        prop_assert!(matches!(barrier().open(&path("t/a"), &bytes), Err(BarrierError::Altered(_))));
    }

    #[test]
    fn any_bytes_are_a_keyring_or_malformed(bytes in vec(any::<u8>(), 0..200)) {
        if let Some(keyring) = Keyring::parse(&bytes) {
            prop_assert!(keyring.encode().expose() == bytes);
        }
    }
}

#[tokio::test]
async fn an_epoch_that_is_added_opens_at_once_and_seals_when_others_know_it() {
    let (memory, here) = barrier_of(CLUSTER, keyring(1, 2));
    let there = Barrier::new(memory, CLUSTER, keyring(1, 2));
    here.install(keyring(1, 3)).unwrap();
    assert_eq!((here.epoch(), there.epoch()), (3, 2));
    let early = here.seal(&path("t/a"), b"early").unwrap();
    assert_eq!(there.open(&path("t/a"), &early).unwrap().expose(), b"early", "not sealed by what others do not know");
    // the moment has come
    assert_eq!(here.sealing(), Some((2, 1)));
    let known = here.keys().unwrap();
    assert!(known.settles.unwrap().1 > Instant::now());
    let copied = Keys::new(here.keyring().unwrap());
    here.keys.store(Some(Arc::new(Keys { settles: Some((1, Instant::now())), ..copied })));
    assert_eq!(here.sealing(), Some((3, 2)));
    let late = here.seal(&path("t/a"), b"late").unwrap();
    assert!(matches!(there.open(&path("t/a"), &late), Err(BarrierError::UnknownEpoch { epoch: 3, .. })));
    // who waits for an epoch hears of it
    let batch = Batch::new(crate::CommitId([1; 16])).put(path("t/a"), late);
    here.commit(batch).await.unwrap();
    let paths = [path("t/a")];
    let (read, ()) = tokio::join!(there.get(&paths, AtLeast::Latest), async {
        tokio::time::sleep(Duration::from_millis(120)).await;
        there.install(here.keyring().unwrap()).unwrap();
    });
    assert_eq!(read.unwrap().1[0].as_ref().unwrap().value.expose(), b"late");
    // what is older changes nothing, what is another's is refused
    for (other, taken) in [
        (keyring(1, 1), true),
        (keyring(1, 3), true),
        (keyring(2, 4), false),
        (Keyring { lookup: SecretKey::from_slice(&[9; 32]).unwrap(), ..keyring(1, 4) }, false),
    ] {
        assert_eq!(here.install(other).is_ok(), taken);
        assert_eq!(here.epoch(), 3);
    }
    let copy = here.keyring().unwrap();
    assert_eq!(copy.encode().expose(), keyring(1, 3).encode().expose());
    assert_eq!(here.keyed_hash(b"a", b"b"), there.keyed_hash(b"a", b"b"));
}

#[tokio::test]
async fn a_closed_barrier_knows_nothing_until_its_keys_come_back() {
    let (memory, barrier) = barrier_of(CLUSTER, keyring(1, 2));
    let sealed = barrier.seal(&path("t/a"), b"value").unwrap();
    let batch = |number: u8| Batch::new(CommitId([number; 16])).put(path("t/a"), sealed.clone());
    barrier.commit(batch(1)).await.unwrap();
    let (heard, hash) = (barrier.closed(), barrier.keyed_hash(b"a", b"b").unwrap());
    let kept = Arc::downgrade(&barrier.keys().unwrap());
    barrier.close();
    assert!(kept.upgrade().is_none(), "the keys are dropped, and with that wiped");
    assert!(barrier.is_closed() && *heard.borrow());
    let there = [path("t/a"), path("t/none")];
    for at in &there {
        let read = barrier.get(std::slice::from_ref(at), AtLeast::Latest).await;
        assert_eq!(read.unwrap_err(), BarrierError::Closed, "{at}");
    }
    for closed in [
        barrier.scan(&path("t"), None, 1, AtLeast::Latest).await.map(drop),
        barrier.scan(&path("none"), None, 1, AtLeast::Latest).await.map(drop),
        barrier.open(&path("t/a"), &sealed).map(drop),
        barrier.seal(&path("t/a"), b"value").map(drop),
        barrier.keyed_hash(b"a", b"b").map(drop),
        barrier.keyring().map(drop),
    ] {
        assert_eq!(closed, Err(BarrierError::Closed));
    }
    assert_eq!(barrier.commit(batch(2)).await, Err(StorageError::Unavailable.into()));
    assert!(!barrier.vouches(2) && barrier.sealing().is_none());
    // what others tell does not open it
    barrier.install(keyring(1, 3)).unwrap();
    assert!(barrier.is_closed());
    barrier.reopen(keyring(1, 3));
    assert!(!barrier.is_closed() && !*heard.borrow());
    assert_eq!((barrier.epoch(), barrier.keyed_hash(b"a", b"b")), (3, Ok(hash)));
    let (_, read) = barrier.get(&there, AtLeast::Latest).await.unwrap();
    assert_eq!(read[0].as_ref().unwrap().value.expose(), b"value");
    assert!(read[1].is_none());
    // open, it takes no other keys in place of its own
    barrier.reopen(keyring(2, 4));
    assert_eq!(barrier.epoch(), 3);
    assert_eq!(memory.get(&[], AtLeast::Latest).await.unwrap().0, Revision(1));
}
