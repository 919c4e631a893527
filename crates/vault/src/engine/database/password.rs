//! Passwords: of letters and digits, or of a password policy.

use crate::error::VaultError;
use crate::service::Vault;
use crate::sys::passwords;
use zeroize::Zeroizing;

/// By the policy of this name; without one, 32 letters and digits: 190 bits, which no statement and no preparation changes.
pub(super) async fn make(vault: &Vault, policy: &str) -> Result<Zeroizing<String>, VaultError> {
    if policy.is_empty() {
        return passwords::letters_and_digits(vault.barrier(), LENGTH);
    }
    match passwords::by_policy(vault, policy).await {
        Err(VaultError::NotFound) => Err(VaultError::field("password_policy", "there is no such policy")),
        outcome => outcome,
    }
}

const LENGTH: usize = 32;
