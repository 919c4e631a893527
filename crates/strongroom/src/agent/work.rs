//! What the agent does between changes: logs in, has certificates issued, fills templates, writes what has changed, waits until
//! something is stale.
//!
//! Always: what was rendered last stands until something better is there; a failure is tried again, for ever, ever more rarely.
//! Never: a secret in the log.

use super::certificate::Certificate;
use super::config::Config;
use super::larder::Larder;
use super::output::{Output, Owner};
use super::render::{Rendered, Source, check, render};
use super::status::{State, Status, StatusFile};
use crate::clock::SystemClock;
use anyhow::{Context as _, Result, anyhow};
use client::timing::{Spread, back_off};
use client::{Login, Options, SecretBytes, Standing, Vault};
use envelope::Clock as _;
use std::collections::BTreeSet;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

/// Variables of the program's environment.
pub(super) type Environment = Vec<(String, Arc<SecretBytes>)>;

/// Files were written anew, or the environment is another one.
pub(super) struct Change {
    pub(super) environment: Environment,
    pub(super) environment_is_other: bool,
}

/// Whether it ends when all was rendered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Until {
    Rendered,
    Ended,
}

pub(super) struct Work {
    login: Option<(Options, Login)>,
    refresh: Duration,
    certificates: Vec<Certificate>,
    templates: Vec<Template>,
    variables: Vec<(String, String)>,
    sinks: Vec<(Output, Option<Duration>)>,
    status: StatusFile,
    /// For who ends the login.
    vault: Arc<OnceLock<Vault>>,
    /// Of which session the sinks hold the token.
    sunk: u64,
    /// As it was rendered last; nothing before all was.
    environment: Option<Environment>,
    /// It was rendered, files were written, and nobody was told yet.
    untold: bool,
    environment_is_other: bool,
    renders: u64,
}

struct Template {
    name: String,
    text: String,
    output: Output,
}

#[derive(Debug, thiserror::Error)]
pub(super) enum Fault {
    #[error("{0}")]
    Vault(#[from] client::Error),
    #[error("{0:#}")]
    Own(anyhow::Error),
    /// Of a section of the configuration.
    #[error("{section}: {fault}")]
    In { section: String, fault: Box<Fault> },
}

impl Fault {
    fn is_final(&self) -> bool {
        match self {
            Self::Vault(error) => !error.is_transient(),
            Self::Own(_) => true,
            Self::In { fault, .. } => fault.is_final(),
        }
    }

    pub(super) fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Vault(error) => error.refusal().and_then(|refusal| refusal.retry_after),
            Self::Own(_) => None,
            Self::In { fault, .. } => fault.retry_after(),
        }
    }
}

impl Work {
    /// Reads and checks the templates, so that what is wrong with them shows at the start.
    pub(super) fn new(config: &Config) -> Result<Self> {
        let mut templates = Vec::new();
        for (index, template) in config.template.iter().enumerate() {
            let named = || format!("template[{index}]");
            let name = template.source.as_ref().map_or_else(named, |path| path.display().to_string());
            let text = template.text().with_context(|| format!("{}.source", named()))?;
            check(&name, &text)?;
            let owner = template.owner.as_deref().map(Owner::parse).transpose();
            let owner = owner.with_context(|| format!("{}.owner", named()))?.unwrap_or_default();
            let output = Output::new(&template.destination, template.mode()?, owner);
            output.sweep();
            templates.push(Template { name, text, output });
        }
        let certificates = config.certificate.iter().enumerate();
        let certificates = certificates.map(|(index, of)| Certificate::new(format!("certificate[{index}]"), of));
        let variables: Vec<_> =
            config.exec.iter().flat_map(|exec| exec.environment.clone()).collect::<Vec<(String, String)>>();
        for (name, text) in &variables {
            check(&format!("exec.environment.{name}"), text)?;
        }
        let sinks = config.sink.iter().map(|sink| {
            let output = Output::new(&sink.file, 0o600, Owner::default());
            output.sweep();
            (output, sink.wrap_ttl_secs.map(Duration::from_secs))
        });
        Ok(Self {
            login: Some((config.server.options()?, config.login.login()?)),
            refresh: config.refresh(),
            certificates: certificates.collect::<Result<_>>()?,
            templates,
            variables,
            sinks: sinks.collect(),
            status: StatusFile::new(config.status_file.clone()),
            vault: Arc::default(),
            sunk: 0,
            environment: None,
            untold: false,
            environment_is_other: false,
            renders: 0,
        })
    }

    /// Where the vault stands when it was logged in.
    pub(super) fn vault(&self) -> Arc<OnceLock<Vault>> {
        Arc::clone(&self.vault)
    }

    /// Ends when nobody listens any more, or when all was rendered and that was asked for.
    pub(super) async fn run(mut self, until: Until, changes: mpsc::Sender<Change>) -> Result<()> {
        let vault = self.log_in(until).await?;
        let mut larder = Larder::new(vault.clone(), self.refresh);
        let mut failures = 0;
        loop {
            let uncertified = self.certify(&vault).await.err();
            let standing = vault.standing();
            let fault = match self.sink(&vault, &standing).await {
                Ok(()) => self.turn(&mut larder).await.err(),
                Err(fault) => Some(fault),
            };
            let fault = uncertified.or(fault);
            if self.untold && self.environment.is_some() && self.tell(&changes).await.is_err() {
                return Ok(());
            }
            self.stand(&standing, larder.leases(), fault.as_ref());
            match fault {
                None if until == Until::Rendered && self.environment.is_some() => return Ok(()),
                None => {
                    failures = 0;
                    tokio::select! {
                        () = larder.until_stale() => {}
                        () = until_due(&self.certificates) => {}
                        _ = vault.changed(&standing) => {}
                    }
                }
                Some(fault) if until == Until::Rendered && fault.is_final() => return Err(fault.into()),
                Some(fault) => {
                    failures += 1;
                    let wait = back_off(failures + 1, None, Spread::random());
                    let secs = wait.as_secs_f32();
                    tracing::warn!(%fault, retry_in_secs = secs, "not all was rendered: what was rendered last stands");
                    tokio::select! {
                        () = tokio::time::sleep(wait) => {}
                        // what can be read is not kept waiting by what cannot
                        () = larder.until_stale() => {}
                        () = until_due(&self.certificates) => {}
                        _ = vault.changed(&standing) => {}
                    }
                }
            }
        }
    }

    async fn log_in(&mut self, until: Until) -> Result<Vault> {
        let mut failures = 0;
        let (options, login) = self.login.take().context("it was started twice")?;
        let mut outcome = Vault::login(options, login).await;
        loop {
            let refused = match outcome {
                Ok(vault) => {
                    tracing::info!("logged in");
                    let _first = self.vault.set(vault.clone());
                    return Ok(vault);
                }
                Err(refused) => refused,
            };
            let error = &refused.error;
            // no waiting makes an address of it
            let hopeless = matches!(error, client::Error::Address { .. } | client::Error::PlaintextElsewhere { .. });
            if hopeless || until == Until::Rendered && !error.is_transient() {
                return Err(anyhow!(refused).context("no login"));
            }
            failures += 1;
            // a password that is wrong is not tried often: users are locked
            let wait = back_off(if error.is_transient() { failures + 1 } else { failures + 5 }, None, Spread::random());
            let secs = wait.as_secs_f32();
            tracing::warn!(%error, retry_in_secs = secs, "no login yet");
            self.status.tell(Status {
                state: State::Starting,
                logins: 0,
                leases: 0,
                renders: 0,
                trouble: Some(error.to_string()),
                certificates: Vec::new(),
            });
            tokio::time::sleep(wait).await;
            outcome = refused.again().await;
        }
    }

    /// Has certificates issued that are due. A failure is one where nothing of this agent's stands in the files yet.
    async fn certify(&mut self, vault: &Vault) -> Result<(), Fault> {
        let (mut fault, mut written) = (None, false);
        for certificate in &mut self.certificates {
            match certificate.attend(vault).await {
                Ok(replaced) => written |= replaced,
                Err(_) if certificate.is_held() => {}
                Err(error) => drop(fault.get_or_insert(error)),
            }
        }
        if written {
            self.renders += 1;
            self.untold = true;
            // one of them may be the agent's own
            if let Err(error) = vault.show_newest().await {
                tracing::warn!(%error, "the agent's own certificate was replaced, and the vault does not take it yet");
            }
        }
        fault.map_or(Ok(()), Err)
    }

    /// The token's files, once a token.
    async fn sink(&mut self, vault: &Vault, standing: &Standing) -> Result<(), Fault> {
        if self.sunk == standing.session {
            return Ok(());
        }
        if self.sunk != 0 {
            tracing::info!("logged in again");
        }
        for (output, wrap_ttl) in &self.sinks {
            let Some(token) = vault.token() else { continue };
            let text = match wrap_ttl {
                None => token,
                Some(ttl) => vault.wrap(&client::text_object("token", &token)?, *ttl).await?,
            };
            output.write(&text).map_err(Fault::Own)?;
        }
        self.sunk = standing.session;
        Ok(())
    }

    /// Reads what is stale, renders all, writes what has changed. The first fault is told when all else was done.
    async fn turn(&mut self, larder: &mut Larder) -> Result<(), Fault> {
        let mut fault: Option<Fault> = None;
        for source in larder.stale(Instant::now()) {
            if let Err(error) = larder.fetch(&source).await {
                fault.get_or_insert(error.into());
            }
        }
        let (mut used, mut whole) = (BTreeSet::new(), self.certificates.iter().all(Certificate::is_held));
        for template in &self.templates {
            let outcome = filled(larder, &template.name, &template.text, &mut used).await;
            match outcome.and_then(|text| template.output.write(&text).map_err(Fault::Own)) {
                Ok(false) => {}
                Ok(true) => {
                    tracing::info!(file = %template.output.path().display(), "written");
                    self.renders += 1;
                    self.untold = true;
                }
                Err(error) => {
                    whole = false;
                    fault.get_or_insert(error);
                }
            }
        }
        let mut environment = Environment::new();
        for (name, text) in &self.variables {
            match filled(larder, name, text, &mut used).await {
                // the program that runs stands until a sound one can take its place
                Ok(text) if text.len() >= VARIABLE_BYTES_MAX || text.expose().contains(&0) => {
                    whole = false;
                    let refused =
                        anyhow!("exec.environment.{name}: no variable holds a NUL, or {VARIABLE_BYTES_MAX} bytes");
                    fault.get_or_insert(Fault::Own(refused));
                }
                Ok(text) => environment.push((name.clone(), Arc::new(text))),
                Err(error) => {
                    whole = false;
                    fault.get_or_insert(error);
                }
            }
        }
        if whole {
            larder.keep_only(&used);
            self.settle(environment);
        }
        fault.map_or(Ok(()), Err)
    }

    /// All was rendered: is the environment another one?
    fn settle(&mut self, environment: Environment) {
        let same = self.environment.as_ref().is_some_and(|last| {
            last.iter().zip(&environment).all(|((_, last), (_, now))| last.expose() == now.expose())
        });
        if same {
            return;
        }
        self.renders += u64::from(self.environment.is_some());
        self.untold = true;
        self.environment = Some(environment);
        self.environment_is_other = true;
    }

    async fn tell(&mut self, changes: &mpsc::Sender<Change>) -> Result<(), mpsc::error::SendError<Change>> {
        self.untold = false;
        let environment_is_other = std::mem::take(&mut self.environment_is_other);
        let environment = self.environment.clone().unwrap_or_default();
        changes.send(Change { environment, environment_is_other }).await
    }

    fn stand(&mut self, standing: &Standing, leases: usize, fault: Option<&Fault>) {
        let uncertified = || self.certificates.iter().find_map(Certificate::trouble).cloned();
        let trouble = fault.map(ToString::to_string).or_else(|| standing.trouble.clone()).or_else(uncertified);
        let state = match (&trouble, &self.environment) {
            (_, None) => State::Starting,
            (None, Some(_)) => State::Running,
            (Some(_), Some(_)) => State::Waiting,
        };
        let (logins, renders) = (standing.session, self.renders);
        let certificates = self.certificates.iter().map(Certificate::status).collect();
        self.status.tell(Status { state, logins, leases, renders, trouble, certificates });
    }
}

/// Returns when a certificate is due, or has ended; never where there is none.
async fn until_due(certificates: &[Certificate]) {
    match certificates.iter().map(Certificate::wakes).min() {
        Some(at) => SystemClock.sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// Renders, and reads what that needs on the way.
async fn filled(
    larder: &mut Larder,
    name: &str,
    text: &str,
    used: &mut BTreeSet<Source>,
) -> Result<SecretBytes, Fault> {
    for _ in 0..SECRETS_MAX {
        match render(name, text, larder.known()).map_err(Fault::Own)? {
            Rendered::Whole { text, used: here } => {
                used.extend(here);
                return Ok(text);
            }
            Rendered::Needs(source) => larder.fetch(&source).await?,
        }
    }
    Err(Fault::Own(anyhow!("{name} needs more than {SECRETS_MAX} secrets")))
}

/// Linux takes 128 KiB with the name.
const VARIABLE_BYTES_MAX: usize = 120 << 10;
/// Of one template.
const SECRETS_MAX: usize = 100;
