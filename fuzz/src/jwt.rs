//! Tokens of others: header, payload and keys as an attacker, or an issuer, may write them.

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use envelope::Timestamp;
use std::time::Duration;
use vault::auth::jose::{Algorithm, Algorithms, Claims, Glob, KeySet, PLAIN_KINDS, Rules, verify};

const NOW_SECS: u64 = 1_800_000_000;
const LEEWAY: Duration = Duration::from_secs(60);

/// The input up to its first line's end is a header or a pattern, the rest a payload or a text; the whole, keys or a token.
pub fn jwt(data: &[u8]) {
    let key = Ed25519KeyPair::from_seed_unchecked(&[7; 32]).unwrap_or_else(|_| unreachable!("32 bytes are a seed"));
    let id = base64url(key.public_key().as_ref());
    let text = format!(r#"{{"keys": [{{"kty": "OKP", "crv": "Ed25519", "kid": "k", "x": "{id}"}}]}}"#);
    let keys = KeySet::from_jwks(text.as_bytes()).unwrap_or_else(|error| unreachable!("{error}"));
    let algorithms = Algorithms::of(&Algorithm::ALL);
    let now = Timestamp::from_unix_millis(NOW_SECS * 1000);
    let rules = Rules { algorithms: &algorithms, now, leeway_after: LEEWAY, leeway_before: LEEWAY, kinds: PLAIN_KINDS };
    let (first, rest) = data.split_at(data.iter().position(|byte| *byte == b'\n').unwrap_or(data.len()));
    let rest = rest.strip_prefix(b"\n").unwrap_or(rest);
    if let Ok(text) = std::str::from_utf8(data) {
        assert!(verify(text, &keys, &rules).is_err(), "nobody signed this");
        let _ = vault::auth::jose::key_id(text);
        let _ = KeySet::from_pem([text]);
    }
    if let Ok(found) = KeySet::from_jwks(data) {
        assert!(found.has(None));
    }
    let message = format!("{}.{}", base64url(first), base64url(rest));
    let token = format!("{message}.{}", base64url(key.sign(message.as_bytes()).as_ref()));
    if let Ok(verified) = verify(&token, &keys, &rules) {
        signed(first, rest, &verified.claims);
        assert!(now < verified.expires.plus(LEEWAY));
        assert_eq!(verified.algorithm, Algorithm::EdDsa);
    }
    if let (Ok(pattern), Ok(text)) = (std::str::from_utf8(first), std::str::from_utf8(rest))
        && pattern.len() <= 16
        && text.len() <= 24
    {
        assert_eq!(Glob::new(pattern).matches(text), slowly(pattern.as_bytes(), text.as_bytes()), "{pattern} {text}");
    }
}

/// What verified is what it says, read by another reader.
fn signed(header: &[u8], payload: &[u8], claims: &Claims) {
    let read = |bytes: &[u8]| -> serde_json::Value { serde_json::from_slice(bytes).unwrap_or_default() };
    let (header, payload) = (read(header), read(payload));
    assert_eq!(header["alg"], "EdDSA");
    for name in ["jwk", "jku", "x5u", "x5c", "crit"] {
        assert!(header.get(name).is_none(), "{name}");
    }
    assert!(header.get("kid").is_none_or(|id| id == "k"));
    let secs = |name: &str| payload.get(name).map(|value| value.as_f64().unwrap_or(f64::NAN));
    let now = NOW_SECS as f64;
    assert!(secs("exp").is_some_and(|end| now < end + 61.0), "{payload}");
    assert!(secs("nbf").is_none_or(|begin| begin <= now + 61.0), "{payload}");
    assert!(secs("iat").is_none_or(|issued| issued <= now + 61.0), "{payload}");
    for audience in claims.audiences() {
        assert!(
            payload["aud"] == audience
                || payload["aud"].as_array().is_some_and(|all| all.iter().any(|one| one == audience))
        );
    }
    assert_eq!(claims.subject(), payload["sub"].as_str().filter(|subject| !subject.is_empty()));
}

/// The obvious way, which takes its time.
fn slowly(pattern: &[u8], text: &[u8]) -> bool {
    match pattern {
        [] => text.is_empty(),
        [b'*', b'*', rest @ ..] => (0..=text.len()).any(|at| slowly(rest, &text[at..])),
        [b'*', rest @ ..] => {
            let end = text.iter().position(|byte| matches!(byte, b':' | b'/')).unwrap_or(text.len());
            (0..=end).any(|at| slowly(rest, &text[at..]))
        }
        [byte, rest @ ..] => text.first() == Some(byte) && slowly(rest, &text[1..]),
    }
}

/// RFC 4648 §5, without padding.
fn base64url(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut out = String::new();
    for part in bytes.chunks(3) {
        let word = part.iter().fold(0u32, |word, byte| word << 8 | u32::from(*byte)) << (8 * (3 - part.len()));
        for at in 0..=part.len() {
            out.push(char::from(LETTERS[(word >> (18 - 6 * at) & 63) as usize]));
        }
    }
    out
}
