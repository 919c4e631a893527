//! A log's files as bytes in memory: what tests alter and what fuzzing makes up.

use super::{LogSource, ReadAt};
use crate::tile::{TILE_WIDTH, TileError, TileId, TileReader};
use bytes::Bytes;
use envelope::merkle::Hash;
use std::collections::BTreeMap;
use std::io;

/// As [`super::LogFolder`], without a folder.
#[derive(Debug, Clone, Default)]
pub struct LogMemory {
    pub segments: BTreeMap<u64, Bytes>,
    pub checkpoint: Option<Vec<u8>>,
    pub tiles: BTreeMap<TileId, Vec<Hash>>,
}

impl LogSource for LogMemory {
    fn segment(&self, number: u64) -> io::Result<Option<Box<dyn ReadAt>>> {
        Ok(self.segments.get(&number).map(|bytes| Box::new(bytes.clone()) as Box<dyn ReadAt>))
    }

    fn segments(&self) -> io::Result<Vec<u64>> {
        Ok(self.segments.keys().copied().collect())
    }

    fn checkpoint(&self) -> io::Result<Option<Vec<u8>>> {
        Ok(self.checkpoint.clone())
    }

    fn partials(&self, level: u8, index: u64) -> io::Result<Vec<u16>> {
        let of = |width| TileId { level, index, width };
        Ok(self.tiles.range(of(1)..of(TILE_WIDTH)).map(|(id, _)| id.width).collect())
    }
}

impl TileReader for LogMemory {
    /// A partial tile out of a wider one, as in a folder.
    fn tile(&self, level: u8, index: u64, width: u16) -> Result<Vec<Hash>, TileError> {
        let id = TileId { level, index, width };
        let wide_enough = self.tiles.range(id..=TileId { level, index, width: TILE_WIDTH });
        let (_, hashes) = wide_enough.into_iter().next().ok_or(TileError::Missing(id))?;
        hashes.get(..usize::from(width)).map(<[Hash]>::to_vec).ok_or(TileError::Malformed(id))
    }
}

impl ReadAt for Bytes {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let rest = usize::try_from(offset).ok().and_then(|from| self.get(from..)).unwrap_or_default();
        let read = rest.len().min(buffer.len());
        if let (Some(to), Some(from)) = (buffer.get_mut(..read), rest.get(..read)) {
            to.copy_from_slice(from);
        }
        Ok(read)
    }
}
