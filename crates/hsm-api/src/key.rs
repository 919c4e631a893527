//! Keys as both sides name them: ids, specs, usages, bindings, tokens.

use bytes::Bytes;
use envelope::Timestamp;
use envelope::context::canonical_pairs;
use std::fmt;

/// 16 random bytes made by the boundary, shown as a UUIDv4 (RFC 9562 §5.4).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId([u8; 16]);

/// Not a key id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a key id: expected a UUID in lower case with hyphens")]
pub struct MalformedKeyId;

impl KeyId {
    /// Stamps version and variant, so that the text form is a UUIDv4.
    pub fn from_random(bytes: [u8; 16]) -> Self {
        Self(uuid::Builder::from_random_bytes(bytes).into_uuid().into_bytes())
    }

    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    pub const fn bytes(&self) -> &[u8; 16] {
        &self.0
    }

    /// The hyphenated lower-case form and nothing else: one key, one spelling.
    pub fn parse(raw: &str) -> Result<Self, MalformedKeyId> {
        let id = Self(uuid::Uuid::try_parse(raw).map_err(|_| MalformedKeyId)?.into_bytes());
        if id.to_string() == raw { Ok(id) } else { Err(MalformedKeyId) }
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(uuid::Uuid::from_bytes_ref(&self.0).as_hyphenated(), f)
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The first path segment of everything stored; 16 random bytes. The cluster's own keys use the cluster id here.
pub type TenantId = [u8; 16];

macro_rules! named {
    ($(#[$meta:meta])* $name:ident { $($(#[$variant_meta:meta])* $variant:ident = $code:literal, $text:literal;)* }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u8)]
        pub enum $name {
            $($(#[$variant_meta])* $variant = $code,)*
        }

        impl $name {
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            pub const fn code(self) -> u8 {
                self as u8
            }

            pub const fn from_code(code: u8) -> Option<Self> {
                match code {
                    $($code => Some(Self::$variant),)*
                    _ => None,
                }
            }

            /// The field's name, the same in the API, in storage and in the token.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $text,)*
                }
            }

            pub fn from_name(name: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|value| value.name() == name)
            }
        }
    };
}

named!(
    /// What kind of key (AWS KMS's KeySpec names).
    KeySpec {
        Aes256 = 1, "SYMMETRIC_DEFAULT";
        Hmac256 = 2, "HMAC_256";
        EccNistP256 = 3, "ECC_NIST_P256";
        EccNistEdwards25519 = 4, "ECC_NIST_EDWARDS25519";
        Rsa2048 = 5, "RSA_2048";
        Rsa3072 = 6, "RSA_3072";
        Rsa4096 = 7, "RSA_4096";
    }
);

named!(
    /// What a key may do. The last two are the system's own and have no KMS path.
    KeyUsage {
        EncryptDecrypt = 1, "ENCRYPT_DECRYPT";
        SignVerify = 2, "SIGN_VERIFY";
        GenerateVerifyMac = 3, "GENERATE_VERIFY_MAC";
        /// Signs audit checkpoints, and batches of entries for receipts.
        Log = 4, "LOG";
        /// Seals the barrier keyring.
        SystemSeal = 5, "SYSTEM_SEAL";
    }
);

named!(
    /// Where the backing key lives. Immutable per key; never falls back to a lower one.
    ProtectionLevel {
        /// Wrapped in storage, in the clear only inside the boundary process.
        Boundary = 1, "BOUNDARY";
        /// A non-extractable object in a token.
        HsmResident = 2, "HSM_RESIDENT";
    }
);

named!(Origin {
    Generated = 1, "GENERATED";
    Imported = 2, "IMPORTED";
});

named!(Export {
    Never = 1, "NEVER";
    Allowed = 2, "ALLOWED";
});

named!(
    /// Signature schemes (AWS KMS's SigningAlgorithmSpec names).
    SigningAlgorithm {
        RsassaPssSha256 = 1, "RSASSA_PSS_SHA_256";
        RsassaPssSha384 = 2, "RSASSA_PSS_SHA_384";
        RsassaPssSha512 = 3, "RSASSA_PSS_SHA_512";
        RsassaPkcs1V15Sha256 = 4, "RSASSA_PKCS1_V1_5_SHA_256";
        RsassaPkcs1V15Sha384 = 5, "RSASSA_PKCS1_V1_5_SHA_384";
        RsassaPkcs1V15Sha512 = 6, "RSASSA_PKCS1_V1_5_SHA_512";
        /// ASN.1 DER signatures (RFC 3279 §2.2.3).
        EcdsaSha256 = 7, "ECDSA_SHA_256";
        /// Pure Ed25519 over the message itself (RFC 8032); takes no digest.
        Ed25519Sha512 = 8, "ED25519_SHA_512";
    }
);

impl KeySpec {
    /// The usage that a caller's key of this spec has.
    pub const fn usage(self) -> KeyUsage {
        match self {
            Self::Aes256 => KeyUsage::EncryptDecrypt,
            Self::Hmac256 => KeyUsage::GenerateVerifyMac,
            Self::EccNistP256 | Self::EccNistEdwards25519 | Self::Rsa2048 | Self::Rsa3072 | Self::Rsa4096 => {
                KeyUsage::SignVerify
            }
        }
    }

    pub const fn signing_algorithms(self) -> &'static [SigningAlgorithm] {
        match self {
            Self::Aes256 | Self::Hmac256 => &[],
            Self::EccNistP256 => &[SigningAlgorithm::EcdsaSha256],
            Self::EccNistEdwards25519 => &[SigningAlgorithm::Ed25519Sha512],
            Self::Rsa2048 | Self::Rsa3072 | Self::Rsa4096 => &[
                SigningAlgorithm::RsassaPssSha256,
                SigningAlgorithm::RsassaPssSha384,
                SigningAlgorithm::RsassaPssSha512,
                SigningAlgorithm::RsassaPkcs1V15Sha256,
                SigningAlgorithm::RsassaPkcs1V15Sha384,
                SigningAlgorithm::RsassaPkcs1V15Sha512,
            ],
        }
    }

    pub const fn rsa_bits(self) -> Option<usize> {
        match self {
            Self::Rsa2048 => Some(2048),
            Self::Rsa3072 => Some(3072),
            Self::Rsa4096 => Some(4096),
            Self::Aes256 | Self::Hmac256 | Self::EccNistP256 | Self::EccNistEdwards25519 => None,
        }
    }
}

impl SigningAlgorithm {
    /// Bytes of the digest that stands for the message; `None` where the scheme takes the message itself.
    pub const fn digest_bytes(self) -> Option<usize> {
        match self {
            Self::RsassaPssSha256 | Self::RsassaPkcs1V15Sha256 | Self::EcdsaSha256 => Some(32),
            Self::RsassaPssSha384 | Self::RsassaPkcs1V15Sha384 => Some(48),
            Self::RsassaPssSha512 | Self::RsassaPkcs1V15Sha512 => Some(64),
            Self::Ed25519Sha512 => None,
        }
    }
}

/// What a caller asks a new key version to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewKey {
    /// `None` for a new key: the boundary makes the id. `Some` for a further version.
    pub key_id: Option<KeyId>,
    pub version: u32,
    pub tenant: TenantId,
    pub spec: KeySpec,
    pub usage: KeyUsage,
    pub level: ProtectionLevel,
    pub not_after: Option<Timestamp>,
}

impl NewKey {
    /// Spec and usage fit each other.
    pub const fn is_sound(&self) -> bool {
        match self.usage {
            KeyUsage::EncryptDecrypt | KeyUsage::SystemSeal => matches!(self.spec, KeySpec::Aes256),
            KeyUsage::GenerateVerifyMac => matches!(self.spec, KeySpec::Hmac256),
            KeyUsage::SignVerify => matches!(self.spec.usage(), KeyUsage::SignVerify),
            KeyUsage::Log => matches!(self.spec, KeySpec::EccNistEdwards25519),
        }
    }
}

/// All that a key token binds (design §3). The boundary believes this and nothing else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyBinding {
    pub key_id: KeyId,
    pub version: u32,
    pub tenant: TenantId,
    pub spec: KeySpec,
    pub usage: KeyUsage,
    pub level: ProtectionLevel,
    pub domain_id: [u8; 16],
    pub generation: u32,
    pub origin: Origin,
    pub export: Export,
    pub not_after: Option<Timestamp>,
}

impl KeyBinding {
    /// Canonical pairs, sorted by name.
    pub fn canonical(&self) -> Vec<u8> {
        let not_after = self.not_after.map_or(u64::MAX, Timestamp::unix_millis).to_be_bytes();
        let (generation, version) = (self.generation.to_be_bytes(), self.version.to_be_bytes());
        let pairs: [(&[u8], &[u8]); 11] = [
            (b"domain_id", &self.domain_id),
            (b"export", &[self.export.code()]),
            (b"generation", &generation),
            (b"key_id", &self.key_id.0),
            (b"level", &[self.level.code()]),
            (b"not_after", &not_after),
            (b"origin", &[self.origin.code()]),
            (b"spec", &[self.spec.code()]),
            (b"tenant", &self.tenant),
            (b"usage", &[self.usage.code()]),
            (b"version", &version),
        ];
        canonical_pairs(pairs.into_iter())
    }

    /// Reads what [`Self::canonical`] wrote, and nothing else; gives the rest of `bytes` back.
    pub fn split_canonical(bytes: &[u8]) -> Option<(Self, &[u8])> {
        let mut at = bytes.strip_prefix(&11u32.to_be_bytes())?;
        let mut field = |name: &[u8]| -> Option<&[u8]> {
            at = at.strip_prefix(&u32::try_from(name.len()).ok()?.to_be_bytes())?.strip_prefix(name)?;
            let (len, rest) = at.split_first_chunk::<4>()?;
            let (value, rest) = rest.split_at_checked(u32::from_be_bytes(*len) as usize)?;
            at = rest;
            Some(value)
        };
        let byte = |value: &[u8]| -> Option<u8> { <[u8; 1]>::try_from(value).ok().map(|[byte]| byte) };
        let binding = Self {
            domain_id: field(b"domain_id")?.try_into().ok()?,
            export: Export::from_code(byte(field(b"export")?)?)?,
            generation: u32::from_be_bytes(field(b"generation")?.try_into().ok()?),
            key_id: KeyId(field(b"key_id")?.try_into().ok()?),
            level: ProtectionLevel::from_code(byte(field(b"level")?)?)?,
            not_after: match u64::from_be_bytes(field(b"not_after")?.try_into().ok()?) {
                u64::MAX => None,
                millis => Some(Timestamp::from_unix_millis(millis)),
            },
            origin: Origin::from_code(byte(field(b"origin")?)?)?,
            spec: KeySpec::from_code(byte(field(b"spec")?)?)?,
            tenant: field(b"tenant")?.try_into().ok()?,
            usage: KeyUsage::from_code(byte(field(b"usage")?)?)?,
            version: u32::from_be_bytes(field(b"version")?.try_into().ok()?),
        };
        Some((binding, at))
    }

    /// Canonical AAD of a key token: the tenant.
    pub fn aad_digest(tenant: &TenantId) -> [u8; 32] {
        envelope::mac::sha256(&canonical_pairs([(&b"tenant"[..], &tenant[..])].into_iter()))
    }
}

/// A wrapped backing key, or a reference to a resident one, with the tenant it is bound to. Opaque outside the boundary.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct KeyToken {
    tenant: TenantId,
    bytes: Bytes,
}

/// Longest token that is looked at: an RSA-4096 key in PKCS#8 and its binding stay below 3 KiB.
pub const TOKEN_BYTES_MAX: usize = 4096;

impl KeyToken {
    /// Well-formed, not yet believed.
    pub fn parse(tenant: TenantId, bytes: Bytes) -> Result<Self, crate::HsmError> {
        if bytes.len() > TOKEN_BYTES_MAX || envelope::sealed::parse_token(&bytes).is_err() {
            return Err(crate::HsmError::TokenRejected);
        }
        Ok(Self { tenant, bytes })
    }

    pub fn tenant(&self) -> &TenantId {
        &self.tenant
    }

    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }
}

impl fmt::Debug for KeyToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyToken")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_key_has_one_spelling() {
        let id = KeyId::from_random([0xab; 16]);
        assert_eq!(KeyId::parse(&id.to_string()), Ok(id));
        for raw in [id.to_string().to_uppercase(), id.to_string().replace('-', ""), format!("{{{id}}}"), String::new()]
        {
            assert_eq!(KeyId::parse(&raw), Err(MalformedKeyId), "{raw}");
        }
    }

    #[test]
    fn a_binding_comes_back_as_it_was() {
        let mut binding = KeyBinding {
            key_id: KeyId::from_random([1; 16]),
            version: 3,
            tenant: [2; 16],
            spec: KeySpec::Rsa3072,
            usage: KeyUsage::SignVerify,
            level: ProtectionLevel::Boundary,
            domain_id: [4; 16],
            generation: 5,
            origin: Origin::Generated,
            export: Export::Never,
            not_after: None,
        };
        for not_after in [None, Some(Timestamp::from_unix_millis(7))] {
            binding.not_after = not_after;
            let mut bytes = binding.canonical();
            bytes.extend_from_slice(b"rest");
            assert_eq!(KeyBinding::split_canonical(&bytes), Some((binding.clone(), &b"rest"[..])));
            for cut in 0..bytes.len() - 4 {
                assert!(KeyBinding::split_canonical(&bytes[..cut]).is_none(), "{cut}");
            }
        }
    }
}
