//! Whether we serve, for people (`GET /health`) and for balancers (`grpc.health.v1`).
//!
//! | state | `GET /health` | overall and every service | `strongroom.kms.v1.Crypto` |
//! |---|---|---|---|
//! | starting, stopping | 503 | NOT_SERVING | NOT_SERVING |
//! | serving | 200 | SERVING | SERVING |
//! | serving, the boundary is away | 200 | SERVING | NOT_SERVING |
//! | serving, the store is away | 503 | NOT_SERVING | NOT_SERVING |
//! | sealed by hand | 503 | NOT_SERVING | NOT_SERVING |
//!
//! Asking leaves a record; where the log takes none, `GET /health` is 503 and Check UNAVAILABLE (RESOURCE_EXHAUSTED where it
//! is at capacity), whatever the state.
//!
//! A server whose boundary is away answers, names what is missing, and recovers by itself: nobody should start it anew for
//! that. But whoever has another server had better take that one for Crypto.
//!
//! Where several servers share a store, each serves nothing while it does not hear that; others may.
//!
//! Where the audit log was found damaged, `GET /health` says so, and service goes on: an operator looks after it.
//!
//! Always: one state for all cores.
//! Never: a watcher that keeps a connection open after it was told that we stop.

use futures_util::stream::{self, BoxStream, StreamExt as _};
use std::sync::Arc;
use tokio::sync::watch;
use tonic::{Request, Response, Status};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_server::Health as HealthApi;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};

/// The state that is told, and the handle by which it is set. Clones share it.
#[derive(Debug, Clone)]
pub struct Health(Arc<watch::Sender<State>>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct State {
    pub serving: Serving,
    pub boundary: BoundaryState,
    pub audit_log: AuditLogState,
    pub store: StoreReach,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Serving {
    Starting,
    Serving,
    /// By hand: it serves again once it is unsealed.
    Sealed,
    Stopping,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BoundaryState {
    Available,
    Away,
}

/// Of a store beyond a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoreReach {
    Heard,
    /// Not heard of for so long that nothing that was read may be used.
    Away,
}

/// What the scrubber says of the audit log's files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuditLogState {
    /// Or not looked at yet.
    Sound,
    Damaged,
}

impl Health {
    /// Starting, the boundary not heard of.
    pub fn new() -> Self {
        let state = State {
            serving: Serving::Starting,
            boundary: BoundaryState::Away,
            audit_log: AuditLogState::Sound,
            store: StoreReach::Heard,
        };
        Self(Arc::new(watch::Sender::new(state)))
    }

    pub fn serve(&self) {
        self.0.send_modify(|state| state.serving = Serving::Serving);
    }

    /// Sealed by hand, or unsealed again.
    pub fn sealed(&self, sealed: bool) {
        self.0.send_if_modified(|state| {
            let serving = match (state.serving, sealed) {
                (Serving::Serving, true) => Serving::Sealed,
                (Serving::Sealed, false) => Serving::Serving,
                (other, _) => other,
            };
            std::mem::replace(&mut state.serving, serving) != serving
        });
    }

    /// For good.
    pub fn stop(&self) {
        self.0.send_modify(|state| state.serving = Serving::Stopping);
    }

    pub fn boundary(&self, boundary: BoundaryState) {
        self.0.send_if_modified(|state| std::mem::replace(&mut state.boundary, boundary) != boundary);
    }

    pub fn store(&self, store: StoreReach) {
        self.0.send_if_modified(|state| std::mem::replace(&mut state.store, store) != store);
    }

    pub fn audit_log(&self, audit_log: AuditLogState) {
        self.0.send_if_modified(|state| std::mem::replace(&mut state.audit_log, audit_log) != audit_log);
    }

    pub fn state(&self) -> State {
        *self.0.borrow()
    }

    /// Status line and body of `GET /health`.
    pub(crate) fn page(&self) -> (http::StatusCode, String) {
        let State { serving, boundary, audit_log, store } = self.state();
        let (code, serving) = match serving {
            Serving::Starting => (http::StatusCode::SERVICE_UNAVAILABLE, "starting"),
            Serving::Serving => (http::StatusCode::OK, "serving"),
            Serving::Sealed => (http::StatusCode::SERVICE_UNAVAILABLE, "sealed"),
            Serving::Stopping => (http::StatusCode::SERVICE_UNAVAILABLE, "stopping"),
        };
        let boundary = match boundary {
            BoundaryState::Available => "available",
            BoundaryState::Away => "away",
        };
        let audit_log = match audit_log {
            AuditLogState::Sound => "",
            AuditLogState::Damaged => ",\"audit_log\":\"damaged\"",
        };
        let (code, store) = match store {
            StoreReach::Heard => (code, ""),
            StoreReach::Away => (http::StatusCode::SERVICE_UNAVAILABLE, ",\"store\":\"away\""),
        };
        (code, format!("{{\"status\":\"{serving}\",\"boundary\":\"{boundary}\"{store}{audit_log}}}\n"))
    }
}

impl Default for Health {
    fn default() -> Self {
        Self::new()
    }
}

/// What a service's status depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Needs {
    Server,
    ServerAndBoundary,
}

impl Needs {
    fn of(service: &str) -> Option<Self> {
        match service {
            "" | "strongroom.kms.v1.Keys" | "strongroom.identity.v1.Identity" | "strongroom.operator.v1.Operator" => {
                Some(Self::Server)
            }
            "strongroom.kms.v1.Crypto" => Some(Self::ServerAndBoundary),
            _ => None,
        }
    }

    fn status(self, state: State) -> ServingStatus {
        let met = match self {
            Self::Server => true,
            Self::ServerAndBoundary => state.boundary == BoundaryState::Available,
        };
        if met && state.serving == Serving::Serving && state.store == StoreReach::Heard {
            ServingStatus::Serving
        } else {
            ServingStatus::NotServing
        }
    }
}

#[tonic::async_trait]
impl HealthApi for Health {
    async fn check(&self, request: Request<HealthCheckRequest>) -> Result<Response<HealthCheckResponse>, Status> {
        let needs = Needs::of(&request.get_ref().service).ok_or_else(|| Status::not_found("no such service"))?;
        Ok(Response::new(reply(needs.status(self.state()))))
    }

    type WatchStream = BoxStream<'static, Result<HealthCheckResponse, Status>>;

    async fn watch(&self, request: Request<HealthCheckRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let Some(needs) = Needs::of(&request.get_ref().service) else {
            // as grpc.health.v1 says: told as unknown, and the stream goes on; no service is added later
            let unknown = stream::iter([Ok(reply(ServingStatus::ServiceUnknown))]);
            return Ok(Response::new(unknown.chain(self.states().filter_map(async |_| None)).boxed()));
        };
        let mut told = None;
        let statuses = self.states().map(move |state| needs.status(state));
        let changes = statuses.filter(move |status| std::future::ready(told.replace(*status) != Some(*status)));
        Ok(Response::new(changes.map(|status| Ok(reply(status))).boxed()))
    }
}

impl Health {
    /// The state now and whenever it changes, until we stop.
    fn states(&self) -> BoxStream<'static, State> {
        let next = |from: Option<(watch::Receiver<State>, bool)>| async move {
            let (mut receiver, first) = from?;
            if !first {
                receiver.changed().await.ok()?;
            }
            let state = *receiver.borrow_and_update();
            let rest = (state.serving != Serving::Stopping).then_some((receiver, false));
            Some((state, rest))
        };
        stream::unfold(Some((self.0.subscribe(), true)), next).boxed()
    }
}

fn reply(status: ServingStatus) -> HealthCheckResponse {
    HealthCheckResponse { status: status.into() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Serving::{Starting, Stopping};

    #[test]
    fn each_service_follows_what_it_needs() {
        use BoundaryState::{Available, Away};
        let (yes, no) = (ServingStatus::Serving, ServingStatus::NotServing);
        for (serving, boundary, overall, crypto) in [
            (Starting, Available, no, no),
            (Serving::Serving, Available, yes, yes),
            (Serving::Serving, Away, yes, no),
            (Serving::Sealed, Available, no, no),
            (Stopping, Available, no, no),
        ] {
            let state = State { serving, boundary, audit_log: AuditLogState::Damaged, store: StoreReach::Heard };
            assert_eq!(Needs::Server.status(State { store: StoreReach::Away, ..state }), no);
            for (service, expected) in
                [("", overall), ("strongroom.kms.v1.Keys", overall), ("strongroom.kms.v1.Crypto", crypto)]
            {
                assert_eq!(Needs::of(service).unwrap().status(state), expected, "{service} in {state:?}");
            }
        }
        assert_eq!(Needs::of("strongroom.kms.v2.Keys"), None);
    }

    #[test]
    fn a_damaged_audit_log_is_told_and_serving_goes_on() {
        let health = Health::new();
        health.serve();
        for (state, told) in [
            (AuditLogState::Damaged, "{\"status\":\"serving\",\"boundary\":\"away\",\"audit_log\":\"damaged\"}\n"),
            (AuditLogState::Sound, "{\"status\":\"serving\",\"boundary\":\"away\"}\n"),
        ] {
            health.audit_log(state);
            assert_eq!(health.page(), (http::StatusCode::OK, told.to_owned()));
        }
    }

    #[test]
    fn a_store_that_is_away_is_named_and_nothing_is_served() {
        let health = Health::new();
        health.serve();
        health.store(StoreReach::Away);
        let told = "{\"status\":\"serving\",\"boundary\":\"away\",\"store\":\"away\"}\n";
        assert_eq!(health.page(), (http::StatusCode::SERVICE_UNAVAILABLE, told.to_owned()));
        health.store(StoreReach::Heard);
        assert_eq!(health.page().0, http::StatusCode::OK);
    }

    #[test]
    fn a_server_is_sealed_while_it_serves_and_serves_again() {
        let health = Health::new();
        let told = |sealed| {
            health.sealed(sealed);
            health.state().serving
        };
        assert_eq!(told(true), Starting);
        health.serve();
        assert_eq!(told(true), Serving::Sealed);
        assert_eq!(health.page().0, http::StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(told(false), Serving::Serving);
        health.stop();
        assert_eq!((told(true), told(false)), (Stopping, Stopping));
    }

    #[tokio::test]
    async fn a_watcher_hears_each_change_once_and_the_end() {
        let health = Health::new();
        let ask = |service: &str| Request::new(HealthCheckRequest { service: service.into() });
        let watching = health.watch(ask("")).await.unwrap().into_inner();
        let unknown = health.watch(ask("nobody")).await.unwrap().into_inner();
        let heard = tokio::spawn(watching.map(|reply| reply.unwrap().status()).collect::<Vec<_>>());
        tokio::task::yield_now().await;
        health.serve();
        tokio::task::yield_now().await;
        health.boundary(BoundaryState::Available);
        tokio::task::yield_now().await;
        health.stop();
        let expected = [ServingStatus::NotServing, ServingStatus::Serving, ServingStatus::NotServing];
        assert_eq!(heard.await.unwrap(), expected);
        let heard: Vec<_> = unknown.map(|reply| reply.unwrap().status()).collect().await;
        assert_eq!(heard, [ServingStatus::ServiceUnknown]);
    }
}
