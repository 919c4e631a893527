//! A store that is set back behind its audit log's back, and an operator who acknowledges that.

use crate::{Dev, binary, until};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// The embedded store's files.
const STORE: [&str; 3] = ["store.db", "store.db-wal", "store.db-shm"];

impl Dev {
    /// Puts back the store as it is now, after it was changed once more; the server comes up sealed, and an operator acknowledges.
    pub fn roll_back(&mut self) {
        self.change_store();
        self.end();
        let (server, kept) = (self.data().join("server"), tempfile::tempdir().unwrap());
        copy_store(&server, kept.path());
        self.start_again().unwrap();
        self.change_store();
        self.end();
        copy_store(kept.path(), &server);
        self.start_sealed();
    }

    /// Restores the store from a backup; where the audit log is lost an operator acknowledges that.
    pub fn restore(&mut self, log_is_lost: bool) {
        let (server, backup) = (self.data().join("server"), self.folder().join("backup"));
        let mut command = self.strongroom();
        assert!(command.args(["operator", "backup", "--out"]).arg(&backup).status().unwrap().success());
        self.end();
        for name in STORE {
            let _may_be_absent = std::fs::remove_file(server.join(name));
        }
        let mut restore = Command::new(binary("strongroom"));
        restore.args(["operator", "restore", "--from"]).arg(&backup).arg("--data-dir").arg(&server);
        assert!(restore.status().unwrap().success());
        if log_is_lost {
            std::fs::remove_dir_all(self.audit_dir()).unwrap();
            self.start_sealed();
        } else {
            self.start_again().unwrap();
        }
    }

    /// Starts what must come up sealed, and acknowledges.
    fn start_sealed(&mut self) {
        let server = self.data().join("server");
        let officer = std::thread::spawn(move || {
            until("it is sealed", Duration::from_secs(20), || server.join("sealed").exists());
            let mut acknowledge = Command::new(binary("strongroom"));
            let done = acknowledge.args(["operator", "acknowledge", "--data-dir"]).arg(&server).output().unwrap();
            assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        });
        self.start_again().unwrap();
        officer.join().unwrap();
    }

    /// As root.
    fn strongroom(&self) -> Command {
        let mut command = Command::new(binary("strongroom"));
        command.env("STRONGROOM_ADDR", format!("https://{}", self.addr())).env("STRONGROOM_CACERT", self.ca());
        command.env("STRONGROOM_TOKEN", self.root_token());
        command
    }

    /// Until the log tells of a newer revision of the store than it did.
    fn change_store(&self) {
        let newest = || {
            let mut newest = 0;
            self.audit_records(|record| newest = record.store.map_or(newest, |store| newest.max(store.revision)));
            newest
        };
        // the first may be what was changed before
        for _ in 0..2 {
            let before = newest();
            let output = self.strongroom().args(["token", "create", "--token-out", "-"]).output().unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            until("the log tells the store's state", Duration::from_secs(10), || newest() > before);
        }
    }
}

fn copy_store(from: &Path, to: &Path) {
    for name in STORE {
        let _may_be_absent = std::fs::remove_file(to.join(name));
        if from.join(name).exists() {
            std::fs::copy(from.join(name), to.join(name)).unwrap();
        }
    }
}
