//! Tiles as files under a log's folder.
//!
//! Always: a file has its whole length as soon as it has its name.
//! Never: synced here. Tiles are derived; a start makes those anew of which nobody has said that they are on the disk.
//!
//! Partial tiles come and go with every checkpoint. Their files and folders are used again under other names: a file system
//! that gives no inode twice within minutes (ext4) would look for a fresh one for longer than all the hashing takes.

use super::{LEVELS, TILE_BITS, TILE_WIDTH, TileError, TileId, TileReader, hashes_at, partials_at};
use envelope::merkle::Hash;
use std::collections::BTreeSet;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The tiles in a log's folder. One writer at a time; readers beside it see whole tiles.
#[derive(Debug, Clone)]
pub struct TileFolder {
    dir: PathBuf,
    spare: Arc<Mutex<Spare>>,
}

/// What partial tiles have left, to be used again.
#[derive(Debug, Default)]
struct Spare {
    files: Vec<PathBuf>,
    folder: Option<PathBuf>,
}

impl TileFolder {
    /// `dir` is what holds `tile/`. It need not have it yet.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into(), spare: Arc::default() }
    }

    /// Writes a tile, in place of one of the same name.
    pub fn write(&self, id: TileId, hashes: &[Hash]) -> Result<(), TileError> {
        if hashes.len() != usize::from(id.width) || !(1..=TILE_WIDTH).contains(&id.width) {
            return Err(TileError::Malformed(id));
        }
        let spare = if id.width < TILE_WIDTH { self.spare().files.pop() } else { None };
        let temporary = spare.unwrap_or_else(|| self.dir.join("tile/new"));
        let replaced = self.replace(&temporary, &self.dir.join(id.path()), hashes.as_flattened());
        replaced.map_err(|source| TileError::Io { id, source })
    }

    /// Writes a full tile over itself: an earlier sync may have failed, and left in memory alone what is marked as written.
    pub(crate) fn write_again(&self, id: TileId, hashes: &[Hash]) -> Result<(), TileError> {
        let opened = OpenOptions::new().write(true).open(self.dir.join(id.path()));
        // the same bytes: none of them is ever not there
        let written = opened.and_then(|file| file.write_all_at(hashes.as_flattened(), 0));
        written.map_err(|source| TileError::Io { id, source })
    }

    /// Removes the partial tiles of the tree of `size` leaves that the one of `kept` leaves does without.
    pub fn remove_partials(&self, size: u64, kept: u64) -> Result<(), TileError> {
        let keep = partials_at(kept);
        for id in partials_at(size).into_iter().filter(|id| !keep.contains(id)) {
            let path = self.dir.join(id.path());
            // the folder goes with its last tile
            let removed = self.put_by(&path).and_then(|()| path.parent().map_or(Ok(()), |folder| self.empty(folder)));
            removed.map_err(|source| TileError::Io { id, source })?;
        }
        Ok(())
    }

    /// Removes every partial tile but those of `size`: what crashes left. Looks where the tree's right edge stands and
    /// beside it, so at no more than three thousand names a level.
    pub fn remove_partials_but(&self, size: u64) -> Result<(), TileError> {
        self.forget_spares()?;
        let keep: BTreeSet<PathBuf> = partials_at(size).iter().map(|id| self.dir.join(id.path())).collect();
        for level in 0..LEVELS {
            let edge = hashes_at(size, level) >> TILE_BITS;
            let beside =
                [edge.saturating_sub(1), edge, edge + 1].map(|index| TileId { level, index, width: TILE_WIDTH });
            let folders: BTreeSet<_> =
                beside.iter().filter_map(|id| self.dir.join(id.path()).parent().map(Path::to_owned)).collect();
            for folder in folders {
                remove_partials_in(&folder, &keep).map_err(|source| TileError::Io { id: beside[1], source })?;
            }
        }
        Ok(())
    }

    fn spare(&self) -> MutexGuard<'_, Spare> {
        self.spare.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What a former process had put by.
    fn forget_spares(&self) -> Result<(), TileError> {
        let mut spare = self.spare();
        *spare = Spare::default();
        let folder = self.spare_folder();
        let outcome = (|| {
            // a power cut may have left something in it
            for path in (0..SPARES_MAX).map(|at| self.spare_file(at)).chain(entries(&folder)?) {
                absent_is_well(fs::remove_file(path))?;
            }
            absent_is_well(fs::remove_dir(&folder))
        })();
        outcome.map_err(|source| TileError::Io { id: TileId { level: 0, index: 0, width: 1 }, source })
    }

    fn spare_file(&self, at: usize) -> PathBuf {
        self.dir.join(format!("tile/spare-{at}"))
    }

    fn spare_folder(&self) -> PathBuf {
        self.dir.join("tile/spare.p")
    }

    /// A partial tile's file, for another one.
    fn put_by(&self, path: &Path) -> io::Result<()> {
        let mut spare = self.spare();
        // what has other names is somebody's copy
        let is_ours = fs::symlink_metadata(path).is_ok_and(|found| found.nlink() == 1);
        if spare.files.len() >= SPARES_MAX || !is_ours {
            return absent_is_well(fs::remove_file(path));
        }
        let mut names = (0..SPARES_MAX).map(|at| self.spare_file(at));
        let Some(name) = names.find(|name| !spare.files.contains(name)) else { return Ok(()) };
        match fs::rename(path, &name) {
            Ok(()) => spare.files.push(name),
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Puts a folder of partial tiles by that has none any more.
    fn empty(&self, folder: &Path) -> io::Result<()> {
        let (name, mut spare) = (self.spare_folder(), self.spare());
        let outcome = match spare.folder {
            None if entries(folder)?.is_empty() => fs::rename(folder, &name).map(|()| spare.folder = Some(name)),
            None => Ok(()),
            Some(_) => fs::remove_dir(folder),
        };
        match outcome {
            Err(error) if error.kind() == ErrorKind::DirectoryNotEmpty => Ok(()),
            outcome => absent_is_well(outcome),
        }
    }

    fn replace(&self, temporary: &Path, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let mut file = match create(temporary) {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                make_folders(temporary)?;
                create(temporary)?
            }
            opened => opened?,
        };
        file.write_all(bytes)?;
        file.set_len(bytes.len() as u64)?;
        match fs::rename(temporary, path) {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                self.make_place(path)?;
                fs::rename(temporary, path)
            }
            renamed => renamed,
        }
    }

    /// The folder for a tile.
    fn make_place(&self, path: &Path) -> io::Result<()> {
        let spare = if path.parent().is_some_and(is_partials) { self.spare().folder.take() } else { None };
        match (spare, path.parent()) {
            (Some(spare), Some(folder)) => {
                make_folders(folder)?;
                // somebody may have taken it away
                fs::rename(spare, folder).or_else(|_| make_folders(path))
            }
            (None, _) | (_, None) => make_folders(path),
        }
    }

    /// What serves for a partial tile: itself, a wider one of the same place, or the full one.
    fn find(&self, id: TileId) -> io::Result<Option<Vec<u8>>> {
        let full = TileId { width: TILE_WIDTH, ..id };
        let own = self.dir.join(id.path());
        if let Some(bytes) = read(&own)? {
            return Ok(Some(bytes));
        }
        let wider = match own.parent() {
            Some(folder) if id != full => widest(folder)?.filter(|(width, _)| *width > id.width),
            Some(_) | None => None,
        };
        if let Some((_, path)) = wider
            && let Some(bytes) = read(&path)?
        {
            return Ok(Some(bytes));
        }
        read(&self.dir.join(full.path()))
    }
}

impl TileReader for TileFolder {
    fn tile(&self, level: u8, index: u64, width: u16) -> Result<Vec<Hash>, TileError> {
        let id = TileId { level, index, width };
        for _ in 0..FIND_ATTEMPTS {
            let found = self.find(id).map_err(|source| TileError::Io { id, source })?;
            let Some(bytes) = found else { continue };
            let (hashes, rest) = bytes.as_chunks();
            let whole = rest.is_empty() && hashes.len() <= usize::from(TILE_WIDTH);
            let hashes = hashes.get(..usize::from(width)).filter(|_| whole);
            return hashes.map(<[Hash]>::to_vec).ok_or(TileError::Malformed(id));
        }
        Err(TileError::Missing(id))
    }
}

fn create(path: &Path) -> io::Result<File> {
    // what is longer is cut when it was written over
    OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path)
}

fn make_folders(path: &Path) -> io::Result<()> {
    path.parent().map_or(Ok(()), |folder| DirBuilder::new().recursive(true).mode(0o700).create(folder))
}

/// No more than a tile and a byte, whatever stands there. `None` where nothing does, or not for as long as it was read: a
/// partial tile's file is written over under another name alone.
fn read(path: &Path) -> io::Result<Option<Vec<u8>>> {
    let gone = |error: &io::Error| matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory);
    let mut file = match File::open(path) {
        Err(error) if gone(&error) => return Ok(None),
        opened => opened?,
    };
    let mut bytes = Vec::with_capacity(TILE_BYTES_MAX + 1);
    (&mut file).take(TILE_BYTES_MAX as u64 + 1).read_to_end(&mut bytes)?;
    let of = |found: fs::Metadata| (found.dev(), found.ino());
    match fs::metadata(path) {
        Err(error) if gone(&error) => Ok(None),
        now => Ok((of(now?) == of(file.metadata()?)).then_some(bytes)),
    }
}

/// The widest of the partial tiles in a `.p` folder.
fn widest(folder: &Path) -> io::Result<Option<(u16, PathBuf)>> {
    let mut found = None;
    for entry in entries(folder)? {
        let width = entry.file_name().and_then(|name| name.to_str()).and_then(|name| name.parse().ok());
        found = found.max(width.map(|width| (width, entry)));
    }
    Ok(found)
}

fn remove_partials_in(folder: &Path, keep: &BTreeSet<PathBuf>) -> io::Result<()> {
    for place in entries(folder)?.into_iter().filter(|path| is_partials(path)) {
        let partials = entries(&place)?;
        for partial in partials.iter().filter(|path| !keep.contains(*path)) {
            absent_is_well(fs::remove_file(partial))?;
        }
        if !partials.iter().any(|path| keep.contains(path)) {
            absent_is_well(fs::remove_dir(&place))?;
        }
    }
    Ok(())
}

/// Whether partial tiles stand in it.
fn is_partials(folder: &Path) -> bool {
    folder.extension().is_some_and(|end| end == "p")
}

/// What stands in a folder; nothing where there is none.
fn entries(folder: &Path) -> io::Result<Vec<PathBuf>> {
    match fs::read_dir(folder) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
        listed => listed?.map(|entry| entry.map(|entry| entry.path())).collect(),
    }
}

fn absent_is_well(outcome: io::Result<()>) -> io::Result<()> {
    match outcome {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        outcome => outcome,
    }
}

/// Between two looks of a reader the writer may put a wider tile in a partial one's place.
const FIND_ATTEMPTS: usize = 3;
/// A checkpoint has a partial tile a level.
const SPARES_MAX: usize = LEVELS as usize;
const TILE_BYTES_MAX: usize = TILE_WIDTH as usize * size_of::<Hash>();
