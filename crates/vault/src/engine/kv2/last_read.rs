//! When each version was read last: in memory, and every few seconds in the store.
//!
//! To the second, and at most as old as the last note; the audit log has every read.

use envelope::Timestamp;
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use storage::EntryPath;

/// By the entry of the version's data. One for the whole process.
#[derive(Debug, Default)]
pub struct LastReads(Mutex<HashMap<EntryPath, Read>>);

#[derive(Debug, Clone, Copy)]
struct Read {
    at: u64,
    noted: u64,
}

impl LastReads {
    pub(crate) fn tell(&self, path: &EntryPath, now: Timestamp) {
        let mut reads = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = now.unix_millis();
        match reads.get_mut(path) {
            Some(read) => read.at = read.at.max(now),
            None => {
                if reads.len() >= READS_MAX {
                    // what was noted is in the store; what was not is lost, in favour of what is read now
                    reads.retain(|_, read| read.at > read.noted);
                    if reads.len() >= READS_MAX {
                        reads.clear();
                    }
                }
                reads.insert(path.clone(), Read { at: now, noted: 0 });
            }
        }
    }

    pub(crate) fn of(&self, path: &EntryPath) -> u64 {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(path).map_or(0, |read| read.at)
    }

    /// What was read since it was noted last, at most `most`.
    pub(crate) fn unnoted(&self, most: usize) -> Vec<(EntryPath, u64)> {
        let reads = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = reads.iter().filter(|(_, read)| read.at > read.noted);
        fresh.take(most).map(|(path, read)| (path.clone(), read.at)).collect()
    }

    pub(crate) fn noted(&self, noted: &[(EntryPath, u64)]) {
        let mut reads = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for (path, at) in noted {
            if let Some(read) = reads.get_mut(path) {
                read.noted = read.noted.max(*at);
            }
        }
    }
}

const READS_MAX: usize = 16_384;
