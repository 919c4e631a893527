//! A token of an issuer that is none of ours, and what it costs to verify its signature and nothing more.

use anyhow::{Result, anyhow};
use aws_lc_rs::encoding::{AsDer as _, PublicKeyX509Der};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _, ParsedPublicKey,
};
use base64::Engine as _;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use serde_json::json;
use std::time::{Duration, Instant};

/// ES256.
#[derive(Debug)]
pub(crate) struct Signed {
    pub(crate) token: String,
    /// The key, in PEM.
    pub(crate) key: String,
}

pub(crate) fn signed() -> Result<Signed> {
    let key = generated()?;
    let claims = json!({"iss": "bench", "sub": "repo:acme/web:ref:refs/heads/main", "aud": "vault", "exp": EXP});
    let message = message(&claims);
    let signature = key.sign(&SystemRandom::new(), message.as_bytes()).map_err(|_| anyhow!("nothing was signed"))?;
    let der: PublicKeyX509Der<'_> = key.public_key().as_der().map_err(|_| anyhow!("a key has no DER"))?;
    let text = BASE64_STANDARD.encode(der.as_ref());
    Ok(Signed {
        token: format!("{message}.{}", BASE64_URL_SAFE_NO_PAD.encode(signature)),
        key: format!("-----BEGIN PUBLIC KEY-----\n{text}\n-----END PUBLIC KEY-----\n"),
    })
}

/// Microseconds that one bare verification takes, the least of several tries: it is alone on its core.
pub(crate) fn verification_us() -> Result<f64> {
    let key = generated()?;
    let message = message(&json!({"iss": "bench", "sub": "repo:acme/web:ref:refs/heads/main", "aud": "vault"}));
    let signature = key.sign(&SystemRandom::new(), message.as_bytes()).map_err(|_| anyhow!("nothing was signed"))?;
    let parsed = ParsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, key.public_key().as_ref())?;
    let mut least = f64::MAX;
    for _ in 0..TRIES {
        let (began, mut count) = (Instant::now(), 0u32);
        while began.elapsed() < A_TRY {
            parsed.verify_sig(message.as_bytes(), signature.as_ref()).map_err(|_| anyhow!("it does not verify"))?;
            count += 1;
        }
        least = least.min(began.elapsed().as_secs_f64() * 1e6 / f64::from(count));
    }
    Ok(least)
}

fn generated() -> Result<EcdsaKeyPair> {
    EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).map_err(|_| anyhow!("no key was made"))
}

fn message(claims: &serde_json::Value) -> String {
    let header = json!({"alg": "ES256", "typ": "JWT"});
    let encode = |value: &serde_json::Value| BASE64_URL_SAFE_NO_PAD.encode(value.to_string());
    format!("{}.{}", encode(&header), encode(claims))
}

/// In the year 2100: how long a login lasts is the role's to say here.
const EXP: u64 = 4_102_444_800;
const TRIES: usize = 5;
const A_TRY: Duration = Duration::from_millis(100);
