//! `strongroom.kms.v1`: keys and what they do, in our own words.
//!
//! A request passes the gate (request id, deadline, who asks), is decoded into a command of `kms`, carried out there, and
//! the result encoded. `kms` authorises and records; here only what could not be decoded is recorded.
//!
//! **Secrets.** A plaintext is copied out of the decoded request into memory that wipes itself, and what it was decoded from
//! is wiped at once (`codec::secret`). A reply's plaintext is wiped when the encoded copy has been made. Not wiped, because
//! they are not ours: the buffers that HTTP/2 and TLS read into and write from, tonic's buffer with the encoded reply, and
//! what tonic's decoding buffer left behind when it grew beyond 8 KiB. They live until they are reused, as does the
//! `authorization` header's text.
//!
//! **Unknown fields** are ignored, as protobuf demands of who reads (proto/README.md says what follows for us): they change
//! nothing, and tests show that. **Unknown enum values** are refused, INVALID_FIELD with the field's name.
//!
//! Always: one reason a kind of failure; the request's field by its name where it is at fault.
//! Never: a decision; a plaintext in a log line or an error.
//!
//! # Divergences
//!
//! From AWS KMS, whose names these are:
//! * `Verify` and `VerifyMac` answer `false` for a wrong signature or code, where AWS answers with an error.
//! * Replies name the key by its id, not by an ARN, and tell the version; requests take an id or `alias/NAME`.
//! * `GenerateDataKey` and `GenerateRandom` take no recipient (no Nitro attestation); there are no data key pairs yet.
//! * `Encrypt` and `Decrypt` take no algorithm: keys of usage ENCRYPT_DECRYPT are symmetric.
//! * `CreateKey` takes no policy, tags, region or key store; `client_request_id` makes it repeatable.
//! * Grants are in force when `CreateGrant` replies: no grant tokens.
//! * A disabled key is FAILED_PRECONDITION, as is every state that forbids; AWS has two exceptions for that.
//! * A ciphertext that was altered, that belongs to another context or that is none: INVALID_CIPHERTEXT all of them.
//! * Batch forms exist, and answer item by item.

pub(crate) mod auth;
pub(crate) mod codec;
mod crypto;
pub(crate) mod error;
mod keys;

use kms::Kms;
use tonic::{Response, Status};

/// Serves Keys and Crypto.
#[derive(Debug)]
pub(crate) struct Face {
    pub(crate) kms: Kms,
}

type Answer<R> = Result<Response<R>, Status>;
