//! A disk as the contract of the file system has it: what was synced stands; of the rest anything may.
//!
//! A name is durable once its folder is synced, bytes and length once their file is; syncing a file makes no name durable.

use super::Random;
use std::collections::BTreeMap;
use std::path::{Component, Path};

pub(super) type Inode = usize;

/// The folder that all others stand in.
pub(super) const ROOT: Inode = 0;

/// What a call changes.
#[derive(Debug, Clone)]
pub(super) enum Op {
    Link { folder: Inode, name: String, inode: Inode },
    Unlink { folder: Inode, name: String, inode: Inode },
    Rename { from: (Inode, String), to: (Inode, String), inode: Inode },
    Write { inode: Inode, offset: usize, bytes: Vec<u8> },
    Length { inode: Inode, length: usize },
}

impl Op {
    fn is_of(&self, synced: Inode) -> bool {
        match self {
            Self::Link { folder, .. } | Self::Unlink { folder, .. } => *folder == synced,
            Self::Rename { from, to, .. } => from.0 == synced || to.0 == synced,
            Self::Write { inode, .. } | Self::Length { inode, .. } => *inode == synced,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Node {
    File(Vec<u8>),
    Folder(BTreeMap<String, Inode>),
}

#[derive(Debug, Clone)]
pub(super) struct Disk {
    nodes: Vec<Node>,
}

impl Disk {
    /// What stands in a folder.
    pub(super) fn of(folder: &Path) -> Self {
        let mut disk = Self { nodes: vec![Node::Folder(BTreeMap::new())] };
        disk.read(folder, ROOT);
        disk
    }

    fn read(&mut self, folder: &Path, at: Inode) {
        for found in std::fs::read_dir(folder).unwrap() {
            let (name, path) = {
                let found = found.unwrap();
                (found.file_name().into_string().unwrap(), found.path())
            };
            let is_folder = path.is_dir();
            let inode = if is_folder { self.folder() } else { self.file() };
            self.apply(&Op::Link { folder: at, name, inode });
            if is_folder {
                self.read(&path, inode);
            } else {
                self.nodes[inode] = Node::File(std::fs::read(&path).unwrap());
            }
        }
    }

    /// Puts it all into an empty folder.
    pub(super) fn lay_out(&self, folder: &Path) {
        self.lay_out_from(ROOT, folder);
    }

    fn lay_out_from(&self, at: Inode, folder: &Path) {
        let Node::Folder(names) = &self.nodes[at] else { panic!("{} is no folder", folder.display()) };
        for (name, inode) in names {
            let path = folder.join(name);
            match &self.nodes[*inode] {
                Node::File(bytes) => std::fs::write(path, bytes).unwrap(),
                Node::Folder(_) => {
                    // in a disorder of names a folder may be linked twice; the later is laid out
                    if std::fs::create_dir(&path).is_ok() {
                        self.lay_out_from(*inode, &path);
                    }
                }
            }
        }
    }

    /// Two disks that look the same, whatever the numbers of their nodes.
    pub(super) fn difference(&self, other: &Self) -> Option<String> {
        self.differs(ROOT, other, ROOT, "")
    }

    fn differs(&self, at: Inode, other: &Self, there: Inode, path: &str) -> Option<String> {
        match (&self.nodes[at], &other.nodes[there]) {
            (Node::File(a), Node::File(b)) => (a != b).then(|| format!("{path}: {} and {} bytes", a.len(), b.len())),
            (Node::Folder(a), Node::Folder(b)) if a.keys().eq(b.keys()) => {
                a.iter().find_map(|(name, inode)| self.differs(*inode, other, b[name], &format!("{path}/{name}")))
            }
            (Node::Folder(a), Node::Folder(b)) => Some(format!("{path}: {:?} and {:?}", a.keys(), b.keys())),
            _ => Some(format!("{path} is a file and a folder")),
        }
    }

    pub(super) fn file(&mut self) -> Inode {
        self.nodes.push(Node::File(Vec::new()));
        self.nodes.len() - 1
    }

    pub(super) fn folder(&mut self) -> Inode {
        self.nodes.push(Node::Folder(BTreeMap::new()));
        self.nodes.len() - 1
    }

    /// Nodes that were made later have their numbers from the start.
    pub(super) fn reserve(&mut self, later: &Self) {
        for node in &later.nodes[self.nodes.len()..] {
            self.nodes.push(match node {
                Node::File(_) => Node::File(Vec::new()),
                Node::Folder(_) => Node::Folder(BTreeMap::new()),
            });
        }
    }

    pub(super) fn find(&self, path: &Path) -> Option<Inode> {
        path.components().try_fold(ROOT, |at, part| match (&self.nodes[at], part) {
            (Node::Folder(names), Component::Normal(name)) => names.get(name.to_str()?).copied(),
            _ => None,
        })
    }

    pub(super) fn length(&self, inode: Inode) -> usize {
        if let Node::File(bytes) = &self.nodes[inode] { bytes.len() } else { 0 }
    }

    fn names(&mut self, folder: Inode) -> &mut BTreeMap<String, Inode> {
        let Node::Folder(names) = &mut self.nodes[folder] else { panic!("node {folder} is no folder") };
        names
    }

    fn bytes(&mut self, file: Inode) -> &mut Vec<u8> {
        let Node::File(bytes) = &mut self.nodes[file] else { panic!("node {file} is no file") };
        bytes
    }

    fn unlink(&mut self, folder: Inode, name: &str, inode: Inode) {
        if self.names(folder).get(name) == Some(&inode) {
            self.names(folder).remove(name);
        }
    }

    pub(super) fn apply(&mut self, op: &Op) {
        match op {
            Op::Link { folder, name, inode } => drop(self.names(*folder).insert(name.clone(), *inode)),
            Op::Unlink { folder, name, inode } => self.unlink(*folder, name, *inode),
            Op::Rename { from, to, inode } => {
                self.unlink(from.0, &from.1, *inode);
                self.names(to.0).insert(to.1.clone(), *inode);
            }
            Op::Write { inode, offset, bytes } => self.put(*inode, *offset, bytes),
            Op::Length { inode, length } => self.bytes(*inode).resize(*length, 0),
        }
    }

    fn put(&mut self, inode: Inode, offset: usize, written: &[u8]) {
        let bytes = self.bytes(inode);
        let end = offset + written.len();
        if bytes.len() < end {
            bytes.resize(end, 0);
        }
        bytes[offset..end].copy_from_slice(written);
    }
}

/// What the machine was told, and what of it is durable.
#[derive(Debug, Clone)]
pub(super) struct Told {
    durable: Disk,
    /// Not synced, in their order, each with where it ended.
    pending: Vec<(usize, Op)>,
}

impl Told {
    pub(super) fn on(durable: Disk) -> Self {
        Self { durable, pending: Vec::new() }
    }

    pub(super) fn op(&mut self, ended: usize, op: Op) {
        self.pending.push((ended, op));
    }

    /// Makes durable what had ended when the sync began: of one file or folder, or all.
    pub(super) fn sync(&mut self, of: Option<Inode>, began: usize) {
        let (done, pending) = std::mem::take(&mut self.pending)
            .into_iter()
            .partition(|(ended, op)| *ended < began && of.is_none_or(|of| op.is_of(of)));
        self.pending = pending;
        for (_, op) in done {
            self.durable.apply(&op);
        }
    }

    /// The disk after the power went: of what was not synced so much is there as chance will have it.
    pub(super) fn after_power_loss(&self, random: &mut Random) -> Disk {
        let mut disk = self.durable.clone();
        let sector = [512, 4096][random.below(2)];
        match random.below(4) {
            // nothing
            0 => {}
            // in order up to somewhere, the last torn
            1 => {
                let upto = random.below(self.pending.len() + 1);
                for (_, op) in &self.pending[..upto] {
                    disk.apply(op);
                }
                if let Some((_, op)) = self.pending.get(upto) {
                    apply_torn(&mut disk, op, sector, 50, random);
                }
            }
            // in any order: each name, each length, each sector for itself
            _ => {
                let [names, sectors] = [0; 2].map(|_| [0, 10, 50, 90, 100][random.below(5)]);
                for (_, op) in &self.pending {
                    match op {
                        Op::Write { .. } => apply_torn(&mut disk, op, sector, sectors, random),
                        Op::Link { .. } | Op::Unlink { .. } | Op::Rename { .. } | Op::Length { .. } => {
                            if random.below(100) < names {
                                disk.apply(op);
                            }
                        }
                    }
                }
            }
        }
        disk
    }
}

/// Each sector of a write with so many chances of a hundred; the file may be as long as it should be all the same.
fn apply_torn(disk: &mut Disk, op: &Op, sector: usize, chances: usize, random: &mut Random) {
    let Op::Write { inode, offset, bytes } = op else { return };
    let mut at = 0;
    while at < bytes.len() {
        let next = bytes.len().min((offset + at) / sector * sector + sector - offset);
        if random.below(100) < chances {
            disk.put(*inode, offset + at, &bytes[at..next]);
        }
        at = next;
    }
    if random.below(100) < chances {
        let end = offset + bytes.len();
        let length = disk.length(*inode).max(end);
        disk.apply(&Op::Length { inode: *inode, length });
    }
}
