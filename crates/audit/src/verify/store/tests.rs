use super::*;
use crate::record::Subject;
use envelope::Timestamp;

/// A log as it is told, with the store that it tells.
#[derive(Default)]
struct Rig {
    told: Told,
    next: u64,
}

fn hash(text: &str) -> Hash {
    mac::sha256(text.as_bytes())
}

impl Rig {
    fn as_of(revision: u64) -> Self {
        Self { told: Told::as_of(revision), next: 0 }
    }

    /// One leaf; an empty value is a deletion. Gives its index.
    fn change(&mut self, changes: &[(&str, &str)]) -> u64 {
        self.leaf(self.next, changes)
    }

    /// The leaf that stood first at `number`, or a new one.
    fn leaf(&mut self, number: u64, changes: &[(&str, &str)]) -> u64 {
        let value = |value: &str| if value.is_empty() { "deleted".to_owned() } else { hex::encode(hash(value)) };
        let changes: Vec<_> = changes.iter().map(|(path, to)| (hex::encode(hash(path)), value(to))).collect();
        let request = number.to_string();
        let now = Timestamp::from_unix_millis(number);
        self.entry(&Record { changes: &changes, ..Record::new(now, &request, "Test", &Subject::System) })
    }

    fn state(&mut self, revision: u64) {
        let store = Some(StoreState { revision, generation: 1 });
        self.entry(&Record {
            store,
            ..Record::new(Timestamp::from_unix_millis(0), "", "StoreState", &Subject::System)
        });
    }

    fn rollback(&mut self) -> u64 {
        let (now, operation) = (Timestamp::from_unix_millis(0), ROLLBACK_ACKNOWLEDGED);
        self.entry(&Record::new(now, "", operation, &Subject::System))
    }

    fn entry(&mut self, record: &Record<'_>) -> u64 {
        self.told.entry(self.next, record);
        self.next += 1;
        self.next - 1
    }

    fn compare(self, rows: &[(&str, &str)]) -> Compared {
        compare(vec![self.told], rows)
    }
}

fn compare(logs: Vec<Told>, rows: &[(&str, &str)]) -> Compared {
    let mut comparison = Comparison::new(logs, []);
    rows.iter().for_each(|(path, value)| comparison.row(path, &hash(value), 1));
    comparison.finish()
}

fn finding(kind: Kind, path: &str, told: Option<u64>, last: Option<u64>) -> Finding {
    Finding { kind, path: (!path.is_empty()).then(|| path.to_owned()), told, last }
}

/// a was changed twice, b once, c deleted, d deleted and made again.
fn history() -> Rig {
    let mut rig = Rig::default();
    rig.change(&[("a", "a0"), ("b", "b0")]);
    rig.change(&[("c", "c0"), ("d", "d0")]);
    rig.change(&[("a", "a1")]);
    rig.change(&[("c", ""), ("d", "")]);
    rig.change(&[("d", "d1")]);
    rig.change(&[("a", "a2")]);
    rig
}

#[test]
fn each_thing_that_was_done_to_a_row_is_found_by_its_name() {
    use Kind::{Copied, Missing, Replayed, Revived, Unknown};
    let sound = [("a", "a2"), ("b", "b0"), ("d", "d1")];
    assert_eq!(history().compare(&sound), Compared { rows: 3, ..Compared::default() });
    for (rows, expected) in [
        (vec![("a", "a1"), sound[1], sound[2]], vec![finding(Replayed, "a", Some(2), Some(5))]),
        (vec![("a", "a0"), sound[1], sound[2]], vec![finding(Replayed, "a", Some(0), Some(5))]),
        (vec![sound[0], sound[1], ("d", "d0")], vec![finding(Replayed, "d", Some(1), Some(4))]),
        ([&sound[..], &[("c", "c0")]].concat(), vec![finding(Revived, "c", Some(1), Some(3))]),
        (vec![sound[0], sound[2]], vec![finding(Missing, "", Some(0), None)]),
        ([&sound[..], &[("e", "e0")]].concat(), vec![finding(Unknown, "e", None, None)]),
        ([&sound[..], &[("e", "b0")]].concat(), vec![finding(Copied, "e", Some(0), None)]),
        ([&sound[..], &[("e", "a0")]].concat(), vec![finding(Replayed, "e", Some(0), Some(5))]),
        (
            vec![],
            vec![
                finding(Missing, "", Some(0), None),
                finding(Missing, "", Some(4), None),
                finding(Missing, "", Some(5), None),
            ],
        ),
    ] {
        let compared = history().compare(&rows);
        let found = expected.len() as u64;
        assert_eq!(compared, Compared { rows: rows.len() as u64, findings: expected, found, ..Compared::default() });
    }
}

#[test]
fn a_leaf_that_is_told_again_changes_nothing() {
    let changes: [&[(&str, &str)]; 4] = [&[("a", "a0")], &[("a", "")], &[("a", "a1")], &[("a", "a2")]];
    for last in 0..changes.len() {
        for again in 0..=last {
            let mut rig = Rig::default();
            for change in &changes[..=last] {
                rig.change(change);
            }
            rig.leaf(again as u64, changes[again]);
            let rows: &[(&str, &str)] = if changes[last][0].1.is_empty() { &[] } else { changes[last] };
            assert_eq!(rig.compare(rows).findings, [], "{again} after {last}");
        }
    }
}

#[test]
fn the_later_of_two_writes_of_one_leaf_counts() {
    let mut rig = Rig::default();
    rig.change(&[("a", "a0")]);
    rig.change(&[("a", ""), ("a", "a1")]);
    assert_eq!(rig.compare(&[("a", "a1")]).findings, []);
}

#[test]
fn what_a_leaf_in_the_outbox_may_tell_is_no_finding_and_no_more_than_that() {
    let compare = |rows: &[(&str, &str, u64)], waiting: &[(u64, u64)]| {
        let waiting =
            waiting.iter().map(|(revision, changes_max)| Waiting { revision: *revision, changes_max: *changes_max });
        let mut comparison = Comparison::new(vec![history().told], waiting);
        rows.iter().for_each(|(path, value, revision)| comparison.row(path, &hash(value), *revision));
        let compared = comparison.finish();
        (compared.not_yet_told, compared.findings.iter().map(|found| found.kind).collect::<Vec<_>>())
    };
    let rows = |a: &'static str, revision| [("a", a, revision), ("b", "b0", 1), ("d", "d1", 5)];
    let with = |more| [&rows("a2", 6)[..], &[more]].concat();
    // made, changed, deleted
    assert_eq!(compare(&with(("e", "e0", 7)), &[(7, 1)]), (1, vec![]));
    assert_eq!(compare(&rows("a3", 7), &[(7, 1)]), (2, vec![]), "the new value and the former");
    assert_eq!(compare(&rows("a2", 6)[..2], &[(7, 1)]), (1, vec![]));
    // not of that batch, more than it may tell, of a leaf that is in the log
    assert_eq!(compare(&with(("e", "e0", 6)), &[(7, 1)]), (0, vec![Kind::Unknown]));
    assert_eq!(compare(&with(("e", "e0", 7)), &[(7, 0)]), (0, vec![Kind::Unknown]));
    assert_eq!(compare(&rows("a2", 6)[..1], &[(7, 1)]), (0, vec![Kind::Missing; 2]));
    assert_eq!(compare(&with(("e", "e0", 6)), &[(6, 9)]), (0, vec![Kind::Unknown]));
    assert_eq!(compare(&rows("a2", 6)[..2], &[(6, 9)]), (0, vec![Kind::Missing]));
    // replayed and revived are never excused
    assert_eq!(compare(&rows("a1", 7), &[(7, 9)]), (0, vec![Kind::Replayed]));
    assert_eq!(compare(&with(("c", "c0", 7)), &[(7, 9)]), (0, vec![Kind::Revived]));
}

#[test]
fn a_store_of_an_earlier_moment_is_compared_with_what_the_log_told_until_then() {
    let history = |revision| {
        let mut rig = Rig::as_of(revision);
        rig.change(&[("a", "a0"), ("b", "b0")]);
        [2, 3].into_iter().for_each(|revision| rig.state(revision));
        rig.change(&[("a", "a1")]);
        rig.change(&[("b", "")]);
        rig.state(6);
        rig.change(&[("a", "a2")]);
        rig.state(8);
        rig.change(&[("a", "a3")]);
        [9, 10].into_iter().for_each(|revision| rig.state(revision));
        rig
    };
    assert_eq!(history(6).told.newest().unwrap().revision, 10);
    for (revision, rows, expected) in [
        (4, vec![("a", "a1"), ("b", "b0")], vec![]),
        (5, vec![("a", "a1")], vec![]),
        (6, vec![("a", "a2")], vec![]),
        (7, vec![("a", "a2")], vec![]),
        (8, vec![("a", "a2")], vec![]),
        (10, vec![("a", "a3")], vec![]),
        // what was changed long before, or will be long after
        (10, vec![("a", "a1")], vec![Kind::Replayed]),
        (10, vec![("a", "a3"), ("b", "b0")], vec![Kind::Revived]),
        (3, vec![("a", "a3"), ("b", "b0")], vec![Kind::Unknown, Kind::Missing]),
        (3, vec![("b", "b0")], vec![Kind::Missing]),
        (8, vec![("a", "a0")], vec![Kind::Replayed]),
    ] {
        let found: Vec<_> = history(revision).compare(&rows).findings.iter().map(|found| found.kind).collect();
        assert_eq!(found, expected, "{rows:?} at {revision}");
    }
}

#[test]
fn what_an_acknowledged_rollback_may_have_undone_is_counted_and_what_came_after_is_compared() {
    let rig = || {
        let mut rig = history();
        rig.rollback();
        rig.change(&[("b", "b1")]);
        rig
    };
    let compared = rig().compare(&[("a", "a1"), ("b", "b1"), ("c", "c0")]);
    assert_eq!((compared.before_rollback, compared.findings), (3, vec![]), "a older, c back, d gone");
    let compared = rig().compare(&[("a", "a2"), ("b", "b0"), ("d", "d1")]);
    assert_eq!(compared.findings, [finding(Kind::Replayed, "b", Some(0), Some(7))]);
}

#[test]
fn of_several_logs_one_that_knows_the_row_is_enough() {
    let logs = || {
        let (mut one, mut two) = (history(), Rig::default());
        one.change(&[("f", "f0")]);
        two.change(&[("a", "a7"), ("e", "e0"), ("b", "")]);
        vec![one.told, two.told]
    };
    for a in ["a2", "a7"] {
        for b in [&[("b", "b0")][..], &[]] {
            let rows = [&[("a", a), ("d", "d1"), ("e", "e0"), ("f", "f0")][..], b].concat();
            assert_eq!(compare(logs(), &rows).findings, [], "{rows:?}");
        }
    }
    let found = compare(logs(), &[("a", "a1"), ("d", "d1"), ("f", "f0")]).findings;
    assert_eq!(found, [finding(Kind::Replayed, "a", Some(2), Some(5)), finding(Kind::Missing, "", Some(0), None)]);
    assert_eq!(compare(logs(), &[("d", "d1"), ("e", "e0"), ("f", "f0")]).found, 1, "a is missing, and told once");
}

#[test]
fn findings_are_bounded_and_counted() {
    let mut comparison = Comparison::new(vec![Told::new()], []);
    (0..3000).for_each(|number| comparison.row("x", &hash(&format!("{number}")), 1));
    let compared = comparison.finish();
    assert_eq!((compared.found, compared.findings.len()), (3000, FINDINGS_MAX));
}

#[test]
fn a_leaf_tells_no_more_changes_than_its_length_allows() {
    let subject = Subject::System;
    for count in [0, 1, 5, 100] {
        for value in ["deleted".to_owned(), hex::encode([7; 32])] {
            let changes = vec![(hex::encode([9; 32]), value); count];
            let record = Record { changes: &changes, ..Record::new(Timestamp::from_unix_millis(1), "", "x", &subject) };
            assert!(changes_max(record.encode().len()) >= count as u64);
        }
    }
}

#[test]
fn a_row_whose_leaf_may_have_been_removed_is_not_judged_and_what_is_still_told_is() {
    let later = || {
        let mut rig = Rig::default();
        rig.told.removed();
        rig.change(&[("a", "a1")]);
        rig.change(&[("b", "b1"), ("c", "")]);
        rig
    };
    let compared = later().compare(&[("a", "a1"), ("b", "b1"), ("d", "d0")]);
    assert_eq!((compared.removed, compared.found, compared.unheard), (1, 0, true));
    // the same store without the row that only a removed leaf can have told
    let compared = later().compare(&[("a", "a1"), ("b", "b1")]);
    assert_eq!((compared.removed, compared.found, compared.unheard), (0, 0, true));
    // an older value of a row that is told is missed there, though nobody knows whose value it is
    let compared = later().compare(&[("a", "a0"), ("b", "b1")]);
    assert_eq!((compared.removed, compared.findings), (1, vec![finding(Kind::Missing, "", Some(0), None)]));
    let compared = later().compare(&[("a", "a1"), ("b", "b1"), ("x", "a1")]);
    assert_eq!((compared.removed, compared.findings), (0, vec![finding(Kind::Copied, "x", Some(0), None)]));
    let mut whole = history().told;
    whole.removed = false;
    let compared = compare(vec![whole], &[("e", "e0")]);
    assert_eq!((compared.removed, compared.unheard), (0, false));
    // of several logs one is enough
    let compared = compare(vec![history().told, later().told], &[("e", "e0")]);
    assert_eq!((compared.removed, compared.unheard), (1, true));
}

#[test]
fn a_row_that_was_sealed_anew_is_right_where_it_stems_from_the_last_value() {
    type Leaf<'a> = (usize, &'a str, &'a [(&'a str, &'a str)]);
    let (w, r) = ("Write", RESEALED);
    let cases: [(&[Leaf<'_>], &str, &[Kind]); 16] = [
        // of the last value; of an older one; of a deleted row's; of none that was told
        (&[(0, w, &[("a", "0")]), (0, r, &[("a", "0"), ("a", "1")])], "1", &[]),
        (&[(0, w, &[("a", "0")]), (0, w, &[("a", "9")]), (0, r, &[("a", "0"), ("a", "1")])], "1", &[Kind::Resealed]),
        (&[(0, w, &[("a", "0")]), (0, w, &[("a", "")]), (0, r, &[("a", "0"), ("a", "1")])], "1", &[Kind::Resealed]),
        (&[(0, w, &[("a", "9")]), (0, r, &[("a", "0"), ("a", "1")])], "1", &[Kind::Resealed]),
        (&[(0, r, &[("a", "0"), ("a", "1")])], "1", &[Kind::Resealed]),
        // what stood there before is not there any more
        (&[(0, w, &[("a", "0")]), (0, r, &[("a", "0"), ("a", "1")])], "0", &[Kind::Replayed]),
        // written since, or sealed anew again
        (&[(0, w, &[("a", "9")]), (0, r, &[("a", "0"), ("a", "1")]), (0, w, &[("a", "2")])], "2", &[]),
        (&[(0, w, &[("a", "0")]), (0, r, &[("a", "0"), ("a", "1")]), (0, r, &[("a", "1"), ("a", "2")])], "2", &[]),
        // told twice
        (&[(0, w, &[("a", "0")]), (0, r, &[("a", "0"), ("a", "1")]), (0, r, &[("a", "0"), ("a", "1")])], "1", &[]),
        // what went back, as an operator acknowledged
        (
            &[
                (0, w, &[("a", "0")]),
                (0, w, &[("a", "9")]),
                (0, ROLLBACK_ACKNOWLEDGED, &[]),
                (0, r, &[("a", "0"), ("a", "1")]),
            ],
            "1",
            &[],
        ),
        // of a value that another node told: its last, an older one, and one of its own that was sealed anew in turn
        (&[(0, w, &[("a", "0")]), (1, r, &[("a", "0"), ("a", "1")])], "1", &[]),
        (&[(0, w, &[("a", "0")]), (0, w, &[("a", "9")]), (1, r, &[("a", "0"), ("a", "1")])], "1", &[Kind::Resealed]),
        (&[(0, w, &[("a", "0")]), (1, r, &[("a", "0"), ("a", "1")]), (0, r, &[("a", "1"), ("a", "2")])], "2", &[]),
        (
            &[
                (0, w, &[("a", "0")]),
                (0, w, &[("a", "9")]),
                (1, r, &[("a", "0"), ("a", "1")]),
                (0, r, &[("a", "1"), ("a", "2")]),
            ],
            "2",
            &[Kind::Resealed],
        ),
        (&[(0, w, &[("a", "0")]), (1, w, &[("a", "9")]), (0, r, &[("a", "9"), ("a", "1")])], "1", &[]),
        // another row's leaf in between
        (&[(0, w, &[("a", "0")]), (0, r, &[("b", "7"), ("a", "1")])], "1", &[Kind::Missing]),
    ];
    for (leaves, stands, expected) in cases {
        let mut logs = [Rig::default(), Rig::default()];
        for (number, (log, operation, changes)) in leaves.iter().enumerate() {
            let value = |value: &str| if value.is_empty() { "deleted".to_owned() } else { hex::encode(hash(value)) };
            let changes: Vec<_> = changes.iter().map(|(path, to)| (hex::encode(hash(path)), value(to))).collect();
            let now = Timestamp::from_unix_millis(number as u64);
            logs[*log].entry(&Record { changes: &changes, ..Record::new(now, "", operation, &Subject::System) });
        }
        let compared = compare(logs.into_iter().map(|log| log.told).collect(), &[("a", stands)]);
        let found: Vec<_> = compared.findings.iter().map(|found| found.kind).collect();
        assert_eq!(found, expected, "{leaves:?}");
    }
}

/// A leaf of the change that got this revision.
fn committed(rig: &mut Rig, revision: u64, path: &str, value: &str) -> u64 {
    let to = if value.is_empty() { "deleted".to_owned() } else { hex::encode(hash(value)) };
    let changes = [(hex::encode(hash(path)), to)];
    let (now, request) = (Timestamp::from_unix_millis(revision), revision.to_string());
    let committed = Some(StoreState { revision, generation: 1 });
    rig.entry(&Record { changes: &changes, committed, ..Record::new(now, &request, "Test", &Subject::System) })
}

#[test]
fn of_two_nodes_logs_that_counts_which_was_committed_last() {
    let logs = || {
        let (mut one, mut two) = (Rig::default(), Rig::default());
        committed(&mut one, 1, "a", "a0");
        committed(&mut two, 2, "a", "a1");
        committed(&mut one, 3, "b", "b0");
        committed(&mut two, 4, "b", "");
        committed(&mut two, 5, "c", "c0");
        committed(&mut one, 6, "c", "c1");
        // the other node takes out what this one left behind, late
        committed(&mut one, 2, "a", "a1");
        committed(&mut two, 3, "b", "b0");
        committed(&mut two, 6, "c", "c1");
        committed(&mut one, 5, "c", "c0");
        vec![one.told, two.told]
    };
    assert_eq!(compare(logs(), &[("a", "a1"), ("c", "c1")]).found, 0);
    for (rows, kind) in [
        (&[("a", "a0"), ("c", "c1")][..], Kind::Replayed),
        (&[("a", "a1"), ("c", "c0")], Kind::Replayed),
        (&[("a", "a1"), ("b", "b0"), ("c", "c1")], Kind::Revived),
        (&[("a", "a1")], Kind::Missing),
        (&[("c", "c1")], Kind::Missing),
    ] {
        let compared = compare(logs(), rows);
        let kinds: Vec<_> = compared.findings.iter().map(|finding| finding.kind).collect();
        assert_eq!(kinds, [kind], "{rows:?}");
    }
}

/// A leaf of a row that was sealed anew: what stood there, and what stands there now.
fn resealed(rig: &mut Rig, revision: u64, path: &str, of: &str, now: &str) {
    let value = |value: &str| (hex::encode(hash(path)), hex::encode(hash(value)));
    let (at, request) = (Timestamp::from_unix_millis(revision), revision.to_string());
    let committed = Some(StoreState { revision, generation: 1 });
    let changes = [value(of), value(now)];
    rig.entry(&Record { changes: &changes, committed, ..Record::new(at, &request, RESEALED, &Subject::System) });
}

#[test]
fn what_is_sealed_anew_is_judged_by_what_all_nodes_told_before() {
    // one writes, the other writes or deletes later, and the first one seals anew what stands there
    for (second, of, expected) in
        [("a1", "a1", &[][..]), ("a1", "a0", &[Kind::Resealed]), ("", "a0", &[Kind::Resealed])]
    {
        for again in [false, true] {
            let (mut one, mut two) = (Rig::default(), Rig::default());
            committed(&mut one, 1, "a", "a0");
            committed(&mut two, 2, "a", second);
            resealed(&mut one, 3, "a", of, "a2");
            if again {
                resealed(&mut two, 4, "a", "a2", "a3");
            }
            let stands = if again { "a3" } else { "a2" };
            let compared = compare(vec![one.told, two.told], &[("a", stands)]);
            let kinds: Vec<_> = compared.findings.iter().map(|finding| finding.kind).collect();
            assert_eq!(kinds, expected, "{second:?} {of} {again}");
        }
    }
}

#[test]
fn a_backup_is_what_was_committed_until_then_to_the_change() {
    let logs = || {
        let (mut one, mut two) = (Rig::as_of(3), Rig::as_of(3));
        committed(&mut one, 1, "a", "a0");
        committed(&mut two, 3, "a", "a1");
        committed(&mut one, 4, "a", "a2");
        one.state(4);
        one.state(5);
        // told late
        committed(&mut one, 2, "b", "b0");
        committed(&mut two, 5, "b", "");
        vec![one.told, two.told]
    };
    assert_eq!(compare(logs(), &[("a", "a1"), ("b", "b0")]).found, 0);
    assert_eq!(compare(logs(), &[("a", "a0"), ("b", "b0")]).found, 1);
    // neither what was told until then, nor is that there
    assert_eq!(compare(logs(), &[("a", "a2"), ("b", "b0")]).found, 2);
    assert_eq!(compare(logs(), &[("a", "a1")]).found, 1);
}
