//! Reads: one revision each, whole segments, pages in order.

use super::{Case, Court, path};
use crate::path::SEGMENTS_MAX;
use crate::{AtLeast, EntryPath, PAGE_BYTES_MAX, PAGE_ENTRIES_MAX, Page, Revision, StorageError, VALUE_BYTES_MAX};

pub(super) async fn judge(court: &Court<'_>) {
    let case = court.case();
    an_empty_store_is_empty(&case).await;
    a_get_answers_in_the_order_of_its_paths(&case).await;
    a_read_is_as_fresh_as_it_asks(&case).await;
    what_asks_too_much_is_refused(&case).await;
    a_scan_is_of_whole_segments_in_order(&court.case()).await;
    a_scan_starts_after_any_path(&court.case()).await;
    a_page_ends_at_its_bytes(&court.case()).await;
}

async fn an_empty_store_is_empty(case: &Case) {
    let (revision, entries) = case.store.get(&[path("a"), path("a/b")], AtLeast::Latest).await.unwrap();
    assert_eq!((revision, entries), (Revision(0), vec![None, None]));
    let page = case.store.scan(&path("a"), None, 1, AtLeast::Latest).await.unwrap();
    assert_eq!(page, Page { revision, entries: Vec::new(), more: false });
}

async fn a_get_answers_in_the_order_of_its_paths(case: &Case) {
    for (at, value) in [("g/b", "b"), ("g/a", "a"), ("g/a!", "a!")] {
        case.put(at, value).await;
    }
    let asked = ["g/a", "g/x", "g/b", "g/a", "g/a!", "g"].map(path);
    let (revision, entries) = case.store.get(&asked, AtLeast::Latest).await.unwrap();
    let values: Vec<_> = entries.into_iter().map(|entry| entry.map(|entry| entry.value)).collect();
    let expected: [Option<&str>; 6] = [Some("a"), None, Some("b"), Some("a"), Some("a!"), None];
    assert_eq!(values, expected.map(|value| value.map(bytes::Bytes::from)));
    assert_eq!(revision, case.head().await);
}

async fn a_read_is_as_fresh_as_it_asks(case: &Case) {
    let first = case.put("f/a", "1").await;
    let second = case.put("f/a", "2").await;
    assert!(second > first);
    let beyond = Revision(second.0 + 1);
    for (at, reached) in [
        (AtLeast::Latest, true),
        (AtLeast::Revision(Revision(0)), true),
        (AtLeast::Revision(first), true),
        (AtLeast::Revision(second), true),
        (AtLeast::Revision(beyond), false),
        (AtLeast::Revision(Revision(u64::MAX)), false),
    ] {
        let read = case.store.get(&[path("f/a")], at).await;
        let scanned = case.store.scan(&path("f"), None, 10, at).await;
        assert_eq!((read.is_ok(), scanned.is_ok()), (reached, reached), "{at:?}");
        if let (Ok((revision, _)), Ok(page)) = (&read, &scanned) {
            assert!(AtLeast::Revision(*revision) == AtLeast::Revision(page.revision) && *revision == second);
        } else {
            assert_eq!((read.err(), scanned.err()), (Some(StorageError::Unavailable), Some(StorageError::Unavailable)));
        }
    }
}

async fn what_asks_too_much_is_refused(case: &Case) {
    let paths = |count: u32| (0..count).map(|i| path(&format!("x/{i}"))).collect::<Vec<_>>();
    for (count, fits) in [(0, true), (PAGE_ENTRIES_MAX, true), (PAGE_ENTRIES_MAX + 1, false)] {
        let read = case.store.get(&paths(count), AtLeast::Latest).await;
        assert_eq!(read.map(|(_, entries)| entries.len() as u64).ok(), fits.then_some(u64::from(count)), "{count}");
    }
    for (limit, fits) in [(0, false), (1, true), (PAGE_ENTRIES_MAX, true), (PAGE_ENTRIES_MAX + 1, false)] {
        let page = case.store.scan(&path("x"), None, limit, AtLeast::Latest).await;
        assert_eq!(page.err(), (!fits).then_some(StorageError::TooLarge), "{limit}");
    }
}

/// All entries below `prefix`, in pages of `limit`.
async fn all(case: &Case, prefix: &EntryPath, limit: u32) -> Vec<String> {
    let mut found: Vec<EntryPath> = Vec::new();
    loop {
        let page = case.store.scan(prefix, found.last(), limit, AtLeast::Latest).await.unwrap();
        assert!(page.entries.len() <= limit as usize);
        assert!(page.entries.len() == limit as usize || !page.more, "a page with room has all that follows");
        found.extend(page.entries.into_iter().map(|(path, entry)| {
            assert_eq!(entry.value, path.as_str(), "the entry's own value");
            path
        }));
        if !page.more {
            return found.iter().map(|path| path.as_str().to_owned()).collect();
        }
    }
}

async fn a_scan_is_of_whole_segments_in_order(case: &Case) {
    let deep = vec!["d"; SEGMENTS_MAX].join("/");
    let paths = [
        "a", "a!", "a!/b", "a-b", "a/!", "a/!!/z", "a/b", "a/b!", "a/b!/c", "a/b/c", "a/b/c/d", "a/b0", "a/~", "a0",
        "a0/b", "ab", "b", "b/a", "~", &deep,
    ];
    // neither in order nor in one batch
    for at in paths.iter().rev() {
        case.put(at, at).await;
    }
    for prefix in paths.into_iter().chain(["a/b/c/d/e", "c", "a/!!", "d", "d/d", "!"]) {
        let mut expected: Vec<&str> = paths
            .into_iter()
            .filter(|at| *at == prefix || at.strip_prefix(prefix).is_some_and(|rest| rest.starts_with('/')))
            .collect();
        expected.sort_unstable();
        for limit in [1, 2, 3, 5, 100] {
            assert_eq!(all(case, &path(prefix), limit).await, expected, "{prefix} by {limit}");
        }
    }
}

async fn a_scan_starts_after_any_path(case: &Case) {
    let paths = ["q", "q/b", "q/d", "q/d/e", "q/f"];
    for at in ["p", "q!", "q0", "r"].into_iter().chain(paths) {
        case.put(at, at).await;
    }
    for after in [
        "a", "p", "p/z", "q", "q!", "q!/z", "q/a", "q/b", "q/c", "q/d", "q/d!", "q/d/e", "q/e", "q/f", "q/z", "q0", "r",
    ] {
        let page = case.store.scan(&path("q"), Some(&path(after)), 100, AtLeast::Latest).await.unwrap();
        let found: Vec<&str> = page.entries.iter().map(|(path, _)| path.as_str()).collect();
        let expected: Vec<&str> = paths.into_iter().filter(|at| *at > after).collect();
        assert_eq!((found, page.more), (expected, false), "{after}");
    }
}

async fn a_page_ends_at_its_bytes(case: &Case) {
    let count = PAGE_BYTES_MAX / VALUE_BYTES_MAX + 2;
    for i in 0..count {
        let batch = case.batch().put(path(&format!("big/{i:02}")), vec![1; VALUE_BYTES_MAX]);
        case.store.commit(batch).await.unwrap();
    }
    let first = case.store.scan(&path("big"), None, PAGE_ENTRIES_MAX, AtLeast::Latest).await.unwrap();
    assert_eq!((first.entries.len(), first.more), (PAGE_BYTES_MAX / VALUE_BYTES_MAX, true));
    let after = first.entries.last().map(|(path, _)| path);
    let second = case.store.scan(&path("big"), after, PAGE_ENTRIES_MAX, AtLeast::Latest).await.unwrap();
    assert_eq!((second.entries.len(), second.more), (2, false));
}
