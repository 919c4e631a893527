//! Random bytes for keys, N and IVs: the operating system's generator, fetched 4 KiB at a time for each thread.
//!
//! Always: a byte is wiped from the buffer as it is handed out, and handed out once.
//! Never: randomness after the source failed or repeated itself.
//!
//! The health test is a repetition test on what the kernel's generator puts out, which is conditioned already
//! (SP 800-90B §4.4 asks for it on raw noise, which no process sees): it finds a generator that is stuck, no more.

use getrandom::SysRng;
use rand_core::TryRng;
use std::cell::RefCell;
use zeroize::Zeroize;

/// The generator failed or repeated itself: nothing may be made any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the random generator failed")]
pub(crate) struct EntropyFault;

/// Fills `out` with fresh random bytes.
pub(crate) fn fill(out: &mut [u8]) -> Result<(), EntropyFault> {
    BUFFER.with_borrow_mut(|buffer| buffer.take(out, |bytes| SysRng.try_fill_bytes(bytes).map_err(|_| EntropyFault)))
}

pub(crate) fn array<const N: usize>() -> Result<[u8; N], EntropyFault> {
    let mut out = [0; N];
    fill(&mut out)?;
    Ok(out)
}

thread_local! {
    static BUFFER: RefCell<Buffer> = RefCell::new(Buffer::empty());
}

struct Buffer {
    bytes: Box<[u8; BUFFER_BYTES + SAMPLE_BYTES]>,
    at: usize,
    /// The last refill's sample: never handed out.
    sample: [u8; SAMPLE_BYTES],
}

impl Buffer {
    fn empty() -> Self {
        Self { bytes: Box::new([0; BUFFER_BYTES + SAMPLE_BYTES]), at: BUFFER_BYTES, sample: [0; SAMPLE_BYTES] }
    }

    fn take(
        &mut self,
        out: &mut [u8],
        source: impl Fn(&mut [u8]) -> Result<(), EntropyFault>,
    ) -> Result<(), EntropyFault> {
        let mut filled = 0;
        while filled < out.len() {
            if self.at == BUFFER_BYTES {
                self.refill(&source)?;
            }
            let len = (out.len() - filled).min(BUFFER_BYTES - self.at);
            let piece = &mut self.bytes[self.at..self.at + len];
            out[filled..filled + len].copy_from_slice(piece);
            piece.zeroize();
            self.at += len;
            filled += len;
        }
        Ok(())
    }

    fn refill(&mut self, source: &impl Fn(&mut [u8]) -> Result<(), EntropyFault>) -> Result<(), EntropyFault> {
        source(&mut self.bytes[..])?;
        let (_, sample) = self.bytes.split_at_mut(BUFFER_BYTES);
        let stuck = *sample == self.sample;
        self.sample.copy_from_slice(sample);
        sample.zeroize();
        if stuck {
            return Err(EntropyFault);
        }
        self.at = 0;
        Ok(())
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.bytes[..].zeroize();
        self.sample.zeroize();
    }
}

const BUFFER_BYTES: usize = 4096;
const SAMPLE_BYTES: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn no_value_is_handed_out_twice() {
        let threads: Vec<_> = (0..4)
            .map(|_| std::thread::spawn(|| (0..2000).map(|_| array::<16>().unwrap()).collect::<Vec<_>>()))
            .collect();
        let all: Vec<[u8; 16]> = threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
        assert_eq!(all.iter().collect::<HashSet<_>>().len(), all.len());
    }

    #[test]
    fn what_was_handed_out_is_wiped() {
        let mut buffer = Buffer::empty();
        let mut out = [0; 100];
        buffer
            .take(&mut out, |bytes| {
                bytes.fill(0xaa);
                Ok(())
            })
            .unwrap();
        assert_eq!(out, [0xaa; 100]);
        assert!(buffer.bytes[..100].iter().all(|byte| *byte == 0) && buffer.bytes[100] == 0xaa);
    }

    #[test]
    fn a_source_that_is_stuck_or_fails_gives_nothing() {
        type Source = fn(&mut [u8]) -> Result<(), EntropyFault>;
        let stuck: Source = |bytes| {
            bytes.fill(7);
            Ok(())
        };
        let dead: Source = |bytes| {
            bytes.fill(0);
            Ok(())
        };
        let failing: Source = |_| Err(EntropyFault);
        for (name, source, good_bytes) in [("stuck", stuck, BUFFER_BYTES), ("dead", dead, 0), ("failing", failing, 0)] {
            let mut buffer = Buffer::empty();
            if good_bytes > 0 {
                buffer.take(&mut vec![0; good_bytes], source).unwrap();
            }
            assert_eq!(buffer.take(&mut [0; 1], source), Err(EntropyFault), "{name}");
            assert_eq!(buffer.take(&mut [0; 1], source), Err(EntropyFault), "{name}, again");
        }
    }
}
