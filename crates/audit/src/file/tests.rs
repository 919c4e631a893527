use super::*;
use bytes::Bytes;
use std::fs::File;
use std::path::PathBuf;
use std::time::Duration;
use tempfile::TempDir;

fn folder() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.log");
    (folder, path)
}

fn line(number: usize) -> Bytes {
    format!("{{\"n\":{number}}}\n").into()
}

/// What stands in the file, without the zeros that wait to be written over.
fn data(path: &Path) -> Vec<u8> {
    let mut data = std::fs::read(path).unwrap();
    let end = data.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    data.truncate(end);
    data
}

fn lines(numbers: impl IntoIterator<Item = usize>) -> Vec<u8> {
    numbers.into_iter().flat_map(line).collect()
}

#[tokio::test]
async fn what_was_acknowledged_is_there_at_once_and_after_opening_again() {
    let (_folder, path) = folder();
    for round in 0..3 {
        let sink = FileSink::open(&path).unwrap();
        let lane = sink.lane();
        for number in round * 10..(round + 1) * 10 {
            assert_eq!(lane.append(line(number)).await, Ok(()));
            assert_eq!(data(&path), lines(0..=number));
        }
        drop(sink);
        assert_eq!(
            std::fs::read(&path).unwrap(),
            lines(0..(round + 1) * 10),
            "closed in peace it ends with its last line"
        );
        assert_eq!(lane.append(line(0)).await, Err(AuditError::Unavailable), "the log is closed");
    }
}

#[tokio::test]
async fn a_record_is_handed_over_when_append_is_called_not_when_it_is_polled() {
    let (_folder, path) = folder();
    let sink = FileSink::open(&path).unwrap();
    let lane = sink.lane();
    let waiting: Vec<_> = (0..100).map(|number| lane.append(line(number))).collect();
    drop(waiting);
    drop(lane);
    drop(sink);
    assert_eq!(data(&path), lines(0..100));
}

#[tokio::test]
async fn records_stand_in_the_order_in_which_they_were_handed_over_whatever_the_lane() {
    let (_folder, path) = folder();
    let sink = FileSink::open(&path).unwrap();
    let lanes = [sink.lane(), sink.lane(), sink.lane()];
    let waiting: Vec<_> = (0..3000).map(|number| lanes[number % 3].append(line(number))).collect();
    // answered whoever asks first
    for answer in waiting.into_iter().rev() {
        assert_eq!(answer.await, Ok(()));
    }
    assert_eq!(data(&path), lines(0..3000));
}

#[test]
fn many_callers_on_many_runtimes_share_syncs() {
    const RUNTIMES: usize = 4;
    const CALLERS: usize = 64;
    const RECORDS: usize = 50;
    let (_folder, path) = folder();
    let sink = FileSink::open(&path).unwrap();
    std::thread::scope(|threads| {
        for runtime in 0..RUNTIMES {
            let sink = &sink;
            threads.spawn(move || {
                let local = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                local.block_on(async {
                    let lane = sink.lane();
                    let callers = (0..CALLERS).map(|caller| {
                        let lane = Arc::clone(&lane);
                        tokio::spawn(async move {
                            for record in 0..RECORDS {
                                let number = (runtime * CALLERS + caller) * RECORDS + record;
                                assert_eq!(lane.append(line(number)).await, Ok(()));
                            }
                        })
                    });
                    for caller in callers.collect::<Vec<_>>() {
                        caller.await.unwrap();
                    }
                });
            });
        }
    });
    let records = RUNTIMES * CALLERS * RECORDS;
    let mut numbers: Vec<Vec<u8>> = data(&path).split_inclusive(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect();
    numbers.sort();
    let mut expected: Vec<Vec<u8>> = (0..records).map(|number| line(number).to_vec()).collect();
    expected.sort();
    assert!(numbers == expected);
    let syncs = usize::try_from(sink.syncs()).unwrap();
    assert!(syncs >= RECORDS && syncs * 8 <= records, "{syncs} syncs for {records} records");
}

#[test]
fn an_unfinished_end_is_cut_wherever_it_was_torn() {
    let (_folder, path) = folder();
    let whole = b"{a\n{b\n{c\n";
    for cut in 0..=whole.len() {
        for zeros in [0, 1, 5000] {
            let mut torn = whole[..cut].to_vec();
            torn.extend(std::iter::repeat_n(0, zeros));
            std::fs::write(&path, torn).unwrap();
            drop(FileSink::open(&path).unwrap());
            assert_eq!(std::fs::read(&path).unwrap(), whole[..cut / 3 * 3], "{cut} {zeros}");
        }
    }
    for (torn, left) in [(&b"{a\n\0\0\0{b\n\0"[..], &b"{a\n"[..]), (b"{a\nb\0b\n{c\n", b"{a\n"), (b"\0{a\n", b"")] {
        std::fs::write(&path, torn).unwrap();
        drop(FileSink::open(&path).unwrap());
        assert_eq!(std::fs::read(&path).unwrap(), left, "{torn:?}");
    }
}

#[tokio::test]
async fn a_log_longer_than_its_tail_keeps_all_of_it() {
    let (_folder, path) = folder();
    let long = [vec![b'{'; 99], vec![b'\n']].concat().repeat(120_000);
    std::fs::write(&path, [&long[..], b"torn"].concat()).unwrap();
    let sink = FileSink::open(&path).unwrap();
    assert_eq!(sink.lane().append(line(7)).await, Ok(()));
    drop(sink);
    assert!(std::fs::read(&path).unwrap() == [&long[..], &line(7)].concat());
}

#[test]
fn a_file_that_is_no_log_is_left_alone() {
    let (folder, path) = folder();
    for other in [vec![b'{'; 12 << 20], b"a text\nof two lines".to_vec(), b"x".to_vec()] {
        std::fs::write(&path, &other).unwrap();
        assert!(matches!(FileSink::open(&path), Err(OpenError::Io(_))));
        assert!(std::fs::read(&path).unwrap() == other);
    }
    for wrong in [folder.path().to_owned(), folder.path().join("none/audit.log")] {
        assert!(matches!(FileSink::open(&wrong), Err(OpenError::Io(_))), "{wrong:?}");
    }
}

#[tokio::test]
async fn one_log_has_one_writer() {
    let (_folder, path) = folder();
    let sink = FileSink::open(&path).unwrap();
    assert!(matches!(FileSink::open(&path), Err(OpenError::Held)));
    drop(sink);
    assert!(FileSink::open(&path).is_ok());
}

#[tokio::test]
async fn a_log_that_was_moved_away_refuses_until_it_is_back() {
    let (folder, path) = folder();
    let aside = folder.path().join("aside");
    let sink = FileSink::open(&path).unwrap();
    let lane = sink.lane();
    assert_eq!(lane.append(line(0)).await, Ok(()));
    for replaced in [false, true] {
        std::fs::rename(&path, &aside).unwrap();
        if replaced {
            std::fs::write(&path, b"another").unwrap();
        }
        for number in [100, 101] {
            assert_eq!(lane.append(line(number)).await, Err(AuditError::Unavailable), "replaced: {replaced}");
        }
        std::fs::rename(&aside, &path).unwrap();
        assert_eq!(lane.append(line(1 + usize::from(replaced))).await, Ok(()));
    }
    assert_eq!(data(&path), lines(0..3));
    std::fs::remove_file(&path).unwrap();
    assert_eq!(lane.append(line(3)).await, Err(AuditError::Unavailable));
    drop(sink);
    assert!(!path.exists(), "what was removed is not made again behind anybody's back");
    drop(FileSink::open(&path).unwrap());
    assert!(path.exists(), "a restart begins a new one");
}

#[tokio::test]
async fn a_log_that_fails_for_good_says_so_and_accepts_nothing_more() {
    let (_folder, path) = folder();
    std::fs::write(&path, b"").unwrap();
    // a handle that may not write: an error that no passing cause has
    let log = log::Log::over(File::open(&path).unwrap(), &path, 0);
    let sink = FileSink::start(log).unwrap();
    let (lane, failed) = (sink.lane(), sink.failed());
    let waiting: Vec<_> = (0..10).map(|number| lane.append(line(number))).collect();
    for answer in waiting {
        assert_eq!(answer.await, Err(AuditError::Unavailable));
    }
    tokio::time::timeout(Duration::from_secs(5), failed).await.unwrap();
    assert_eq!(lane.append(line(11)).await, Err(AuditError::Unavailable));
    assert_eq!(data(&path), b"");

    let (_folder, path) = self::folder();
    let sound = FileSink::open(&path).unwrap();
    let failed = sound.failed();
    drop(sound);
    assert!(tokio::time::timeout(Duration::from_millis(20), failed).await.is_err(), "closed in peace");
}

#[tokio::test]
async fn what_waits_is_bounded_in_number_and_bytes() {
    let long: Bytes = [vec![b'{'; RECORD_BYTES_MAX - 1], vec![b'\n']].concat().into();
    for (record, fits) in [(line(1), QUEUE_RECORDS_MAX), (long, QUEUE_BYTES_MAX / RECORD_BYTES_MAX)] {
        let (_folder, path) = folder();
        // no writer yet: all of it waits
        let queue = Arc::new(Queue::default());
        let lane = lane::Lane::start(Arc::clone(&queue));
        let waiting: Vec<_> = (0..fits).map(|_| lane.append(record.clone())).collect();
        assert_eq!(lane.append(record.clone()).await, Err(AuditError::Busy));
        let log = log::Log::open(&path).unwrap();
        let mut writer = Writer { log, queue: Arc::clone(&queue), failure: watch::channel(false).0, batch: Vec::new() };
        let thread = std::thread::spawn(move || writer.run());
        for answer in waiting {
            assert_eq!(answer.await, Ok(()));
        }
        assert_eq!(lane.append(record.clone()).await, Ok(()), "there is room again");
        queue.close();
        thread.join().unwrap();
        assert_eq!(data(&path).len(), (fits + 1) * record.len());
    }
}

#[tokio::test]
async fn only_a_single_line_is_a_record() {
    let (_folder, path) = folder();
    let sink = FileSink::open(&path).unwrap();
    let lane = sink.lane();
    let long = [vec![b'{'; RECORD_BYTES_MAX], vec![b'\n']].concat();
    for refused in [&b""[..], b"\n", b"a\n", b"{", b"{a\n{b\n", b"{a\0\n", b"{a\n\n", &long] {
        assert_eq!(lane.append(Bytes::copy_from_slice(refused)).await, Err(AuditError::Unavailable));
    }
    assert_eq!(lane.append(Bytes::copy_from_slice(&long[1..])).await, Ok(()));
    assert!(data(&path) == long[1..]);
}

#[tokio::test]
async fn whoever_waits_is_answered_though_the_lane_is_gone() {
    let (_folder, path) = folder();
    let sink = FileSink::open(&path).unwrap();
    let lane = sink.lane();
    let waiting: Vec<_> = (0..100).map(|number| lane.append(line(number))).collect();
    drop(lane);
    for answer in waiting {
        assert_eq!(answer.await, Ok(()));
    }
}

#[test]
fn whoever_waits_is_answered_though_the_lanes_runtime_has_ended() {
    let (_folder, path) = folder();
    let sink = FileSink::open(&path).unwrap();
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let ended = runtime();
    let lane = ended.block_on(async { sink.lane() });
    let before = lane.append(line(0));
    drop(ended);
    let (before, after) = runtime().block_on(async { (before.await, lane.append(line(1)).await) });
    // durable or not, nobody is left who could say so
    assert!(matches!(before, Ok(()) | Err(AuditError::Unavailable)));
    assert_eq!(after, Err(AuditError::Unavailable));
}

#[tokio::test]
async fn a_writer_that_panics_is_a_log_that_has_failed_for_good() {
    let (_folder, path) = folder();
    let (failure, failed) = watch::channel(false);
    let queue = Arc::new(Queue::default());
    let writer = Writer { log: log::Log::open(&path).unwrap(), queue: Arc::clone(&queue), failure, batch: Vec::new() };
    let sink = FileSink { queue, syncs: Arc::default(), failed, writer: None };
    let (lane, failed) = (sink.lane(), sink.failed());
    let waits = lane.append(line(1));
    let panics = move || {
        let _writer = writer;
        panic!("a defect of ours");
    };
    std::thread::spawn(panics).join().unwrap_err();
    tokio::time::timeout(Duration::from_secs(5), failed).await.unwrap();
    // nobody waits for a thread that is gone
    assert_eq!(tokio::time::timeout(Duration::from_secs(5), waits).await, Ok(Err(AuditError::Unavailable)));
    assert_eq!(lane.append(line(2)).await, Err(AuditError::Unavailable));
}
