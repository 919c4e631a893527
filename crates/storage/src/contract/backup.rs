//! Backups: of one revision, taken while others write, brought back elsewhere.

use super::{Case, Court, path};
use crate::{AtLeast, Revision, Sqlite, Storage, StorageError, sqlite};
use std::sync::atomic::{AtomicBool, Ordering};

pub(super) async fn judge(court: &Court<'_>) {
    a_backup_is_of_one_revision(&court.case()).await;
    a_backup_replaces_nothing(&court.case()).await;
}

async fn a_backup_is_of_one_revision(case: &Case) {
    for i in 0..50 {
        case.put(&format!("t/still/{i}"), &"x".repeat(2000)).await;
    }
    let stop = AtomicBool::new(false);
    let write = async {
        let mut number: u64 = 0;
        while !stop.load(Ordering::Relaxed) {
            let pair = case.batch().put(path("t/left"), number.to_string()).put(path("t/right"), number.to_string());
            case.store.commit(pair).await.unwrap();
            number += 1;
            tokio::task::yield_now().await;
        }
    };
    let back_up = async {
        let mut made = Vec::new();
        for number in 0..3 {
            let file = case.folder.path().join(format!("backup-{number}"));
            made.push((case.store.backup(&file).await.unwrap(), file));
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        stop.store(true, Ordering::Relaxed);
        made
    };
    let ((), made) = futures_util::future::join(write, back_up).await;
    let head = case.head().await;
    for (number, (revision, file)) in made.into_iter().enumerate() {
        assert!(revision <= head);
        let elsewhere = case.folder.path().join(format!("elsewhere-{number}"));
        assert_eq!(sqlite::restore(&file, &elsewhere).unwrap(), revision);
        holds_together(&Sqlite::open(&elsewhere).unwrap(), revision).await;
    }
}

async fn holds_together(restored: &Sqlite, revision: Revision) {
    let pair = ["t/left", "t/right"].map(path);
    let (head, entries) = restored.get(&pair, AtLeast::Latest).await.unwrap();
    assert_eq!((head, &entries[0]), (revision, &entries[1]), "of one revision");
    assert!(entries.iter().flatten().all(|entry| entry.revision <= revision));
    let page = restored.scan(&path("t/still"), None, 1000, AtLeast::Latest).await.unwrap();
    assert_eq!((page.entries.len(), page.more), (50, false));
    let batch = crate::Batch::new(crate::CommitId([0xee; 16])).put(path("t/new"), "1");
    assert!(restored.commit(batch).await.unwrap() > revision, "history goes on");
}

async fn a_backup_replaces_nothing(case: &Case) {
    let put = case.put("t/a", "1").await;
    let file = case.folder.path().join("backup");
    assert_eq!(case.store.backup(&file).await, Ok(put));
    let before = std::fs::read(&file).unwrap();
    assert_eq!(case.store.backup(&file).await, Err(StorageError::TargetExists));
    assert!(std::fs::read(&file).unwrap() == before);
    let nowhere = case.folder.path().join("none/backup");
    assert!(case.store.backup(&nowhere).await.is_err());
    let elsewhere = case.folder.path().join("elsewhere");
    assert!(sqlite::restore(&file, &elsewhere).is_ok());
    assert_eq!(sqlite::restore(&file, &elsewhere), Err(StorageError::TargetExists));
    assert_eq!(case.value("t/a").await, Some("1".into()));
}
