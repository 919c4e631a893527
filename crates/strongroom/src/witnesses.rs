//! Shows each new checkpoint to the configured witnesses, and keeps what they cosign.
//!
//! Always: one question at a time to each, within a time limit; what they answer is verified before it counts.
//! Always: a witness that has seen more than there is, or another history, is told loudly, and strict calls are refused.
//! Never: a checkpoint held up, or an ordinary call.

use crate::config;
use crate::dial::{self, Http, is_loopback};
use anyhow::{Context as _, Result, bail, ensure};
use api::Metrics;
use audit::note::{KeyKind, Note, VerifierKey};
use audit::witness::submitting::{Ask, Reply, Standing, Submitting};
use audit::witness::{ADD_CHECKPOINT, AddCheckpoint};
use audit::{Acks, Log, Witnesses};
use client::timing::Spread;
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use http::header::{CONTENT_TYPE, HOST};
use http::{Request, Uri};
use http_body_util::Full;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Those of the configuration.
#[derive(Debug, Clone)]
pub struct Panel {
    endpoints: Arc<[Endpoint]>,
    quorum: usize,
    /// How many did not answer well when last asked.
    away: Arc<AtomicU64>,
}

/// Where one is asked, and whose signatures count.
#[derive(Clone)]
struct Endpoint {
    keys: Vec<VerifierKey>,
    host: String,
    port: u16,
    authority: String,
    path: String,
    tls: Option<Arc<ClientConfig>>,
}

impl Panel {
    pub fn new(audit: &config::Audit) -> Result<Self> {
        let of = |(position, said): (usize, &config::Witness)| {
            Endpoint::new(said).with_context(|| format!("`audit.witness`, the {}. one ({})", position + 1, said.url))
        };
        let endpoints = audit.witness.iter().enumerate().map(of).collect::<Result<Vec<_>>>()?;
        let mut names: Vec<_> = endpoints.iter().map(Endpoint::name).collect();
        names.sort_unstable();
        ensure!(names.windows(2).all(|pair| pair[0] != pair[1]), "`audit.witness`: one witness stands there twice");
        let quorum = audit.witness_quorum.unwrap_or(endpoints.len());
        Ok(Self { endpoints: endpoints.into(), quorum, away: Arc::default() })
    }

    pub fn are_there(&self) -> Witnesses {
        if self.endpoints.is_empty() { Witnesses::None } else { Witnesses::Configured }
    }

    pub fn gauges(&self, metrics: &Metrics, acks: &Arc<Acks>) {
        let told = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        let (away, size, set_back) = (Arc::clone(&self.away), Arc::clone(acks), Arc::clone(acks));
        metrics.gauge(
            "audit_witnessed_entries",
            "Entries of the audit log that the newest checkpoint cosigned by enough witnesses covers",
            move || told(size.standing().size),
        );
        metrics.gauge("audit_witnesses_away", "Witnesses that did not cosign when last asked", move || {
            told(away.load(Ordering::Relaxed))
        });
        metrics.gauge(
            "audit_log_set_back",
            "1: a witness has seen more of the audit log than there is, or another history",
            move || i64::from(set_back.standing().set_back),
        );
    }

    /// For ever.
    pub async fn submit(self, log: Arc<Log>, acks: Arc<Acks>) {
        let keys = self.endpoints.iter().map(|endpoint| endpoint.keys.clone()).collect();
        let mut submitting = Submitting::new(keys, self.quorum);
        let (mut newest, mut wanted) = (log.checkpoints(), acks.wanted());
        let mut told = Told::default();
        let mut asked = FuturesUnordered::new();
        loop {
            if let Some(signed) = newest.borrow_and_update().clone() {
                submitting.newest(signed);
            }
            let wants = *wanted.borrow_and_update();
            for ask in submitting.next(Instant::now(), wants) {
                asked.push(self.ask(Arc::clone(&log), ask));
            }
            let due = submitting.due(Instant::now(), wants).unwrap_or_else(|| Instant::now() + IDLE);
            tokio::select! {
                Some((ask, reply)) = asked.next() => {
                    let note = submitting.answered(&ask, reply, log.size(), (Instant::now(), Spread::random().0));
                    if let Some(note) = note {
                        keep(&log, note).await;
                    }
                    acks.witnessed(submitting.witnessed());
                    told.again(&self, &submitting, ask.witness);
                }
                // an error: the log has ended, and this with it soon
                Ok(()) = newest.changed() => {}
                Ok(()) = wanted.changed() => {}
                () = tokio::time::sleep_until(due.into()) => {}
            }
        }
    }

    async fn ask(&self, log: Arc<Log>, ask: Ask) -> (Ask, Reply) {
        let reply = match self.endpoints.get(ask.witness) {
            Some(endpoint) => tokio::time::timeout(ASK_TIME_MAX, endpoint.ask(&log, &ask)).await,
            None => return (ask, Reply::Failed("it is none of ours".to_owned())),
        };
        let reply = match reply {
            Ok(Ok((status, body))) => Reply::Status { status, body },
            Ok(Err(error)) => Reply::Failed(format!("{error:#}")),
            Err(_) => Reply::Failed("it did not answer in time".to_owned()),
        };
        (ask, reply)
    }
}

impl Endpoint {
    fn new(said: &config::Witness) -> Result<Self> {
        let keys = said.key.split_whitespace().map(VerifierKey::parse).collect::<Result<Vec<_>, _>>();
        let keys = keys.context("`key` holds no verifier key (NAME+HASH+KEY)")?;
        let cosigns = |key: &VerifierKey| key.kind() != KeyKind::Ed25519;
        let one = keys.first().is_some_and(|first| keys.iter().all(|key| key.name() == first.name() && cosigns(key)));
        ensure!(one && keys.len() <= 2, "`key` holds one or both verifier keys of one witness (its witness.vkey)");
        let uri: Uri = said.url.parse().context("`url` is none")?;
        let (Some(host), Some(authority)) = (uri.host(), uri.authority()) else { bail!("`url` names no host") };
        ensure!(uri.query().is_none() && !authority.as_str().contains('@'), "`url` is scheme, host, port and path");
        let bare = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let (port, tls) = match uri.scheme_str() {
            Some("https") => {
                ServerName::try_from(bare.as_str())?;
                (443, Some(tls(said.ca.as_deref())?))
            }
            Some("http") if is_loopback(&bare) => (80, None),
            Some("http") => bail!("without TLS only loopback addresses are allowed: https://"),
            Some(_) | None => bail!("`url` begins with https://"),
        };
        ensure!(tls.is_some() || said.ca.is_none(), "`ca` is for https://");
        let path = format!("{}{ADD_CHECKPOINT}", uri.path().trim_end_matches('/'));
        let (port, authority) = (uri.port_u16().unwrap_or(port), authority.to_string());
        Ok(Self { keys, host: bare, port, authority, path, tls })
    }

    fn name(&self) -> &str {
        self.keys.first().map_or("", VerifierKey::name)
    }

    /// Status and body of the answer.
    async fn ask(&self, log: &Log, ask: &Ask) -> Result<(u16, String)> {
        let (checkpoint, note) = &*ask.checkpoint;
        let proof = log.consistency(ask.old, checkpoint.size).await.context("the log could not be proven now")?;
        let body = AddCheckpoint { old: ask.old, proof, checkpoint: note.clone() }.encode();
        let request = Request::post(&self.path).header(HOST, &self.authority);
        let request = request.header(CONTENT_TYPE, "text/plain; charset=utf-8").body(Full::new(body.into()))?;
        let stream = dial::connect(&self.host, self.port, self.tls.as_ref()).await?;
        let (status, body) = Http::over(stream).await?.ask(request, ANSWER_BYTES_MAX).await?;
        Ok((status.as_u16(), String::from_utf8(body.into()).context("its answer is no text")?))
    }
}

impl std::fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Endpoint").field("authority", &self.authority).finish_non_exhaustive()
    }
}

/// What the server's log was told of each witness.
#[derive(Debug, Default)]
struct Told(HashMap<usize, (Standing, Instant)>);

impl Told {
    /// Every change, and now and then what is still amiss.
    fn again(&mut self, panel: &Panel, submitting: &Submitting, witness: usize) {
        let (standing, now) = (submitting.standing(witness).clone(), Instant::now());
        let name = panel.endpoints.get(witness).map_or("", Endpoint::name);
        let amiss = |standing: &Standing| !matches!(standing, Standing::Agrees | Standing::Unknown);
        let before = self.0.get(&witness);
        let same =
            before.is_some_and(|(before, _)| std::mem::discriminant(before) == std::mem::discriminant(&standing));
        let lately = before.is_some_and(|(_, at)| now < *at + TELL_EVERY);
        if !same || amiss(&standing) && !lately {
            tell(name, &standing);
            self.0.insert(witness, (standing, now));
        }
        let away = self.0.values().filter(|(standing, _)| amiss(standing)).count();
        panel.away.store(away as u64, Ordering::Relaxed);
    }
}

fn tell(witness: &str, standing: &Standing) {
    match standing {
        Standing::Unknown => {}
        Standing::Agrees => tracing::info!(witness, "the witness cosigns"),
        Standing::Away(why) => tracing::warn!(witness, why, "the witness does not cosign"),
        Standing::SetBack { size } => tracing::error!(
            witness,
            size,
            "ALARM: the witness has seen more of the audit log than there is: the log was set back. Nothing is acknowledged to \
             callers whose policies demand a signed or witnessed record"
        ),
        Standing::Forked => tracing::error!(
            witness,
            "ALARM: the witness has seen another history of the audit log: the log was set back or forked. Nothing is \
             acknowledged to callers whose policies demand a signed or witnessed record"
        ),
    }
}

async fn keep(log: &Arc<Log>, note: Note) {
    let log = Arc::clone(log);
    let kept = tokio::task::spawn_blocking(move || log.keep_witnessed(&note)).await;
    match kept {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::error!(%error, "the cosigned checkpoint was not written"),
        Err(error) => tracing::error!(%error, "the cosigned checkpoint was not written"),
    }
}

fn tls(ca: Option<&Path>) -> Result<Arc<ClientConfig>> {
    let mut config = dial::tls(ca, None)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// For one question, its proof and connection included.
const ASK_TIME_MAX: Duration = Duration::from_secs(5);
/// Both lines of a witness have some 4 KiB; others' lines may stand beside them.
const ANSWER_BYTES_MAX: usize = 64 << 10;
const TELL_EVERY: Duration = Duration::from_secs(60);
const IDLE: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;
    use api::Health;

    fn key(name: &str, kind: KeyKind) -> String {
        let len = if kind == KeyKind::CosignatureMlDsa44 { 1312 } else { 32 };
        VerifierKey::new(name, kind, vec![1; len]).unwrap().to_string()
    }

    fn witness(url: &str, key: &str) -> config::Witness {
        config::Witness { url: url.into(), key: key.into(), ca: None }
    }

    fn panel(witness: Vec<config::Witness>) -> Result<Panel> {
        Panel::new(&config::Audit { witness, ..config::Audit::default() })
    }

    #[test]
    fn who_cannot_be_asked_or_believed_is_refused_by_name() {
        let ed25519 = key("w1", KeyKind::CosignatureEd25519);
        let ml_dsa = key("w1", KeyKind::CosignatureMlDsa44);
        let both = format!("{ed25519}\n{ml_dsa}\n");
        for (url, key) in [
            ("http://127.0.0.1:8300", &ed25519),
            ("http://[::1]:8300/", &ml_dsa),
            ("http://localhost/witness/a/", &both),
        ] {
            let found = panel(vec![witness(url, key)]).unwrap();
            assert_eq!((found.are_there(), found.quorum), (Witnesses::Configured, 1));
            assert!(found.endpoints[0].path.ends_with("/add-checkpoint") && !found.endpoints[0].path.contains("//"));
        }
        let log = key("w1", KeyKind::Ed25519);
        let two = format!("{ed25519} {}", key("w2", KeyKind::CosignatureMlDsa44));
        for (url, key, why) in [
            ("http://127.0.0.1", "", "verifier keys of one witness"),
            ("http://127.0.0.1", "w1+00000000+AA==", "no verifier key"),
            ("http://127.0.0.1", log.as_str(), "verifier keys of one witness"),
            ("http://127.0.0.1", two.as_str(), "verifier keys of one witness"),
            ("http://192.0.2.1", ed25519.as_str(), "loopback"),
            ("ftp://127.0.0.1", ed25519.as_str(), "https://"),
            ("127.0.0.1:8300", ed25519.as_str(), "https://"),
            ("/add-checkpoint", ed25519.as_str(), "no host"),
            ("http://user@127.0.0.1", ed25519.as_str(), "scheme, host, port and path"),
            ("http://127.0.0.1/?a=b", ed25519.as_str(), "scheme, host, port and path"),
        ] {
            let error = format!("{:#}", panel(vec![witness(url, key)]).unwrap_err());
            assert!(error.contains(why) && error.contains("the 1. one"), "{url} {key}: {error}");
        }
        let twice = vec![witness("http://127.0.0.1:1", &ed25519), witness("http://127.0.0.1:2", &ml_dsa)];
        assert!(panel(twice).unwrap_err().to_string().contains("twice"));
        let ca = config::Witness { ca: Some("/ca.pem".into()), ..witness("http://127.0.0.1", &ed25519) };
        assert!(panel(vec![ca]).is_err());
    }

    #[test]
    fn nobody_is_asked_where_none_is_configured() {
        let found = panel(Vec::new()).unwrap();
        assert_eq!(found.are_there(), Witnesses::None);
    }

    #[test]
    fn how_the_witnesses_stand_is_told_at_every_scrape() {
        let (metrics, found) = (Metrics::new("0", &Health::new()), panel(Vec::new()).unwrap());
        let (_ended, never) = tokio::sync::watch::channel(None);
        let acks = Arc::new(Acks::new(Arc::default(), never, Witnesses::Configured));
        found.gauges(&metrics, &acks);
        acks.witnessed(audit::Witnessed { size: 7, set_back: true });
        found.away.store(2, Ordering::Relaxed);
        let text = metrics.render();
        for line in ["audit_witnessed_entries 7", "audit_witnesses_away 2", "audit_log_set_back 1"] {
            assert!(text.contains(&format!("\nstrongroom_{line}\n")), "{line}: {text}");
        }
    }
}
