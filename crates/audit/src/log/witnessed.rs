//! The newest checkpoint that enough witnesses cosigned, beside the log's own: whoever verifies the log from its files finds
//! both. `checkpoint` stays what the log alone signed (c2sp.org/tlog-tiles).

use super::recover::sync_folder;
use super::segment::create;
use crate::note::Note;
use std::io::{self, Write as _};
use std::path::Path;

/// Its name in the log's folder.
pub const WITNESSED: &str = "checkpoint.witnessed";

/// Puts it in the former one's place. Durable: a witness is not asked for it again.
pub(super) fn keep(dir: &Path, note: &Note) -> io::Result<()> {
    let temporary = dir.join(format!("{WITNESSED}.new"));
    let mut file = create(&temporary)?;
    file.set_len(0)?;
    file.write_all(note.encode().as_bytes())?;
    file.sync_all()?;
    std::fs::rename(&temporary, dir.join(WITNESSED))?;
    sync_folder(dir)
}
