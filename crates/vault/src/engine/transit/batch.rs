//! One item or many, answered item by item.

use crate::body::Body;
use crate::error::VaultError;
use crate::reply::Reply;
use crate::scope::Scope;
use crate::text::Text;
use audit::{Decision, Outcome};
use futures_util::future::join_all;
use kms::KmsError;
use serde::Serialize;

/// Most items of a batch.
const ITEMS_MAX: usize = kms::BATCH_ITEMS_MAX;

/// What a request asks for: its own fields, or each item's.
pub(super) enum Items {
    One,
    Many(Vec<Body>),
}

/// An item that could not be asked for: what its caller is told, and what the key domain's record says.
pub(super) struct Refused {
    pub(super) told: VaultError,
    pub(super) recorded: KmsError,
}

impl From<VaultError> for Refused {
    fn from(told: VaultError) -> Self {
        Self { told, recorded: KmsError::InvalidField("batch_input") }
    }
}

/// `Err`: the item's own.
pub(super) type Outcomes<T> = Vec<Result<T, VaultError>>;

#[derive(Serialize)]
struct Shown<'a, T: Serialize> {
    #[serde(flatten)]
    made: Option<&'a T>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reference: Option<&'a str>,
}

#[derive(Serialize)]
struct Results<'a, T: Serialize> {
    batch_results: Vec<Shown<'a, T>>,
}

impl Items {
    pub(super) fn of(scope: &Scope<'_>) -> Result<Self, VaultError> {
        match scope.call.body.objects("batch_input", ITEMS_MAX)? {
            None => Ok(Self::One),
            Some(items) if items.is_empty() => Err(VaultError::field("batch_input", "missing batch input to process")),
            Some(items) => {
                // nothing is done for a request that cannot be answered
                partial_failure_code(scope)?;
                for item in &items {
                    item.string("reference")?;
                }
                Ok(Self::Many(items))
            }
        }
    }

    pub(super) fn bodies<'a>(&'a self, scope: &'a Scope<'_>) -> Vec<&'a Body> {
        match self {
            Self::One => vec![&scope.call.body],
            Self::Many(items) => items.iter().collect(),
        }
    }

    /// The answer: one's own, or all in their order. `recorded`: the key domain has told of at least one.
    pub(super) async fn answer<T: Serialize>(
        &self,
        scope: &Scope<'_>,
        outcomes: Outcomes<T>,
        recorded: bool,
    ) -> Result<Reply, VaultError> {
        if recorded {
            scope.was_recorded();
        }
        match self {
            Self::One => {
                let outcome = outcomes.into_iter().next();
                Reply::data(&outcome.ok_or_else(|| VaultError::Internal("an item has an outcome".into()))??)
            }
            Self::Many(items) => many(scope, items, outcomes).await,
        }
    }
}

async fn many<T: Serialize>(scope: &Scope<'_>, items: &[Body], outcomes: Outcomes<T>) -> Result<Reply, VaultError> {
    let failed = outcomes.iter().filter(|outcome| outcome.is_err()).count();
    let partly = partial_failure_code(scope)?;
    let mut references = Vec::with_capacity(items.len());
    for item in items {
        references.push(item.string("reference")?);
    }
    let mut shown = Vec::with_capacity(outcomes.len());
    for (outcome, reference) in outcomes.iter().zip(&references) {
        let error = match outcome {
            // not the item's fault, and perhaps over soon
            Err(error) if error.status() >= 429 => return Err(first_of_ours(outcomes)),
            Err(error) => Some(error.to_string()),
            Ok(_) => None,
        };
        let reference = reference.as_ref().map(|text| text.as_str());
        shown.push(Shown { made: outcome.as_ref().ok(), error, reference });
    }
    let reply = Reply::data(&Results { batch_results: shown })?;
    if failed == 0 {
        return Ok(reply);
    }
    if failed == outcomes.len() && !scope.is_recorded() {
        let record = scope.record(scope.subject(), Decision::Allowed, Outcome::Failed("INVALID_FIELD".into()));
        scope.vault.changes().log(&record).await?;
        scope.was_recorded();
    }
    let status = partly.filter(|_| failed < outcomes.len()).unwrap_or(400);
    let reply = Reply { mount_type: scope.mount.kind.type_name(), ..reply };
    let body: Text = reply.encode(&scope.call.info.request_id)?;
    Ok(Reply { bare: Some((status, body)), ..Reply::default() })
}

/// What is answered where some items failed, and others did not; a status without a body is none.
fn partial_failure_code(scope: &Scope<'_>) -> Result<Option<u16>, VaultError> {
    let code = scope.call.body.count("partial_failure_response_code", 599)?;
    let code = code.filter(|code| *code >= 200 && !matches!(code, 204 | 205 | 304));
    Ok(code.and_then(|code| u16::try_from(code).ok()))
}

/// Asks for all at once, one by one and one record each: for what the key domain has no batch of. Whether it was asked at all.
pub(super) async fn each<C, T, F: Future<Output = Result<T, VaultError>>>(
    asks: Vec<Result<C, Refused>>,
    ask: impl Fn(C) -> F,
) -> (Outcomes<T>, bool) {
    let recorded = asks.iter().any(Result::is_ok);
    let outcomes = asks.into_iter().map(|item| {
        let asked = item.map(&ask);
        async {
            match asked {
                Ok(asked) => asked.await,
                Err(refused) => Err(refused.told),
            }
        }
    });
    (join_all(outcomes).await, recorded)
}

fn first_of_ours<T>(outcomes: Outcomes<T>) -> VaultError {
    let errors = outcomes.into_iter().filter_map(Result::err);
    errors.into_iter().find(|error| error.status() >= 429).unwrap_or(VaultError::Conflict)
}
