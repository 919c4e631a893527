//! `Vault`: holds the seams, and carries every request through the same steps.
//!
//! ```text
//! who asks → which mount → may they → the mount's backend → wrapped, where asked for → recorded → answered
//! ```

use crate::auth::userpass::Hashing;
use crate::backend::{self, Access, Backend};
use crate::call::{Call, Verb};
use crate::error::VaultError;
use crate::lease::breaker::Breakers;
use crate::mount::{Kind, Mount, Table, Tune};
use crate::namespace::asker::{Asker, is_of_ones_own};
use crate::namespace::round::Round;
use crate::namespace::{Space, Tree, is_roots, of_wrapped};
use crate::recovery::Ceremonies;
use crate::reply::{Answer, Reply};
use crate::scope::{Scope, record};
use crate::view::{Values, View};
use audit::{Decision, Outcome, Record, Subject};
use envelope::{SecretBytes, Timestamp};
use identity::{
    Asked, Capability, ChangeError, Changes, Decided, Facts, Given, Identities, Principal, Turns, Verdict, decide_on,
};
use kms::Kms;
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::sync::Arc;
use storage::{AtLeast, Barrier, Batch, Cache, Change, EntryPath, Invalidate, Revision};

/// What the vault stands on.
#[derive(Debug, Clone)]
pub struct Seams {
    pub barrier: Arc<Barrier>,
    pub tenant: [u8; 16],
    pub generation: u64,
    /// What was lent in older generations is void since an operator acknowledged that store and audit log disagree.
    pub leases_void_below: u64,
    pub identities: Identities,
    /// Its identity's caches hear of what is changed here at once.
    pub identity_caches: Arc<identity::Caches>,
    pub kms: Kms,
    pub changes: Changes,
    pub strangers: Arc<dyn Strangers>,
    pub telemetry: Arc<dyn Telemetry>,
    /// What dials out to databases.
    pub databases: crate::Databases,
    /// What dials out to whoever can tell who logs in.
    pub outside: Arc<dyn crate::outside::Outside>,
    /// One for the whole process.
    pub caches: Arc<Caches>,
}

/// What is counted.
pub trait Telemetry: Send + Sync + std::fmt::Debug {
    /// OpenMetrics text.
    fn render(&self) -> String;
}

/// Takes the records of who was not recognised: a bounded part of the log, of each address.
#[async_trait::async_trait]
pub trait Strangers: Send + Sync + std::fmt::Debug {
    /// Answers when the record is durable.
    async fn append(&self, record: &Record<'_>) -> Result<(), VaultError>;
}

/// What is known already. One for all cores; tell it of changes with [`storage::follow`].
#[derive(Debug)]
pub struct Caches {
    /// By the tenant.
    mounts: Cache<[u8; 16], Table>,
    pub(crate) namespaces: Cache<(), Tree>,
    pub(crate) tended: Round,
    pub(crate) swept: Round,
    values: Arc<Values>,
    last_reads: crate::LastReads,
    pub(crate) quotas: crate::quota::Quotas,
    turns: Turns,
    hashing: Hashing,
    ceremonies: Ceremonies,
    pub(crate) resealing: crate::reseal::Progress,
    breakers: Breakers,
    late: crate::lease::Late,
    outsiders: crate::outside::Outsiders,
    key_sets: crate::auth::jose::KeySets,
}

impl Caches {
    /// At most `values` small values.
    pub fn new(values: usize) -> Self {
        Self {
            mounts: Cache::new(TABLES_MAX),
            namespaces: Cache::new(1),
            tended: Round::default(),
            swept: Round::default(),
            values: Arc::new(Cache::new(values)),
            last_reads: crate::LastReads::default(),
            quotas: crate::quota::Quotas::default(),
            turns: Turns::default(),
            hashing: Hashing::default(),
            ceremonies: Ceremonies::default(),
            resealing: crate::reseal::Progress::default(),
            breakers: Breakers::default(),
            late: crate::lease::Late::default(),
            outsiders: crate::outside::Outsiders::default(),
            key_sets: crate::auth::jose::KeySets::default(),
        }
    }

    /// How far sealing anew has come.
    pub fn resealing(&self) -> &crate::reseal::Progress {
        &self.resealing
    }

    /// Leases that are late, as of the last look.
    pub fn late(&self) -> &crate::lease::Late {
        &self.late
    }

    pub(crate) fn outsiders(&self) -> &crate::outside::Outsiders {
        &self.outsiders
    }
}

impl Invalidate for Caches {
    fn apply(&self, change: &Change) {
        self.mounts.apply(change);
        self.namespaces.apply(change);
        self.values.apply(change);
        self.quotas.apply(change);
    }

    fn forget(&self) {
        self.mounts.forget();
        self.namespaces.forget();
        self.values.forget();
        self.quotas.forget();
    }

    fn current(&self, until: storage::Until) {
        self.mounts.current(until);
        self.namespaces.current(until);
        self.values.current(until);
        self.quotas.current(until);
    }
}

/// The secrets domain of one tenant: the root's, through which all are asked, or a namespace's. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Vault {
    pub(crate) seams: Seams,
    pub(crate) root: EntryPath,
    /// Of a namespace.
    pub(crate) space: Option<Arc<Space>>,
}

impl Vault {
    pub fn new(seams: Seams) -> Result<Self, VaultError> {
        let root = EntryPath::parse(&format!("{}/vault", hex::encode(seams.tenant)))
            .map_err(|_| VaultError::Internal("a tenant is a segment".into()))?;
        Ok(Self { seams, root, space: None })
    }

    /// At the start: the built-in mounts, and `secret/`, where nothing was ever mounted.
    pub async fn prepare(&self, now: Timestamp) -> Result<(), VaultError> {
        let path = self.mounts_path()?;
        let (_, found) = self.seams.barrier.get(std::slice::from_ref(&path), AtLeast::Latest).await?;
        if found.into_iter().flatten().next().is_some() {
            return Ok(());
        }
        let mut table = Table::default();
        for (at, kind, description) in FIRST_MOUNTS {
            table.add(at, self.new_mount(kind, description, now)?)?;
        }
        let batch = self.put_table(self.changes().batch()?.absent(path), &table)?;
        let leaf = Record {
            path: "sys/mounts",
            decision: Decision::Allowed,
            ..Record::new(now, "start", "VaultPrepare", &Subject::System)
        };
        match self.commit(batch, &leaf).await {
            // another node was first
            Ok(_) | Err(ChangeError::Conflict(_)) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    pub fn identities(&self) -> &Identities {
        &self.seams.identities
    }

    pub fn kms(&self) -> &Kms {
        &self.seams.kms
    }

    pub fn changes(&self) -> &Changes {
        &self.seams.changes
    }

    /// How many hashes of passwords were made.
    pub fn password_hashes(&self) -> u64 {
        self.seams.caches.hashing.done()
    }

    pub fn databases(&self) -> &crate::Databases {
        &self.seams.databases
    }

    /// Keys of issuers of tokens.
    pub(crate) fn key_sets(&self) -> &crate::auth::jose::KeySets {
        &self.seams.caches.key_sets
    }

    pub(crate) fn breakers(&self) -> &Breakers {
        &self.seams.caches.breakers
    }

    pub(crate) fn late(&self) -> &crate::lease::Late {
        &self.seams.caches.late
    }

    pub(crate) fn turns(&self) -> &Turns {
        &self.seams.caches.turns
    }

    pub(crate) fn hashing(&self) -> &Hashing {
        &self.seams.caches.hashing
    }

    pub(crate) fn last_reads(&self) -> &crate::LastReads {
        &self.seams.caches.last_reads
    }

    pub(crate) fn ceremonies(&self) -> &Ceremonies {
        &self.seams.caches.ceremonies
    }

    pub fn barrier(&self) -> &Arc<Barrier> {
        &self.seams.barrier
    }

    /// Answers a request. Never fails: a refusal is an answer.
    pub async fn handle(&self, mut call: Call) -> Answer {
        let request_id = call.info.request_id.clone();
        match self.enter(&mut call).await {
            Ok(reply) => reply.into_answer(&request_id),
            Err(error) => {
                tracing::debug!(request_id, path = %call.path.told(), ?error, "refused");
                Answer::refused(error, &request_id)
            }
        }
    }

    pub(crate) async fn serve(&self, call: &mut Call, tree: &Tree) -> Result<Reply, VaultError> {
        let table = match self.table().await {
            Ok(table) => table,
            Err(error) => return self.refused(call, None, (Decision::NotReached, ""), error).await,
        };
        if let Some(at) = of_wrapped(call)
            && table.route(call.path.as_str()).is_none()
        {
            let named = call.path.as_str().get(..at).unwrap_or_default();
            let _ = call.info.namespace.set(format!("{}{named}", self.namespace()).into());
            call.path.go_on_from(at);
        }
        canonicalise(&table, call);
        let call = &*call;
        if let Err(error) = self.seams.caches.quotas.admit(self, call).await {
            return self.refused(call, None, (Decision::NotReached, ""), error).await;
        }
        let routed = table.route(call.path.as_str());
        let backend = routed.map(|(_, mount, _)| backend::of(mount.kind));
        if let (Some(routed), Some(backend)) = (routed, backend)
            && backend.access(call, routed.2) == Access::Public
            && !self.keeps_from(call)
        {
            let scope = Scope::new(self, call, routed, None, String::new());
            return self.carry_out(&scope, backend).await;
        }
        let Asker { by, home } = match self.asker(call, tree).await {
            Ok(asker) => asker,
            Err(error) => return self.refused(call, None, (Decision::NotReached, ""), error).await,
        };
        // to whose policies say nothing of what is here, it might as well not be there
        if home.is_some() && !by.acl().speaks_of("") {
            return self.refused(call, Some(&by), (Decision::Denied, ""), VaultError::PermissionDenied).await;
        }
        if self.keeps_from(call) {
            let error = VaultError::Invalid("unsupported path".into());
            return self.refused(call, Some(&by), (Decision::NotReached, ""), error).await;
        }
        if let Some(home) = home.filter(|_| is_of_ones_own(call.path.as_str())) {
            return home.0.serve_own(call, &home.1).await;
        }
        let (Some(routed), Some(backend)) = (routed, backend) else {
            let error = if by.is_root() {
                VaultError::NoRoute(call.path.told().into_owned())
            } else {
                VaultError::PermissionDenied
            };
            return self.refused(call, Some(&by), (Decision::Denied, ""), error).await;
        };
        self.authorised(call, routed, backend, &by).await
    }

    /// What is the root's alone is not served in a namespace; strangers are not told that there is one.
    fn keeps_from(&self, call: &Call) -> bool {
        self.space.is_some() && is_roots(call.path.as_str())
    }

    pub(crate) async fn authorised(
        &self,
        call: &Call,
        routed: (&str, &Mount, &str),
        backend: &dyn Backend,
        by: &Arc<Principal>,
    ) -> Result<Reply, VaultError> {
        let mut scope = Scope::new(self, call, routed, Some(by), String::new());
        let access = backend.access(call, scope.path);
        if access == Access::Everybodys {
            return self.carry_out(&scope, backend).await;
        }
        let capability = match capability(backend, &scope).await {
            Ok(capability) => capability,
            Err(error) => {
                // who may write nothing here hears no more than that
                let allowed = |capability| {
                    let decided = decide_on(by.acl(), call.path.as_str(), capability, Facts::Any);
                    matches!(decided.verdict, Verdict::Allow { .. })
                };
                let may = [Capability::Create, Capability::Update].into_iter().any(allowed);
                let error = if may { error } else { VaultError::PermissionDenied };
                return self.refused(call, Some(by), (Decision::NotReached, ""), error).await;
            }
        };
        let path = call.path.as_str();
        if by.acl().is_limited() {
            call.info.asked.get_or_init(|| asked(call));
        }
        let Decided { verdict, ack } = decide_on(by.acl(), path, capability, call.info.facts());
        match verdict {
            Verdict::Allow { rule } => scope.rule = rule.to_owned(),
            Verdict::Deny { rule } => {
                let refusal = VaultError::PermissionDenied;
                return self.refused(call, Some(by), (Decision::Denied, rule), refusal).await;
            }
            Verdict::Nothing => {
                return self.refused(call, Some(by), (Decision::Denied, ""), VaultError::PermissionDenied).await;
            }
        }
        if let Err(refusal) = call.info.demand(ack) {
            let refusal = VaultError::Unavailable(refusal.reason());
            return self.refused(call, Some(by), (Decision::Allowed, &scope.rule), refusal).await;
        }
        let may_change = || decide_on(by.acl(), path, Capability::Update, call.info.facts()).verdict;
        scope.only_new = capability == Capability::Create && !matches!(may_change(), Verdict::Allow { .. });
        let sudo = access == Access::PolicyAndSudo;
        if sudo && !matches!(decide_on(by.acl(), path, Capability::Sudo, Facts::Any).verdict, Verdict::Allow { .. }) {
            return self.refused(call, Some(by), (Decision::Denied, ""), VaultError::PermissionDenied).await;
        }
        self.carry_out(&scope, backend).await
    }

    async fn carry_out(&self, scope: &Scope<'_>, backend: &dyn Backend) -> Result<Reply, VaultError> {
        let outcome = backend.handle(scope).await;
        match outcome {
            Ok(reply) => {
                if !scope.is_recorded() {
                    self.log(&scope.record(scope.subject(), Decision::Allowed, Outcome::Done)).await?;
                }
                let mount_type = scope.mount.kind.type_name();
                let reply = Reply { mount_type, ..reply };
                match scope.call.wrap_ttl {
                    // what is shown as it is cannot be wrapped, and may not leave in the clear instead
                    Some(_) if reply.bare.is_some() && scope.mount.kind != Kind::System => {
                        Err(VaultError::field("X-Vault-Wrap-TTL", "this answer cannot be wrapped"))
                    }
                    Some(ttl) if reply.has_content() => crate::wrapping::wrap(scope, reply, ttl).await,
                    Some(_) | None => Ok(reply),
                }
            }
            Err(error) if scope.is_recorded() || error.is_unrecorded() => Err(error),
            Err(error) => {
                let outcome = Outcome::Failed(error.reason().into());
                self.log(&scope.record(scope.subject(), Decision::Allowed, outcome)).await?;
                Err(error)
            }
        }
    }

    /// Records a refusal, then refuses.
    pub(crate) async fn refused(
        &self,
        call: &Call,
        by: Option<&Arc<Principal>>,
        (decision, rule): (Decision, &str),
        error: VaultError,
    ) -> Result<Reply, VaultError> {
        if error.is_unrecorded() {
            return Err(error);
        }
        let subject = by.map_or(&Subject::Unauthenticated, |by| by.subject());
        let outcome = Outcome::Failed(error.reason().into());
        self.log(&record(call, &call.path.told(), subject, decision, rule, outcome)).await?;
        Err(error)
    }

    pub(crate) async fn log(&self, record: &Record<'_>) -> Result<(), VaultError> {
        match record.subject {
            Subject::Unauthenticated => self.seams.strangers.append(record).await,
            Subject::Token { .. } | Subject::Certificate { .. } | Subject::System => {
                Ok(self.changes().log(record).await?)
            }
        }
    }

    /// Commits, and drops what the change outdates before the caller hears of it.
    pub(crate) async fn commit(&self, batch: Batch, record: &Record<'_>) -> Result<Revision, ChangeError> {
        let paths = batch.writes.iter().map(|write| write.path().clone()).collect();
        let revision = match &self.space {
            // what a worker does, too
            Some(space) if record.namespace.is_empty() => {
                self.changes().commit(batch, &Record { namespace: &space.path, ..record.clone() }).await?
            }
            Some(_) | None => self.changes().commit(batch, record).await?,
        };
        let change = Change::Paths { revision, paths };
        self.seams.caches.apply(&change);
        self.seams.identity_caches.apply(&change);
        Ok(revision)
    }

    /// All mounts, as they are now or were a moment ago.
    pub async fn table(&self) -> Result<Arc<Table>, VaultError> {
        if let Some(table) = self.seams.caches.mounts.peek(&self.seams.tenant) {
            return Ok(table);
        }
        let (table, _, read_at) = self.load_table().await?;
        let table = Arc::new(table);
        self.seams.caches.mounts.insert(self.seams.tenant, Arc::clone(&table), &[self.mounts_path()?], read_at);
        Ok(table)
    }

    /// With the revision of their entry, and of the read.
    pub(crate) async fn load_table(&self) -> Result<(Table, Revision, Revision), VaultError> {
        let path = self.mounts_path()?;
        let (read_at, found) = self.seams.barrier.get(std::slice::from_ref(&path), AtLeast::Latest).await?;
        let opened = found.into_iter().flatten().next();
        let opened = opened.ok_or_else(|| VaultError::Internal("there are no mounts".into()))?;
        let table = serde_json::from_slice(opened.value.expose())
            .map_err(|_| VaultError::Internal("the stored mounts cannot be read".into()))?;
        Ok((table, opened.revision, read_at))
    }

    pub(crate) fn put_table(&self, batch: Batch, table: &Table) -> Result<Batch, VaultError> {
        let path = self.mounts_path()?;
        let text =
            serde_json::to_vec(table).map_err(|_| VaultError::Internal("the mounts cannot be written".into()))?;
        let sealed = self.seams.barrier.seal(&path, &text)?;
        Ok(batch.put(path, sealed))
    }

    pub(crate) fn mounts_path(&self) -> Result<EntryPath, VaultError> {
        self.below("mounts")
    }

    pub(crate) fn new_mount(&self, kind: Kind, description: &str, now: Timestamp) -> Result<Mount, VaultError> {
        Ok(Mount {
            kind,
            id: hex::encode(self.seams.barrier.random::<16>()?),
            accessor: format!("{}_{}", kind.type_name(), hex::encode(self.seams.barrier.random::<4>()?)),
            description: description.to_owned(),
            tune: Tune::default(),
            created: now.unix_millis(),
        })
    }

    /// The part of the store of one mount, or of the vault's own under a name that is no mount's id.
    pub(crate) fn view(&self, id: &str) -> Result<View, VaultError> {
        Ok(View::new(&self.seams.barrier, self.below(&format!("m/{id}"))?, &self.seams.caches.values))
    }

    /// In which what is lent now is lent.
    pub(crate) fn generation(&self) -> u64 {
        self.seams.generation
    }

    /// Whether what was lent in this generation is void.
    pub(crate) fn is_void(&self, generation: u64) -> bool {
        generation < self.seams.leases_void_below
    }

    fn below(&self, rest: &str) -> Result<EntryPath, VaultError> {
        self.root.join(rest).map_err(|_| VaultError::Internal("ids are segments".into()))
    }
}

/// What was asked for in other spellings becomes the one that is decided on and served.
fn canonicalise(table: &Table, call: &mut Call) {
    if call.verb != Verb::List {
        call.path.trim();
    }
    let Some((at, mount, below)) = table.route(call.path.as_str()) else { return };
    if let Cow::Owned(canonical) = backend::of(mount.kind).canonical(below) {
        let path = format!("{at}{canonical}");
        call.path.replace(path);
    }
}

/// What a rule must give for this.
async fn capability(backend: &dyn Backend, scope: &Scope<'_>) -> Result<Capability, VaultError> {
    Ok(match scope.call.verb {
        Verb::Read => Capability::Read,
        Verb::List => Capability::List,
        Verb::Patch => Capability::Patch,
        Verb::Delete => Capability::Delete,
        Verb::Write if backend.exists(scope).await? => Capability::Update,
        Verb::Write => Capability::Create,
    })
}

/// What a request asks with: its body's fields, the query's parameters, and how long its answer is to be wrapped.
fn asked(call: &Call) -> Asked {
    let mut asked = Asked::new(call.wrap_ttl);
    for name in call.body.names() {
        asked.add(name, call.body.raw(name).map_or(Given::Other, given));
    }
    for (name, value) in &call.parameters {
        asked.add(name, Given::text(value));
    }
    asked
}

/// A field's JSON.
fn given(raw: &str) -> Given {
    let scalar = |raw: &str| match raw.as_bytes().first() {
        Some(b'"') => serde_json::from_str(raw).ok().map(|text: String| SecretBytes::from_vec(text.into_bytes())),
        Some(b'{' | b'[' | b'n') | None => None,
        Some(_) => Some(SecretBytes::copy_from(raw.as_bytes())),
    };
    if !raw.starts_with('[') {
        return scalar(raw).map_or(Given::Other, Given::One);
    }
    let Ok(items) = serde_json::from_str::<Vec<&RawValue>>(raw) else { return Given::Other };
    items.into_iter().map(|item| scalar(item.get())).collect::<Option<_>>().map_or(Given::Other, Given::Many)
}

/// Tables of mounts that are kept in memory: the root's, and those of namespaces that are used.
const TABLES_MAX: usize = 256;
const FIRST_MOUNTS: [(&str, Kind, &str); 5] = [
    ("auth/token/", Kind::Token, "token based credentials"),
    ("cubbyhole/", Kind::Cubbyhole, "per-token private secret storage"),
    ("identity/", Kind::Identity, "identity store"),
    ("secret/", Kind::Kv2, "key/value secret storage"),
    ("sys/", Kind::System, "system endpoints used for control, policy and debugging"),
];
