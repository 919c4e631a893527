//! Encrypt, decrypt, rewrap.

use super::batch::{Items, Outcomes, Refused, each};
use super::key::{self, Named};
use super::{admin, config, large, wire};
use crate::body::Body;
use crate::error::VaultError;
use crate::reply::Reply;
use crate::scope::Scope;
use envelope::EncryptionContext;
use kms::{AtVersion, Decrypt, Decrypted, Encrypt, Encrypted, KeyRef, KmsError, ReEncrypt};
use serde::Serialize;
use zeroize::Zeroizing;

#[derive(Serialize)]
pub(super) struct Ciphertext {
    pub(super) ciphertext: String,
    pub(super) key_version: u32,
}

#[derive(Serialize)]
struct Plaintext {
    #[serde(serialize_with = "wire::expose")]
    plaintext: Zeroizing<String>,
}

/// A ciphertext that may be opened: it is this key's, and says of which version.
struct Sealed {
    command: Decrypt,
    body: Vec<u8>,
    context: EncryptionContext,
}

pub(super) async fn encrypt(scope: &Scope<'_>, name: &str) -> Result<Reply, VaultError> {
    let items = Items::of(scope)?;
    let named = named_or_new(scope, name, &items).await?;
    named.must(named.entry.kind.encrypts(), "encryption")?;
    let asks = items.bodies(scope).into_iter().map(|body| to_encrypt(&named, body));
    let outcomes = match items {
        Items::One => {
            let mut outcomes = Vec::new();
            for ask in asks {
                let (command, body) = ask.map_err(|refused| refused.told)?;
                let made = named.kms()?.encrypt(named.id, command).await;
                scope.was_recorded();
                outcomes.push(made.map_err(wire::told).and_then(|made| ciphertext(&made, &body)));
            }
            outcomes
        }
        Items::Many(_) => {
            let (commands, bodies) = parted(asks);
            let made = named.kms()?.batch_encrypt(named.id, commands).await;
            scope.was_recorded();
            joined(made.map_err(wire::told)?, bodies, |made, body| ciphertext(&made, &body))
        }
    };
    items.answer(scope, outcomes, true).await
}

pub(super) async fn decrypt(scope: &Scope<'_>, name: &str) -> Result<Reply, VaultError> {
    let items = Items::of(scope)?;
    let named = Named::of(scope, name, NO_KEY).await?;
    named.must(named.entry.kind.encrypts(), "decryption")?;
    let asks = items.bodies(scope).into_iter().map(|body| {
        let Sealed { command, body, context } = to_open(&named, body)?;
        Ok((command, (body, context)))
    });
    let opened = |decrypted: Decrypted, (body, context): (Vec<u8>, EncryptionContext)| {
        plaintext(&named, decrypted, &body, &context)
    };
    let outcomes = match items {
        Items::One => {
            let mut outcomes = Vec::new();
            for ask in asks {
                let (command, rest) = ask.map_err(|refused: Refused| refused.told)?;
                let decrypted = named.kms()?.decrypt(named.id, command).await;
                scope.was_recorded();
                outcomes.push(decrypted.map_err(wire::told).and_then(|decrypted| opened(decrypted, rest)));
            }
            outcomes
        }
        Items::Many(_) => {
            let (commands, rest) = parted(asks);
            let decrypted = named.kms()?.batch_decrypt(named.id, commands).await;
            scope.was_recorded();
            joined(decrypted.map_err(wire::told)?, rest, opened)
        }
    };
    items.answer(scope, outcomes, true).await
}

/// To the newest version; the plaintext stays inside the boundary.
pub(super) async fn rewrap(scope: &Scope<'_>, name: &str) -> Result<Reply, VaultError> {
    let items = Items::of(scope)?;
    let named = Named::of(scope, name, NO_KEY).await?;
    named.must(named.entry.kind.encrypts(), "encryption")?;
    let kms = named.kms()?;
    let asks = items.bodies(scope).into_iter().map(|body| {
        if named.entry.asked_version(body)?.is_some() {
            let why = "a ciphertext is re-wrapped under the newest version only";
            return Err(VaultError::field("key_version", why).into());
        }
        to_open(&named, body)
    });
    let (outcomes, recorded) = each(asks.collect(), async |sealed: Sealed| {
        let Sealed { command: Decrypt { ciphertext_blob, context, key }, body, .. } = sealed;
        let (source_context, destination_context) = (context.clone(), context);
        let destination_key = KeyRef::Id(named.id);
        let command =
            ReEncrypt { ciphertext_blob, source_context, source_key: key, destination_key, destination_context };
        let made = kms.re_encrypt(named.id, command).await.map_err(wire::told)?;
        text(made.key_version, &made.ciphertext_blob, &body)
    })
    .await;
    items.answer(scope, outcomes, recorded).await
}

/// Whoever may create the name makes a key by using it.
async fn named_or_new<'s>(scope: &'s Scope<'s>, name: &str, items: &Items) -> Result<Named<'s>, VaultError> {
    match key::find(&scope.view()?, name).await? {
        Some(entry) => Named::with(scope, entry),
        None => {
            let kind = config::check_new(&scope.call.body)?;
            if !kind.encrypts() {
                let why = format!("encryption is not supported by keys of type {}", kind.name());
                return Err(VaultError::field("type", why));
            }
            let derived = items.bodies(scope).into_iter().any(|body| body.has("context"));
            Named::with(scope, admin::make(scope, name, derived).await?)
        }
    }
}

/// Item by item, as the key domain takes and gives them.
type ForKms<T> = Vec<Result<T, KmsError>>;

type ToEncrypt = (AtVersion<Encrypt>, Vec<u8>);

fn to_encrypt(named: &Named<'_>, item: &Body) -> Result<ToEncrypt, Refused> {
    if item.string("nonce")?.is_some_and(|nonce| !nonce.is_empty()) {
        return Err(VaultError::field("nonce", "convergent encryption is not supported").into());
    }
    let version = named.entry.asked_version(item)?;
    let plaintext = wire::required(item, "plaintext")?;
    let is_large = large::is_large(&plaintext);
    let context = named.entry.context(item, is_large)?;
    let (plaintext, body) = if is_large {
        let sealed = large::seal(named.scope.vault, named.id, &context, &plaintext)?;
        (sealed.data_key, sealed.body)
    } else {
        (plaintext, Vec::new())
    };
    Ok((AtVersion { command: Encrypt { key: KeyRef::Id(named.id), plaintext, context }, version }, body))
}

fn to_open(named: &Named<'_>, item: &Body) -> Result<Sealed, Refused> {
    let ciphertext = item.required("ciphertext")?;
    let malformed = || Refused { told: wire::rejected(), recorded: KmsError::InvalidCiphertext };
    let (version, rest) =
        wire::untag(&ciphertext).ok_or_else(|| VaultError::field("ciphertext", "not of the form vault:vN:…"))?;
    named.entry.check_old(version)?;
    let parts = wire::decode(rest).and_then(large::split).ok_or_else(malformed)?;
    let header = envelope::sealed::parse_blob(&parts.blob).map_err(|_| malformed())?.header;
    if header.key_id != *named.id.bytes() || header.key_version != version {
        return Err(malformed());
    }
    let context = named.entry.context(item, !parts.body.is_empty())?;
    let key = Some(KeyRef::Id(named.id));
    let command = Decrypt { ciphertext_blob: parts.blob.into(), context: context.clone(), key };
    Ok(Sealed { command, body: parts.body, context })
}

fn ciphertext(made: &Encrypted, body: &[u8]) -> Result<Ciphertext, VaultError> {
    text(made.key_version, &made.ciphertext_blob, body)
}

fn text(key_version: u32, blob: &[u8], body: &[u8]) -> Result<Ciphertext, VaultError> {
    let whole = large::join(blob, body).ok_or_else(|| VaultError::Internal("a blob fits its length".into()))?;
    Ok(Ciphertext { ciphertext: wire::tagged(key_version, &whole), key_version })
}

fn plaintext(
    named: &Named<'_>,
    decrypted: Decrypted,
    body: &[u8],
    context: &EncryptionContext,
) -> Result<Plaintext, VaultError> {
    let plaintext = match body {
        [] => decrypted.plaintext,
        body => large::open(named.id, context, &decrypted.plaintext, body)?,
    };
    Ok(Plaintext { plaintext: wire::base64(plaintext.expose()) })
}

/// What the key domain is asked for, and what is kept until it has answered.
fn parted<C, K>(asks: impl Iterator<Item = Result<(C, K), Refused>>) -> (ForKms<C>, Outcomes<K>) {
    let parts = asks.map(|ask| match ask {
        Ok((command, kept)) => (Ok(command), Ok(kept)),
        Err(Refused { told, recorded }) => (Err(recorded), Err(told)),
    });
    parts.unzip()
}

fn joined<M, K, T>(made: ForKms<M>, kept: Outcomes<K>, join: impl Fn(M, K) -> Result<T, VaultError>) -> Outcomes<T> {
    let both = made.into_iter().zip(kept);
    both.map(|(made, kept)| kept.and_then(|kept| join(made.map_err(wire::told)?, kept))).collect()
}

const NO_KEY: &str = "encryption key not found";
