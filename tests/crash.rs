//! kill -9 of the server, of the boundary, of both, under load: what was acknowledged is there, and it serves again.
//!
//! `STRONGROOM_KILLS` kills of each kind, 10 if not set; `cargo xtask soak` runs the long form.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test ends where it fails")]
#![allow(clippy::print_stdout, reason = "the distribution of the times is part of the result")]

use bytes::Bytes;
use proto::identity::{CreateTokenRequest, LookupTokenRequest, RevokeTokenRequest};
use proto::kms::{
    CreateKeyRequest, DecryptRequest, DescribeKeyRequest, GenerateDataKeyRequest, GenerateDataKeyResponse,
    ListKeysRequest,
};
use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tests::{Clients, Dev, Pid, bearer, context};
use tonic::{Code, Status};

/// What the server said yes to.
#[derive(Debug, Default)]
struct Acknowledged {
    request_ids: Vec<String>,
    keys: Vec<String>,
    tokens: Vec<String>,
    revoked: Vec<String>,
    data_keys: Vec<GenerateDataKeyResponse>,
}

/// One client's connection, name and book.
#[derive(Clone)]
struct Client {
    name: String,
    clients: Clients,
    root: String,
    key: String,
    book: Arc<Mutex<Acknowledged>>,
}

impl Client {
    fn request<T>(&self, id: &str, token: &str, message: T) -> tonic::Request<T> {
        let mut request = bearer(token, message);
        request.metadata_mut().insert("x-request-id", id.parse().unwrap());
        request.set_timeout(Duration::from_secs(5));
        request
    }

    /// Request ids of another round are others.
    fn named(mut self, n: u32, victim: Victim) -> Self {
        let name = format!("{}-{victim:?}-{n}", self.name);
        self.name = name;
        self
    }

    fn note(&self, id: String, act: impl FnOnce(&mut Acknowledged)) {
        let mut book = self.book.lock().unwrap();
        book.request_ids.push(id);
        act(&mut book);
    }

    async fn data_key(&mut self, id: &str) -> Result<GenerateDataKeyResponse, Status> {
        let message = GenerateDataKeyRequest {
            key_id: self.key.clone(),
            number_of_bytes: Some(32),
            encryption_context: context("client", "any"),
            ..Default::default()
        };
        let request = self.request(id, &self.root, message);
        Ok(self.clients.crypto.generate_data_key(request).await?.into_inner())
    }

    async fn decrypt(&mut self, id: &str, made: &GenerateDataKeyResponse) -> Result<Bytes, Status> {
        let message = DecryptRequest {
            ciphertext_blob: made.ciphertext_blob.clone(),
            encryption_context: context("client", "any"),
            key_id: String::new(),
        };
        let request = self.request(id, &self.root, message);
        Ok(self.clients.crypto.decrypt(request).await?.into_inner().plaintext)
    }

    /// One act after the other; what is acknowledged is noted.
    async fn act(&mut self, n: u64) -> Result<(), Status> {
        let id = format!("{}-{n}", self.name);
        match n % 6 {
            0 => {
                let message = CreateKeyRequest { client_request_id: id.clone(), ..Default::default() };
                let request = self.request(&id, &self.root, message);
                let made = self.clients.keys.create_key(request).await?.into_inner().key_metadata.unwrap();
                self.note(id, |book| book.keys.push(made.key_id));
            }
            1 => {
                let request = self.request(
                    &id,
                    &self.root,
                    CreateTokenRequest { policies: vec!["default".into()], ..Default::default() },
                );
                let made = self.clients.identity.create_token(request).await?.into_inner();
                self.note(id, |book| book.tokens.push(made.token));
            }
            2 => {
                let Some(token) = self.own_token() else { return Ok(()) };
                let request = self.request(&id, &token, RevokeTokenRequest::default());
                // whether it was carried out is not known until it is acknowledged: it leaves the list before
                self.clients.identity.revoke_token(request).await?;
                self.note(id, |book| book.revoked.push(token));
            }
            _ => {
                let made = self.data_key(&id).await?;
                self.note(id.clone(), |book| book.data_keys.push(made.clone()));
                let id = format!("{id}-open");
                let opened = self.decrypt(&id, &made).await?;
                assert_eq!(opened, made.plaintext);
                self.note(id, |_| {});
            }
        }
        Ok(())
    }

    fn own_token(&self) -> Option<String> {
        let mut book = self.book.lock().unwrap();
        if book.tokens.len() > 3 { book.tokens.pop() } else { None }
    }

    /// Until it is told to stop. A crash may fail a call, and nothing else may.
    async fn work(mut self, stop: Arc<AtomicBool>) {
        let mut n = 0;
        while !stop.load(Ordering::Relaxed) {
            n += 1;
            if let Err(status) = self.act(n).await {
                let code = status.code();
                let of_a_crash =
                    [Code::Unavailable, Code::Unknown, Code::Internal, Code::Cancelled, Code::DeadlineExceeded];
                assert!(of_a_crash.contains(&code), "{}: {status:?}", self.name);
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

#[derive(Debug, Clone, Copy)]
enum Victim {
    Server,
    Boundary,
    Both,
}

const CLIENTS: usize = 6;

struct Scene {
    dev: Dev,
    probe: Client,
    workers: Vec<Client>,
    checked: Acknowledged,
}

impl Scene {
    async fn new() -> Self {
        let dev = Dev::sim();
        let mut probe = Client {
            name: "probe".into(),
            clients: dev.clients(),
            root: dev.root_token(),
            key: String::new(),
            book: Arc::default(),
        };
        let request = bearer(&probe.root, CreateKeyRequest::default());
        probe.key = probe.clients.keys.create_key(request).await.unwrap().into_inner().key_metadata.unwrap().key_id;
        let worker =
            |n| Client { name: format!("client-{n}"), clients: dev.clients(), book: Arc::default(), ..probe.clone() };
        let workers = (0..CLIENTS).map(worker).collect();
        Self { dev, probe, workers, checked: Acknowledged::default() }
    }

    /// Kills, and waits until it serves again. Gives the time from the kill and from the last start.
    async fn kill(&mut self, victim: Victim, n: u32) -> (Duration, Duration) {
        let (server, boundary) = (self.dev.server().unwrap(), self.dev.boundary().unwrap());
        let began = Instant::now();
        if matches!(victim, Victim::Server | Victim::Both) {
            server.kill();
        }
        if matches!(victim, Victim::Boundary | Victim::Both) {
            boundary.kill();
        }
        let is_new = |now: Option<Pid>, old: Pid, killed: bool| now.is_some_and(|now| killed == (now != old));
        let mut started = None;
        loop {
            let back = is_new(self.dev.server(), server, !matches!(victim, Victim::Boundary))
                && is_new(self.dev.boundary(), boundary, !matches!(victim, Victim::Server));
            if back {
                started.get_or_insert_with(Instant::now);
                let id = format!("probe-{victim:?}-{n}");
                if let Ok(made) = self.probe.data_key(&id).await
                    && self.probe.decrypt(&id, &made).await.is_ok_and(|opened| opened == made.plaintext)
                {
                    return (began.elapsed(), started.unwrap_or(began).elapsed());
                }
            }
            assert!(began.elapsed() < Duration::from_secs(30), "it does not serve again\n{}", self.dev.log());
            tokio::time::sleep(Duration::from_millis(3)).await;
        }
    }

    /// All that was acknowledged since the last check.
    async fn check(&mut self) {
        for worker in self.workers.clone() {
            let fresh = std::mem::take(&mut *worker.book.lock().unwrap());
            for key_id in &fresh.keys {
                let request = bearer(&self.probe.root, DescribeKeyRequest { key_id: key_id.clone() });
                let found = self.probe.clients.keys.describe_key(request).await;
                assert_eq!(&found.unwrap().into_inner().key_metadata.unwrap().key_id, key_id);
            }
            for (tokens, expected) in [(&fresh.tokens, Code::Ok), (&fresh.revoked, Code::Unauthenticated)] {
                for token in tokens {
                    let code = loop {
                        let request = bearer(token, LookupTokenRequest::default());
                        let outcome = self.probe.clients.identity.lookup_token(request).await;
                        let code = outcome.map_or_else(|status| status.code(), |_| Code::Ok);
                        // so many refused tokens from one address are more than it may have recorded in a second
                        if code != Code::ResourceExhausted {
                            break code;
                        }
                        tokio::time::sleep(Duration::from_millis(50)).await;
                    };
                    assert_eq!(code, expected);
                }
            }
            for made in &fresh.data_keys {
                assert_eq!(self.probe.decrypt("check", made).await.unwrap(), made.plaintext);
            }
            self.checked.request_ids.extend(fresh.request_ids);
            self.checked.keys.extend(fresh.keys);
            self.checked.tokens.extend(fresh.tokens);
            self.checked.revoked.extend(fresh.revoked);
            self.checked.data_keys.extend(fresh.data_keys);
        }
    }

    /// What only the end can tell: all keys are listed, and every acknowledged act has its record.
    async fn check_all(&mut self) {
        let (mut listed, mut marker) = (HashSet::new(), String::new());
        loop {
            let request = bearer(&self.probe.root, ListKeysRequest { limit: 1000, marker });
            let page = self.probe.clients.keys.list_keys(request).await.unwrap().into_inner();
            listed.extend(page.keys.into_iter().map(|key| key.key_id));
            if !page.truncated {
                break;
            }
            marker = page.next_marker;
        }
        let missing: Vec<_> = self.checked.keys.iter().filter(|key| !listed.contains(*key)).collect();
        assert!(missing.is_empty(), "{} of {} keys are gone: {missing:?}", missing.len(), self.checked.keys.len());
        let mut recorded = HashSet::new();
        self.dev.audit_records(|record| recorded.extend([record.request_id.to_owned()]));
        let missing: Vec<_> = self.checked.request_ids.iter().filter(|id| !recorded.contains(*id)).collect();
        assert!(
            missing.is_empty(),
            "{} of {} records are gone: {missing:?}",
            missing.len(),
            self.checked.request_ids.len()
        );
    }
}

/// 1 to 250 ms, another one each time.
fn pause(n: u32) -> Duration {
    Duration::from_millis(u64::from(n.wrapping_mul(2_654_435_761) % 250) + 1)
}

fn kills() -> u32 {
    let Some(kills) = std::env::var_os("STRONGROOM_KILLS") else { return 10 };
    kills.to_str().and_then(|kills| kills.parse().ok()).unwrap_or_else(|| panic!("STRONGROOM_KILLS is no number"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acknowledged_is_lost_and_it_serves_again_within_two_seconds() {
    let mut scene = Scene::new().await;
    for victim in [Victim::Server, Victim::Boundary, Victim::Both] {
        let (mut since_kill, mut since_start) = (Vec::new(), Vec::new());
        for n in 0..kills() {
            let stop = Arc::new(AtomicBool::new(false));
            let load: Vec<_> = scene
                .workers
                .iter()
                .map(|worker| tokio::spawn(worker.clone().named(n, victim).work(Arc::clone(&stop))))
                .collect();
            tokio::time::sleep(Duration::from_millis(50) + pause(n)).await;
            let (from_kill, from_start) = scene.kill(victim, n).await;
            stop.store(true, Ordering::Relaxed);
            for client in load {
                client.await.unwrap();
            }
            since_kill.push(from_kill);
            since_start.push(from_start);
            scene.check().await;
        }
        println!(
            "{} kills of {victim:?}: serves again after {} (since it was started again: {})",
            since_kill.len(),
            distribution(&mut since_kill),
            distribution(&mut since_start)
        );
        let slowest = since_start.iter().max().unwrap();
        assert!(*slowest < Duration::from_secs(2), "{victim:?}: {slowest:?}");
    }
    scene.check_all().await;
    let Acknowledged { request_ids, keys, tokens, revoked, data_keys } = &scene.checked;
    println!(
        "nothing lost of {} acknowledged acts: {} keys, {} tokens, {} revocations, {} data keys",
        request_ids.len(),
        keys.len(),
        tokens.len(),
        revoked.len(),
        data_keys.len()
    );
    assert!(keys.len() >= 10 && tokens.len() >= 10 && data_keys.len() >= 10, "there was load");
}

fn distribution(times: &mut [Duration]) -> String {
    times.sort();
    let at = |percent: usize| times[(times.len() - 1) * percent / 100].as_millis();
    format!("min {} ms, p50 {} ms, p90 {} ms, p99 {} ms, max {} ms", at(0), at(50), at(90), at(99), at(100))
}
