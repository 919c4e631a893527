//! A mount's own part of the store, and nothing else: an engine cannot name another one's data.

use crate::error::VaultError;
use bytes::Bytes;
use envelope::SecretBytes;
use std::sync::Arc;
use storage::{AtLeast, Barrier, Batch, Cache, EntryPath, Opened, OpenedPage, PAGE_ENTRIES_MAX, Revision};

/// An opened value that several may hold.
#[derive(Debug)]
pub struct Kept {
    pub value: SecretBytes,
    pub revision: Revision,
}

/// By the entry's path. `None`: it is known that nothing stands there.
pub type Values = Cache<EntryPath, Option<Kept>>;

#[derive(Debug, Clone)]
pub struct View {
    barrier: Arc<Barrier>,
    root: EntryPath,
    values: Arc<Values>,
}

impl View {
    pub(crate) fn new(barrier: &Arc<Barrier>, root: EntryPath, values: &Arc<Values>) -> Self {
        Self { barrier: Arc::clone(barrier), root, values: Arc::clone(values) }
    }

    /// All of it is below.
    pub(crate) fn root(&self) -> EntryPath {
        self.root.clone()
    }

    /// Where `rest` stands. What users choose goes in as [`View::hash`] or [`segment`].
    pub fn path(&self, rest: &str) -> Result<EntryPath, VaultError> {
        self.root.join(rest).map_err(|_| VaultError::field("path", "too long to be stored"))
    }

    /// A keyed hash, in hexadecimal: what stands in the store for a name that users choose.
    pub fn hash(&self, label: &[u8], name: &str) -> Result<String, VaultError> {
        Ok(hex::encode(self.barrier.keyed_hash(label, name.as_bytes())?))
    }

    /// As it stands in the store now.
    pub async fn load(&self, path: &EntryPath) -> Result<Option<Opened>, VaultError> {
        let (_, found) = self.barrier.get(std::slice::from_ref(path), AtLeast::Latest).await?;
        Ok(found.into_iter().flatten().next())
    }

    /// Several at once, as they stand in the store now.
    pub async fn load_all(&self, paths: &[EntryPath]) -> Result<Vec<Option<Opened>>, VaultError> {
        Ok(self.barrier.get(paths, AtLeast::Latest).await?.1)
    }

    /// Perhaps from memory: not older than what any change acknowledged on this node, or two seconds ago elsewhere, left.
    pub async fn read(&self, path: &EntryPath) -> Result<Arc<Option<Kept>>, VaultError> {
        if let Some(kept) = self.values.peek(path) {
            return Ok(kept);
        }
        let (read_at, found) = self.barrier.get(std::slice::from_ref(path), AtLeast::Latest).await?;
        let found = found.into_iter().flatten().next();
        let small = found.as_ref().is_none_or(|found| found.value.len() <= KEPT_BYTES_MAX);
        let kept = Arc::new(found.map(|Opened { value, revision }| Kept { value, revision }));
        if small {
            self.values.insert(path.clone(), Arc::clone(&kept), std::slice::from_ref(path), read_at);
        }
        Ok(kept)
    }

    /// What a change of this node has left at `revision`: who reads it next need not ask the store for it.
    pub(crate) fn keep(&self, path: EntryPath, value: &[u8], revision: Revision) {
        if value.len() <= KEPT_BYTES_MAX {
            let kept = Arc::new(Some(Kept { value: SecretBytes::copy_from(value), revision }));
            let itself = std::slice::from_ref(&path);
            self.values.insert(path.clone(), kept, itself, revision);
        }
    }

    pub async fn scan(
        &self,
        prefix: &EntryPath,
        after: Option<&EntryPath>,
        limit: u32,
    ) -> Result<OpenedPage, VaultError> {
        Ok(self.barrier.scan(prefix, after, limit, AtLeast::Latest).await?)
    }

    /// All below a prefix, in the store's order, for folders that are kept small; and whether there are more than `most`. A
    /// page ends at some bytes, too.
    pub(crate) async fn entries(
        &self,
        prefix: &EntryPath,
        most: usize,
    ) -> Result<(Vec<(EntryPath, Opened)>, bool), VaultError> {
        let (mut all, mut after) = (Vec::new(), None);
        loop {
            let page = self.scan(prefix, after.as_ref(), PAGE_ENTRIES_MAX).await?;
            after = page.entries.last().map(|(path, _)| path.clone());
            all.extend(page.entries);
            if !page.more || all.len() > most {
                let more = all.len() > most;
                all.truncate(most);
                return Ok((all, more));
            }
        }
    }

    /// What `name` makes of the values below a prefix, sorted; and whether there are more than `most`, of which some are told.
    pub(crate) async fn names(
        &self,
        prefix: &EntryPath,
        most: usize,
        name: impl Fn(&[u8]) -> Result<Option<String>, VaultError>,
    ) -> Result<(Vec<String>, bool), VaultError> {
        let (mut names, mut after) = (Vec::new(), None);
        loop {
            let page = self.scan(prefix, after.as_ref(), PAGE_ENTRIES_MAX).await?;
            for (_, found) in &page.entries {
                names.extend(name(found.value.expose())?);
            }
            after = page.entries.into_iter().next_back().map(|(path, _)| path);
            if !page.more || names.len() >= most {
                names.sort_unstable();
                return Ok((names, page.more));
            }
        }
    }

    /// With `value` sealed to its place.
    pub fn put(&self, batch: Batch, path: EntryPath, value: &[u8]) -> Result<Batch, VaultError> {
        let sealed: Bytes = self.barrier.seal(&path, value)?;
        Ok(batch.put(path, sealed))
    }
}

/// A name that users choose as one segment of a path, so that the order of segments is that of names: visible ASCII stands
/// as it is but for what escapes: `!xx` below it, `~xx` above; the slash as `/`'s place in that order allows, `!2f` never
/// occurring in a name.
pub fn segment(name: &str) -> String {
    let mut out = String::with_capacity(name.len());
    for byte in name.bytes() {
        match byte {
            0x00..=0x21 => out.push_str(&format!("!{byte:02x}")),
            0x7e..=0xff => out.push_str(&format!("~{byte:02x}")),
            byte => out.push(char::from(byte)),
        }
    }
    // `.` and `..` are no segments of a path, and no names
    out
}

/// The name that [`segment`] was made of.
pub fn unsegment(segment: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(segment.len());
    let mut rest = segment.bytes();
    while let Some(byte) = rest.next() {
        if matches!(byte, b'!' | b'~') {
            let mut decoded = [0];
            hex::decode_to_slice([rest.next()?, rest.next()?], &mut decoded).ok()?;
            bytes.push(decoded[0]);
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).ok()
}

/// Longest value that is kept in memory.
const KEPT_BYTES_MAX: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_order_as_names_do_and_are_read_back() {
        let mut names = ["a", "a b", "a!", "a~", "ä", "b", "A", "~", "!", "a\u{7f}", "zz", "-", "0", "a.b", "a|", "{}"];
        names.sort_unstable();
        let segments: Vec<_> = names.iter().map(|name| segment(name)).collect();
        assert!(segments.is_sorted(), "{segments:?}");
        for (name, segment) in names.iter().zip(&segments) {
            assert_eq!(unsegment(segment).as_deref(), Some(*name));
            assert!(EntryPath::parse(segment).is_ok(), "{segment}");
        }
        for malformed in ["!", "!2", "~zz", "~ff"] {
            assert_eq!(unsegment(malformed), None);
        }
    }
}
