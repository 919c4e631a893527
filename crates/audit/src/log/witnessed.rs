//! The newest checkpoint that enough witnesses cosigned, beside the log's own: whoever verifies the log from its files finds
//! both. `checkpoint` stays what the log alone signed (c2sp.org/tlog-tiles).

use super::recover::replace_durably;
use crate::note::Note;
use std::io;
use std::path::Path;

/// Its name in the log's folder.
pub const WITNESSED: &str = "checkpoint.witnessed";

/// Puts it in the former one's place. Durable: a witness is not asked for it again.
pub(super) fn keep(dir: &Path, note: &Note) -> io::Result<()> {
    replace_durably(dir, WITNESSED, note.encode().as_bytes())
}
