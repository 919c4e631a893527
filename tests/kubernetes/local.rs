//! Verification by the cluster's own keys, the API server not being asked.

use crate::stand::{AUDIENCE, opened, shared};
use serde_json::{Value, json};

const ISSUER: &str = "https://kubernetes.default.svc";

#[test]
fn the_clusters_keys_are_enough_where_the_mount_says_so_and_the_token_ends_with_its_proof() {
    let stand = shared();
    let api = &stand.api;
    api.namespace("local", json!({}));
    api.account("local", "web");
    // who wants keys to be read by those who are nobody says so
    let subject = json!({"kind": "Group", "apiGroup": "rbac.authorization.k8s.io", "name": "system:unauthenticated"});
    let role = json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "system:service-account-issuer-discovery"});
    api.make(
        "apis/rbac.authorization.k8s.io/v1/clusterrolebindings",
        json!({"metadata": {"name": "keys"}, "roleRef": role, "subjects": [subject]}),
    );
    let pem = std::fs::read_to_string(api.path("sa.pub")).unwrap();
    let keys = json!({"kubernetes_host": "https://127.0.0.1:1", "kubernetes_ca_cert": api.ca(), "pem_keys": [pem]});
    let with = |mut config: Value, more: Value| {
        for (field, value) in more.as_object().unwrap() {
            config[field] = value.clone();
        }
        config
    };
    let local = json!({"verification": "local", "issuer": ISSUER, "kubernetes_host": api.url(), "kubernetes_ca_cert": api.ca()});
    let good = api.token("local", "web", Some(AUDIENCE), None);
    let (header, payload) = opened(&good);
    let change = |pointer: &str, set: Value| {
        let mut changed = payload.clone();
        changed[pointer] = set;
        stand.signed(&header, &changed)
    };
    let (body, _) = good.rsplit_once('.').unwrap();
    let forged = format!("{body}.{}", "A".repeat(86));
    // by the API server's keys; by keys of the configuration, whoever is away: those have no id, and answer to any
    for (config, of_another_id) in [(local.clone(), (400, "JWT_KEY_UNKNOWN")), (with(local, keys.clone()), (200, ""))] {
        let mount = stand.mount();
        stand.configure(&mount, config);
        stand.role(&mount, "web", ("local", "web"), json!({"token_ttl": "1h"}));
        let login = stand.login(&mount, "web", &good);
        assert!(login.body["auth"]["lease_duration"].as_u64().is_some_and(|secs| secs <= 600), "{login:?}");
        assert!(login.proof.starts_with("signature system:serviceaccount:local:web"), "{login:?}");
        let now = payload["iat"].as_u64().unwrap();
        for (what, jwt, cause) in [
            ("another signature", forged.clone(), "JWT_SIGNATURE_WRONG"),
            ("another issuer", change("iss", json!("https://evil.test")), "KUBERNETES_ISSUER_OTHER"),
            ("another audience", api.token("local", "web", Some("other.test"), None), "KUBERNETES_AUDIENCE_OTHER"),
            ("it has ended", change("exp", json!(now - 1)), "KUBERNETES_TOKEN_EXPIRED"),
            ("it begins later", change("nbf", json!(now + 300)), "KUBERNETES_TOKEN_NOT_YET"),
            ("it is made later", change("iat", json!(now + 300)), "JWT_ISSUED_IN_FUTURE"),
        ] {
            let login = stand.login(&mount, "web", &jwt);
            assert_eq!((login.status, login.cause()), (400, cause), "{what}: {login:?}");
        }
        let mut other = header.clone();
        other["kid"] = json!("other");
        let login = stand.login(&mount, "web", &stand.signed(&other, &payload));
        assert_eq!((login.status, login.cause()), of_another_id, "{login:?}");
    }
    // keys beside the review: both must agree
    let mount = stand.mount();
    stand.role(&mount, "web", ("local", "web"), json!({}));
    let both =
        json!({"kubernetes_host": api.url(), "pem_keys": [pem], "issuer": ISSUER, "disable_iss_validation": false});
    stand.configure(&mount, both);
    let login = stand.login(&mount, "web", &good);
    assert!(login.proof.starts_with("TokenReview "), "{login:?}");
    assert_eq!(stand.login(&mount, "web", &forged).cause(), "JWT_SIGNATURE_WRONG");
    assert_eq!(stand.login(&mount, "web", &change("iss", json!("x"))).cause(), "KUBERNETES_ISSUER_OTHER");
}
