//! `config`: what is always so here, and told.

use crate::error::VaultError;
use crate::reply::Reply;
use crate::scope::Scope;
use serde::Serialize;

#[derive(Serialize)]
struct Shown {
    disable_binding: bool,
    enable_identity_alias_metadata: bool,
    enable_metadata_on_failures: bool,
    ocsp_cache_size: u32,
    role_cache_size: i32,
}

pub(super) fn show() -> Result<Reply, VaultError> {
    Reply::data(&Shown {
        disable_binding: false,
        enable_identity_alias_metadata: false,
        enable_metadata_on_failures: false,
        ocsp_cache_size: 0,
        role_cache_size: -1,
    })
}

pub(super) fn write(scope: &Scope<'_>) -> Result<Reply, VaultError> {
    let body = &scope.call.body;
    for (field, why) in [
        ("disable_binding", "a token counts only beside its certificate"),
        ("enable_identity_alias_metadata", "not supported"),
        ("enable_metadata_on_failures", "callers are not told why they were refused; the record is"),
    ] {
        if body.bool(field)?.unwrap_or(false) {
            return Err(VaultError::field(field, why));
        }
    }
    Ok(Reply::empty())
}
