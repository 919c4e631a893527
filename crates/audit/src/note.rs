//! Signed notes and verifier keys (c2sp.org/signed-note).
//!
//! Always: a note is written exactly as it was read.
//! Never: a note believed of which one line of the asked key does not verify.

mod cosignature;
#[cfg(test)]
mod tests;

pub(crate) use cosignature::{TIMESTAMP_BYTES, checkpoint_message, note_message};

use aws_lc_rs::signature::{ED25519, ML_DSA_44, UnparsedPublicKey};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use std::fmt;

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoteError {
    /// Not a signed note, or one that is too large.
    #[error("this is not a signed note")]
    Malformed,
    /// No line of the asked key.
    #[error("the note is not signed by that key")]
    Unsigned,
    #[error("a signature of the note was rejected")]
    Rejected,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("this is not a verifier key of a kind that is known here")]
pub struct MalformedKey;

/// What a key signs ("Signature types"). The identifier bytes are the specification's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum KeyKind {
    /// The note's text: a log's own line.
    Ed25519 = 0x01,
    /// A time and the note's text: a witness (c2sp.org/tlog-cosignature).
    CosignatureEd25519 = 0x04,
    /// A time and the tree's head: a witness (c2sp.org/tlog-cosignature).
    CosignatureMlDsa44 = 0x06,
}

impl KeyKind {
    const ALL: [Self; 3] = [Self::Ed25519, Self::CosignatureEd25519, Self::CosignatureMlDsa44];

    fn public_len(self) -> usize {
        match self {
            Self::Ed25519 | Self::CosignatureEd25519 => 32,
            Self::CosignatureMlDsa44 => 1312,
        }
    }
}

/// Whose signatures are believed. Its text form is a *vkey* ("Verifier keys").
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifierKey {
    name: String,
    id: [u8; 4],
    kind: KeyKind,
    public: Vec<u8>,
}

impl VerifierKey {
    /// A log's key.
    pub fn ed25519(name: &str, public: [u8; 32]) -> Result<Self, MalformedKey> {
        Self::new(name, KeyKind::Ed25519, public.to_vec())
    }

    pub fn new(name: &str, kind: KeyKind, public: Vec<u8>) -> Result<Self, MalformedKey> {
        if !is_key_name(name) || public.len() != kind.public_len() {
            return Err(MalformedKey);
        }
        // "Signatures": key ID = SHA-256(key name ‖ 0x0A ‖ signature type ‖ public key)[:4]
        let hash = envelope::mac::sha256(&[name.as_bytes(), &[b'\n', kind as u8], &public].concat());
        Ok(Self { name: name.into(), id: [hash[0], hash[1], hash[2], hash[3]], kind, public })
    }

    /// "Verifier keys": `<key name>+hex(32-bit key ID)+base64(signature type ‖ public key)`.
    pub fn parse(vkey: &str) -> Result<Self, MalformedKey> {
        let mut parts = vkey.splitn(3, '+');
        let (Some(name), Some(_), Some(material)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(MalformedKey);
        };
        let material = STANDARD.decode(material).map_err(|_| MalformedKey)?;
        let (kind, public) = material.split_first().ok_or(MalformedKey)?;
        let kind = KeyKind::ALL.into_iter().find(|known| *known as u8 == *kind).ok_or(MalformedKey)?;
        let key = Self::new(name, kind, public.to_vec())?;
        // the key ID follows from the rest, and there is one way to write it
        if key.to_string() == vkey { Ok(key) } else { Err(MalformedKey) }
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn id(&self) -> [u8; 4] {
        self.id
    }

    pub fn kind(&self) -> KeyKind {
        self.kind
    }

    pub fn public(&self) -> &[u8] {
        &self.public
    }

    /// The line that carries `bytes` as this key's signature.
    pub fn line(&self, bytes: Vec<u8>) -> Signature {
        Signature { name: self.name.clone(), id: self.id, bytes }
    }

    /// The time that a cosignature asserts; `None` of a log's own line.
    pub(crate) fn confirm(&self, text: &str, signature: &[u8]) -> Result<Option<u64>, NoteError> {
        let rejected = |_| NoteError::Rejected;
        if self.kind == KeyKind::Ed25519 {
            let key = UnparsedPublicKey::new(&ED25519, &self.public);
            return key.verify(text.as_bytes(), signature).map(|()| None).map_err(rejected);
        }
        let (time, signature) = signature.split_first_chunk::<TIMESTAMP_BYTES>().ok_or(NoteError::Rejected)?;
        let time = u64::from_be_bytes(*time);
        let verified = match self.kind {
            KeyKind::Ed25519 | KeyKind::CosignatureEd25519 => {
                UnparsedPublicKey::new(&ED25519, &self.public).verify(&note_message(time, text), signature)
            }
            KeyKind::CosignatureMlDsa44 => {
                let message = checkpoint_message(&self.name, time, text).ok_or(NoteError::Rejected)?;
                UnparsedPublicKey::new(&ML_DSA_44, &self.public).verify(&message, signature)
            }
        };
        verified.map_err(rejected)?;
        // tlog-cosignature, "Format": it MUST NOT exceed 2^63 - 1; 0 would assert nothing about this being the newest
        if time == 0 || i64::try_from(time).is_err() { Err(NoteError::Rejected) } else { Ok(Some(time)) }
    }
}

impl fmt::Display for VerifierKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let material = [&[self.kind as u8], self.public.as_slice()].concat();
        write!(f, "{}+{}+{}", self.name, hex::encode(self.id), STANDARD.encode(material))
    }
}

/// One signature line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signature {
    name: String,
    id: [u8; 4],
    bytes: Vec<u8>,
}

impl Signature {
    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn id(&self) -> [u8; 4] {
        self.id
    }

    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Whether a line names this key. The ID is short: only verifying tells more.
    pub fn is_of(&self, key: &VerifierKey) -> bool {
        (&self.name, self.id) == (&key.name, key.id)
    }

    /// "Format": em dash, space, key name, space, base64, without the newline.
    fn parse(line: &str) -> Option<Self> {
        let (name, signature) = line.strip_prefix(DASH)?.split_once(' ')?;
        let signature = STANDARD.decode(signature).ok()?;
        let (id, bytes) = signature.split_first_chunk()?;
        (is_key_name(name) && !bytes.is_empty()).then(|| Self { name: name.into(), id: *id, bytes: bytes.to_vec() })
    }
}

/// The whole line, newline included.
impl fmt::Display for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let signature = STANDARD.encode([self.id.as_slice(), &self.bytes].concat());
        writeln!(f, "{DASH}{} {signature}", self.name)
    }
}

/// Text and who signed it. The text is anybody's until [`Note::verify`] says whose.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    text: String,
    signatures: Vec<Signature>,
}

impl Note {
    pub fn new(text: String, signatures: Vec<Signature>) -> Result<Self, NoteError> {
        let note = Self { text, signatures };
        let bounded = (1..=SIGNATURES_MAX).contains(&note.signatures.len()) && note.encode().len() <= NOTE_BYTES_MAX;
        if bounded && is_text(&note.text) && note.text.ends_with('\n') { Ok(note) } else { Err(NoteError::Malformed) }
    }

    pub fn parse(bytes: &[u8]) -> Result<Self, NoteError> {
        let bounded = Some(bytes).filter(|bytes| bytes.len() <= NOTE_BYTES_MAX).ok_or(NoteError::Malformed)?;
        let note = std::str::from_utf8(bounded).map_err(|_| NoteError::Malformed)?;
        // "Format": the text is separated from the signatures by the last empty line, and keeps its own newline
        let at = note.rfind("\n\n").ok_or(NoteError::Malformed)?;
        let (text, lines) = (&note[..=at], &note[at + 2..]);
        let lines = lines.strip_suffix('\n').ok_or(NoteError::Malformed)?;
        let lines = lines.split('\n').take(SIGNATURES_MAX + 1).map(Signature::parse);
        Self::new(text.into(), lines.collect::<Option<_>>().ok_or(NoteError::Malformed)?)
    }

    pub fn encode(&self) -> String {
        let mut note = format!("{}\n", self.text);
        self.signatures.iter().for_each(|signature| note.push_str(&signature.to_string()));
        note
    }

    /// With its last newline.
    pub fn text(&self) -> &str {
        &self.text
    }

    pub fn signatures(&self) -> &[Signature] {
        &self.signatures
    }

    /// The note with one line more.
    pub fn signed(mut self, signature: Signature) -> Result<Self, NoteError> {
        self.signatures.push(signature);
        Self::new(self.text, self.signatures)
    }

    /// That `key` signed the text. "Signatures": lines of other keys are ignored, and all of this key must verify.
    pub fn verify(&self, key: &VerifierKey) -> Result<(), NoteError> {
        self.confirm(key).map(|_| ())
    }

    /// When a witness asserts to have seen this checkpoint as the log's newest, in seconds since 1970: the latest time
    /// where it has more than one line.
    pub fn cosigned_at(&self, witness: &VerifierKey) -> Result<u64, NoteError> {
        self.confirm(witness)?.ok_or(NoteError::Unsigned)
    }

    fn confirm(&self, key: &VerifierKey) -> Result<Option<u64>, NoteError> {
        let mut latest = Err(NoteError::Unsigned);
        for line in self.signatures.iter().filter(|line| line.is_of(key)) {
            latest = Ok(latest.unwrap_or(None).max(key.confirm(&self.text, &line.bytes)?));
        }
        latest
    }
}

/// "Format": key names are non-empty and have no Unicode spaces or plus.
fn is_key_name(name: &str) -> bool {
    !name.is_empty() && is_text(name) && !name.contains(|c: char| c.is_whitespace() || c == '+')
}

/// "Format": no ASCII control characters but newline.
fn is_text(text: &str) -> bool {
    !text.contains(|c: char| c < ' ' && c != '\n')
}

const DASH: &str = "\u{2014} ";
/// "Format": verifiers SHOULD limit both and accept 16 signatures. These are the limits of Go's `note` package.
const NOTE_BYTES_MAX: usize = 1_000_000;
const SIGNATURES_MAX: usize = 100;
