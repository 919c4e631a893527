//! What is known of a secret's versions. Pure.

use crate::clock::rfc3339;
use crate::duration;
use crate::error::VaultError;
use envelope::Timestamp;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::Duration;

/// Versions that are kept where nobody says otherwise: Vault's.
pub(super) const VERSIONS_DEFAULT: u32 = 10;
/// Most versions that may be kept.
pub(super) const VERSIONS_MAX: u32 = 100;

/// A mount's defaults. Zero is "not set".
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Config {
    pub(super) max_versions: u32,
    pub(super) cas_required: bool,
    pub(super) delete_version_after_secs: u64,
}

/// Written without what is not set: with ten versions its entry is read and written in one page of the store then.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Meta {
    pub(super) created: u64,
    pub(super) updated: u64,
    /// The newest version, staged or not; zero before the first.
    pub(super) latest: u32,
    /// The version that is served where none is asked for, if it is not the newest.
    #[serde(skip_serializing_if = "is_unset")]
    pub(super) serving: Option<u32>,
    /// The version that was served before.
    #[serde(skip_serializing_if = "is_unset")]
    pub(super) previous: Option<u32>,
    #[serde(skip_serializing_if = "is_unset")]
    pub(super) max_versions: u32,
    #[serde(skip_serializing_if = "is_unset")]
    pub(super) cas_required: bool,
    #[serde(skip_serializing_if = "is_unset")]
    pub(super) delete_version_after_secs: u64,
    #[serde(skip_serializing_if = "is_unset")]
    pub(super) custom: BTreeMap<String, String>,
    pub(super) versions: BTreeMap<u32, Version>,
}

/// Unix milliseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Version {
    pub(super) created: u64,
    /// From then on it is deleted. Zero: never.
    #[serde(skip_serializing_if = "is_unset")]
    pub(super) deleted: u64,
    #[serde(skip_serializing_if = "is_unset")]
    pub(super) destroyed: bool,
}

fn is_unset<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

#[derive(Serialize)]
pub(super) struct ShownVersion<'a> {
    pub(super) created_time: String,
    pub(super) custom_metadata: Option<&'a BTreeMap<String, String>>,
    pub(super) deletion_time: String,
    pub(super) destroyed: bool,
    pub(super) version: u32,
}

#[derive(Serialize)]
pub(super) struct ShownConfig {
    cas_required: bool,
    delete_version_after: String,
    max_versions: u32,
}

impl Config {
    pub(super) fn decode(stored: &[u8]) -> Result<Self, VaultError> {
        serde_json::from_slice(stored)
            .map_err(|_| VaultError::Internal("a mount's configuration cannot be read".into()))
    }

    pub(super) fn shown(&self) -> ShownConfig {
        ShownConfig {
            cas_required: self.cas_required,
            delete_version_after: duration::show(Duration::from_secs(self.delete_version_after_secs)),
            max_versions: self.max_versions,
        }
    }
}

impl Version {
    pub(super) fn is_readable(self, now: Timestamp) -> bool {
        !self.destroyed && (self.deleted == 0 || now.unix_millis() < self.deleted)
    }

    pub(super) fn deletion_time(self) -> String {
        if self.deleted == 0 { String::new() } else { rfc3339(Timestamp::from_unix_millis(self.deleted)) }
    }
}

impl Meta {
    pub(super) fn decode(stored: &[u8]) -> Result<Self, VaultError> {
        serde_json::from_slice(stored).map_err(|_| VaultError::Internal("a secret's metadata cannot be read".into()))
    }

    pub(super) fn encode(&self) -> Result<Vec<u8>, VaultError> {
        serde_json::to_vec(self).map_err(|_| VaultError::Internal("a secret's metadata cannot be written".into()))
    }

    pub(super) fn new(now: Timestamp) -> Self {
        Self { created: now.unix_millis(), updated: now.unix_millis(), ..Self::default() }
    }

    /// What is served where no version is asked for; zero before the first.
    pub(super) fn current(&self) -> u32 {
        self.serving.unwrap_or(self.latest)
    }

    /// The newest version, where it is not served yet.
    pub(super) fn pending(&self) -> Option<u32> {
        (self.latest > self.current()).then_some(self.latest)
    }

    pub(super) fn labelled(&self, label: &str) -> Result<Option<u32>, VaultError> {
        match label {
            "current" => Ok(Some(self.current())),
            "pending" => Ok(self.pending()),
            "previous" => Ok(self.previous),
            _ => Err(VaultError::field("label", "none of current, pending, previous")),
        }
    }

    /// The labels of `version`.
    pub(super) fn labels(&self, version: u32) -> Vec<&'static str> {
        let mut labels = Vec::new();
        if self.current() == version {
            labels.push("current");
        }
        if self.pending() == Some(version) {
            labels.push("pending");
        }
        if self.previous == Some(version) {
            labels.push("previous");
        }
        labels
    }

    pub(super) fn shown(&self, number: u32, version: Version) -> ShownVersion<'_> {
        ShownVersion {
            created_time: rfc3339(Timestamp::from_unix_millis(version.created)),
            custom_metadata: (!self.custom.is_empty()).then_some(&self.custom),
            deletion_time: version.deletion_time(),
            destroyed: version.destroyed,
            version: number,
        }
    }

    pub(super) fn kept_versions(&self, config: &Config) -> u32 {
        let set = |max: &u32| *max > 0;
        let max = Some(self.max_versions).filter(set).or(Some(config.max_versions).filter(set));
        max.unwrap_or(VERSIONS_DEFAULT)
    }

    /// Adds a version, staged or served; tells its number.
    pub(super) fn add(&mut self, config: &Config, now: Timestamp, staged: bool) -> Result<u32, VaultError> {
        let number = self.latest.checked_add(1).ok_or_else(|| VaultError::Limited("no more versions".into()))?;
        let set = |secs: &u64| *secs > 0;
        let after = Some(self.delete_version_after_secs).filter(set);
        let after = after.or(Some(config.delete_version_after_secs).filter(set));
        let deleted = after.map_or(0, |secs| now.plus(Duration::from_secs(secs)).unix_millis());
        let was = self.current();
        self.versions.insert(number, Version { created: now.unix_millis(), deleted, destroyed: false });
        self.latest = number;
        if staged && was > 0 {
            self.serving = Some(was);
        } else {
            self.serve(number, was);
        }
        self.updated = now.unix_millis();
        Ok(number)
    }

    /// `number`, which is readable, is served from now on.
    pub(super) fn promote(&mut self, number: u32, now: Timestamp) {
        self.serve(number, self.current());
        self.updated = now.unix_millis();
    }

    /// `number` is served from now on instead of `was`.
    fn serve(&mut self, number: u32, was: u32) {
        if was > 0 && was != number {
            self.previous = Some(was);
        }
        self.serving = (number != self.latest).then_some(number);
    }

    /// Takes out the oldest versions beyond `kept`, but none that is served or waits for it; tells which. At most as many as
    /// fit a commit.
    pub(super) fn shed(&mut self, kept: u32) -> Vec<u32> {
        let mut gone = Vec::new();
        while self.versions.len() > kept.max(1) as usize && gone.len() < SHED_MAX {
            let stays = [Some(self.current()), self.pending()];
            let Some(oldest) = self.versions.keys().copied().find(|number| !stays.contains(&Some(*number))) else {
                break;
            };
            self.versions.remove(&oldest);
            if self.previous == Some(oldest) {
                self.previous = None;
            }
            gone.push(oldest);
        }
        gone
    }
}

/// Versions taken out in one commit.
const SHED_MAX: usize = 32;

#[cfg(test)]
mod tests {
    use super::*;

    /// In 4 KiB pages SQLite keeps 1002 bytes of a row with its neighbours, and the rest in a page of its own.
    #[test]
    fn metadata_of_ten_versions_is_small_and_that_of_older_servers_is_read() {
        let mut meta = Meta::new(Timestamp::from_unix_millis(1_764_422_345_123));
        for _ in 0..10 {
            meta.add(&Config::default(), Timestamp::from_unix_millis(1_764_422_345_123), false).unwrap();
        }
        let encoded = meta.encode().unwrap();
        // beside its path, in a namespace, and SQLite's header
        let room = 1002 - 200 - envelope::sealed::SUITE1_OVERHEAD_BYTES;
        assert!(encoded.len() < room, "{} bytes", encoded.len());
        assert_eq!(Meta::decode(&encoded).unwrap(), meta);
        let all = r#"{"created":1,"updated":2,"latest":2,"serving":null,"previous":1,"max_versions":0,
            "cas_required":false,"delete_version_after_secs":0,"custom":{},
            "versions":{"1":{"created":1,"deleted":0,"destroyed":true},"2":{"created":2,"deleted":3,"destroyed":false}}}"#;
        let read = Meta::decode(all.as_bytes()).unwrap();
        let versions = [(1, (1, 0, true)), (2, (2, 3, false))];
        let versions =
            versions.map(|(number, (created, deleted, destroyed))| (number, Version { created, deleted, destroyed }));
        let expected =
            Meta { created: 1, updated: 2, latest: 2, previous: Some(1), versions: versions.into(), ..Meta::default() };
        assert_eq!(read, expected);
        assert_eq!(Meta::decode(&read.encode().unwrap()).unwrap(), expected);
    }

    #[test]
    fn a_staged_version_is_served_once_it_is_promoted() {
        let (config, now) = (Config::default(), Timestamp::from_unix_millis(1));
        let mut meta = Meta::new(now);
        assert_eq!((meta.current(), meta.pending(), meta.previous), (0, None, None));
        for (staged, state) in [
            // a first version cannot wait for another
            (true, (1, None, None)),
            (false, (2, None, Some(1))),
            (true, (2, Some(3), Some(1))),
            (true, (2, Some(4), Some(1))),
            (false, (5, None, Some(2))),
        ] {
            meta.add(&config, now, staged).unwrap();
            assert_eq!((meta.current(), meta.pending(), meta.previous), state);
        }
        meta.add(&config, now, true).unwrap();
        meta.serve(6, 5);
        assert_eq!((meta.current(), meta.pending(), meta.previous), (6, None, Some(5)));
        meta.serve(5, 6);
        assert_eq!((meta.current(), meta.pending(), meta.previous), (5, Some(6), Some(6)));
    }

    #[test]
    fn the_oldest_versions_go_and_never_the_one_that_is_served_or_pending() {
        let now = Timestamp::from_unix_millis(1);
        for (max_versions, staged, gone, left) in
            [(3, 4, &[2, 3][..], &[1, 4, 5][..]), (2, 1, &[], &[1, 2]), (1, 1, &[], &[1, 2]), (1, 2, &[2], &[1, 3])]
        {
            let (config, mut meta) = (Config { max_versions, ..Config::default() }, Meta::new(now));
            meta.add(&config, now, false).unwrap();
            for _ in 0..staged {
                meta.add(&config, now, true).unwrap();
            }
            assert_eq!(meta.kept_versions(&config), max_versions);
            assert_eq!(meta.shed(max_versions), gone);
            assert_eq!(meta.versions.keys().copied().collect::<Vec<_>>(), left);
            assert_eq!((meta.current(), meta.pending()), (1, left.last().copied()));
        }
    }
}
