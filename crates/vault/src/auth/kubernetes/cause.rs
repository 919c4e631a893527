//! Why a login was refused: for the record and for who looks after it, never for the caller.

/// What each means, and what can be done about it.
pub(crate) const CAUSES: &[(&str, &str)] = &[
    (NOT_CONFIGURED, "the mount has no configuration: write auth/kubernetes/config"),
    (ROLE_UNKNOWN, "there is no role of this name"),
    (
        MALFORMED,
        "what was shown is no service account's token: three parts, JSON, with kubernetes.io, sub, aud, iss and exp",
    ),
    (
        HEADER,
        "the token's header names a key of its own (jwk, jku, x5c, x5u), has critical extensions, or two of a field",
    ),
    (ALGORITHM, "the token is signed in a way that clusters do not sign in: RS and ES with SHA-2 are taken"),
    (EXPIRED, "the token has ended: the kubelet writes a new one into the projected volume in time"),
    (NOT_YET, "the token counts from a later time on: compare the clocks"),
    (
        ISSUER_OTHER,
        "the token's iss is not the configuration's issuer: it is another cluster's, or one of the two was changed",
    ),
    (
        AUDIENCE_OTHER,
        "the token is not for the role's audience: set serviceAccountToken.audience of the Pod's projected volume",
    ),
    (NAME_OTHER, "the service account's name is none of the role's bound_service_account_names"),
    (
        NAMESPACE_OTHER,
        "the namespace is none of the role's bound_service_account_namespaces, and its labels are not as the selector asks",
    ),
    (NAMESPACE_GONE, "the API server knows no such namespace any more"),
    (POD_NONE, "the token is bound to no Pod, and the role asks for one"),
    (POD_OTHER, "the Pod's name is none of the role's bound_pod_names"),
    (NODE_OTHER, "the token tells no node, or none of the role's bound_node_names"),
    (
        NOT_AUTHENTICATED,
        "the API server does not vouch for the token: its signature, its end, its audience, or its account or Pod is gone or was made anew",
    ),
    (
        REVIEW_AUDIENCE,
        "the API server vouched for the token, and not for the role's audience: it knows no audiences, or lies",
    ),
    (REVIEW_OTHER, "the API server vouched for somebody else than the token speaks of"),
    (REVIEW_MALFORMED, "the API server's answer is no TokenReview: is kubernetes_host an API server?"),
    (
        REVIEWER_REFUSED,
        "the API server refuses the reviewer: its token has ended, or it lacks system:auth-delegator (for selectors, get on namespaces)",
    ),
    (
        REVIEWER_NONE,
        "there is nobody to ask as: set token_reviewer_jwt, or [[kubernetes]] in the server's configuration file for this very host",
    ),
];

pub(super) const NOT_CONFIGURED: &str = "KUBERNETES_NOT_CONFIGURED";
pub(super) const ROLE_UNKNOWN: &str = "KUBERNETES_ROLE_UNKNOWN";
pub(super) const MALFORMED: &str = "KUBERNETES_TOKEN_MALFORMED";
pub(super) const HEADER: &str = "KUBERNETES_TOKEN_HEADER";
pub(super) const ALGORITHM: &str = "KUBERNETES_ALGORITHM_OTHER";
pub(super) const EXPIRED: &str = "KUBERNETES_TOKEN_EXPIRED";
pub(super) const NOT_YET: &str = "KUBERNETES_TOKEN_NOT_YET";
pub(super) const ISSUER_OTHER: &str = "KUBERNETES_ISSUER_OTHER";
pub(super) const AUDIENCE_OTHER: &str = "KUBERNETES_AUDIENCE_OTHER";
pub(super) const NAME_OTHER: &str = "KUBERNETES_NAME_OTHER";
pub(super) const NAMESPACE_OTHER: &str = "KUBERNETES_NAMESPACE_OTHER";
pub(super) const NAMESPACE_GONE: &str = "KUBERNETES_NAMESPACE_GONE";
pub(super) const POD_NONE: &str = "KUBERNETES_POD_NONE";
pub(super) const POD_OTHER: &str = "KUBERNETES_POD_OTHER";
pub(super) const NODE_OTHER: &str = "KUBERNETES_NODE_OTHER";
pub(super) const NOT_AUTHENTICATED: &str = "KUBERNETES_NOT_AUTHENTICATED";
pub(super) const REVIEW_AUDIENCE: &str = "KUBERNETES_REVIEW_AUDIENCE_OTHER";
pub(super) const REVIEW_OTHER: &str = "KUBERNETES_REVIEW_OTHER_ACCOUNT";
pub(super) const REVIEW_MALFORMED: &str = "KUBERNETES_REVIEW_MALFORMED";
pub(super) const REVIEWER_REFUSED: &str = "KUBERNETES_REVIEWER_REFUSED";
pub(super) const REVIEWER_NONE: &str = "KUBERNETES_REVIEWER_NONE";
