use super::*;
use crate::witness::tests::{History, NOW, ORIGIN};
use crate::witness::{ADD_CHECKPOINT, AddCheckpoint, Answer, Cosigner, Witness};
use envelope::secret::SecretKey;

/// A log of which so many entries are durable, its witnesses, and the time.
struct House {
    log: History,
    size: u64,
    witnesses: Vec<(tempfile::TempDir, Witness)>,
    submitting: Submitting,
    now: Instant,
}

fn witness(name: &str, seed: u8, log: &History) -> (tempfile::TempDir, Witness) {
    let dir = tempfile::tempdir().unwrap();
    let filled = |with| SecretKey::init_with(|bytes| bytes.fill(with));
    let cosigner = Cosigner::new(name, &filled(seed), &filled(seed + 1)).unwrap();
    let witness = Witness::open(dir.path(), cosigner, vec![log.key()]).unwrap();
    (dir, witness)
}

impl House {
    fn new(count: u8, quorum: usize) -> Self {
        let log = History::new(ORIGIN, 600, 0);
        let witnesses: Vec<_> = (0..count).map(|n| witness(&format!("w{n}"), 10 + 10 * n, &log)).collect();
        let keys = witnesses.iter().map(|(_, witness)| witness.keys().to_vec()).collect();
        let submitting = Submitting::new(keys, quorum);
        Self { log, size: 0, witnesses, submitting, now: Instant::now() }
    }

    fn signs(&mut self, size: usize) {
        self.size = size as u64;
        let note = self.log.note(size);
        self.submitting.newest(Arc::new((Checkpoint::parse(note.text()).unwrap(), note)));
    }

    fn passes(&mut self, millis: u64) {
        self.now += Duration::from_millis(millis);
    }

    fn asks(&mut self, wanted: u64) -> Vec<Ask> {
        self.submitting.next(self.now, wanted)
    }

    fn body(&self, ask: &Ask) -> AddCheckpoint {
        let size = usize::try_from(ask.checkpoint.0.size).unwrap();
        self.log.request(usize::try_from(ask.old).unwrap(), size)
    }

    /// The witness itself answers.
    fn answers(&mut self, ask: &Ask) -> Option<Note> {
        let body = self.body(ask).encode();
        let Answer { status, body, .. } =
            self.witnesses[ask.witness].1.answer("POST", ADD_CHECKPOINT, body.as_bytes(), NOW);
        self.tells(ask, Reply::Status { status, body })
    }

    fn tells(&mut self, ask: &Ask, reply: Reply) -> Option<Note> {
        self.submitting.answered(ask, reply, self.size, (self.now, 0))
    }

    /// Until nobody has anything to ask now; the last note.
    fn settles(&mut self, wanted: u64) -> Option<Note> {
        let mut note = None;
        for _ in 0..10 {
            let asks = self.asks(wanted);
            if asks.is_empty() {
                return note;
            }
            for ask in asks {
                note = self.answers(&ask).or(note);
            }
        }
        panic!("it never comes to rest");
    }

    fn witnessed(&self) -> u64 {
        self.submitting.witnessed().size
    }
}

fn failed() -> Reply {
    Reply::Failed("refused".into())
}

#[test]
fn every_checkpoint_that_there_is_time_for_is_cosigned_by_all_under_one_note() {
    let mut house = House::new(2, 2);
    assert!(house.asks(0).is_empty() && house.submitting.due(house.now, 0).is_none(), "there is none yet");
    house.signs(5);
    let asks = house.asks(0);
    assert_eq!(asks.iter().map(|ask| (ask.witness, ask.old)).collect::<Vec<_>>(), [(0, 0), (1, 0)]);
    assert!(house.asks(0).is_empty(), "one question at a time");
    assert!(house.answers(&asks[0]).is_none());
    assert_eq!(house.witnessed(), 0, "one is not enough");
    let note = house.answers(&asks[1]).unwrap();
    for (_, witness) in &house.witnesses {
        assert_eq!(cosigned_at(&note, &witness.keys()), Some(NOW));
    }
    assert_eq!((house.witnessed(), note.signatures().len()), (5, 5));
    // the newest alone, a second later, from where each stands
    for size in [6, 7, 300] {
        house.signs(size);
    }
    assert!(house.asks(0).is_empty());
    house.passes(1000);
    let note = house.settles(0).unwrap();
    assert_eq!((house.witnessed(), opened(note.encode().as_bytes(), &house.log.key()).unwrap().0.size), (300, 300));
    // or at once where somebody waits
    house.signs(301);
    assert!(house.asks(300).is_empty());
    assert!(house.settles(301).is_some());
    assert_eq!(house.witnessed(), 301);
}

#[test]
fn a_witness_that_does_not_answer_holds_up_nobody_and_is_found_again() {
    for (quorum, without) in [(2, 0), (1, 40)] {
        let mut house = House::new(2, quorum);
        house.signs(5);
        house.settles(0);
        for size in [10, 20, 30, 40] {
            house.signs(size);
            house.passes(1100);
            for ask in house.asks(0) {
                if ask.witness == 0 {
                    house.answers(&ask);
                } else {
                    house.tells(&ask, failed());
                }
            }
        }
        let expected = if quorum == 2 { 5 } else { without };
        assert_eq!(house.witnessed(), expected);
        assert!(matches!(house.submitting.standing(1), Standing::Away(_)), "{:?}", house.submitting.standing(1));
        assert!(!house.submitting.witnessed().set_back);
        house.passes(30_000);
        house.signs(50);
        house.settles(0);
        house.passes(1000);
        house.settles(0);
        assert_eq!((house.witnessed(), house.submitting.standing(1)), (50, &Standing::Agrees), "quorum {quorum}");
    }
}

#[test]
fn one_that_was_fast_before_is_waited_for_and_no_longer_than_it_answers() {
    let mut house = House::new(2, 1);
    house.signs(5);
    house.settles(0);
    house.signs(6);
    house.passes(1000);
    let asks = house.asks(0);
    house.answers(&asks[0]);
    house.signs(7);
    assert!(house.asks(7).is_empty(), "the other one is given a moment");
    house.passes(250);
    assert_eq!(house.asks(7).len(), 1, "the other one is still asked about the last");
    assert!(house.answers(&asks[1]).is_none(), "of another checkpoint than the newest");
    assert_eq!(house.asks(7).iter().map(|ask| (ask.witness, ask.old)).collect::<Vec<_>>(), [(1, 6)]);
}

#[test]
fn pauses_grow_and_are_short_while_somebody_waits() {
    let mut house = House::new(1, 1);
    house.signs(5);
    let mut pauses = Vec::new();
    for _ in 0..9 {
        let ask = house.asks(0).remove(0);
        house.tells(&ask, failed());
        assert!(house.asks(0).is_empty());
        let due = house.submitting.due(house.now, 0).unwrap();
        pauses.push(u64::try_from((due - house.now).as_millis()).unwrap());
        let hurried = house.submitting.due(house.now, 5).unwrap() - house.now;
        assert!(hurried <= Duration::from_secs(1));
        house.now = due;
    }
    assert_eq!(pauses, [250, 500, 1000, 2000, 4000, 8000, 16_000, 30_000, 30_000]);
    let ask = house.asks(0).remove(0);
    house.submitting.answered(&ask, failed(), 5, (house.now, 255));
    assert_eq!(house.submitting.due(house.now, 0).unwrap() - house.now, Duration::from_millis(22_500), "jitter");
}

#[test]
fn a_witness_tells_from_where_it_is_to_be_asked() {
    let mut house = House::new(1, 1);
    house.signs(5);
    house.settles(0);
    // a new process of the server, which knows nothing
    house.submitting = Submitting::new(vec![house.witnesses[0].1.keys().to_vec()], 1);
    house.signs(9);
    assert!(house.settles(0).is_some());
    assert_eq!(house.witnessed(), 9);
    // it has seen a newer one than is offered, of the same log: its answer was lost
    house.submitting = Submitting::new(vec![house.witnesses[0].1.keys().to_vec()], 1);
    house.signs(7);
    house.size = 9;
    assert!(house.settles(0).is_none());
    assert!(!house.submitting.witnessed().set_back);
    house.signs(12);
    house.passes(1000);
    assert!(house.settles(0).is_some());
    // whoever contradicts himself is not asked without pause
    house.signs(20);
    house.passes(1000);
    let conflict = |size: u64| Reply::Status { status: 409, body: format!("{size}\n") };
    let ask = house.asks(0).remove(0);
    house.tells(&ask, conflict(3));
    let ask = house.asks(0).remove(0);
    assert_eq!(ask.old, 3);
    house.tells(&ask, conflict(4));
    assert!(house.asks(0).is_empty() && matches!(house.submitting.standing(0), Standing::Away(_)));
}

#[test]
fn a_log_that_was_set_back_or_forked_is_told_until_it_agrees() {
    for forked in [false, true] {
        let mut house = House::new(2, 1);
        house.signs(100);
        house.settles(0);
        // another process, on an old copy that grows anew
        if forked {
            house.log = History::new(ORIGIN, 50, 1);
        }
        let keys = house.witnesses.iter().map(|(_, witness)| witness.keys().to_vec()).collect();
        house.submitting = Submitting::new(keys, 1);
        house.signs(if forked { 120 } else { 60 });
        assert!(house.settles(0).is_none());
        let standing = if forked { Standing::Forked } else { Standing::SetBack { size: 100 } };
        assert_eq!(house.submitting.standing(0), &standing);
        assert_eq!(house.submitting.witnessed(), Witnessed { size: 0, set_back: true });
        // nor is it hushed by keeping it from answering, or by answering in its place
        for reply in [failed(), Reply::Status { status: 500, body: String::new() }, failed()] {
            house.passes(60_000);
            let asks = house.asks(0);
            assert_eq!(asks.len(), 2);
            for ask in asks {
                assert!(house.tells(&ask, reply.clone()).is_none());
                assert_eq!(house.submitting.standing(ask.witness), &standing, "{reply:?}");
            }
            assert_eq!(house.submitting.witnessed(), Witnessed { size: 0, set_back: true }, "{reply:?}");
        }
        // what a witness has seen was brought back
        house.log = History::new(ORIGIN, 600, 0);
        house.passes(60_000);
        house.signs(130);
        assert!(house.settles(0).is_some());
        assert_eq!(house.submitting.witnessed(), Witnessed { size: 130, set_back: false });
    }
}

#[test]
fn what_is_no_cosignature_of_the_configured_keys_is_none() {
    let log = History::new(ORIGIN, 600, 0);
    let (_dir, other) = witness("w9", 90, &log);
    for (status, body) in [
        (200, String::new()),
        (200, "not a line\n".to_owned()),
        (404, "no".to_owned()),
        (500, String::new()),
        (409, "many\n".to_owned()),
        (409, "3".to_owned()),
        (409, "0\n".to_owned()),
    ] {
        let mut house = House::new(1, 1);
        house.signs(5);
        let ask = house.asks(0).remove(0);
        assert!(house.tells(&ask, Reply::Status { status, body: body.clone() }).is_none());
        assert!(matches!(house.submitting.standing(0), Standing::Away(_)), "{status} {body:?}");
    }
    let mut house = House::new(1, 1);
    house.signs(5);
    let ask = house.asks(0).remove(0);
    let foreign = other.answer("POST", ADD_CHECKPOINT, house.body(&ask).encode().as_bytes(), NOW);
    assert_eq!(foreign.status, 200);
    assert!(house.tells(&ask, Reply::Status { status: 200, body: foreign.body }).is_none());
    // one of its two lines alone, and one that was altered
    house.passes(10_000);
    let ask = house.asks(0).remove(0);
    let body = house.body(&ask).encode();
    let whole = house.witnesses[0].1.answer("POST", ADD_CHECKPOINT, body.as_bytes(), NOW).body;
    let first = whole.split_inclusive('\n').next().unwrap().to_owned();
    assert!(house.tells(&ask, Reply::Status { status: 200, body: first }).is_none());
    house.passes(10_000);
    let ask = house.asks(0).remove(0);
    let at = whole.len() - 40;
    let other = if whole.as_bytes()[at] == b'A' { "B" } else { "A" };
    let altered = format!("{}{other}{}", &whole[..at], &whole[at + 1..]);
    assert!(house.tells(&ask, Reply::Status { status: 200, body: altered }).is_none());
    house.passes(10_000);
    let ask = house.asks(0).remove(0);
    assert!(house.tells(&ask, Reply::Status { status: 200, body: whole }).is_some());
}
