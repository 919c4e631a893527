//! How keys are used: one command, or up to 128 in as few boundary requests as fit their frames.
//!
//! Always: a batch is one leaf that lists its items; results come in the items' order, and one item's failure costs no other
//! its result.

use crate::act::Act;
use crate::error::KmsError;
use crate::key::KeyRecord;
use crate::service::Kms;
use audit::{Decision, Item, Outcome};
use futures_util::future::join_all;
use hsm_api::frame::ITEM_BODY_BYTES_MAX;
use hsm_api::key::TOKEN_BYTES_MAX;
use hsm_api::message::BATCH_ITEMS_MAX;
use hsm_api::{HsmError, KeyId, KeyToken, Reply, Request};
use identity::{Principal, RequestInfo};
use std::borrow::Cow;
use std::sync::Arc;

/// A command that uses one version of one key.
pub(crate) trait KeyUse: Sized + Send {
    type Ask: Send;
    type Got: Send;
    type Out: Send;
    const OPERATION: &'static str;

    /// Checks, resolves, authorises, loads.
    fn admit(self, kms: &Kms, act: &mut Act<'_>) -> impl Future<Output = Result<Admitted<Self::Ask>, KmsError>> + Send;
    fn cost(ask: &Self::Ask) -> Cost;
    fn request(key: KeyToken, asks: Vec<Self::Ask>) -> Request;
    fn replies(reply: Reply) -> Option<Vec<Result<Self::Got, HsmError>>>;
    fn out(key_id: KeyId, key_version: u32, got: Self::Got) -> Result<Self::Out, HsmError>;
}

/// A command on its way to the boundary.
pub(crate) struct Admitted<A> {
    pub(crate) key: Arc<KeyRecord>,
    pub(crate) version: u32,
    pub(crate) ask: A,
}

/// Bytes that an item takes in its request and, at most, in the reply.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cost {
    pub(crate) request: usize,
    pub(crate) reply: usize,
}

/// Items that share a request.
struct Group<A> {
    key: Arc<KeyRecord>,
    version: u32,
    indices: Vec<usize>,
    asks: Vec<A>,
    cost: Cost,
}

impl<A> Admitted<A> {
    /// Under the key's current version.
    pub(crate) fn current(key: Arc<KeyRecord>, ask: A) -> Result<Self, KmsError> {
        let (version, _) = key.current().ok_or(KmsError::Internal("a usable key has a current version"))?;
        Ok(Self { key, version, ask })
    }
}

impl<A> Group<A> {
    fn takes(&self, item: &Admitted<A>, cost: Cost) -> bool {
        self.key.id == item.key.id
            && self.version == item.version
            && self.asks.len() < BATCH_ITEMS_MAX
            && self.cost.request + cost.request <= GROUP_BYTES_MAX
            && self.cost.reply + cost.reply <= GROUP_BYTES_MAX
    }
}

impl Kms {
    pub(crate) async fn use_key<C: KeyUse>(
        &self,
        by: &Principal,
        call: &RequestInfo,
        command: C,
    ) -> Result<C::Out, KmsError> {
        let mut act = Act::new(C::OPERATION, by, call);
        let admitted = match command.admit(self, &mut act).await {
            Ok(admitted) => admitted,
            Err(error) => return self.refuse(&act, error).await,
        };
        let Admitted { key, version, ask } = admitted;
        let Some(material) = key.version(version) else {
            return self.refuse(&act, KmsError::Internal("an admitted version has its token")).await;
        };
        let request = C::request(material.token.clone(), vec![ask]);
        self.ask(&act, request, |reply| {
            let got = C::replies(reply).filter(|got| got.len() == 1).and_then(|mut got| got.pop());
            C::out(key.id, version, got.ok_or(HsmError::Protocol)??)
        })
        .await
    }

    pub(crate) async fn use_keys<C: KeyUse>(
        &self,
        operation: &'static str,
        (by, call): (&Principal, &RequestInfo),
        commands: Vec<Result<C, KmsError>>,
    ) -> Result<Vec<Result<C::Out, KmsError>>, KmsError> {
        let mut act = Act::new(operation, by, call);
        if !(1..=BATCH_ITEMS_MAX).contains(&commands.len()) {
            return self.refuse(&act, KmsError::InvalidField("items")).await;
        }
        let (mut groups, mut results) = (Vec::<Group<C::Ask>>::new(), Vec::with_capacity(commands.len()));
        let mut decision = Decision::NotReached;
        for (index, command) in commands.into_iter().enumerate() {
            (act.decision, act.context) = (Decision::NotReached, None);
            act.on_path("");
            let admitted = match command {
                Ok(command) => command.admit(self, &mut act).await,
                Err(error) => Err(error),
            };
            decision = of_both(decision, act.decision);
            // a refused item names the key that it was refused for
            let key_id = admitted.as_ref().ok().map(|item| item.key.id.to_string()).or_else(|| act.key_in_path());
            act.items.push(Item { context_hmac: act.context_hmac(), ..item(index, key_id, admitted.as_ref().err()) });
            match admitted {
                Ok(admitted) => {
                    // a placeholder that is told only if the boundary never answers
                    results.push(Err(KmsError::BoundaryUnavailable(HsmError::Protocol)));
                    sort_in(&mut groups, index, admitted, C::cost);
                }
                Err(error) => results.push(Err(error)),
            }
        }
        act.on_path("");
        (act.decision, act.rule, act.context) = (decision, Cow::Borrowed(""), None);
        self.ask_groups::<C>(&mut act, groups, &mut results).await?;
        Ok(results)
    }

    /// Hands all requests and the record over at once; fills in the results.
    async fn ask_groups<C: KeyUse>(
        &self,
        act: &mut Act<'_>,
        groups: Vec<Group<C::Ask>>,
        results: &mut [Result<C::Out, KmsError>],
    ) -> Result<(), KmsError> {
        let seams = &self.inner.seams;
        let pending: Vec<_> = groups
            .into_iter()
            .map(|Group { key, version, indices, asks, cost: _ }| {
                let request = key.version(version).map(|material| C::request(material.token.clone(), asks));
                let pending = request.map(|request| seams.boundary.submit(request));
                async move {
                    let reply = match pending {
                        Some(pending) => pending.await,
                        None => Err(HsmError::Protocol),
                    };
                    (key.id, version, indices, reply)
                }
            })
            .collect();
        let outcome = match results.iter().find_map(|result| result.as_ref().err()) {
            Some(error) if pending.is_empty() => Outcome::Failed(Cow::Borrowed(error.reason())),
            Some(_) | None => Outcome::Asked,
        };
        let logged = seams.audit.append(act.record(outcome).encode());
        logged.await?;
        let replies = join_all(pending).await;
        let mut told = std::mem::take(&mut act.items);
        for (key_id, version, indices, reply) in replies {
            let got = reply.and_then(|reply| C::replies(reply).ok_or(HsmError::Protocol));
            let got = got.and_then(|got| if got.len() == indices.len() { Ok(got) } else { Err(HsmError::Protocol) });
            let mut got = got.map(Vec::into_iter);
            for index in indices {
                let one = match &mut got {
                    Ok(got) => got.next().unwrap_or(Err(HsmError::Protocol)),
                    Err(error) => Err(*error),
                };
                let out = one.and_then(|got| C::out(key_id, version, got)).map_err(|error| self.boundary_error(error));
                if let Err(error) = &out {
                    let context_hmac = told.get_mut(index).and_then(|told| told.context_hmac.take());
                    act.items.push(Item { context_hmac, ..item(index, Some(key_id.to_string()), Some(error)) });
                }
                if let Some(result) = results.get_mut(index) {
                    *result = out;
                }
            }
        }
        match act.items.first().map(|item| item.outcome.clone()) {
            Some(outcome) => Ok(seams.audit.append(act.record(outcome).encode()).await?),
            None => Ok(()),
        }
    }
}

fn sort_in<A>(groups: &mut Vec<Group<A>>, index: usize, item: Admitted<A>, cost: fn(&A) -> Cost) {
    let cost = cost(&item.ask);
    // the last group of a key is the one with room
    match groups.iter_mut().rev().find(|group| group.takes(&item, cost)) {
        Some(group) => {
            group.indices.push(index);
            group.asks.push(item.ask);
            group.cost.request += cost.request;
            group.cost.reply += cost.reply;
        }
        None => {
            let Admitted { key, version, ask } = item;
            groups.push(Group { key, version, indices: vec![index], asks: vec![ask], cost });
        }
    }
}

fn item(index: usize, key_id: Option<String>, error: Option<&KmsError>) -> Item {
    let outcome = error.map_or(Outcome::Asked, |error| Outcome::Failed(Cow::Borrowed(error.reason())));
    Item { index: u32::try_from(index).unwrap_or(u32::MAX), key_id, outcome, context_hmac: None }
}

/// Of a batch: allowed where one item is, denied where one was and none is allowed.
fn of_both(a: Decision, b: Decision) -> Decision {
    match (a, b) {
        (Decision::Allowed, _) | (_, Decision::Allowed) => Decision::Allowed,
        (Decision::Denied, _) | (_, Decision::Denied) => Decision::Denied,
        (Decision::NotReached, Decision::NotReached) => Decision::NotReached,
    }
}

/// What items may take of a frame, the token's largest size and its head left free.
const GROUP_BYTES_MAX: usize = ITEM_BODY_BYTES_MAX - TOKEN_BYTES_MAX - 32;
/// What the sealed format and the protocol add to a plaintext in a reply.
pub(crate) const SEALED_BYTES: usize = envelope::sealed::SUITE1_OVERHEAD_BYTES + 16;
/// What the protocol adds to an item in a request.
pub(crate) const ASK_BYTES: usize = 32 + 8;
