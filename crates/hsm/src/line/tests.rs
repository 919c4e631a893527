use super::*;
use std::time::Duration;

/// A line that is up, and a task that counts how often it is woken.
struct Woken(std::sync::atomic::AtomicUsize);

impl std::task::Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
    }
}

fn line() -> Arc<Line> {
    let line = Arc::new(Line::default());
    line.up();
    line
}

fn far() -> Instant {
    Instant::now() + Duration::from_secs(60)
}

fn ask(line: &Arc<Line>, deadline: Instant) -> Answer {
    let id = line.push(&Request::Random { bytes: 1 }, deadline).unwrap();
    Answer::new(Arc::clone(line), id)
}

fn look(answer: &mut Answer) -> Option<Result<Reply, HsmError>> {
    match Pin::new(answer).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(reply) => Some(reply),
        Poll::Pending => None,
    }
}

fn reply(line: &Line, id: u32, code: u8) -> Option<u64> {
    let mut frame = FrameWriter::default();
    assert!(frame.push_reply(id, &Ok(Reply::Mac([code; 32]))));
    let mut wakers = Vec::new();
    let newest = line.complete(&frame.finish()[4..], &mut wakers).unwrap();
    wakers.into_iter().for_each(Waker::wake);
    newest
}

#[test]
fn a_reply_goes_to_whoever_asked_and_wakes_once() {
    let line = line();
    let mut answers: Vec<_> = (0..300).map(|_| ask(&line, far())).collect();
    let woken = Arc::new(Woken(std::sync::atomic::AtomicUsize::new(0)));
    let waker = Waker::from(Arc::clone(&woken));
    for answer in &mut answers {
        for _ in 0..3 {
            assert!(Pin::new(&mut *answer).poll(&mut Context::from_waker(&waker)).is_pending());
        }
    }
    let numbers: Vec<_> = std::iter::from_fn(|| line.take_frame()).map(|frame| frame.number).collect();
    assert_eq!(numbers, [1, 2, 3], "128 a frame");
    for (at, answer) in answers.iter_mut().enumerate().rev() {
        let code = u8::try_from(at % 256).unwrap();
        let frame = Some(at as u64 / 128 + 1);
        assert_eq!(reply(&line, answer.id, code), frame);
        assert_eq!(reply(&line, answer.id, code ^ 1), None, "a doubled reply is dropped");
        assert!(matches!(look(answer), Some(Ok(Reply::Mac(mac))) if mac == [code; 32]));
        assert_eq!(reply(&line, answer.id, code), None, "even when its slot is free");
    }
    assert_eq!(woken.0.load(std::sync::atomic::Ordering::SeqCst), 300);
    assert_eq!(reply(&line, 12345, 0), None, "unknown");
}

#[test]
fn a_late_reply_finds_nobody_in_its_place() {
    let line = line();
    let mut late = ask(&line, Instant::now());
    let old = late.id;
    let mut wakers = Vec::new();
    let seen = line.expire(Instant::now(), &mut wakers);
    assert_eq!((seen.out, seen.next_deadline), (1, None));
    assert!(matches!(look(&mut late), Some(Err(HsmError::TimedOut))));
    let mut next = ask(&line, far());
    assert_ne!(next.id & 0xfff, old & 0xfff, "its slot is kept until its reply comes");
    assert_eq!(reply(&line, old, 1), Some(1));
    assert!(look(&mut next).is_none());
    drop(next);
    // dropped before its reply: the same
    let again = ask(&line, far());
    assert_eq!(again.id & 0xfff, old & 0xfff);
    assert_ne!(again.id, old);
    assert_eq!(reply(&line, old, 1), None);
}

#[test]
fn what_was_sent_and_what_was_not_end_differently_when_the_channel_dies() {
    let line = line();
    let (mut sent, mut late, abandoned) = (ask(&line, far()), ask(&line, Instant::now()), ask(&line, far()));
    drop(abandoned);
    let frame = line.take_frame().unwrap();
    line.give_back(frame.writer);
    line.expire(Instant::now(), &mut Vec::new());
    let mut queued = ask(&line, far());
    line.away(HsmError::Restarted);
    assert!(matches!(look(&mut sent), Some(Err(HsmError::Restarted))));
    assert!(matches!(look(&mut late), Some(Err(HsmError::TimedOut))));
    assert!(matches!(look(&mut queued), Some(Err(HsmError::Unavailable))));
    assert!(line.take_frame().is_none());
    assert_eq!(line.push(&Request::Status, far()), Err(HsmError::Unavailable));
    line.up();
    assert_eq!(line.expire(Instant::now(), &mut Vec::new()).out, 0);
    let mut fresh: Vec<_> = (0..4).map(|_| ask(&line, far())).collect();
    assert_eq!(fresh.iter().map(|answer| answer.id & 0xfff).max(), Some(3), "all slots are free again");
    assert!(look(&mut fresh[0]).is_none());
}

#[test]
fn the_line_is_bounded() {
    let line = line();
    let answers: Vec<_> = (0..SLOTS).map(|_| ask(&line, far())).collect();
    assert_eq!(line.push(&Request::Status, far()), Err(HsmError::Busy));
    drop(answers);
    assert_eq!(line.push(&Request::Status, far()), Err(HsmError::Busy), "their replies may still come");
    line.away(HsmError::Restarted);
    line.up();
    let long = || Request::Restore { package: vec![7; 60_000].into(), shares: vec![] };
    for _ in 0..FRAMES_MAX {
        line.push(&long(), far()).unwrap();
    }
    assert_eq!(line.push(&long(), far()), Err(HsmError::Busy));
    let endless = Request::Restore { package: vec![7; 70_000].into(), shares: vec![] };
    assert_eq!(line.push(&endless, far()), Err(HsmError::OutOfRange));
}
