//! The sealed format, version 1 (design §4): one header, three kinds, three suites, parsers that are total.
//!
//! ```text
//! header (48)  magic "SR" | version u8 = 1 | kind u8 | suite u16 | flags u16 = 0 | key id 16 | key version u32
//!              | domain id 16 | generation u32                                         integers big-endian
//! suite 1      header | N 16 | IV 12 | commitment 32 | ciphertext | tag 16
//! suite 2      header | IV length u8 | IV 12 or 16 | ciphertext | tag 16
//! suite 3      header | CKA_ID 16 | key check value 32 | binding length u16 | binding | HMAC 32       kind 2 only
//! ```
//!
//! Always: each entry point accepts one kind. Never: trailing bytes.

/// Bytes of the header.
pub const HEADER_BYTES: usize = 48;
/// What suite 1 adds to a plaintext.
pub const SUITE1_OVERHEAD_BYTES: usize = HEADER_BYTES + 16 + 12 + 32 + TAG_BYTES;
/// Bytes of a GCM tag.
pub const TAG_BYTES: usize = 16;
/// Longest sealed value that any parser looks at: a storage value of 1 MiB and its overhead.
pub const SEALED_BYTES_MAX: usize = (1 << 20) + 256;

/// What a sealed value is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// A caller's data under a backing key.
    CiphertextBlob = 1,
    /// A backing key under the domain key, or a reference to a resident one.
    KeyToken = 2,
    /// A stored value under an epoch of the barrier keyring.
    BarrierValue = 3,
}

impl Kind {
    /// The KDF's label (SP 800-108); short, so that its inner hash stays at two SHA-256 blocks.
    pub const fn label(self) -> &'static [u8] {
        match self {
            Self::CiphertextBlob => b"sr/v1/blob",
            Self::KeyToken => b"sr/v1/token",
            Self::BarrierValue => b"sr/v1/barrier",
        }
    }
}

/// How a sealed value was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
pub enum Suite {
    /// A key per message by SP 800-108, commitment, AES-256-GCM. Commits to key and context.
    KdfCommitGcm = 1,
    /// A token's own AES-GCM with 32 zero bytes before the plaintext. Commits to the key only.
    TokenGcm = 2,
    /// A reference to an object that lives in a token.
    ResidentReference = 3,
}

/// The clear part of every sealed value; all of it is authenticated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    pub kind: Kind,
    pub suite: Suite,
    pub key_id: [u8; 16],
    pub key_version: u32,
    pub domain_id: [u8; 16],
    /// 0 in a blob; of the domain key in a token; the keyring's epoch in a barrier value.
    pub generation: u32,
}

/// Not a sealed value of the expected kind. Says what, never why in detail: the bytes are an attacker's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    #[error("too short or too long for a sealed value")]
    Length,
    #[error("not a sealed value: wrong magic")]
    Magic,
    #[error("sealed format version is not 1")]
    Version,
    #[error("sealed value is of another kind")]
    Kind,
    #[error("unknown suite, or one that this kind does not have")]
    Suite,
    #[error("reserved field is not zero")]
    Reserved,
    #[error("initialisation vector is not of 12 or 16 bytes")]
    Iv,
}

impl Header {
    pub fn to_bytes(&self) -> [u8; HEADER_BYTES] {
        let mut out = [0; HEADER_BYTES];
        out[..2].copy_from_slice(b"SR");
        out[2] = 1;
        out[3] = self.kind as u8;
        out[4..6].copy_from_slice(&(self.suite as u16).to_be_bytes());
        out[8..24].copy_from_slice(&self.key_id);
        out[24..28].copy_from_slice(&self.key_version.to_be_bytes());
        out[28..44].copy_from_slice(&self.domain_id);
        out[44..].copy_from_slice(&self.generation.to_be_bytes());
        out
    }

    pub fn parse(bytes: &[u8; HEADER_BYTES]) -> Result<Self, Malformed> {
        if bytes[..2] != *b"SR" {
            return Err(Malformed::Magic);
        }
        if bytes[2] != 1 {
            return Err(Malformed::Version);
        }
        let kind = match bytes[3] {
            1 => Kind::CiphertextBlob,
            2 => Kind::KeyToken,
            3 => Kind::BarrierValue,
            _ => return Err(Malformed::Kind),
        };
        let suite = match u16::from_be_bytes(array(&bytes[4..6])) {
            1 => Suite::KdfCommitGcm,
            2 => Suite::TokenGcm,
            3 => Suite::ResidentReference,
            _ => return Err(Malformed::Suite),
        };
        if bytes[6..8] != [0, 0] {
            return Err(Malformed::Reserved);
        }
        Ok(Self {
            kind,
            suite,
            key_id: array(&bytes[8..24]),
            key_version: u32::from_be_bytes(array(&bytes[24..28])),
            domain_id: array(&bytes[28..44]),
            generation: u32::from_be_bytes(array(&bytes[44..])),
        })
    }
}

/// A parsed sealed value: well-formed, not yet believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sealed<'a> {
    pub header: Header,
    pub header_bytes: &'a [u8; HEADER_BYTES],
    pub body: Body<'a>,
}

impl Sealed<'_> {
    /// The bytes that this was parsed from, out of its parts: what `parse` took, this gives back.
    /// `Length` where a part has a length that the layout cannot tell.
    pub fn to_bytes(&self) -> Result<Vec<u8>, Malformed> {
        let mut out = self.header.to_bytes().to_vec();
        match self.body {
            Body::Suite1 { n, iv, commitment, ciphertext, tag } => {
                [&n[..], iv, commitment, ciphertext, tag].iter().for_each(|part| out.extend_from_slice(part));
            }
            Body::Suite2 { iv, ciphertext } => {
                out.push(u8::try_from(iv.len()).map_err(|_| Malformed::Length)?);
                out.extend_from_slice(iv);
                out.extend_from_slice(ciphertext);
            }
            Body::Suite3 { cka_id, check_value, binding, mac } => {
                let len = u16::try_from(binding.len()).map_err(|_| Malformed::Length)?.to_be_bytes();
                [&cka_id[..], check_value, &len, binding, mac].iter().for_each(|part| out.extend_from_slice(part));
            }
        }
        Ok(out)
    }
}

/// What follows the header, by suite.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Body<'a> {
    Suite1 {
        n: &'a [u8; 16],
        iv: &'a [u8; 12],
        commitment: &'a [u8; 32],
        ciphertext: &'a [u8],
        tag: &'a [u8; TAG_BYTES],
    },
    /// `ciphertext` ends in the tag, as PKCS#11 wants it.
    Suite2 {
        iv: &'a [u8],
        ciphertext: &'a [u8],
    },
    Suite3 {
        cka_id: &'a [u8; 16],
        check_value: &'a [u8; 32],
        binding: &'a [u8],
        mac: &'a [u8; 32],
    },
}

/// A caller's ciphertext blob: kind 1, suite 1 or 2, generation 0.
pub fn parse_blob(bytes: &[u8]) -> Result<Sealed<'_>, Malformed> {
    let sealed = parse(bytes, Kind::CiphertextBlob)?;
    match (sealed.header.generation, sealed.header.suite) {
        (0, Suite::KdfCommitGcm | Suite::TokenGcm) => Ok(sealed),
        (_, Suite::ResidentReference) => Err(Malformed::Suite),
        _ => Err(Malformed::Reserved),
    }
}

/// A key token: kind 2, suite 1 or 3.
pub fn parse_token(bytes: &[u8]) -> Result<Sealed<'_>, Malformed> {
    let sealed = parse(bytes, Kind::KeyToken)?;
    match sealed.header.suite {
        Suite::KdfCommitGcm | Suite::ResidentReference => Ok(sealed),
        Suite::TokenGcm => Err(Malformed::Suite),
    }
}

/// A stored value: kind 3, suite 1.
pub fn parse_barrier(bytes: &[u8]) -> Result<Sealed<'_>, Malformed> {
    let sealed = parse(bytes, Kind::BarrierValue)?;
    match sealed.header.suite {
        Suite::KdfCommitGcm => Ok(sealed),
        Suite::TokenGcm | Suite::ResidentReference => Err(Malformed::Suite),
    }
}

/// The sealed barrier keyring: kind 3, suite 1, or 2 where a token without a KDF holds the SYSTEM_SEAL key.
pub fn parse_system(bytes: &[u8]) -> Result<Sealed<'_>, Malformed> {
    let sealed = parse(bytes, Kind::BarrierValue)?;
    match sealed.header.suite {
        Suite::KdfCommitGcm | Suite::TokenGcm => Ok(sealed),
        Suite::ResidentReference => Err(Malformed::Suite),
    }
}

fn parse(bytes: &[u8], kind: Kind) -> Result<Sealed<'_>, Malformed> {
    if bytes.len() > SEALED_BYTES_MAX {
        return Err(Malformed::Length);
    }
    let (header_bytes, rest) = bytes.split_first_chunk::<HEADER_BYTES>().ok_or(Malformed::Length)?;
    let header = Header::parse(header_bytes)?;
    if header.kind != kind {
        return Err(Malformed::Kind);
    }
    let body = match header.suite {
        Suite::KdfCommitGcm => suite1(rest),
        Suite::TokenGcm => suite2(rest)?,
        Suite::ResidentReference => suite3(rest),
    };
    Ok(Sealed { header, header_bytes, body: body.ok_or(Malformed::Length)? })
}

fn suite1(rest: &[u8]) -> Option<Body<'_>> {
    let (n, rest) = rest.split_first_chunk()?;
    let (iv, rest) = rest.split_first_chunk()?;
    let (commitment, rest) = rest.split_first_chunk()?;
    let (ciphertext, tag) = rest.split_last_chunk()?;
    Some(Body::Suite1 { n, iv, commitment, ciphertext, tag })
}

fn suite2(rest: &[u8]) -> Result<Option<Body<'_>>, Malformed> {
    let Some((&len, rest)) = rest.split_first() else { return Ok(None) };
    if len != 12 && len != 16 {
        return Err(Malformed::Iv);
    }
    let Some((iv, ciphertext)) = rest.split_at_checked(usize::from(len)) else { return Ok(None) };
    // the zero prefix and the tag are always there
    Ok((ciphertext.len() >= 32 + TAG_BYTES).then_some(Body::Suite2 { iv, ciphertext }))
}

fn suite3(rest: &[u8]) -> Option<Body<'_>> {
    let (cka_id, rest) = rest.split_first_chunk()?;
    let (check_value, rest) = rest.split_first_chunk()?;
    let (len, rest) = rest.split_first_chunk::<2>()?;
    let (binding, rest) = rest.split_at_checked(usize::from(u16::from_be_bytes(*len)))?;
    let mac = rest.try_into().ok()?;
    Some(Body::Suite3 { cka_id, check_value, binding, mac })
}

#[expect(clippy::expect_used, reason = "the slice was cut to this length by the caller")]
fn array<const N: usize>(bytes: &[u8]) -> [u8; N] {
    bytes.try_into().expect("the slice was cut to this length")
}
