//! What is served below each kind of mount: the table that `sys/internal/specs/openapi` tells.
//!
//! Always: a path that stands here is served by the verbs that stand beside it, and by no others; a test asks each.

use crate::call::Verb::{self, Delete, List, Patch, Read, Write};
use crate::mount::Kind;

#[derive(Debug, Clone, Copy)]
pub struct Route {
    /// Below the mount; `{name}` is one segment, `{path}` at the end one or more.
    pub path: &'static str,
    pub verbs: &'static [Verb],
    pub told: &'static str,
}

const fn route(path: &'static str, verbs: &'static [Verb], told: &'static str) -> Route {
    Route { path, verbs, told }
}

pub fn of(kind: Kind) -> &'static [Route] {
    match kind {
        Kind::System => SYSTEM,
        Kind::Token => TOKEN,
        Kind::Cubbyhole | Kind::Kv1 => KV1,
        Kind::Kv2 => KV2,
        Kind::AppRole => APPROLE,
        Kind::Userpass => USERPASS,
        Kind::Jwt | Kind::Oidc => JWT,
        Kind::Aws => AWS,
        Kind::Gcp | Kind::Azure => CLOUD,
        Kind::Cert => CERT,
        Kind::Spiffe => SPIFFE,
        Kind::Kubernetes => KUBERNETES,
        Kind::Transit => TRANSIT,
        Kind::Pki => PKI,
        Kind::Database => DATABASE,
        Kind::Identity => IDENTITY,
    }
}

const IDENTITY: &[Route] = &[
    route("entity", &[Write], "Makes an entity, or changes one."),
    route("entity/id", &[List], "Ids of entities."),
    route("entity/id/{id}", &[Read, Write, Delete], "One entity, by its id."),
    route("entity/name", &[List], "Names of entities."),
    route("entity/name/{path}", &[Read, Write, Delete], "One entity, by its name."),
    route("entity/batch-delete", &[Write], "Drops several entities."),
    route("entity/merge", &[Write], "Makes several entities one."),
    route("entity-alias", &[Write], "By what name a mount knows an entity."),
    route("entity-alias/id", &[List], "Aliases of entities."),
    route("entity-alias/id/{id}", &[Read, Write, Delete], "One alias of an entity."),
    route("group", &[Write], "Makes a group, or changes one."),
    route("group/id", &[List], "Ids of groups."),
    route("group/id/{id}", &[Read, Write, Delete], "One group, by its id."),
    route("group/name", &[List], "Names of groups."),
    route("group/name/{path}", &[Read, Write, Delete], "One group, by its name."),
    route("group-alias", &[Write], "By what name a mount knows the members of a group."),
    route("group-alias/id", &[List], "Aliases of groups."),
    route("group-alias/id/{id}", &[Read, Write, Delete], "One alias of a group."),
    route("lookup/entity", &[Write], "An entity, by its id, name or alias."),
    route("lookup/group", &[Write], "A group, by its id, name or alias."),
];

const SYSTEM: &[Route] = &[
    route("health", &[Read], "Whether the server serves."),
    route("seal-status", &[Read], "What the seal is."),
    route("leader", &[Read], "Who leads: nobody."),
    route("ha-status", &[Read], "The nodes."),
    route("init", &[Read, Write], "Whether the server is initialised."),
    route("seal", &[Write], "Seals this node."),
    route("unseal", &[Write], "A share of the recovery key, where this node is sealed."),
    route(
        "generate-root/attempt",
        &[Read, Write, Delete],
        "An attempt to make a root token by shares of the recovery key.",
    ),
    route("generate-root/update", &[Write], "A share of the recovery key, for a root token."),
    route(
        "rekey-recovery-key/init",
        &[Read, Write, Delete],
        "An attempt to make another recovery key; or the first one.",
    ),
    route("rekey-recovery-key/update", &[Write], "A share of the recovery key, for another one."),
    route("rekey-recovery-key/verify", &[Read, Write, Delete], "A share of the new recovery key, so that it counts."),
    route("rotate", &[Write], "A new key of the barrier."),
    route("rotate/keyring", &[Write], "A new key of the barrier."),
    route("key-status", &[Read], "The term of the barrier's key."),
    route("mounts", &[Read], "Secrets engines."),
    route("mounts/{path}", &[Read, Write, Delete], "One secrets engine."),
    route("mounts/{path}/tune", &[Read, Write], "What can be tuned of a secrets engine."),
    route("auth", &[Read], "Auth methods."),
    route("auth/{path}", &[Read, Write, Delete], "One auth method."),
    route("auth/{path}/tune", &[Read, Write], "What can be tuned of an auth method."),
    route("remount", &[Write], "Moves a mount."),
    route("internal/ui/mounts", &[Read], "Mounts that the caller sees something of."),
    route("internal/ui/mounts/{path}", &[Read], "The mount that serves a path."),
    route("internal/ui/resultant-acl", &[Read], "What the caller's rules say."),
    route("locked-users", &[Read], "Whom wrong passwords have locked out."),
    route("locked-users/{mount_accessor}/unlock/{alias_identifier}", &[Write], "Lets somebody in again."),
    route("metrics", &[Read], "What is counted."),
    route("internal/specs/openapi", &[Read], "This document."),
    route("namespaces", &[List], "Namespaces right below; with `scan=true`, all below."),
    route("namespaces/{name}", &[Read, Write, Patch, Delete], "One namespace."),
    route("policies/acl", &[List], "Names of policies."),
    route("policies/acl/{name}", &[Read, Write, Delete], "One policy."),
    route("policy", &[Read, List], "Names of policies, as older clients ask."),
    route("policy/{name}", &[Read, Write, Delete], "One policy, as older clients ask."),
    route("policies/password", &[List], "Names of password policies."),
    route("policies/password/{name}", &[Read, Write, Delete], "One password policy."),
    route("policies/password/{name}/generate", &[Read], "A password."),
    route("capabilities", &[Write], "What a token may do on paths."),
    route("capabilities-self", &[Write], "What the caller may do on paths."),
    route("capabilities-accessor", &[Write], "What the token of an accessor may do on paths."),
    route("leases", &[List], "Irrevocable leases: none."),
    route("leases/lookup", &[Write, List], "One lease; or names of leases."),
    route("leases/lookup/{path}", &[List], "Names of leases below a prefix."),
    route("leases/renew", &[Write], "Lets a lease go on; tokens are renewed below auth/token/."),
    route("leases/queue", &[Read], "What should have ended and has not."),
    route("leases/revoke", &[Write], "Takes back what one lease lent."),
    route("leases/revoke-prefix/{path}", &[Write], "Takes back what was lent below a prefix."),
    route("leases/revoke-force/{path}", &[Write], "The same."),
    route("leases/tidy", &[Write], "Sweeps up what is over."),
    route("leases/count", &[Read], "How many leases there are, by mount."),
    route("tools/random", &[Write, Read], "Random bytes."),
    route("tools/random/{bytes}", &[Write, Read], "So many random bytes."),
    route("tools/random/{source}/{bytes}", &[Write, Read], "So many random bytes, of the platform, the seal, or both."),
    route("tools/hash", &[Write], "SHA-256 of what is sent."),
    route("tools/hash/{algorithm}", &[Write], "A hash of what is sent."),
    route("wrapping/wrap", &[Write], "Wraps what is sent."),
    route("wrapping/lookup", &[Read, Write], "Tells of a wrapping token, without spending it."),
    route("wrapping/unwrap", &[Write], "Hands out what was wrapped, once."),
    route("wrapping/rewrap", &[Write], "A new wrapping token for the same."),
    route("audit", &[Read], "The audit log."),
    route("audit-hash/{path}", &[Write], "What stands in records for a path of the store."),
    route("quotas/config", &[Read, Write], "What is never limited."),
    route("quotas/rate-limit", &[List], "Names of rate limits."),
    route("quotas/rate-limit/{name}", &[Read, Write, Delete], "One rate limit."),
];

const TOKEN: &[Route] = &[
    route("create", &[Write], "A token."),
    route("create-orphan", &[Write], "A token without a parent."),
    route("create/{role_name}", &[Write], "A token as a role says."),
    route("lookup", &[Read, Write], "Tells of a token."),
    route("lookup-self", &[Read, Write], "Tells of the caller's token."),
    route("lookup-accessor", &[Write], "Tells of the token of an accessor."),
    route("renew", &[Write], "Lets a token go on."),
    route("renew-self", &[Write], "Lets the caller's token go on."),
    route("renew-accessor", &[Write], "Lets the token of an accessor go on."),
    route("revoke", &[Write], "Ends a token and its children."),
    route("revoke-self", &[Write], "Ends the caller's token and its children."),
    route("revoke-accessor", &[Write], "Ends the token of an accessor and its children."),
    route("revoke-orphan", &[Write], "Ends a token; its children become orphans."),
    route("accessors", &[List], "Accessors of all tokens."),
    route("roles", &[List], "Names of roles."),
    route("roles/{role_name}", &[Read, Write, Delete], "One role."),
    route("tidy", &[Write], "Sweeps up what is over."),
];

const KV1: &[Route] = &[route("{path}", &[Read, Write, Delete, List], "One secret; or names of secrets.")];

const KV2: &[Route] = &[
    route("config", &[Read, Write], "The mount's own settings."),
    route("data/{path}", &[Read, Write, Patch, Delete], "A version of a secret."),
    route("subkeys/{path}", &[Read], "A version's keys, without values."),
    route("delete/{path}", &[Write], "Deletes versions."),
    route("undelete/{path}", &[Write], "Takes deletions back."),
    route("destroy/{path}", &[Write], "Destroys versions."),
    route("promote/{path}", &[Write], "Makes a version the current one."),
    route("rotation/{path}", &[Read, Write, Delete], "How a secret is rotated, by whose hook."),
    route("rotate/{path}", &[Write], "Rotates a secret now."),
    route("metadata/{path}", &[Read, Write, Patch, Delete, List], "What is known of a secret; or names of secrets."),
];

const KUBERNETES: &[Route] = &[
    route("login", &[Write], "A token for a service account's token."),
    route("config", &[Read, Write], "Which cluster, and who asks it."),
    route("role", &[List], "Names of roles."),
    route("role/{name}", &[Read, Write, Delete], "One role."),
];

const APPROLE: &[Route] = &[
    route("login", &[Write], "A token for a role's id and a secret id."),
    route("role", &[List], "Names of roles."),
    route("role/{role_name}", &[Read, Write, Delete], "One role."),
    route("role/{role_name}/role-id", &[Read, Write], "A role's id."),
    route("role/{role_name}/secret-id", &[List, Write], "A new secret id; or accessors of all."),
    route("role/{role_name}/custom-secret-id", &[Write], "A secret id that was chosen."),
    route("role/{role_name}/secret-id/lookup", &[Write], "Tells of a secret id."),
    route("role/{role_name}/secret-id/destroy", &[Write, Delete], "Ends a secret id."),
    route("role/{role_name}/secret-id-accessor/lookup", &[Write], "Tells of the secret id of an accessor."),
    route("role/{role_name}/secret-id-accessor/destroy", &[Write, Delete], "Ends the secret id of an accessor."),
    route("tidy/secret-id", &[Write], "Sweeps up what is over."),
];

const USERPASS: &[Route] = &[
    route("login/{username}", &[Write], "A token for a password."),
    route("users", &[List], "Names of users."),
    route("users/{username}", &[Read, Write, Delete], "One user."),
    route("users/{username}/password", &[Write], "A user's new password."),
    route("users/{username}/policies", &[Write], "A user's policies."),
];

const AWS: &[Route] = &[
    route("login", &[Write], "A token for a signed request to AWS."),
    route("nonce", &[Write], "What a login in the server's own form signs, once."),
    route("config/client", &[Read, Write, Delete], "Which server this is to AWS's callers, and who is asked for them."),
    route("config/identity", &[Read, Write], "By what an entity is known."),
    route("role", &[List], "Names of roles."),
    route("roles", &[List], "Names of roles."),
    route("role/{role}", &[Read, Write, Delete], "Whom of AWS a role lets in."),
];

const CLOUD: &[Route] = &[
    route("login", &[Write], "A token for a token of the cloud's."),
    route("config", &[Read, Write, Delete], "Whose tokens count, and for which server."),
    route("role", &[List], "Names of roles."),
    route("roles", &[List], "Names of roles."),
    route("role/{role}", &[Read, Write, Delete], "Whom of the cloud a role lets in."),
];

const JWT: &[Route] = &[
    route("login", &[Write], "A token for a JWT."),
    route("config", &[Read, Write], "Whose JWTs count, and by which keys."),
    route("role", &[List], "Names of roles."),
    route("role/{name}", &[Read, Write, Delete], "One role."),
    route("oidc/auth_url", &[Write], "Where a browser begins to log in."),
    route("oidc/callback", &[Read], "A token for who has logged in by the browser."),
];

const CERT: &[Route] = &[
    route("login", &[Write], "A token for the connection's client certificate."),
    route("certs", &[List], "Names of roles."),
    route("certs/{name}", &[Read, Write, Delete], "One role: authorities, and whom they certify."),
    route("crls", &[List], "Names of lists of what is revoked."),
    route("crls/{name}", &[Read, Write, Delete], "An authority's list of what it has revoked."),
    route("config", &[Read, Write], "What is so for the whole mount."),
];

const SPIFFE: &[Route] = &[
    route("login", &[Write], "A token for an SVID: the connection's certificate, or a JWT."),
    route("config", &[Read, Write], "The trust domain, and its bundle."),
    route("role", &[List], "Names of roles."),
    route("role/{name}", &[Read, Write, Delete], "One role: which workloads, and as what."),
];

const DATABASE: &[Route] = &[
    route("config", &[List], "Names of configurations."),
    route("config/{name}", &[Read, Write, Delete], "How a database is reached."),
    route("reset/{name}", &[Write], "Closes what is open to a database."),
    route("roles", &[List], "Names of roles."),
    route("roles/{name}", &[Read, Write, Delete], "What users are made, and for how long."),
    route("creds/{name}", &[Read], "A new user of a database, and its lease."),
    route("rotate-root/{name}", &[Write], "Another password for the account by which a database is reached."),
    route("reconcile/{name}", &[Read, Write], "What a database holds against what is lent."),
    route("static-roles", &[List], "Names of static roles."),
    route("static-roles/{name}", &[Read, Write, Delete], "A user that stays, and when its password is rotated."),
    route("static-creds/{name}", &[Read], "A user that stays, and its password."),
    route("rotate-role/{name}", &[Write], "Rotates the password of a user that stays."),
];

const PKI: &[Route] = &[
    route("ca", &[Read], "The authority's certificate, DER."),
    route("ca/pem", &[Read], "The authority's certificate, PEM."),
    route("ca_chain", &[Read], "The authority's certificate and those above it, PEM."),
    route("crl", &[Read], "What is revoked, DER."),
    route("crl/pem", &[Read], "What is revoked, PEM."),
    route("crl/rotate", &[Read], "A new list of what is revoked."),
    route("cert/{serial}", &[Read], "One certificate; `ca`, `ca_chain` or `crl` too."),
    route("certs", &[List], "Serial numbers of certificates."),
    route("certs/revoked", &[List], "Serial numbers of certificates that are revoked."),
    route("root/generate/{type}", &[Write], "A root authority, whose key is made in the boundary."),
    route("root/sign-intermediate", &[Write], "Certifies another authority."),
    route("intermediate/generate/{type}", &[Write], "A key in the boundary, and a request to certify it."),
    route("intermediate/set-signed", &[Write], "The certificate for a key that waits for one."),
    route("issuers", &[List], "Ids of authorities."),
    route("issuer/{issuer_ref}", &[Read, Write, Delete], "One authority."),
    route("issuer/{issuer_ref}/json", &[Read], "One authority's certificate and chain."),
    route("issuer/{issuer_ref}/der", &[Read], "One authority's certificate, DER."),
    route("issuer/{issuer_ref}/pem", &[Read], "One authority's certificate, PEM."),
    route("issuer/{issuer_ref}/crl", &[Read], "What is revoked of one authority."),
    route("issuer/{issuer_ref}/crl/der", &[Read], "What is revoked of one authority, DER."),
    route("issuer/{issuer_ref}/crl/pem", &[Read], "What is revoked of one authority, PEM."),
    route("issuer/{issuer_ref}/issue/{role}", &[Write], "A key and its certificate, by this authority."),
    route("issuer/{issuer_ref}/sign/{role}", &[Write], "Certifies a request, by this authority."),
    route("issuer/{issuer_ref}/sign-intermediate", &[Write], "Certifies another authority, by this one."),
    route("config/issuers", &[Read, Write], "Which authority is meant where none is named."),
    route("config/urls", &[Read, Write], "What certificates say of where more is to be had."),
    route("config/crl", &[Read, Write], "How long a list of what is revoked counts."),
    route("roles", &[List], "Names of roles."),
    route("roles/{name}", &[Read, Write, Delete], "What certificates are issued, and for whom."),
    route("issue/{role}", &[Write], "A key and its certificate."),
    route("sign/{role}", &[Write], "Certifies a request."),
    route("revoke", &[Write], "Revokes a certificate."),
    route("tidy", &[Write], "Sweeps up what is over."),
];

const TRANSIT: &[Route] = &[
    route("keys", &[List], "Names of keys."),
    route("keys/{name}", &[Read, Write, Delete], "One key."),
    route("keys/{name}/config", &[Write], "What a key allows."),
    route("keys/{name}/rotate", &[Write], "A new version of a key."),
    route("keys/{name}/trim", &[Write], "Drops old versions of a key."),
    route("encrypt/{name}", &[Write], "Encrypts."),
    route("decrypt/{name}", &[Write], "Decrypts."),
    route("rewrap/{name}", &[Write], "Encrypts anew, under the latest version."),
    route("datakey/{plaintext}/{name}", &[Write], "A new data key."),
    route("sign/{name}", &[Write], "Signs."),
    route("sign/{name}/{hash}", &[Write], "Signs a hash by this algorithm."),
    route("verify/{name}", &[Write], "Verifies a signature or a code."),
    route("verify/{name}/{hash}", &[Write], "Verifies a signature of a hash by this algorithm."),
    route("hmac/{name}", &[Write], "An authentication code."),
    route("hmac/{name}/{hash}", &[Write], "An authentication code by this algorithm."),
    route("hash", &[Write], "A hash of what is sent."),
    route("hash/{algorithm}", &[Write], "A hash of what is sent by this algorithm."),
    route("random", &[Write], "Random bytes."),
    route("random/{bytes}", &[Write], "So many random bytes."),
    route("random/{source}/{bytes}", &[Write], "So many random bytes, whatever the source."),
    route("export/public-key/{name}", &[Read], "Public keys of all versions."),
    route("export/public-key/{name}/{version}", &[Read], "The public key of one version."),
];
