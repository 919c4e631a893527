//! Which tokens there are.

use super::holds_sudo;
use crate::RequestInfo;
use crate::error::IdentityError;
use crate::name::Accessor;
use crate::op::PageRequest;
use crate::policy::Capability;
use crate::principal::Principal;
use crate::service::Identities;
use crate::store;
use envelope::Timestamp;
use storage::AtLeast;

/// Accessors in no order that means anything. A page may be empty and others follow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccessorPage {
    pub accessors: Vec<Accessor>,
    /// More follow: ask with this marker.
    pub next_marker: Option<String>,
}

/// What tidying found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tidied {
    /// Entries that were due, of which a page is swept up at a time.
    pub due: usize,
}

impl Identities {
    /// The accessors of tokens that have not come to their end; those whose ancestors are gone too, until they are swept up.
    /// It takes sudo.
    pub async fn list_accessors(
        &self,
        by: &Principal,
        call: &RequestInfo,
        page: &PageRequest,
    ) -> Result<AccessorPage, IdentityError> {
        let act = self.authorise(by, call, "ListAccessors", ACCESSORS.to_owned(), Capability::List).await?;
        if !holds_sudo(by, ACCESSORS) {
            return act.deny("").await;
        }
        act.read(self.accessor_page(page, call.now).await).await
    }

    /// Sweeps up a page of what is over now; it happens by itself, too.
    pub async fn tidy_tokens(&self, by: &Principal, call: &RequestInfo) -> Result<Tidied, IdentityError> {
        let act = self.authorise(by, call, "TidyTokens", TIDY.to_owned(), Capability::Update).await?;
        act.read(self.sweep(call.now).await.map(|due| Tidied { due })).await
    }

    async fn accessor_page(&self, page: &PageRequest, now: Timestamp) -> Result<AccessorPage, IdentityError> {
        let folder = self.layout.accessors()?;
        let after = page.after.as_ref().map(|hash| folder.join(hash).map_err(|_| IdentityError::InvalidMarker));
        let after = after.transpose()?;
        let found = self.barrier.scan(&folder, after.as_ref(), page.limit, AtLeast::Latest).await?;
        let tokens = found.entries.iter().map(|(_, opened)| self.layout.token(&store::decode_digest(&opened.value)?));
        let tokens = tokens.collect::<Result<Vec<_>, _>>()?;
        let (_, records) = self.barrier.get(&tokens, AtLeast::Latest).await?;
        let mut accessors = Vec::with_capacity(records.len());
        for opened in records.into_iter().flatten() {
            let record = store::decode_token(&opened.value)?;
            if self.check_alive(&record, now).is_ok() {
                accessors.push(record.accessor);
            }
        }
        let last = found.entries.last().filter(|_| found.more);
        let next_marker = last.and_then(|(path, _)| path.segments().last().map(str::to_owned));
        Ok(AccessorPage { accessors, next_marker })
    }
}

const ACCESSORS: &str = "auth/token/accessors/";
const TIDY: &str = "auth/token/tidy";
