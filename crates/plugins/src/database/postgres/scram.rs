//! What PostgreSQL stores of a password: a SCRAM-SHA-256 verifier (RFC 5803).

use aws_lc_rs::{digest, hmac, pbkdf2, rand};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use std::num::NonZeroU32;
use zeroize::Zeroizing;

/// With 4096 iterations; with as many as are asked for where the password looks as one that is made without a policy.
pub(super) fn verifier(password: &str, iterations: Option<u32>) -> Zeroizing<String> {
    let is_random = password.len() >= 32 && password.bytes().all(|byte| byte.is_ascii_alphanumeric());
    let (asked, mut salt) = (iterations.and_then(NonZeroU32::new).filter(|_| is_random), [0; 16]);
    match asked {
        Some(iterations) if rand::fill(&mut salt).is_ok() => salted(password, &salt, iterations),
        // by another generator, where there is nothing to choose or the first one fails
        Some(_) | None => Zeroizing::new(postgres_protocol::password::scram_sha_256(password.as_bytes())),
    }
}

/// RFC 5802 §3.
fn salted(password: &str, salt: &[u8; 16], iterations: NonZeroU32) -> Zeroizing<String> {
    let mut key = Zeroizing::new([0; digest::SHA256_OUTPUT_LEN]);
    pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, iterations, salt, password.as_bytes(), &mut *key);
    let key = hmac::Key::new(hmac::HMAC_SHA256, &*key);
    // the library's tag cannot be wiped: what stays of it on the stack would log this user in
    let stored = digest::digest(&digest::SHA256, hmac::sign(&key, b"Client Key").as_ref());
    let server = hmac::sign(&key, b"Server Key");
    let mut text = Zeroizing::new(String::with_capacity(VERIFIER_BYTES_MAX));
    text.push_str("SCRAM-SHA-256$");
    text.push_str(&iterations.to_string());
    for (mark, part) in [(':', salt.as_slice()), ('$', stored.as_ref()), (':', server.as_ref())] {
        text.push(mark);
        STANDARD.encode_string(part, &mut text);
    }
    text
}

/// Of a salt of 16 bytes.
const VERIFIER_BYTES_MAX: usize = 160;

#[cfg(test)]
mod tests {
    use super::*;

    /// As the library makes it that clients log in by: the same salt, the same verifier.
    #[test]
    fn a_verifier_is_as_postgresql_makes_it() {
        let theirs = postgres_protocol::password::scram_sha_256(PASSWORD.as_bytes());
        let salt = theirs.split([':', '$']).nth(2).map(|salt| STANDARD.decode(salt).unwrap()).unwrap();
        let ours = salted(PASSWORD, &salt.try_into().unwrap(), NonZeroU32::new(4096).unwrap());
        assert_eq!(*ours, theirs);
    }

    #[test]
    fn as_many_iterations_as_are_asked_for_where_nobody_guesses_the_password() {
        for (password, asked, told) in [
            (PASSWORD, None, "SCRAM-SHA-256$4096:"),
            (PASSWORD, Some(0), "SCRAM-SHA-256$4096:"),
            (PASSWORD, Some(1), "SCRAM-SHA-256$1:"),
            (PASSWORD, Some(100), "SCRAM-SHA-256$100:"),
            ("12345678", Some(1), "SCRAM-SHA-256$4096:"),
            ("A1b2C3d4E5f6G7h8A1b2C3d4E5f6G7\u{e4}", Some(1), "SCRAM-SHA-256$4096:"),
        ] {
            let made = verifier(password, asked);
            assert!(made.starts_with(told), "{asked:?}");
            assert_ne!(*made, *verifier(password, asked), "another salt each time");
        }
    }

    const PASSWORD: &str = "A1b2C3d4E5f6G7h8A1b2C3d4E5f6G7h8";
}
