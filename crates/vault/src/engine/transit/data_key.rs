//! Data keys: made and sealed inside the boundary.

use super::cipher::Ciphertext;
use super::key::Named;
use super::wire;
use crate::error::VaultError;
use crate::reply::Reply;
use crate::scope::Scope;
use kms::{DataKeyBytes, GenerateDataKey, GenerateDataKeyWithoutPlaintext, KeyRef};
use serde::Serialize;
use zeroize::Zeroizing;

#[derive(Serialize)]
struct DataKey {
    #[serde(flatten)]
    sealed: Ciphertext,
    #[serde(serialize_with = "wire::expose")]
    plaintext: Zeroizing<String>,
}

pub(super) async fn generate(scope: &Scope<'_>, shown: &str, name: &str) -> Result<Reply, VaultError> {
    let shown = match shown {
        "plaintext" => true,
        "wrapped" => false,
        _ => return Err(VaultError::Invalid("invalid path: a data key is `plaintext` or `wrapped`".into())),
    };
    let body = &scope.call.body;
    let length = match body.count("bits", 512)? {
        Some(128) => DataKeyBytes::AES_128,
        None | Some(256) => DataKeyBytes::AES_256,
        Some(512) => DataKeyBytes::parse(64)?,
        Some(_) => return Err(VaultError::field("bits", "128, 256 or 512")),
    };
    let named = Named::of(scope, name, "encryption key not found").await?;
    named.must(named.entry.kind.encrypts(), "encryption")?;
    let (kms, id, key) = (named.kms()?, named.id, KeyRef::Id(named.id));
    let context = named.entry.context(body, false)?;
    if !shown {
        let made =
            kms.generate_data_key_without_plaintext(id, GenerateDataKeyWithoutPlaintext { key, length, context });
        let made = made.await;
        scope.was_recorded();
        let made = made.map_err(wire::told)?;
        let ciphertext = wire::tagged(made.key_version, &made.ciphertext_blob);
        return Reply::data(&Ciphertext { ciphertext, key_version: made.key_version });
    }
    let made = kms.generate_data_key(id, GenerateDataKey { key, length, context }).await;
    scope.was_recorded();
    let made = made.map_err(wire::told)?;
    let ciphertext = wire::tagged(made.key_version, &made.ciphertext_blob);
    Reply::data(&DataKey {
        sealed: Ciphertext { ciphertext, key_version: made.key_version },
        plaintext: wire::base64(made.plaintext.expose()),
    })
}
