//! JSON Web Tokens of others: their keys, and whether a token is what it says (RFC 7515, 7517, 7519; RFC 8725's advice).
//!
//! Always: which algorithms and which keys count is the configuration's to say; a key fits one algorithm, or one family that
//! the configuration narrows. A token without an end is refused, as is one whose JSON has a member twice.
//! Never: a key, or an address of one, out of the token itself (`jwk`, `jku`, `x5u`, `x5c`): a token that brings one is
//! refused. `kid` chooses among the keys that are known and does nothing else.
//!
//! For every method that is shown such tokens: [`verify`] is pure, [`KeySets`] fetches keys and keeps them.
//! Signatures are verified by aws-lc-rs, with keys that were parsed once; what stands around them is parsed here, because
//! JWT libraries read objects with a member twice.

mod algorithm;
mod claims;
mod issuer;
mod key;
mod verify;

pub use algorithm::{Algorithm, Algorithms};
pub use claims::{Claims, Glob};
pub(crate) use issuer::Provider;
pub use issuer::{Issuer, KeySets, Source, Trouble};
pub use key::{Key, KeySet, MalformedKey};
pub use verify::{CAUSES, PLAIN_KINDS, Refusal, Rules, TOKEN_BYTES_MAX, Verified, key_id, verify};

#[cfg(test)]
mod tests;
