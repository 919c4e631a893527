//! What takes no key: hashes and random bytes.

use super::key::through;
use super::wire;
use crate::error::VaultError;
use crate::reply::Reply;
use crate::scope::Scope;
use aws_lc_rs::digest::{self, Algorithm};
use serde::Serialize;
use zeroize::Zeroizing;

#[derive(Serialize)]
struct Sum {
    #[serde(serialize_with = "wire::expose")]
    sum: Zeroizing<String>,
}

#[derive(Serialize)]
struct Random {
    #[serde(serialize_with = "wire::expose")]
    random_bytes: Zeroizing<String>,
}

pub(super) fn hash(scope: &Scope<'_>, named: Option<&&str>) -> Result<Reply, VaultError> {
    let body = &scope.call.body;
    let asked = body.string("algorithm")?;
    let name = named.copied().or(asked.as_ref().map(|text| text.as_str())).unwrap_or(SHA2_256);
    let algorithm: &'static Algorithm = match name {
        "sha2-224" => &digest::SHA224,
        SHA2_256 | "" => &digest::SHA256,
        "sha2-384" => &digest::SHA384,
        "sha2-512" => &digest::SHA512,
        "sha3-256" => &digest::SHA3_256,
        "sha3-384" => &digest::SHA3_384,
        "sha3-512" => &digest::SHA3_512,
        other => {
            return Err(VaultError::field(
                "algorithm",
                format!("unsupported hash algorithm \"{}\"", wire::shown(other)),
            ));
        }
    };
    let input = wire::required(body, "input")?;
    let sum = digest::digest(algorithm, input.expose());
    Reply::data(&Sum { sum: encoded(scope, sum.as_ref(), HEX)? })
}

/// `random`, `random/BYTES`, `random/SOURCE`, `random/SOURCE/BYTES`; whatever the source, the boundary makes them.
pub(super) async fn random(scope: &Scope<'_>, how: &[&str]) -> Result<Reply, VaultError> {
    let body = &scope.call.body;
    let (source, count) = match *how {
        [] => (None, None),
        [one] if one.starts_with(|c: char| c.is_ascii_digit()) => (None, Some(one)),
        [one] => (Some(one), None),
        [source, count, ..] => (Some(source), Some(count)),
    };
    if !matches!(source, None | Some("platform" | "seal" | "all")) {
        return Err(VaultError::field("source", "platform, seal or all"));
    }
    let too_many = || VaultError::field("bytes", format!("1 to {} bytes", kms::RANDOM_BYTES_MAX));
    let count = match count {
        Some(text) => text.parse().map_err(|_| too_many())?,
        None => body.count("bytes", u32::MAX)?.unwrap_or(32),
    };
    if !(1..=kms::RANDOM_BYTES_MAX).contains(&count) {
        return Err(too_many());
    }
    let random = through(scope)?.generate_random(count).await;
    scope.was_recorded();
    let random = random.map_err(wire::told)?;
    Reply::data(&Random { random_bytes: encoded(scope, random.expose(), BASE64)? })
}

fn encoded(scope: &Scope<'_>, bytes: &[u8], usual: &str) -> Result<Zeroizing<String>, VaultError> {
    let asked = scope.call.body.string("format")?;
    match asked.as_ref().map(|text| text.as_str()).filter(|text| !text.is_empty()).unwrap_or(usual) {
        HEX => Ok(Zeroizing::new(hex::encode(bytes))),
        BASE64 => Ok(wire::base64(bytes)),
        _ => Err(VaultError::field("format", "base64 or hex")),
    }
}

const SHA2_256: &str = "sha2-256";
const HEX: &str = "hex";
const BASE64: &str = "base64";
