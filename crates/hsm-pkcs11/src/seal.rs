//! Suite 2 (design §4): the token's own AES-GCM, with 32 zero bytes before the plaintext.
//!
//! GCM's AAD is header ‖ SHA-256(canonical AAD). The zero bytes are checked after decryption: they commit the blob to its
//! key (not to its context), and the suite number says that.
//!
//! Always: one and the same answer for a wrong tag and a wrong prefix.
//! Never: an IV that a caller chose, when sealing; an empty one, ever.

use crate::device::Link;
use crate::error::Fault;
use bytes::Bytes;
use cryptoki::mechanism::Mechanism;
use cryptoki::mechanism::aead::GcmParams;
use cryptoki::object::ObjectHandle;
use envelope::mac::equal;
use envelope::sealed::{Body, HEADER_BYTES, TAG_BYTES};
use envelope::{Header, Sealed, SecretBytes};
use hsm_api::HsmError;
use zeroize::Zeroizing;

/// Who makes a token's IVs, as the probe found out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum IvSource {
    /// The driver, from C_GenerateRandom.
    Driver,
    /// The token, written back into the parameter.
    WrittenBack,
    /// The token, 16 bytes after the tag.
    Appended,
}

impl IvSource {
    /// For the status.
    pub(crate) const fn told(self) -> &'static str {
        match self {
            Self::Driver => "this process from the token's generator, 12 bytes",
            Self::WrittenBack => "the token, 12 bytes",
            Self::Appended => "the token, 16 bytes",
        }
    }
}

/// IVs of the driver's making.
pub(crate) const IV_BYTES: usize = 12;

/// What a token made of a plaintext.
pub(crate) struct Encrypted {
    pub(crate) iv: Vec<u8>,
    /// Ends in the tag.
    pub(crate) ciphertext: Vec<u8>,
}

/// One encryption. `iv` is random; a token that makes its own ignores it.
pub(crate) fn encrypt(
    link: &mut Link<'_>,
    source: IvSource,
    key: ObjectHandle,
    iv: [u8; IV_BYTES],
    aad: &[u8],
    plaintext: &[u8],
) -> Result<Encrypted, Fault> {
    let mut buffer = iv;
    let mut ciphertext = link.call(|session| {
        let mechanism = Mechanism::AesGcm(GcmParams::new(&mut buffer, aad, TAG_BITS.into())?);
        session.encrypt(&mechanism, key, plaintext)
    })?;
    let used = match source {
        IvSource::Driver | IvSource::WrittenBack => buffer.to_vec(),
        IvSource::Appended => {
            let at = ciphertext.len().checked_sub(16).ok_or(Fault::Ambiguous)?;
            ciphertext.split_off(at)
        }
    };
    // a token that changes its ways while it runs is not understood any more
    let as_probed = (source != IvSource::Driver || buffer == iv) && used.iter().any(|byte| *byte != 0);
    if !as_probed || ciphertext.len() != plaintext.len() + TAG_BYTES {
        return Err(Fault::Dead);
    }
    Ok(Encrypted { iv: used, ciphertext })
}

pub(crate) fn decrypt(
    link: &mut Link<'_>,
    key: ObjectHandle,
    iv: &[u8],
    aad: &[u8],
    ciphertext: &[u8],
) -> Result<Zeroizing<Vec<u8>>, Fault> {
    let mut buffer = iv.to_vec();
    link.call(|session| {
        let mechanism = Mechanism::AesGcm(GcmParams::new(&mut buffer, aad, TAG_BITS.into())?);
        session.decrypt(&mechanism, key, ciphertext)
    })
    .map(Zeroizing::new)
}

/// A sealed value of suite 2.
pub(crate) fn seal(
    link: &mut Link<'_>,
    source: IvSource,
    key: ObjectHandle,
    iv: [u8; IV_BYTES],
    header: Header,
    aad_digest: &[u8; 32],
    plaintext: &[u8],
) -> Result<Bytes, Fault> {
    let header_bytes = header.to_bytes();
    let mut prefixed = Zeroizing::new(Vec::with_capacity(PREFIX.len() + plaintext.len()));
    prefixed.extend_from_slice(PREFIX);
    prefixed.extend_from_slice(plaintext);
    let made = encrypt(link, source, key, iv, &aad(&header_bytes, aad_digest), &prefixed)?;
    let body = Body::Suite2 { iv: &made.iv, ciphertext: &made.ciphertext };
    let sealed = Sealed { header, header_bytes: &header_bytes, body };
    Ok(sealed.to_bytes().map_err(|_| HsmError::OutOfRange)?.into())
}

/// Opens a value whose header has been checked. `Rejected` only where the token still works.
pub(crate) fn open(
    link: &mut Link<'_>,
    key: ObjectHandle,
    sealed: &Sealed<'_>,
    aad_digest: &[u8; 32],
) -> Result<SecretBytes, Fault> {
    let (iv, ciphertext) = match sealed.body {
        Body::Suite2 { iv, ciphertext } => (iv, ciphertext),
        // of another boundary, under this key's name
        Body::Suite1 { .. } | Body::Suite3 { .. } => return Err(HsmError::Rejected.into()),
    };
    let plaintext = match decrypt(link, key, iv, &aad(sealed.header_bytes, aad_digest), ciphertext) {
        Ok(plaintext) => plaintext,
        Err(Fault::Data) => return Err(HsmError::Rejected.into()),
        Err(Fault::Ambiguous) => {
            link.prove_alive()?;
            return Err(HsmError::Rejected.into());
        }
        Err(fault) => return Err(fault),
    };
    match plaintext.split_at_checked(PREFIX.len()) {
        Some((prefix, rest)) if equal(prefix, PREFIX) => Ok(SecretBytes::copy_from(rest)),
        Some(_) | None => Err(HsmError::Rejected.into()),
    }
}

fn aad(header: &[u8; HEADER_BYTES], aad_digest: &[u8; 32]) -> [u8; HEADER_BYTES + 32] {
    let mut out = [0; HEADER_BYTES + 32];
    out[..HEADER_BYTES].copy_from_slice(header);
    out[HEADER_BYTES..].copy_from_slice(aad_digest);
    out
}

const PREFIX: &[u8; 32] = &[0; 32];
const TAG_BITS: u64 = 128;
