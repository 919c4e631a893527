//! `strongroom kms`: keys, what they do, and whole files under them.

pub mod crypto;
pub mod file;
pub mod grants;
pub mod keys;

use super::connection::Connection;
use super::output::Answer;
use anyhow::Result;
use clap::{Args, Subcommand};

#[derive(Debug, Subcommand)]
pub enum Command {
    CreateKey(keys::CreateKey),
    /// Tell all that is public about a key
    DescribeKey(KeyArgument),
    ListKeys(keys::ListKeys),
    /// Make a disabled key usable
    EnableKey(KeyArgument),
    /// Make a key refuse every use until it is enabled
    DisableKey(KeyArgument),
    ScheduleKeyDeletion(keys::ScheduleKeyDeletion),
    /// Call a scheduled deletion back; the key is disabled then
    CancelKeyDeletion(KeyArgument),
    /// Give a symmetric key a new version; what older versions encrypted stays readable
    RotateKey(KeyArgument),
    CreateAlias(keys::AliasAndKey),
    /// Point an alias at another key of the same spec and usage
    UpdateAlias(keys::AliasAndKey),
    /// Drop an alias; its key stays
    DeleteAlias(keys::Alias),
    ListAliases(keys::ListAliases),
    GenerateDataKey(crypto::GenerateDataKey),
    GenerateDataKeyWithoutPlaintext(crypto::GenerateDataKeyWithoutPlaintext),
    Encrypt(crypto::Encrypt),
    Decrypt(crypto::Decrypt),
    ReEncrypt(crypto::ReEncrypt),
    Sign(crypto::Sign),
    Verify(crypto::Verify),
    GetPublicKey(crypto::GetPublicKey),
    GenerateMac(crypto::GenerateMac),
    VerifyMac(crypto::VerifyMac),
    GenerateRandom(crypto::GenerateRandom),
    CreateGrant(grants::CreateGrant),
    ListGrants(grants::ListGrants),
    /// End a grant, as who administers the key
    RevokeGrant(grants::GrantArgument),
    /// End a grant, as its retiring principal or its grantee
    RetireGrant(grants::GrantArgument),
    EncryptFile(file::EncryptFile),
    DecryptFile(file::DecryptFile),
}

/// Which key.
#[derive(Debug, Args)]
pub struct KeyArgument {
    /// Key id or alias/NAME
    #[arg(long, value_name = "KEY")]
    pub key_id: String,
}

/// The encryption context.
#[derive(Debug, Args)]
pub struct ContextArgument {
    /// Pair of the encryption context; repeat it for more. Not secret, and needed again to decrypt
    #[arg(long, visible_alias = "encryption-context", value_name = "KEY=VALUE", value_parser = super::values::pair)]
    context: Vec<(String, String)>,
}

/// One page instead of the whole list.
#[derive(Debug, Args)]
pub struct PageArguments {
    /// Only one page of at most this many; otherwise the list is read to its end
    #[arg(long, value_name = "COUNT")]
    pub limit: Option<u32>,
    /// Only the page after the one that gave this marker
    #[arg(long, value_name = "MARKER")]
    pub marker: Option<String>,
}

impl ContextArgument {
    pub fn parse(&self) -> Result<client::EncryptionContext, super::Usage> {
        super::values::context(&self.context)
    }
}

impl PageArguments {
    pub fn first(&self) -> (u32, String) {
        (self.limit.unwrap_or(0), self.marker.clone().unwrap_or_default())
    }

    /// The marker to go on with, or what the answer tells of it.
    pub fn next(&self, next_marker: String, truncated: bool) -> Next {
        match (self.limit.is_some() || self.marker.is_some(), truncated) {
            (_, false) => Next::End(None),
            (true, true) => Next::End(Some(next_marker)),
            (false, true) => Next::Page(next_marker),
        }
    }
}

/// How a list goes on.
#[derive(Debug, PartialEq, Eq)]
pub enum Next {
    Page(String),
    End(Option<String>),
}

/// Reads a list page by page: `$call` asks for the page at `$marker`, `$row` makes a row of an entry.
macro_rules! list {
    ($page:expr, $name:literal, $entries:ident, |$limit:ident, $marker:ident| $call:expr, |$entry:ident| $row:expr) => {{
        let page: &$crate::cli::kms::PageArguments = $page;
        let ($limit, mut $marker) = page.first();
        let mut rows = Vec::new();
        loop {
            let reply = $call.await.map_err(client::Error::from)?.into_inner();
            rows.extend(reply.$entries.into_iter().map(|$entry| $row));
            match page.next(reply.next_marker, reply.truncated) {
                $crate::cli::kms::Next::Page(next) => $marker = next,
                $crate::cli::kms::Next::End(next_marker) => {
                    break Ok($crate::cli::output::Answer::List { name: $name, rows, next_marker });
                }
            }
        }
    }};
}
pub(crate) use list;

impl Command {
    pub async fn run(self, connection: &Connection) -> Result<Answer> {
        match self {
            Self::CreateKey(command) => command.run(connection).await,
            Self::DescribeKey(key) => keys::describe(key, connection).await,
            Self::ListKeys(command) => command.run(connection).await,
            Self::EnableKey(key) => keys::enable(key, connection).await,
            Self::DisableKey(key) => keys::disable(key, connection).await,
            Self::ScheduleKeyDeletion(command) => command.run(connection).await,
            Self::CancelKeyDeletion(key) => keys::cancel_deletion(key, connection).await,
            Self::RotateKey(key) => keys::rotate(key, connection).await,
            Self::CreateAlias(alias) => keys::create_alias(alias, connection).await,
            Self::UpdateAlias(alias) => keys::update_alias(alias, connection).await,
            Self::DeleteAlias(alias) => keys::delete_alias(alias, connection).await,
            Self::ListAliases(command) => command.run(connection).await,
            Self::GenerateDataKey(command) => command.run(connection).await,
            Self::GenerateDataKeyWithoutPlaintext(command) => command.run(connection).await,
            Self::Encrypt(command) => command.run(connection).await,
            Self::Decrypt(command) => command.run(connection).await,
            Self::ReEncrypt(command) => command.run(connection).await,
            Self::Sign(command) => command.run(connection).await,
            Self::Verify(command) => command.run(connection).await,
            Self::GetPublicKey(command) => command.run(connection).await,
            Self::GenerateMac(command) => command.run(connection).await,
            Self::VerifyMac(command) => command.run(connection).await,
            Self::GenerateRandom(command) => command.run(connection).await,
            Self::CreateGrant(command) => command.run(connection).await,
            Self::ListGrants(command) => command.run(connection).await,
            Self::RevokeGrant(grant) => grants::revoke(grant, connection).await,
            Self::RetireGrant(grant) => grants::retire(grant, connection).await,
            Self::EncryptFile(command) => command.run(connection).await,
            Self::DecryptFile(command) => command.run(connection).await,
        }
    }
}
