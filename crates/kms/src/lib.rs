//! The key domain: keys, what may be done with them, and by whom.
//!
//! Always: an act is in the audit log before its result is told; a change is committed together with its record.
//! Always: an unknown key and a forbidden one look the same to who may see neither.
//! Never: a key in the clear here; a plaintext in a record, a log line or an error; a decision outside `policy::decide`.
#![forbid(unsafe_code)]

pub mod boot;
pub mod error;
pub mod grant;
pub mod key;
pub mod log_anchor;
pub mod log_key;
pub mod name;
pub mod op;
pub mod policy;

mod act;
mod key_use;
mod service;
mod store;
mod sweep;
mod through;

pub use error::{Face, KmsError};
pub use grant::{Grant, GrantConstraints, GrantOperation, Operations};
pub use hsm_api::{KeyId, KeySpec, KeyUsage, Origin, ProtectionLevel, SigningAlgorithm};
pub use key::{DeletionFinality, KEY_VERSIONS_MAX, KeyRecord, KeyState};
pub use name::{AliasName, ClientRequestId, Description, GrantId, GrantName, KeyRef, MalformedName, PrincipalName};
pub use op::alias::{AliasEntry, CreateAlias, DeleteAlias, ListAliases, UpdateAlias};
pub use op::create_key::CreateKey;
pub use op::decrypt::{Decrypt, Decrypted};
pub use op::deletion::{DeletionCancelled, DeletionScheduled, ScheduleKeyDeletion};
pub use op::describe_key::{KeyMetadata, KeyVersionMetadata};
pub use op::encrypt::{Encrypt, Encrypted};
pub use op::generate_data_key::{
    DataKeyBytes, DataKeyWithoutPlaintext, GenerateDataKey, GenerateDataKeyWithoutPlaintext, GeneratedDataKey,
};
pub use op::grant::{CreateGrant, GrantRef, ListGrants};
pub use op::mac::{GenerateMac, GeneratedMac, MacAlgorithm, MacVerified, VerifyMac};
pub use op::re_encrypt::{ReEncrypt, ReEncrypted};
pub use op::rotate::{KeyRotated, RenewedPage};
pub use op::sign::{MessageType, PublicKey, Sign, Signed, Verified, Verify};
pub use op::version::AtVersion;
pub use op::{Page, PageRequest};
pub use service::{Kms, Seams};
pub use store::{CacheSizes, Caches};
pub use through::Through;

/// Most items in a batch.
pub const BATCH_ITEMS_MAX: usize = hsm_api::message::BATCH_ITEMS_MAX;
/// Longest plaintext of Encrypt, and longest message of Sign, Verify and the MACs, bytes.
pub const PLAINTEXT_BYTES_MAX: usize = 4096;
/// Longest ciphertext blob, signature or code, bytes.
pub const BLOB_BYTES_MAX: usize = 6144;
/// Most bytes of GenerateRandom.
pub const RANDOM_BYTES_MAX: u32 = 1024;
