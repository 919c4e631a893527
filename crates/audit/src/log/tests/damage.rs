//! What a start finds damaged: told by name where entries were signed, made anew where it is derived.

use super::*;

/// A log of so many entries, closed in peace, in segments of 64.
async fn closed(entries: usize) -> Rig {
    let rig = Rig::of(64);
    let log = rig.open().unwrap();
    append(&log, 0..entries).await;
    drop(log);
    assert_eq!(rig.verified().size, entries as u64);
    rig
}

/// Where entry `index` begins in its segment, its length first.
fn offset(index: usize) -> usize {
    (index % 64) * (entry(0).len() + 2)
}

fn alter(path: &Path, alter: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut bytes = std::fs::read(path).unwrap();
    alter(&mut bytes);
    std::fs::write(path, &bytes).unwrap();
    bytes
}

#[tokio::test]
async fn a_damaged_entry_that_a_checkpoint_covers_is_named_and_never_cut() {
    // the last segment, whether the log was closed in peace or not; and, where tiles are read anew, every other
    for (index, peace, signing) in [
        (190, true, true),
        (190, false, true),
        (128, false, true),
        (199, true, true),
        (3, true, false),
        (70, false, false),
    ] {
        for at in [0, 1, 2, 9, entry(0).len() + 1] {
            let rig = closed(200).await;
            let path = rig.segment(index as u64 / 64);
            let damaged = alter(&path, |bytes| bytes[offset(index) + at] ^= 0x40);
            if !peace {
                std::fs::remove_file(rig.dir.join("closed")).unwrap();
            }
            if !signing {
                std::fs::remove_file(rig.dir.join("signing")).unwrap();
            }
            let outcome = rig.open();
            assert!(
                matches!(outcome, Err(OpenError::Damaged { index: found }) if found == index as u64),
                "{index} {at}: {outcome:?}"
            );
            assert!(std::fs::read(&path).unwrap() == damaged, "left alone");
        }
    }
}

/// As entries stand in a segment.
fn written(entries: &[Vec<u8>]) -> Vec<u8> {
    entries.iter().flat_map(|entry| [&u16::try_from(entry.len()).unwrap().to_be_bytes()[..], entry].concat()).collect()
}

/// A log of 100 entries that are signed, and of those that were written since, when the process died.
async fn died(more: &[Vec<u8>]) -> (Rig, usize) {
    let rig = Rig::new();
    let log = rig.open().unwrap();
    append(&log, 0..100).await;
    drop(log);
    std::fs::remove_file(rig.dir.join("closed")).unwrap();
    let mut signed = 0;
    alter(&rig.segment(0), |bytes| {
        signed = bytes.len();
        bytes.extend(written(more));
    });
    (rig, signed)
}

#[tokio::test]
async fn an_entry_that_was_altered_behind_the_newest_checkpoint_is_damage_and_no_torn_end() {
    let one = entry(0).len() + 2;
    let more = entries(100..200);
    // its length (more, less, or none), its text, its checksum; the log's end whole, or torn too
    for (at, mask) in [(1, 0x01), (1, 0x04), (0, 0x40), (1, 18), (2, 0x10), (9, 0x01), (one - 1, 0x80)] {
        // an altered length is not told from a torn end where the end is torn as well
        for torn in [0, 1, 7].into_iter().filter(|torn| *torn == 0 || at > 1) {
            let (rig, signed) = died(&more).await;
            let damaged = alter(&rig.segment(0), |bytes| {
                bytes[signed + 50 * one + at] ^= mask;
                bytes.truncate(bytes.len() - torn);
                bytes.extend(vec![0; 5000]);
            });
            let outcome = found(&rig.place()).err();
            assert!(matches!(outcome, Some(OpenError::Damaged { index: 150 })), "{at} {torn}: {outcome:?}");
            assert!(std::fs::read(rig.segment(0)).unwrap() == damaged, "left alone");
            assert!(!rig.dir.join("cut-150").exists());
        }
    }
}

#[tokio::test]
async fn a_batch_that_lacks_sectors_is_cut_unless_more_follows_than_a_batch_holds() {
    let long = |number: usize| TestForm.finish(&vec![u8::try_from(number).unwrap() | 1; 60_000]).unwrap();
    for (count, cut) in [(130, true), (150, false)] {
        let (rig, signed) = died(&(0..count).map(long).collect::<Vec<_>>()).await;
        alter(&rig.segment(0), |bytes| bytes[(signed / 512 + 3) * 512..][..512].fill(0));
        match found(&rig.place()) {
            Ok(found) => assert!(cut && found.segments.size() == 100 && rig.dir.join("cut-100").exists(), "{count}"),
            Err(error) => assert!(!cut && matches!(error, OpenError::Damaged { index: 100 }), "{count}: {error:?}"),
        }
    }
    // sectors are missing where entries are small, whichever came
    let more = entries(100..200);
    for missing in 0..3 {
        let (rig, signed) = died(&more).await;
        let first = (signed / 512 + 1 + missing) * 512;
        alter(&rig.segment(0), |bytes| bytes[first..first + 512].fill(0));
        let whole = first / (entry(0).len() + 2);
        assert_eq!(found(&rig.place()).unwrap().segments.size(), whole as u64);
    }
}

#[tokio::test]
async fn an_entry_that_was_rewritten_with_its_checksum_is_found_and_no_tile_takes_its_side() {
    for (index, signing) in [(190, true), (193, true), (3, false), (191, false)] {
        let rig = closed(200).await;
        let other = TestForm.finish(b"entry 0000evil").unwrap();
        alter(&rig.segment(index as u64 / 64), |bytes| {
            let at = offset(index) + 2;
            bytes[at..at + other.len()].copy_from_slice(&other);
        });
        if !signing {
            std::fs::remove_file(rig.dir.join("signing")).unwrap();
        }
        let tiles = tiles(&rig);
        for _ in 0..2 {
            let outcome = rig.open();
            assert!(
                matches!(outcome, Err(OpenError::Rewritten { covered: 200, index: Some(found) }) if found == index as u64),
                "{index}: {outcome:?}"
            );
            assert!(self::tiles(&rig) == tiles, "the evidence stays");
        }
    }
}

#[tokio::test]
async fn a_log_that_has_lost_entries_is_shorter_and_one_without_a_segment_damaged() {
    for keep in [0, 128, 199] {
        let rig = closed(200).await;
        alter(&rig.segment(3), |bytes| bytes.truncate(offset(keep.max(192))));
        if keep < 192 {
            std::fs::remove_file(rig.segment(3)).unwrap();
        }
        if keep == 0 {
            (0..3).for_each(|number| std::fs::remove_file(rig.segment(number)).unwrap());
        }
        let found = if keep == 128 { 192 } else { keep as u64 };
        let outcome = rig.open();
        assert!(
            matches!(outcome, Err(OpenError::Shorter { size, covered: 200 }) if size == found),
            "{keep}: {outcome:?}"
        );
    }
    let rig = closed(200).await;
    std::fs::remove_file(rig.segment(1)).unwrap();
    assert!(matches!(rig.open(), Err(OpenError::Damaged { index: 64 })));
}

#[tokio::test]
async fn the_log_of_another_origin_or_key_is_left_alone() {
    let rig = closed(10).await;
    let other_origin = VerifierKey::ed25519("strongroom.audit/c0ffee/2", rig.boundary.verifier()).unwrap();
    let other_key = VerifierKey::ed25519(ORIGIN, pair(9).public_key().as_ref().try_into().unwrap()).unwrap();
    for key in [other_origin, other_key] {
        for with_vkey in [true, false] {
            let place = Place { key: key.clone(), ..rig.place() };
            let vkey = rig.dir.join("log.vkey");
            let ours = std::fs::read(&vkey).unwrap();
            if !with_vkey {
                std::fs::remove_file(&vkey).unwrap();
            }
            assert!(matches!(found(&place), Err(OpenError::Foreign)));
            std::fs::write(&vkey, ours).unwrap();
        }
    }
    assert!(rig.open().is_ok());
    let parent = Rig::new();
    let place = Place { dir: parent.dir.join("no/folder"), ..parent.place() };
    assert!(matches!(found(&place), Err(OpenError::Io(_))));
    std::fs::write(&parent.dir, b"a file").unwrap();
    assert!(matches!(parent.open(), Err(OpenError::Io(_))));
}

/// Every tile's path and bytes.
fn tiles(rig: &Rig) -> std::collections::BTreeMap<PathBuf, Vec<u8>> {
    fn walk(dir: &Path, out: &mut std::collections::BTreeMap<PathBuf, Vec<u8>>) {
        for found in std::fs::read_dir(dir).unwrap() {
            let path = found.unwrap().path();
            if path.is_dir() {
                walk(&path, out);
            } else {
                out.insert(path.clone(), std::fs::read(&path).unwrap());
            }
        }
    }
    let mut out = std::collections::BTreeMap::new();
    walk(&rig.dir.join("tile"), &mut out);
    out
}

#[tokio::test]
async fn tiles_that_are_missing_or_wrong_are_made_anew_from_the_entries() {
    let rig = Rig::of(512);
    let log = rig.open().unwrap();
    append(&log, 0..1500).await;
    drop(log);
    let whole = tiles(&rig);
    assert!(whole.len() >= 7, "five full ones, a partial one a level: {:?}", whole.keys());
    let spoil: [&dyn Fn(&Path); 4] = [
        &|path| std::fs::remove_file(path).unwrap(),
        &|path| drop(alter(path, |bytes| bytes[7] ^= 1)),
        &|path| drop(alter(path, |bytes| bytes.fill(0))),
        &|path| drop(alter(path, |bytes| bytes.truncate(20))),
    ];
    // where nothing says what is on the disk, all is looked at; with `closed` in peace or without
    for (peace, spoil) in [true, false].into_iter().flat_map(|peace| spoil.iter().map(move |spoil| (peace, spoil))) {
        for path in whole.keys() {
            spoil(path);
            if !peace {
                std::fs::remove_file(rig.dir.join("closed")).unwrap();
            }
            let log = rig.open().unwrap();
            until("it is agreed", || log.standing() == Standing::Agreed).await;
            drop(log);
            assert!(tiles(&rig) == whole, "{}", path.display());
            assert_eq!(rig.verified().size, 1500);
        }
    }
    std::fs::remove_dir_all(rig.dir.join("tile")).unwrap();
    drop(rig.open().unwrap());
    assert!(tiles(&rig) == whole, "all of them");
}

#[tokio::test]
async fn a_start_reads_the_tree_of_segments_whose_tiles_are_on_the_disk_instead_of_making_it_anew() {
    let rig = Rig::of(256);
    let log = rig.open().unwrap();
    append(&log, 0..1100).await;
    drop(log);
    // as if a sync of the tiles of the first four segments had been recorded
    let (mut signing, asked) = signing::Signing::open(&rig.dir).unwrap();
    signing.put(signing::Asked { tiles: 1024, ..asked.unwrap() }).unwrap();
    let before = std::fs::read(rig.segment(0)).unwrap();
    std::fs::write(rig.segment(0), vec![0xff; before.len()]).unwrap();
    let log = rig.open().unwrap();
    append(&log, 1100..1200).await;
    drop(log);
    // tiles that are not known to be on the disk are written over themselves: a sync of them may have failed
    let (mut signing, asked) = signing::Signing::open(&rig.dir).unwrap();
    signing.put(signing::Asked { tiles: 768, ..asked.unwrap() }).unwrap();
    let tiles = ["tile/0/002", "tile/0/003"].map(|name| rig.dir.join(name));
    let long_ago = std::time::SystemTime::UNIX_EPOCH;
    tiles.iter().for_each(|tile| File::open(tile).unwrap().set_modified(long_ago).unwrap());
    drop(rig.open().unwrap());
    let is_written = |tile: &PathBuf| std::fs::metadata(tile).unwrap().modified().unwrap() > long_ago;
    assert_eq!(tiles.each_ref().map(is_written), [false, true]);
    // nor does it need partial tiles, which a power cut may have left without their bytes
    let mut size = 1200;
    for spoiled in [&[][..], &[0; 128]] {
        std::fs::write(rig.dir.join("tile/1/000.p/4"), spoiled).unwrap();
        let log = rig.open().unwrap();
        append(&log, size..size + 10).await;
        drop(log);
        size += 10;
    }
    // a tree that the tiles do not lead to begins at the beginning, where the damage is found
    alter(&rig.dir.join("tile/0/001"), |bytes| bytes.fill(0));
    assert!(matches!(rig.open(), Err(OpenError::Damaged { index: 0 })));
    assert_eq!(signing::read(&rig.dir).unwrap().tiles, 0, "before one of them was made anew");
    std::fs::write(rig.segment(0), before).unwrap();
    let log = rig.open().unwrap();
    append(&log, 1220..1300).await;
    drop(log);
    assert_eq!(rig.verified().size, 1300);
    // what was made anew is not on the disk
    let (mut signing, asked) = signing::Signing::open(&rig.dir).unwrap();
    assert_eq!(asked.unwrap().tiles, 0);
    signing.put(signing::Asked { tiles: 1024, ..asked.unwrap() }).unwrap();
    // the first two segments were pruned: their tiles serve
    (0..2).for_each(|number| std::fs::rename(rig.segment(number), rig.dir.join(format!("{number}"))).unwrap());
    let outcome = rig.open();
    assert!(matches!(outcome, Err(OpenError::Damaged { index: 0 })), "no record says so: {outcome:?}");
    (0..2).for_each(|number| std::fs::rename(rig.dir.join(format!("{number}")), rig.segment(number)).unwrap());
    let log = rig.open().unwrap();
    assert_eq!(log.lane().append("removed 512".into()).await, Ok(()));
    drop(log);
    (0..2).for_each(|number| std::fs::remove_file(rig.segment(number)).unwrap());
    // also where a power cut took what is made of full tiles, or its bytes
    std::fs::write(rig.dir.join("tile/1/000.p/5"), []).unwrap();
    drop(rig.open().unwrap());
    std::fs::remove_dir_all(rig.dir.join("tile/1/000.p")).unwrap();
    // and where a tile behind what was pruned is wrong: the tree begins with what is there
    let (mut signing, asked) = signing::Signing::open(&rig.dir).unwrap();
    signing.put(signing::Asked { tiles: 1024, ..asked.unwrap() }).unwrap();
    let sound = std::fs::read(rig.dir.join("tile/0/003")).unwrap();
    alter(&rig.dir.join("tile/0/003"), |bytes| bytes.fill(0));
    let log = rig.open().unwrap();
    assert!(std::fs::read(rig.dir.join("tile/0/003")).unwrap() == sound);
    append(&log, 1301..1310).await;
    until("the boundary agrees", || rig.boundary.last() == 1310).await;
    assert_eq!(rig.boundary.state().forked, 0);
    drop(log);
    std::fs::remove_file(rig.segment(2)).unwrap();
    let outcome = rig.open();
    assert!(matches!(outcome, Err(OpenError::Damaged { index: 0 })), "one more than it says: {outcome:?}");
}

#[tokio::test]
async fn a_record_that_was_added_to_a_stopped_log_excuses_no_missing_entry() {
    let rig = closed(200).await;
    let forged = TestForm.finish(b"removed 64").unwrap();
    alter(&rig.segment(3), |bytes| bytes.extend(written(&[forged])));
    for name in ["closed", "segment/0000000000"] {
        std::fs::remove_file(rig.dir.join(name)).unwrap();
    }
    let outcome = rig.open();
    assert!(matches!(outcome, Err(OpenError::Damaged { index: 0 })), "{outcome:?}");
    // nor one that a file names which is under no signature
    let note = std::fs::read(rig.dir.join("checkpoint")).unwrap();
    removed::keep(&rig.dir, 200, &note).unwrap();
    let outcome = rig.open();
    assert!(matches!(outcome, Err(OpenError::Damaged { index: 0 })), "{outcome:?}");
}

#[tokio::test]
async fn what_is_remembered_elsewhere_is_found_though_no_checkpoint_or_tile_of_it_is_left() {
    for lost in [&["closed"][..], &["closed", "checkpoint"], &["closed", "checkpoint", "tile"]] {
        let rig = closed(200).await;
        for name in lost {
            let path = rig.dir.join(name);
            if path.is_dir() { std::fs::remove_dir_all(path) } else { std::fs::remove_file(path) }.unwrap();
        }
        let tree = found(&rig.place()).unwrap().tree;
        let leaves: Vec<Hash> = entries(0..200).iter().map(|entry| leaf_hash(entry)).collect();
        for size in [0, 1, 63, 64, 65, 128, 199, 200] {
            let root = merkle::root(&leaves[..size]);
            assert!(tree.extends(&rig.dir, (size as u64, root)).is_ok(), "{lost:?} {size}");
            let other = tree.extends(&rig.dir, (size as u64, [7; 32]));
            assert!(matches!(other, Err(OpenError::Rewritten { covered, .. }) if covered == size as u64), "{other:?}");
        }
        let more = tree.extends(&rig.dir, (201, [7; 32]));
        assert!(matches!(more, Err(OpenError::Shorter { size: 200, covered: 201 })), "{more:?}");
    }
}
