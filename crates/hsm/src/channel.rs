//! A channel for one errand: what officers' tools use.

use crate::connection::{Connection, Lost};
use crate::patience;
use hsm_api::{HsmError, Reply, Request};
use hsm_channel::{Identity, Pin, client_config};
use std::path::Path;
use std::time::Duration;
use tokio::sync::Mutex;
use tokio::time::timeout;

/// One connection, one request at a time. After a failure of the connection it stays unavailable.
#[derive(Debug)]
pub struct Channel(Mutex<Option<Connection>>);

/// Connects once: `Unavailable` where nobody listens, `Protocol` where one side does not know the other; the log says
/// why.
pub async fn connect_once(socket: &Path, identity: &Identity, boundary: &Pin) -> Result<Channel, HsmError> {
    let config = client_config(identity, *boundary).map_err(|error| told(&error.into()))?;
    let open = async {
        let mut connection = Connection::open(socket, &config).await?;
        connection.status().await?;
        Ok(connection)
    };
    match timeout(TIMEOUT, open).await.unwrap_or(Err(Lost::Silent)) {
        Ok(connection) => Ok(Channel(Mutex::new(Some(connection)))),
        Err(lost) => Err(told(&lost)),
    }
}

impl Channel {
    pub async fn ask(&self, request: Request) -> Result<Reply, HsmError> {
        let mut held = self.0.lock().await;
        // taken out while a request is out: a caller that gives up leaves no half-read reply behind
        let mut connection = held.take().ok_or(HsmError::Unavailable)?;
        let outcome = timeout(patience(&request, TIMEOUT), connection.ask(&request)).await;
        match outcome.unwrap_or(Err(Lost::Silent)) {
            Ok(reply) => {
                *held = Some(connection);
                reply
            }
            Err(Lost::Closed | Lost::Io(_)) => Err(HsmError::Restarted),
            Err(lost @ (Lost::Channel(_) | Lost::Garbage | Lost::Silent)) => Err(told(&lost)),
        }
    }
}

fn told(lost: &Lost) -> HsmError {
    tracing::warn!(why = %lost, "no channel to the boundary");
    lost.refusal()
}

const TIMEOUT: Duration = Duration::from_secs(5);
