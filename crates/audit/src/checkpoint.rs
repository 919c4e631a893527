//! A tree's head as text (c2sp.org/tlog-checkpoint).

use crate::note::{Note, NoteError, VerifierKey};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use envelope::merkle::Hash;

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("this is not a checkpoint")]
pub struct MalformedCheckpoint;

/// The head of a log's tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    /// Which log.
    pub origin: String,
    /// How many leaves.
    pub size: u64,
    pub root: Hash,
}

impl Checkpoint {
    /// "Note text": what a log signs.
    pub fn body(&self) -> String {
        format!("{}\n{}\n{}\n", self.origin, self.size, STANDARD.encode(self.root))
    }

    /// Reads a note's text. Extension lines are not for us, and have their form.
    pub fn parse(text: &str) -> Result<Self, MalformedCheckpoint> {
        let mut lines = text.strip_suffix('\n').ok_or(MalformedCheckpoint)?.split('\n');
        let mut next = || lines.next().filter(|line| !line.is_empty()).ok_or(MalformedCheckpoint);
        let (origin, size, root) = (next()?.to_owned(), decimal(next()?), hash(next()?));
        if lines.any(str::is_empty) {
            return Err(MalformedCheckpoint);
        }
        let (size, root) = (size.ok_or(MalformedCheckpoint)?, root.ok_or(MalformedCheckpoint)?);
        Ok(Self { origin, size, root })
    }

    /// The checkpoint in a note that the log of `key` signed; the key bears the origin's name ("Signatures").
    pub fn open(note: &Note, key: &VerifierKey) -> Result<Self, NoteError> {
        note.verify(key)?;
        let checkpoint = Self::parse(note.text()).map_err(|MalformedCheckpoint| NoteError::Malformed)?;
        if checkpoint.origin == key.name() { Ok(checkpoint) } else { Err(NoteError::Unsigned) }
    }

    /// The note that is this checkpoint under the log's `signature`, which is verified first.
    pub fn sign(&self, key: &VerifierKey, signature: [u8; 64]) -> Result<Note, NoteError> {
        let note = Note::new(self.body(), vec![key.line(signature.to_vec())])?;
        Self::open(&note, key).map(|_| note)
    }
}

/// ASCII decimal without leading zeroes; these texts have one way to write a number.
pub(crate) fn decimal(text: &str) -> Option<u64> {
    let number: u64 = text.parse().ok()?;
    (number.to_string() == text).then_some(number)
}

/// A hash in base64.
pub(crate) fn hash(text: &str) -> Option<Hash> {
    STANDARD.decode(text).ok()?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of the specification.
    const EXAMPLE: &str = "example.com/behind-the-sofa\n20852163\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n";

    #[test]
    fn the_specifications_example_is_read_and_written() {
        let checkpoint = Checkpoint::parse(EXAMPLE).unwrap();
        assert_eq!((checkpoint.origin.as_str(), checkpoint.size), ("example.com/behind-the-sofa", 20_852_163));
        assert_eq!(checkpoint.body(), EXAMPLE);
        let empty = Checkpoint { origin: "o".into(), size: 0, root: envelope::merkle::empty_root() };
        assert_eq!(empty.body(), "o\n0\n47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=\n");
        assert_eq!(Checkpoint::parse(&empty.body()), Ok(empty));
        assert_eq!(Checkpoint::parse(&format!("{EXAMPLE}one\ntwo\n")), Ok(checkpoint), "extension lines");
    }

    #[test]
    fn what_is_no_checkpoint_is_refused() {
        let root = "CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=";
        for text in [
            String::new(),
            "\n".into(),
            "o\n1\n".into(),
            EXAMPLE.trim_end().into(),
            format!("\n1\n{root}\n"),
            format!("o\n\n{root}\n"),
            format!("o\n01\n{root}\n"),
            format!("o\n+1\n{root}\n"),
            format!("o\n-1\n{root}\n"),
            format!("o\n 1\n{root}\n"),
            format!("o\n18446744073709551616\n{root}\n"),
            format!("o\n1\n{}\n", &root[4..]),
            format!("o\n1\n{}\n", root.trim_end_matches('=')),
            format!("o\n1\nAAAA{root}\n"),
            // another base64 of the same bytes
            format!("o\n1\n{}J=\n", &root[..42]),
            format!("o\n1\n{root}\n\n"),
            format!("o\n1\n{root}\nextension\n\n"),
            format!("o\n1\n{root}\n\nextension\n"),
            format!("o\r\n1\r\n{root}\r\n"),
        ] {
            assert_eq!(Checkpoint::parse(&text), Err(MalformedCheckpoint), "{text:?}");
        }
        assert!(Checkpoint::parse(&format!("o\n18446744073709551615\n{root}\n")).is_ok());
    }
}
