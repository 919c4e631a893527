//! Credentials with a lease: renewed while they are held, announced when they end, taken back when asked.

use crate::login::{lease_body, public};
use crate::secret::{Granted, Secret};
use crate::timing::{Due, Spread, Term};
use crate::vault::Vault;
use crate::{ApiRequest, Error, Method};
use serde_json::json;
use std::time::Instant;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// What was lent, renewed in the background until this drops.
pub struct Lease {
    vault: Vault,
    secret: Secret,
    granted: Granted,
    state: watch::Receiver<State>,
    task: JoinHandle<()>,
    on_drop: OnDrop,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum OnDrop {
    Leave,
    Revoke,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct State {
    term: Term,
    ending: bool,
}

impl Lease {
    /// Gives the secret back where it comes without a lease.
    pub(crate) fn hold(vault: Vault, secret: Secret, session: u64, asked: Instant) -> Result<Self, Box<Secret>> {
        let Some(granted) = secret.lease().cloned() else { return Err(Box::new(secret)) };
        let term = Term::new(asked, granted.ttl, granted.renewable);
        let (sender, state) = watch::channel(State { term, ending: false });
        let task = tokio::spawn(keep(vault.clone(), granted.id.clone(), session, sender));
        Ok(Self { vault, secret, granted, state, task, on_drop: OnDrop::Leave })
    }

    pub fn id(&self) -> &str {
        &self.granted.id
    }

    pub fn secret(&self) -> &Secret {
        &self.secret
    }

    /// When it ends unless it is renewed.
    pub fn ends(&self) -> Option<Instant> {
        self.state.borrow().term.ends()
    }

    pub fn is_ending(&self) -> bool {
        self.state.borrow().ending
    }

    /// Returns when others are needed: the longest life is near, the token is another, or it was taken back.
    pub async fn ending(&self) {
        let mut state = self.state.clone();
        // the task says so before it ends
        let _ = state.wait_for(|state| state.ending).await;
    }

    /// What was lent ends when this drops, as soon as the server hears of it.
    #[must_use]
    pub fn revoke_on_drop(mut self) -> Self {
        self.on_drop = OnDrop::Revoke;
        self
    }

    /// What was lent ends now.
    pub async fn revoke(mut self) -> Result<(), Error> {
        self.on_drop = OnDrop::Leave;
        revoke(self.vault.clone(), self.granted.id.clone()).await
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.task.abort();
        if let (OnDrop::Revoke, Ok(runtime)) = (self.on_drop, tokio::runtime::Handle::try_current()) {
            let revoked = revoke(self.vault.clone(), self.granted.id.clone());
            runtime.spawn(async move { revoked.await.ok() });
        }
    }
}

impl std::fmt::Debug for Lease {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lease").field("id", &self.granted.id).finish_non_exhaustive()
    }
}

async fn revoke(vault: Vault, id: String) -> Result<(), Error> {
    let body = public(&json!({ "lease_id": id }));
    vault.write("sys/leases/revoke", &body, crate::Repeat::Safe).await.map(drop)
}

/// Renews until that no longer helps; then says so.
async fn keep(vault: Vault, id: String, session: u64, state: watch::Sender<State>) {
    let mut sessions = vault.0.session.subscribe();
    let other_token = async {
        // the lease goes with the token that it was lent to
        let _ = sessions.wait_for(|now| now.number != session).await;
    };
    tokio::select! {
        () = other_token => {}
        () = renewals(&vault, &id, &state) => {}
    }
    state.send_modify(|state| state.ending = true);
}

async fn renewals(vault: &Vault, id: &str, state: &watch::Sender<State>) {
    let mut failures = 0;
    loop {
        let term = state.borrow().term;
        match term.due(Spread::random()) {
            Due::Never => std::future::pending().await,
            Due::Replace(at) => return tokio::time::sleep_until(at.into()).await,
            Due::Renew(at) if failures == 0 => tokio::time::sleep_until(at.into()).await,
            Due::Renew(_) => match term.again(failures, Instant::now(), Spread::random()) {
                Some(at) => tokio::time::sleep_until(at.into()).await,
                None => return,
            },
        }
        match renew(vault, id, term).await {
            Ok(term) => {
                failures = 0;
                state.send_modify(|state| state.term = term);
            }
            Err(error) if error.is_transient() => failures += 1,
            Err(_) => return,
        }
    }
}

async fn renew(vault: &Vault, id: &str, term: Term) -> Result<Term, Error> {
    let now = Instant::now();
    let request = ApiRequest {
        body: Some(lease_body(id, term.first)),
        ..ApiRequest::new(Method::PUT, "sys/leases/renew".to_owned())
    };
    let client = vault.0.session.borrow().client.clone();
    let answer = client.api(request).await?;
    let granted = crate::secret::Envelope::parse(&answer)?.granted().ok_or(Error::Answer)?;
    Ok(term.renewed(now, granted.ttl, granted.renewable))
}
