//! Where everything stands, how it is read, and what of it is cached.
//!
//! Below `<tenant>/identity`: `tokens/<digest>`, `uses/<digest>`, `accessors/<hash>`, `children/<parent>/<child>`,
//! `due/<when>/<digest>`, `lent/<digest>`, `ended/<when>/<digest>`, `entities/<id>`, `groups/<id>`, by their names and aliases `entity-index/<hash>` and
//! `group-index/<hash>`, `policies/<name>`, `roles/<name>`, `matches/<hash>`, `token-roles/<name>`. What users choose stands
//! there as keyed hashes only, but for names of policies and roles. Nothing ever stands at `stateless`: it is the place for
//! which stateless tokens are sealed. The same stands below a namespace's part, `<tenant>/ns/<its own tenant>/identity`.

mod codec;

pub(crate) use codec::{
    StoredRole, decode_digest, decode_name, decode_role, decode_token, decode_token_role, decode_uses, encode_role,
    encode_token, encode_token_role, encode_uses,
};

use crate::acl::Acl;
use crate::certificate::{CertificateMatch, PeerCertificate};
use crate::entity::EntityId;
use crate::error::IdentityError;
use crate::name::{Accessor, PolicyName, RoleName};
use crate::policy::Policy;
use crate::principal::Principal;
use crate::token::{self, Digest};
use envelope::{SecretBytes, Timestamp};
use std::sync::Arc;
use storage::{Barrier, Cache, Change, EntryPath, Invalidate, Revision};

/// A set of policies of one root or namespace, each at the revision that was read: the same key, the same rules, for ever. One
/// commit may write policies of several, of the same name.
pub(crate) type AclKey = (EntryPath, Box<[(PolicyName, Option<Revision>)]>);
/// One of them.
pub(crate) type PolicyKey = (EntryPath, PolicyName, Option<Revision>);

/// What is known already. One for all cores; tell it of changes with [`storage::follow`].
#[derive(Debug)]
pub struct Caches {
    pub(crate) tokens: Cache<Digest, Principal>,
    /// By thumbprint, which determines all else of a certificate.
    pub(crate) certificates: Cache<[u8; 32], Principal>,
    pub(crate) acls: Cache<AclKey, Acl>,
    /// As they were parsed: what their templates stand for is another for each entity.
    pub(crate) policies: Cache<PolicyKey, Policy>,
    /// By the index of the alias that logs in.
    pub(crate) people: Cache<EntryPath, Person>,
}

/// Whom an alias is of: an entity that was merged into none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Person {
    pub(crate) id: EntityId,
    pub(crate) disabled: bool,
    /// Of the entity's record.
    pub(crate) revision: Revision,
}

/// How many entries each cache holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CacheSizes {
    pub tokens: usize,
    pub certificates: usize,
    /// Sets of policies.
    pub acls: usize,
}

impl Caches {
    /// At most `principals` tokens, as many certificates, and a fourth of that of sets of policies and of policies.
    pub fn new(principals: usize) -> Self {
        Self {
            tokens: Cache::new(principals),
            certificates: Cache::new(principals),
            acls: Cache::new(principals.div_ceil(4)),
            policies: Cache::new(principals.div_ceil(4)),
            people: Cache::new(principals.div_ceil(4)),
        }
    }

    pub fn sizes(&self) -> CacheSizes {
        CacheSizes { tokens: self.tokens.len(), certificates: self.certificates.len(), acls: self.acls.len() }
    }
}

impl Invalidate for Caches {
    fn apply(&self, change: &Change) {
        // nothing that is kept depends on anything else
        if !change.concerns(DOMAIN) {
            return;
        }
        self.tokens.apply(change);
        self.certificates.apply(change);
        self.acls.apply(change);
        self.policies.apply(change);
        self.people.apply(change);
    }

    fn forget(&self) {
        self.tokens.forget();
        self.certificates.forget();
        self.acls.forget();
        self.policies.forget();
        self.people.forget();
    }

    fn current(&self, until: storage::Until) {
        self.tokens.current(until);
        self.certificates.current(until);
        self.acls.current(until);
        self.policies.current(until);
        self.people.current(until);
    }
}

/// The paths of one tenant.
#[derive(Debug, Clone)]
pub(crate) struct Layout {
    barrier: Arc<Barrier>,
    root: EntryPath,
    /// Of a namespace: what its tokens end in.
    mark: Option<Box<str>>,
}

type PathResult = Result<EntryPath, IdentityError>;

impl Layout {
    pub(crate) fn new(barrier: Arc<Barrier>, tenant: &[u8; 16]) -> Result<Self, IdentityError> {
        let root = EntryPath::parse(&format!("{}/{DOMAIN}", hex::encode(tenant)))
            .map_err(|_| IdentityError::Internal("a tenant is a segment"))?;
        Ok(Self { barrier, root, mark: None })
    }

    /// Of a namespace whose part of the store is below `part`.
    pub(crate) fn in_namespace(barrier: Arc<Barrier>, part: &EntryPath, mark: &str) -> Result<Self, IdentityError> {
        let root = part.join(DOMAIN).map_err(|_| IdentityError::Internal("a namespace is two segments"))?;
        Ok(Self { barrier, root, mark: Some(mark.into()) })
    }

    pub(crate) fn is_of_namespace(&self) -> bool {
        self.mark.is_some()
    }

    /// A new token's text, with what tells of which namespace it is.
    pub(crate) fn marked(&self, token: SecretBytes) -> Result<SecretBytes, IdentityError> {
        let Some(mark) = &self.mark else { return Ok(token) };
        let marked = token::marked(&token, mark);
        if token::is_well_formed(marked.expose()) { Ok(marked) } else { Err(IdentityError::LimitExceeded) }
    }

    /// What of a token's text stands before the mark; nothing where it is another namespace's.
    pub(crate) fn unmarked<'t>(&self, token: &'t [u8]) -> Option<&'t [u8]> {
        match &self.mark {
            None => Some(token),
            Some(mark) => token.strip_suffix(mark.as_bytes())?.strip_suffix(b"."),
        }
    }

    /// Everything of ours is below it.
    pub(crate) fn root(&self) -> &EntryPath {
        &self.root
    }

    pub(crate) fn digest(&self, token: &[u8]) -> Result<Digest, IdentityError> {
        if !self.is_of_namespace() {
            return Ok(Digest(self.barrier.keyed_hash(b"identity/token", token)?));
        }
        // the same text is another token in each namespace: what is cached by it is of one alone
        let here = SecretBytes::from_vec([self.root.as_str().as_bytes(), b" ", token].concat());
        Ok(Digest(self.barrier.keyed_hash(b"identity/namespace-token", here.expose())?))
    }

    pub(crate) fn token(&self, digest: &Digest) -> PathResult {
        self.below(&format!("tokens/{}", hex::encode(digest.0)))
    }

    pub(crate) fn uses(&self, digest: &Digest) -> PathResult {
        self.below(&format!("uses/{}", hex::encode(digest.0)))
    }

    pub(crate) fn accessor(&self, accessor: &Accessor) -> PathResult {
        let hash = self.barrier.keyed_hash(b"identity/accessor", accessor.as_str().as_bytes())?;
        self.below(&format!("accessors/{}", hex::encode(hash)))
    }

    pub(crate) fn accessors(&self) -> PathResult {
        self.below("accessors")
    }

    /// For what stateless tokens are sealed.
    pub(crate) fn stateless(&self) -> PathResult {
        self.below("stateless")
    }

    pub(crate) fn token_roles(&self) -> PathResult {
        self.below("token-roles")
    }

    pub(crate) fn token_role(&self, name: &RoleName) -> PathResult {
        self.below(&format!("token-roles/{name}"))
    }

    pub(crate) fn children(&self, parent: &Digest) -> PathResult {
        self.below(&format!("children/{}", hex::encode(parent.0)))
    }

    pub(crate) fn child(&self, parent: &Digest, child: &Digest) -> PathResult {
        self.below(&format!("children/{}/{}", hex::encode(parent.0), hex::encode(child.0)))
    }

    pub(crate) fn due_queue(&self) -> PathResult {
        self.below("due")
    }

    pub(crate) fn due(&self, at: Timestamp, digest: &Digest) -> PathResult {
        self.below(&format!("due/{:016x}/{}", at.unix_millis(), hex::encode(digest.0)))
    }

    /// The token is lent something.
    pub(crate) fn lent(&self, digest: &Digest) -> PathResult {
        self.below(&format!("lent/{}", hex::encode(digest.0)))
    }

    pub(crate) fn ended_queue(&self) -> PathResult {
        self.below("ended")
    }

    /// A token that was lent something has ended.
    pub(crate) fn ended(&self, at: Timestamp, digest: &Digest) -> PathResult {
        self.below(&format!("ended/{:016x}/{}", at.unix_millis(), hex::encode(digest.0)))
    }

    pub(crate) fn policies(&self) -> PathResult {
        self.below("policies")
    }

    pub(crate) fn policy(&self, name: &PolicyName) -> PathResult {
        self.below(&format!("policies/{name}"))
    }

    pub(crate) fn roles(&self) -> PathResult {
        self.below("roles")
    }

    pub(crate) fn role(&self, name: &RoleName) -> PathResult {
        self.below(&format!("roles/{name}"))
    }

    pub(crate) fn matched(&self, matches: &CertificateMatch) -> PathResult {
        let (label, value) = matches.label_and_value();
        self.matched_by(label, value)
    }

    /// Where roles for this certificate would stand, the most specific first.
    pub(crate) fn matched_any(&self, certificate: &PeerCertificate) -> Result<Vec<EntryPath>, IdentityError> {
        certificate.labels_and_values().into_iter().map(|(label, value)| self.matched_by(label, value)).collect()
    }

    fn matched_by(&self, label: &[u8], value: &[u8]) -> PathResult {
        self.below(&format!("matches/{}", hex::encode(self.barrier.keyed_hash(label, value)?)))
    }

    pub(crate) fn entities(&self) -> PathResult {
        self.below("entities")
    }

    pub(crate) fn entity(&self, id: EntityId) -> PathResult {
        self.below(&format!("entities/{}", id.segment()))
    }

    pub(crate) fn entity_name(&self, name: &str) -> PathResult {
        self.indexed("entity-index", b"identity/entity-name", &[name])
    }

    pub(crate) fn entity_alias(&self, mount_accessor: &str, name: &str) -> PathResult {
        self.indexed("entity-index", b"identity/entity-alias", &[mount_accessor, name])
    }

    pub(crate) fn entity_alias_id(&self, id: EntityId) -> PathResult {
        self.indexed("entity-index", b"identity/entity-alias-id", &[&id.segment()])
    }

    pub(crate) fn groups(&self) -> PathResult {
        self.below("groups")
    }

    pub(crate) fn group(&self, id: EntityId) -> PathResult {
        self.below(&format!("groups/{}", id.segment()))
    }

    pub(crate) fn group_name(&self, name: &str) -> PathResult {
        self.indexed("group-index", b"identity/group-name", &[name])
    }

    pub(crate) fn group_alias(&self, mount_accessor: &str, name: &str) -> PathResult {
        self.indexed("group-index", b"identity/group-alias", &[mount_accessor, name])
    }

    pub(crate) fn group_alias_id(&self, id: EntityId) -> PathResult {
        self.indexed("group-index", b"identity/group-alias-id", &[&id.segment()])
    }

    /// The parts are kept apart by their lengths.
    fn indexed(&self, folder: &str, label: &[u8], parts: &[&str]) -> PathResult {
        let mut joined = Vec::new();
        for part in parts {
            joined.extend_from_slice(&(part.len() as u64).to_be_bytes());
            joined.extend_from_slice(part.as_bytes());
        }
        self.below(&format!("{folder}/{}", hex::encode(self.barrier.keyed_hash(label, &joined)?)))
    }

    fn below(&self, rest: &str) -> PathResult {
        self.root.join(rest).map_err(|_| IdentityError::Internal("names, hashes and times are segments"))
    }
}

/// The digest that a path ends in.
pub(crate) fn digest_in(path: &EntryPath) -> Option<Digest> {
    let mut digest = [0; 32];
    hex::decode_to_slice(path.segments().last()?, &mut digest).ok()?;
    Some(Digest(digest))
}

/// The segment below which all of it stands.
const DOMAIN: &str = "identity";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn caches_tell_their_sizes_up_to_their_limits() {
        let caches = Caches::new(8);
        let none = CacheSizes { tokens: 0, certificates: 0, acls: 0 };
        assert_eq!(caches.sizes(), none);
        // nothing is kept before changes are followed
        caches.apply(&Change::Gap { revision: Revision(0) });
        for (revision, acls) in [(1, 1), (2, 2), (3, 2)] {
            let here = EntryPath::parse("t").unwrap();
            let key: AclKey = (here, [(PolicyName::root(), Some(Revision(revision)))].into());
            caches.acls.insert(key, Arc::new(Acl::root()), &[], Revision(revision));
            assert_eq!(caches.sizes(), CacheSizes { acls, ..none });
        }
    }
}
