//! A store that is set back behind its audit log's back, and an operator who acknowledges that.

use crate::{Dev, binary, until};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// The embedded store's files.
const STORE: [&str; 3] = ["store.db", "store.db-wal", "store.db-shm"];

impl Dev {
    /// Puts back the store as it is now, after it was changed once more; the server comes up sealed, and an operator acknowledges:
    /// what, as it was told.
    pub fn roll_back(&mut self) -> String {
        self.anchored();
        self.end();
        let (server, kept) = (self.data().join("server"), tempfile::tempdir().unwrap());
        copy_store(&server, kept.path());
        self.start_again().unwrap();
        self.anchored();
        self.end();
        copy_store(kept.path(), &server);
        self.start_sealed()
    }

    /// Restores the store from a backup; where the audit log is lost an operator acknowledges that.
    pub fn restore(&mut self, log_is_lost: bool) -> Option<String> {
        let (server, backup) = (self.data().join("server"), self.folder().join("backup"));
        let mut command = self.strongroom();
        assert!(command.args(["operator", "backup", "--out"]).arg(&backup).status().unwrap().success());
        self.anchored();
        self.end();
        for name in STORE {
            let _may_be_absent = std::fs::remove_file(server.join(name));
        }
        let mut restore = Command::new(binary("strongroom"));
        restore.args(["operator", "restore", "--from"]).arg(&backup).arg("--data-dir").arg(&server);
        assert!(restore.status().unwrap().success());
        if log_is_lost {
            std::fs::remove_dir_all(self.audit_dir()).unwrap();
            return Some(self.start_sealed());
        }
        self.start_again().unwrap();
        None
    }

    /// Starts what must come up sealed, sees that it refuses, and acknowledges; what was acknowledged.
    pub fn start_sealed(&mut self) -> String {
        let (server, mut asks) = (self.data().join("server"), self.strongroom());
        asks.args(["kms", "create-key"]);
        let officer = std::thread::spawn(move || {
            until("it is sealed", Duration::from_secs(20), || server.join("sealed").exists());
            let mut refused = || {
                let output = asks.output().unwrap();
                output.status.code() == Some(1) && String::from_utf8_lossy(&output.stderr).contains("sealed")
            };
            until("it refuses", Duration::from_secs(10), &mut refused);
            let mut acknowledge = Command::new(binary("strongroom"));
            acknowledge.args(["operator", "acknowledge", "--output", "json", "--data-dir"]).arg(&server);
            let done = acknowledge.output().unwrap();
            assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
            let told: serde_json::Value = serde_json::from_slice(&done.stdout).unwrap();
            told["acknowledged"].as_str().unwrap().to_owned()
        });
        self.start_again().unwrap();
        officer.join().unwrap()
    }

    /// As root.
    pub fn strongroom(&self) -> Command {
        let mut command = Command::new(binary("strongroom"));
        command.env("STRONGROOM_ADDR", format!("https://{}", self.addr())).env("STRONGROOM_CACERT", self.ca());
        command.env("STRONGROOM_TOKEN", self.root_token());
        command
    }

    /// Changes the store until it and the log know each other: the log tells its newest revision, and it has an anchor.
    pub fn anchored(&self) {
        let newest = || {
            let mut newest = 0;
            self.audit_records(|record| newest = record.store.map_or(newest, |store| newest.max(store.revision)));
            newest
        };
        // the first may be what was changed before, and the anchor is of a checkpoint that stood before the state was told
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
