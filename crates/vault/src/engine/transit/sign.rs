//! Signatures, and their verification by public key.

use super::batch::{Items, Outcomes, Refused, each};
use super::key::{Named, Type};
use super::{der, mac, wire};
use crate::body::Body;
use crate::error::VaultError;
use crate::reply::Reply;
use crate::scope::Scope;
use aws_lc_rs::digest::{self, Algorithm};
use bytes::Bytes;
use kms::{AtVersion, KeyRef, MessageType, Sign, SigningAlgorithm, Verify};
use serde::Serialize;

#[derive(Serialize)]
struct Signature {
    signature: String,
    key_version: u32,
}

#[derive(Serialize)]
struct Valid {
    valid: bool,
}

/// How a request wants its signatures.
struct Scheme {
    algorithm: SigningAlgorithm,
    /// `None`: the message itself is signed.
    hash: Option<&'static Algorithm>,
    prehashed: bool,
    form: Form,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Asn1,
    Jws,
}

pub(super) async fn sign(scope: &Scope<'_>, name: &str, hash: Option<&&str>) -> Result<Reply, VaultError> {
    let items = Items::of(scope)?;
    let named = Named::of(scope, name, "signing key not found").await?;
    named.must(named.entry.kind.signs(), "signing")?;
    let scheme = Scheme::of(&named, hash)?;
    let kms = named.kms()?;
    let asks = items.bodies(scope).into_iter().map(|item| {
        let (message, message_type) = scheme.message(item)?;
        let command = Sign { key: KeyRef::Id(named.id), message, message_type, algorithm: scheme.algorithm };
        Ok(AtVersion { command, version: named.entry.asked_version(item)? })
    });
    let (outcomes, recorded) = each(asks.collect(), async |command| {
        let made = kms.sign(named.id, command).await.map_err(wire::told)?;
        let signature = scheme.text(named.entry.kind, made.key_version, &made.signature)?;
        Ok(Signature { signature, key_version: made.key_version })
    })
    .await;
    items.answer(scope, outcomes, recorded).await
}

/// Of a signature or an HMAC, as the key's type is.
pub(super) async fn verify(scope: &Scope<'_>, name: &str, hash: Option<&&str>) -> Result<Reply, VaultError> {
    let items = Items::of(scope)?;
    let named = Named::of(scope, name, "signature verification key not found").await?;
    let bodies = items.bodies(scope);
    let (outcomes, recorded) = if bodies.iter().any(|item| item.has("hmac")) {
        mac::check(&named, hash)?;
        verify_macs(&named, &bodies).await?
    } else {
        named.must(named.entry.kind.signs(), "verification")?;
        verify_signatures(&named, &Scheme::of(&named, hash)?, &bodies).await?
    };
    items.answer(scope, outcomes, recorded).await
}

async fn verify_macs(named: &Named<'_>, items: &[&Body]) -> Result<(Outcomes<Valid>, bool), VaultError> {
    let kms = named.kms()?;
    let asks = items.iter().map(|item| mac::to_verify(named, item));
    Ok(each(asks.collect(), async |command| {
        let verified = kms.verify_mac(named.id, command).await.map_err(wire::told)?;
        Ok(Valid { valid: verified.mac_valid })
    })
    .await)
}

async fn verify_signatures(
    named: &Named<'_>,
    scheme: &Scheme,
    items: &[&Body],
) -> Result<(Outcomes<Valid>, bool), VaultError> {
    let kms = named.kms()?;
    let asks = items.iter().map(|item| to_verify(named, scheme, item));
    Ok(each(asks.collect(), async |command| {
        let verified = kms.verify(named.id, command).await.map_err(wire::told)?;
        Ok(Valid { valid: verified.signature_valid })
    })
    .await)
}

fn to_verify(named: &Named<'_>, scheme: &Scheme, item: &Body) -> Result<AtVersion<Verify>, Refused> {
    let text = item.required("signature")?;
    let malformed = || VaultError::field("signature", "not of the form vault:vN:… in the base64 of its marshaling");
    let (version, bytes) = match scheme.form {
        Form::Asn1 => wire::untag_bytes(&text),
        Form::Jws => wire::untag_url_safe(&text),
    }
    .ok_or_else(malformed)?;
    named.entry.check_old(version)?;
    let bytes = match (scheme.form, named.entry.kind) {
        (Form::Jws, Type::EcdsaP256) => der::of_fixed(&bytes).ok_or_else(malformed)?,
        (Form::Asn1 | Form::Jws, _) => bytes,
    };
    let (message, message_type) = scheme.message(item)?;
    let (key, signature, algorithm) = (KeyRef::Id(named.id), bytes.into(), scheme.algorithm);
    Ok(AtVersion { command: Verify { key, message, message_type, signature, algorithm }, version: Some(version) })
}

impl Scheme {
    fn of(named: &Named<'_>, hash: Option<&&str>) -> Result<Self, VaultError> {
        let body = &named.scope.call.body;
        let text = |field| body.string(field).map(|text| text.filter(|text| !text.is_empty()));
        let form = match text("marshaling_algorithm")?.as_ref().map_or("asn1", |text| text.as_str()) {
            "asn1" => Form::Asn1,
            "jws" => Form::Jws,
            _ => return Err(VaultError::field("marshaling_algorithm", "asn1 or jws")),
        };
        let prehashed = body.bool("prehashed")?.unwrap_or(false);
        let (new, old) = (text("hash_algorithm")?, text("algorithm")?);
        let name = hash.copied().or(new.as_ref().or(old.as_ref()).map(|text| text.as_str())).unwrap_or("sha2-256");
        let padding = text("signature_algorithm")?;
        let padding = padding.as_ref().map_or("pss", |text| text.as_str());
        let salt = text("salt_length")?;
        let (algorithm, hash) = scheme(named.entry.kind, name, padding)?;
        if prehashed && hash.is_none() {
            return Err(VaultError::field("prehashed", "ed25519 signs the message itself here, never a hash of it"));
        }
        let is_hash = |salt: &str| hash.is_some_and(|hash| salt.parse() == Ok(hash.output_len()));
        if salt.is_some_and(|salt| !matches!(salt.as_str(), "auto" | "hash") && !is_hash(&salt)) {
            return Err(VaultError::field("salt_length", "auto or hash: salts are as long as the hash"));
        }
        Ok(Self { algorithm, hash, prehashed, form })
    }

    fn message(&self, item: &Body) -> Result<(Bytes, MessageType), VaultError> {
        let input = wire::required(item, "input")?;
        match self.hash {
            None => Ok((Bytes::copy_from_slice(input.expose()), MessageType::Raw)),
            Some(hash) if self.prehashed && input.len() != hash.output_len() => {
                Err(VaultError::field("input", format!("a hash of {} bytes is expected", hash.output_len())))
            }
            Some(_) if self.prehashed => Ok((Bytes::copy_from_slice(input.expose()), MessageType::Digest)),
            Some(hash) => {
                let digest = digest::digest(hash, input.expose());
                Ok((Bytes::copy_from_slice(digest.as_ref()), MessageType::Digest))
            }
        }
    }

    fn text(&self, kind: Type, version: u32, signature: &[u8]) -> Result<String, VaultError> {
        match (self.form, kind) {
            (Form::Asn1, _) => Ok(wire::tagged(version, signature)),
            (Form::Jws, Type::EcdsaP256) => {
                let fixed = der::to_fixed(signature);
                let fixed = fixed.ok_or_else(|| VaultError::Internal("a signature is DER".into()))?;
                Ok(wire::tagged_url_safe(version, &fixed))
            }
            (Form::Jws, _) => Ok(wire::tagged_url_safe(version, signature)),
        }
    }
}

/// What a type signs with; each hash, and each padding, that it does not offer is refused by name.
fn scheme(kind: Type, hash: &str, padding: &str) -> Result<(SigningAlgorithm, Option<&'static Algorithm>), VaultError> {
    use SigningAlgorithm as Alg;
    let refused = |what: &str, name: &str| {
        let why = format!("unsupported {what} \"{}\" for keys of type {}", wire::shown(name), kind.name());
        VaultError::Invalid(why.into())
    };
    let (sha256, sha384, sha512) = (&digest::SHA256, &digest::SHA384, &digest::SHA512);
    match (kind, hash, padding) {
        (Type::Ed25519, ..) => Ok((Alg::Ed25519Sha512, None)),
        (Type::EcdsaP256, "sha2-256", _) => Ok((Alg::EcdsaSha256, Some(sha256))),
        (Type::EcdsaP256, hash, _) => Err(refused("hash algorithm", hash)),
        (Type::Rsa2048 | Type::Rsa3072 | Type::Rsa4096, hash, padding) => match (padding, hash) {
            ("pss", "sha2-256") => Ok((Alg::RsassaPssSha256, Some(sha256))),
            ("pss", "sha2-384") => Ok((Alg::RsassaPssSha384, Some(sha384))),
            ("pss", "sha2-512") => Ok((Alg::RsassaPssSha512, Some(sha512))),
            ("pkcs1v15", "sha2-256") => Ok((Alg::RsassaPkcs1V15Sha256, Some(sha256))),
            ("pkcs1v15", "sha2-384") => Ok((Alg::RsassaPkcs1V15Sha384, Some(sha384))),
            ("pkcs1v15", "sha2-512") => Ok((Alg::RsassaPkcs1V15Sha512, Some(sha512))),
            ("pss" | "pkcs1v15", hash) => Err(refused("hash algorithm", hash)),
            (padding, _) => Err(refused("signature algorithm", padding)),
        },
        (Type::Aes256 | Type::Hmac, ..) => Err(refused("signature algorithm", padding)),
    }
}
