use super::*;
use bytes::Bytes;
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;

/// As on disk: lengths and entries, then zeros.
fn segment(entries: impl IntoIterator<Item = Vec<u8>>, zeros: usize) -> Bytes {
    let mut out = Vec::new();
    for entry in entries {
        out.extend(u16::try_from(entry.len()).unwrap().to_be_bytes());
        out.extend(entry);
    }
    out.resize(out.len() + zeros, 0);
    out.into()
}

/// The entry that stands at `index`: its length depends on it, so that buffers end everywhere within entries.
fn entry(index: u64) -> Vec<u8> {
    let mut out = index.to_be_bytes().to_vec();
    out.resize(9 + (index * 31 % 400) as usize, 1 + (index % 255) as u8);
    out
}

fn log(segments: impl IntoIterator<Item = (u64, Bytes)>) -> LogReader<LogMemory> {
    LogReader::over(LogMemory { segments: segments.into_iter().collect(), ..LogMemory::default() })
}

fn two_segments(last: u64) -> LogReader<LogMemory> {
    log([(0, segment((0..SEGMENT_ENTRIES).map(entry), 0)), (1, segment((SEGMENT_ENTRIES..last).map(entry), 4096))])
}

#[test]
fn every_entry_is_told_with_its_index_and_nothing_else() {
    let last = SEGMENT_ENTRIES + 1000;
    let log = two_segments(last);
    assert_eq!(log.size().unwrap(), last);
    for from in [0, 1, 65_535, 65_536, 65_537, last - 1, last, last + 1, last + SEGMENT_ENTRIES] {
        let mut entries = log.iter_from(from).unwrap();
        for expected in from..last {
            assert_eq!(entries.read().unwrap(), Some((expected, entry(expected).as_slice())));
        }
        assert_eq!(entries.read().unwrap(), None);
        assert_eq!(entries.read().unwrap(), None, "the end stays the end");
    }
    for index in [0, 12_345, 65_535, 65_536, last - 1] {
        assert_eq!(log.entry(index).unwrap(), Some(entry(index)));
    }
    assert_eq!(log.entry(last).unwrap(), None);
}

#[test]
fn the_longest_entries_fit_the_buffer() {
    let long = |index: u8| vec![index; usize::from(u16::MAX)];
    let log = log([(0, segment((1..=20).map(long), 1))]);
    let mut entries = log.iter_from(0).unwrap();
    for index in 1..=20 {
        let (_, entry) = entries.read().unwrap().unwrap();
        assert_eq!(entry, long(index));
    }
    assert_eq!(entries.read().unwrap(), None);
}

#[test]
fn a_log_without_entries_has_none() {
    let empty: [Vec<(u64, Bytes)>; 4] = [
        vec![],
        vec![(0, Bytes::new())],
        vec![(0, Bytes::from_static(&[0]))],
        vec![(0, Bytes::from_static(&[0; 64])), (1, Bytes::from_static(&[0; 64]))],
    ];
    for segments in empty {
        let log = log(segments);
        assert_eq!(log.size().unwrap(), 0);
        assert_eq!(log.iter_from(0).unwrap().read().unwrap(), None);
    }
}

#[test]
fn what_is_cut_missing_or_too_much_is_told_with_its_index() {
    let whole = segment((0..3).map(entry), 0);
    for cut in [1, entry(2).len()] {
        let log = log([(0, whole.slice(..whole.len() - cut))]);
        let mut entries = log.iter_from(2).unwrap();
        assert!(matches!(entries.read(), Err(ReadError::Cut { index: 2 })), "{cut}");
        assert!(matches!(entries.read(), Err(ReadError::Cut { index: 2 })), "{cut}");
        assert_eq!(log.size().unwrap(), 2);
    }
    let later = || (1, segment((0..3).map(entry), 0));
    for (segments, missing) in [
        (vec![later()], 0),
        (vec![(0, whole.clone()), later()], 3),
        (vec![(0, Bytes::from_static(&[0; 9])), later()], 0),
        (vec![(0, whole.slice(..whole.len() - 1)), later()], 2),
        (vec![(0, whole.slice(..1)), later()], 0),
        (vec![(0, Bytes::from_static(&[255, 9, 9])), later()], 0),
        (vec![(0, Bytes::from_static(&[0, 0, 9])), later()], 0),
    ] {
        let log = log(segments);
        let read = log.iter_from(missing).unwrap().read().map(|found| found.map(|(index, _)| index));
        assert!(matches!(read, Err(ReadError::Missing { index }) if index == missing), "{read:?}");
    }
    let log = log([(0, segment((0..=SEGMENT_ENTRIES).map(entry), 0))]);
    let mut entries = log.iter_from(SEGMENT_ENTRIES - 1).unwrap();
    assert!(entries.read().unwrap().is_some());
    assert!(matches!(entries.read(), Err(ReadError::Surplus { index: 65_535 })));
}

#[test]
fn a_segment_that_was_made_ahead_is_no_hole() {
    let log = log([(0, segment((0..5).map(entry), 100)), (1, Bytes::from_static(&[0; 4096]))]);
    assert_eq!(log.size().unwrap(), 5);
    assert_eq!(log.iter_from(5).unwrap().read().unwrap(), None);
}

/// A folder that grows as a writer's does, byte by byte in the worst case.
#[test]
fn a_reader_follows_a_writer() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("segment")).unwrap();
    let file = std::fs::File::create(folder.path().join("segment/0000000000")).unwrap();
    file.set_len(4096).unwrap();
    let log = LogReader::over(LogFolder::open(folder.path()).unwrap());
    let mut entries = log.iter_from(0).unwrap();
    let mut offset = 0;
    for index in 0..20 {
        assert_eq!(entries.read().unwrap(), None);
        let bytes = segment([entry(index)], 0);
        let half = bytes.len() / 2;
        file.write_all_at(&bytes[..half], offset).unwrap();
        let place = entries.place();
        // zeros stand for the second half
        let torn = entries.read().unwrap().unwrap().1.to_vec();
        assert_ne!(torn, entry(index));
        entries.go_to(place).unwrap();
        file.write_all_at(&bytes[half..], offset + half as u64).unwrap();
        assert_eq!(entries.read().unwrap(), Some((index, entry(index).as_slice())));
        entries.go_to(place).unwrap();
        assert_eq!(entries.read().unwrap(), Some((index, entry(index).as_slice())));
        offset += bytes.len() as u64;
        assert_eq!(log.size().unwrap(), index + 1);
    }
    // a file that is not zeroed ahead
    file.set_len(offset + 1).unwrap();
    file.write_all_at(&[1], offset).unwrap();
    assert!(matches!(entries.read(), Err(ReadError::Cut { index: 20 })));
    file.write_all_at(&segment([entry(20)], 0), offset).unwrap();
    assert_eq!(entries.read().unwrap().unwrap().0, 20);
}

#[test]
fn a_reader_goes_on_into_the_next_segment() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("segment")).unwrap();
    let path = |number: u64| folder.path().join(format!("segment/{number:010}"));
    let most = SEGMENT_ENTRIES - 1;
    std::fs::write(path(0), segment((0..most).map(|_| vec![7]), 3)).unwrap();
    let log = LogReader::over(LogFolder::open(folder.path()).unwrap());
    let mut entries = log.iter_from(most).unwrap();
    assert_eq!(entries.read().unwrap(), None);
    // the writer fills the first and begins the second while nobody reads
    let file = std::fs::OpenOptions::new().write(true).open(path(0)).unwrap();
    file.write_all_at(&[0, 1, 8], most * 3).unwrap();
    std::fs::File::create(path(1)).unwrap().write_all(&[0, 1, 9]).unwrap();
    assert_eq!(entries.read().unwrap(), Some((most, &[8][..])));
    assert_eq!(entries.read().unwrap(), Some((most + 1, &[9][..])));
    assert_eq!(entries.read().unwrap(), None);
    assert_eq!(log.size().unwrap(), SEGMENT_ENTRIES + 1);
}

#[test]
fn a_folder_without_a_log_is_none() {
    let folder = tempfile::tempdir().unwrap();
    assert!(LogFolder::open(folder.path()).unwrap_err().to_string().contains("holds no audit log"));
    assert!(LogFolder::open(&folder.path().join("nowhere")).is_err());
}
