//! `sys/tools/*`: random bytes, and hashes of what is sent.
//!
//! # Divergences
//!
//! - `source` `seal` asks the boundary's generator, which takes `update` on `kms/random` too; `all` is both, added.
//! - SHA-3 is refused by name.

use crate::call::Verb;
use crate::error::VaultError;
use crate::reply::Reply;
use crate::scope::Scope;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use envelope::SecretBytes;
use serde::Serialize;
use sha2::{Digest, Sha224, Sha256, Sha384, Sha512};
use zeroize::Zeroizing;

pub(super) async fn handle(scope: &Scope<'_>, segments: &[&str]) -> Result<Reply, VaultError> {
    match (segments, scope.call.verb) {
        (["tools", "random", rest @ ..], Verb::Write | Verb::Read) if rest.len() <= 2 => random(scope, rest).await,
        (["tools", "hash", rest @ ..], Verb::Write) if rest.len() <= 1 => hash(scope, rest.first().copied()),
        (["tools", "random" | "hash", ..], _) => Err(VaultError::Unsupported),
        _ => Err(scope.no_route()),
    }
}

/// How bytes are told.
#[derive(Clone, Copy)]
enum Format {
    Base64,
    Hex,
}

impl Format {
    fn of(scope: &Scope<'_>, default: Self) -> Result<Self, VaultError> {
        match scope.call.body.string("format")?.as_ref().map(|format| format.as_str()) {
            None | Some("") => Ok(default),
            Some("base64") => Ok(Self::Base64),
            Some("hex") => Ok(Self::Hex),
            Some(_) => Err(VaultError::field("format", "neither base64 nor hex")),
        }
    }

    fn show(self, bytes: &[u8]) -> Zeroizing<String> {
        Zeroizing::new(match self {
            Self::Base64 => STANDARD.encode(bytes),
            Self::Hex => hex::encode(bytes),
        })
    }
}

async fn random(scope: &Scope<'_>, path: &[&str]) -> Result<Reply, VaultError> {
    #[derive(Serialize)]
    struct Random<'a> {
        random_bytes: &'a str,
    }
    let (source, bytes) = match path {
        [] => (None, None),
        [one] if one.bytes().all(|byte| byte.is_ascii_digit()) => (None, Some(*one)),
        [one] => (Some(*one), None),
        [source, bytes, ..] => (Some(*source), Some(*bytes)),
    };
    let wrong = || VaultError::field("bytes", format!("not a whole number from 1 to {RANDOM_BYTES_MAX}"));
    let bytes = match bytes {
        Some(text) => Some(text.parse().map_err(|_| wrong())?),
        None => scope.call.body.count("bytes", RANDOM_BYTES_MAX).map_err(|_| wrong())?,
    };
    let bytes = bytes.unwrap_or(RANDOM_BYTES);
    if !(1..=RANDOM_BYTES_MAX).contains(&bytes) {
        return Err(wrong());
    }
    let named = scope.call.body.string("source")?;
    let source = source.or(named.as_ref().map(|source| source.as_str())).unwrap_or_default();
    let format = Format::of(scope, Format::Base64)?;
    let found = match source {
        "" | "platform" => platform(scope, bytes)?,
        "seal" => seal(scope, bytes).await?,
        "all" => {
            let mut both = platform(scope, bytes)?;
            let of_seal = seal(scope, bytes).await?;
            both.expose_mut().iter_mut().zip(of_seal.expose()).for_each(|(one, other)| *one ^= other);
            both
        }
        _ => return Err(VaultError::field("source", "none of platform, seal and all")),
    };
    Reply::data(&Random { random_bytes: &format.show(found.expose()) })
}

fn platform(scope: &Scope<'_>, bytes: u32) -> Result<SecretBytes, VaultError> {
    let mut out = SecretBytes::init_with(bytes as usize, |_| ());
    for part in out.expose_mut().chunks_mut(CHUNK) {
        let random = Zeroizing::new(scope.vault.barrier().random::<CHUNK>()?);
        part.iter_mut().zip(random.iter()).for_each(|(byte, random)| *byte = *random);
    }
    Ok(out)
}

/// It authorises and records itself.
async fn seal(scope: &Scope<'_>, bytes: u32) -> Result<SecretBytes, VaultError> {
    let outcome = scope.vault.kms().generate_random(scope.by()?, &scope.call.info, bytes).await;
    scope.was_recorded();
    Ok(outcome?)
}

fn hash(scope: &Scope<'_>, algorithm: Option<&str>) -> Result<Reply, VaultError> {
    #[derive(Serialize)]
    struct Sum<'a> {
        sum: &'a str,
    }
    let named = scope.call.body.string("algorithm")?;
    let algorithm = algorithm.or(named.as_ref().map(|name| name.as_str())).unwrap_or_default();
    let format = Format::of(scope, Format::Hex)?;
    let input = scope.call.body.string("input")?.ok_or_else(|| VaultError::field("input", "missing"))?;
    let input = STANDARD.decode(input.as_bytes()).map(Zeroizing::new);
    let input = input.map_err(|_| VaultError::field("input", "no base64"))?;
    let sum = match algorithm {
        "sha2-224" => Sha224::digest(&*input).to_vec(),
        "" | "sha2-256" => Sha256::digest(&*input).to_vec(),
        "sha2-384" => Sha384::digest(&*input).to_vec(),
        "sha2-512" => Sha512::digest(&*input).to_vec(),
        "sha3-224" | "sha3-256" | "sha3-384" | "sha3-512" => {
            return Err(VaultError::field("algorithm", "SHA-3 is not supported here"));
        }
        _ => return Err(VaultError::field("algorithm", "none of sha2-224, sha2-256, sha2-384, sha2-512")),
    };
    Reply::data(&Sum { sum: &format.show(&sum) })
}

const RANDOM_BYTES: u32 = 32;
const RANDOM_BYTES_MAX: u32 = kms::RANDOM_BYTES_MAX;
const CHUNK: usize = 32;
