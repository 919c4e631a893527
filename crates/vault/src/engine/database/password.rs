//! Passwords: of letters and digits, or of a password policy.

use crate::error::VaultError;
use crate::scope::Scope;
use storage::Barrier;
use zeroize::Zeroizing;

/// By the policy of this name; without one, 32 letters and digits: 190 bits, which no statement and no preparation changes.
pub(super) async fn make(scope: &Scope<'_>, policy: &str) -> Result<Zeroizing<String>, VaultError> {
    if policy.is_empty() {
        return random(scope.vault.barrier(), LENGTH);
    }
    match crate::sys::passwords::by_policy(scope.vault, policy).await {
        Err(VaultError::NotFound) => Err(VaultError::field("password_policy", "there is no such policy")),
        outcome => outcome,
    }
}

/// So many letters and digits.
pub(super) fn random(barrier: &Barrier, count: usize) -> Result<Zeroizing<String>, VaultError> {
    let mut text = Zeroizing::new(String::with_capacity(count));
    while text.len() < count {
        let bytes = Zeroizing::new(barrier.random::<64>()?);
        // the largest multiple of 62 that a byte holds: each as likely as any other
        let even = bytes.iter().filter(|byte| **byte < 248).take(count - text.len());
        text.extend(even.filter_map(|byte| ALPHABET.get(usize::from(*byte % 62))).map(|byte| char::from(*byte)));
    }
    Ok(text)
}

const ALPHABET: &[u8; 62] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
const LENGTH: usize = 32;
