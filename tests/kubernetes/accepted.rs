//! Who is let in, and as whom.

use crate::stand::{AUDIENCE, shared};
use serde_json::{Value, json};

#[test]
fn a_service_account_logs_in_as_what_its_uid_says_and_the_log_tells_what_proved_it() {
    let stand = shared();
    let (api, mount) = (&stand.api, stand.mount());
    api.namespace("accepted", json!({}));
    let uid = api.account("accepted", "web");
    stand.role(&mount, "web", ("accepted", "web"), json!({}));
    let login = stand.login(&mount, "web", &api.token("accepted", "web", Some(AUDIENCE), None));
    assert_eq!(stand.password(login.token()).as_deref(), Some("p-1"));
    let auth = &login.body["auth"];
    for (field, expected) in [
        ("service_account_name", "web"),
        ("service_account_namespace", "accepted"),
        ("service_account_uid", uid.as_str()),
        ("service_account_secret_name", ""),
        ("role", "web"),
    ] {
        assert_eq!(auth["metadata"][field], expected, "{auth}");
    }
    assert_eq!((&auth["policies"], &auth["lease_duration"]), (&json!(["app", "default"]), &json!(600)));
    let proof = &login.proof;
    assert!(proof.starts_with("TokenReview system:serviceaccount:accepted:web"), "{proof}");
    for told in [&format!("uid={uid}"), "iss=https://kubernetes.default.svc", " kid=", " jti="] {
        assert!(proof.contains(told), "{proof}");
    }
    // another token of the same account is the same entity
    let again = stand.login(&mount, "web", &api.token("accepted", "web", Some(AUDIENCE), None));
    assert_eq!(again.entity(), login.entity());
    // made anew, it is another one; by name it is the same
    stand.role(&mount, "by-name", ("accepted", "web"), json!({"alias_name_source": "serviceaccount_name"}));
    let named = |audience| stand.login(&mount, "by-name", &api.token("accepted", "web", Some(audience), None));
    let before = named(AUDIENCE);
    api.delete_account("accepted", "web");
    assert_ne!(api.account("accepted", "web"), uid);
    let other = stand.login(&mount, "web", &api.token("accepted", "web", Some(AUDIENCE), None));
    assert_ne!(other.entity(), login.entity());
    assert_eq!(named(AUDIENCE).entity(), before.entity());
}

#[test]
fn pods_nodes_and_labels_of_namespaces_are_bound() {
    let stand = shared();
    let (api, mount) = (&stand.api, stand.mount());
    api.namespace("shop", json!({"env": "prod", "team": "a"}));
    api.account("shop", "web");
    api.make("api/v1/nodes", json!({"metadata": {"name": "node-1"}}));
    let pod = api.pod("shop", "web-0", "web", "node-1");
    let bound = api.token("shop", "web", Some(AUDIENCE), Some(("web-0", &pod)));
    let free = api.token("shop", "web", Some(AUDIENCE), None);
    // whoever reviews may also look at namespaces
    let rule = json!({"apiGroups": [""], "resources": ["namespaces"], "verbs": ["get"]});
    api.make(
        "apis/rbac.authorization.k8s.io/v1/clusterroles",
        json!({"metadata": {"name": "namespaces"}, "rules": [rule]}),
    );
    api.bind("namespaces", "vault", "reviewer");
    let selector = |labels: Value| json!({"bound_service_account_namespaces": "", "bound_service_account_namespace_selector": {"matchLabels": labels}});
    for (name, more, with_pod, without) in [
        ("require", json!({"require_pod": true}), "", "KUBERNETES_POD_NONE"),
        ("pods", json!({"bound_pod_names": "web-*"}), "", "KUBERNETES_POD_NONE"),
        ("other-pods", json!({"bound_pod_names": "web"}), "KUBERNETES_POD_OTHER", "KUBERNETES_POD_NONE"),
        ("nodes", json!({"bound_node_names": ["node-1", "node-2"]}), "", "KUBERNETES_NODE_OTHER"),
        ("other-nodes", json!({"bound_node_names": "node-10"}), "KUBERNETES_NODE_OTHER", "KUBERNETES_NODE_OTHER"),
        ("labels", selector(json!({"env": "prod"})), "", ""),
        (
            "labels-in-text",
            json!({"bound_service_account_namespaces": "", "bound_service_account_namespace_selector": "{\"matchExpressions\":[{\"key\":\"team\",\"operator\":\"In\",\"values\":[\"a\",\"b\"]}]}"}),
            "",
            "",
        ),
        (
            "other-labels",
            selector(json!({"env": "prod", "team": "b"})),
            "KUBERNETES_NAMESPACE_OTHER",
            "KUBERNETES_NAMESPACE_OTHER",
        ),
    ] {
        stand.role(&mount, name, ("shop", "web"), more);
        for (jwt, cause) in [(&bound, with_pod), (&free, without)] {
            let login = stand.login(&mount, name, jwt);
            assert_eq!(
                (login.cause(), login.status),
                (cause, if cause.is_empty() { 200 } else { 400 }),
                "{name}: {login:?}"
            );
        }
    }
    let login = stand.login(&mount, "require", &bound);
    let metadata = &login.body["auth"]["metadata"];
    assert_eq!((&metadata["pod_name"], &metadata["node_name"]), (&json!("web-0"), &json!("node-1")), "{login:?}");
    assert!(login.proof.contains(&format!(" pod=web-0/{pod} node=node-1/")), "{}", login.proof);
}

#[test]
fn a_reviewer_of_the_mounts_own_asks_and_one_in_a_file_is_read_anew() {
    let stand = shared();
    let (api, mount) = (&stand.api, stand.mount());
    api.namespace("reviewed", json!({}));
    api.account("reviewed", "web");
    let jwt = || api.token("reviewed", "web", Some(AUDIENCE), None);
    stand.role(&mount, "web", ("reviewed", "web"), json!({}));
    // the mount's own, with and without the right to review
    api.account("vault", "other-reviewer");
    let reviewer = api.token("vault", "other-reviewer", None, None);
    let config = json!({"kubernetes_host": api.url(), "kubernetes_ca_cert": api.ca(), "token_reviewer_jwt": reviewer});
    stand.configure(&mount, config);
    let refused = stand.login(&mount, "web", &jwt());
    assert_eq!((refused.status, refused.cause()), (503, "KUBERNETES_REVIEWER_REFUSED"));
    api.bind("system:auth-delegator", "vault", "other-reviewer");
    stand.login(&mount, "web", &jwt()).token();
    let shown = stand.done("GET", &format!("auth/{mount}/config"), Value::Null);
    assert_eq!(shown["data"]["token_reviewer_jwt_set"], true);
    assert!(!shown.to_string().contains(&reviewer));
    // the server's own, from its file
    std::fs::write(&stand.account_file, api.token("vault", "reviewer", None, None)).unwrap();
    stand.configure(&mount, json!({"kubernetes_host": api.other_url()}));
    for (text, status, cause) in [
        (api.token("vault", "reviewer", None, None), 200, ""),
        ("not a token".into(), 503, "KUBERNETES_REVIEWER_REFUSED"),
        (String::new(), 503, "UPSTREAM_MISCONFIGURED"),
        (api.token("vault", "reviewer", None, None), 200, ""),
    ] {
        std::fs::write(&stand.account_file, text).unwrap();
        let login = stand.login(&mount, "web", &jwt());
        assert_eq!((login.status, login.cause()), (status, cause), "{login:?}");
    }
    // it goes where the server's authorities are believed, whomever the mount believes
    let others = "-----BEGIN CERTIFICATE-----\nsomebody else's";
    stand.configure(&mount, json!({"kubernetes_host": api.other_url(), "kubernetes_ca_cert": others}));
    stand.login(&mount, "web", &jwt()).token();
    let config = json!({"kubernetes_host": api.url(), "kubernetes_ca_cert": others, "token_reviewer_jwt": "x"});
    stand.configure(&mount, config);
    assert_eq!(stand.login(&mount, "web", &jwt()).cause(), "UPSTREAM_MISCONFIGURED");
    // who vouches is said with sudo alone
    let policy = "path \"auth/*\" { capabilities = [\"create\", \"update\", \"read\"] }";
    stand.done("POST", "sys/policies/acl/operator", json!({ "policy": policy }));
    let made = stand.done("POST", "auth/token/create", json!({"policies": ["operator"]}));
    let (operator, path) = (made["auth"]["client_token"].as_str(), format!("auth/{mount}/config"));
    assert_eq!(stand.ask(operator, "POST", &path, &json!({"kubernetes_host": api.url()})).0, 403);
    assert_eq!(stand.ask(operator, "GET", &path, &Value::Null).0, 200);
    // where there is none, nobody is asked
    let root = stand.node.root_token().unwrap();
    for (config, field) in [
        (json!({"kubernetes_host": api.url(), "disable_local_ca_jwt": true}), "token_reviewer_jwt"),
        (json!({"kubernetes_host": "https://127.0.0.1:1"}), "token_reviewer_jwt"),
        (json!({"kubernetes_host": "https://127.0.0.1:1", "token_reviewer_jwt": "x"}), "kubernetes_ca_cert"),
        (json!({"kubernetes_host": api.url(), "kubernetes_ca_cert": "x"}), "kubernetes_ca_cert"),
        (json!({"kubernetes_host": "http://kubernetes.default.svc"}), "kubernetes_host"),
        (json!({"kubernetes_host": api.url(), "pem_keys": ["x"]}), "pem_keys"),
        (json!({"kubernetes_host": api.url(), "verification": "local"}), "issuer"),
        (json!({"kubernetes_host": api.url(), "verification": "none"}), "verification"),
        (json!({"kubernetes_host": api.url(), "disable_iss_validation": false}), "issuer"),
    ] {
        let (status, answer) = stand.ask(Some(&root), "POST", &format!("auth/{mount}/config"), &config);
        assert_eq!(status, 400, "{config}");
        assert!(answer.to_string().contains(field), "{config}: {answer}");
    }
}

#[test]
fn a_login_asks_for_less_and_never_for_more_and_ends_with_its_proof_where_the_role_says_so() {
    let stand = shared();
    let (api, mount) = (&stand.api, stand.mount());
    api.namespace("narrow", json!({}));
    api.account("narrow", "web");
    let jwt = api.token("narrow", "web", Some(AUDIENCE), None);
    let given = json!({"token_ttl": "1h", "token_num_uses": 5, "token_bound_cidrs": ["127.0.0.0/8"]});
    stand.role(&mount, "web", ("narrow", "web"), given);
    // lifetime, uses, addresses
    for (more, expected) in [
        (json!({}), Some((3600, 5, "127.0.0.0/8"))),
        (json!({"token_ttl": "60s"}), Some((60, 5, "127.0.0.0/8"))),
        (json!({"token_ttl": "2h"}), None),
        (json!({"token_num_uses": 2}), Some((3600, 2, "127.0.0.0/8"))),
        (json!({"token_num_uses": 6}), None),
        (json!({"token_bound_cidrs": ["127.0.0.1/32"]}), Some((3600, 5, "127.0.0.1"))),
        (json!({"token_bound_cidrs": ["0.0.0.0/0"]}), None),
        (json!({"token_bound_cidrs": ["127.0.0.1/32", "10.0.0.0/8"]}), None),
        (json!({"token_policies": ["root"]}), None),
    ] {
        let mut body = json!({"role": "web", "jwt": jwt});
        for (field, value) in more.as_object().unwrap() {
            body[field] = value.clone();
        }
        let login = stand.login_with(&mount, body);
        let Some((ttl, uses, range)) = expected else {
            assert_eq!((login.status, login.cause()), (400, "INVALID_FIELD"), "{more}: {login:?}");
            let field = more.as_object().unwrap().keys().next().unwrap();
            assert!(login.body.to_string().contains(field.as_str()), "{more}: {login:?}");
            continue;
        };
        let token = login.token();
        assert_eq!(login.body["auth"]["lease_duration"], ttl, "{more}: {login:?}");
        let made = &stand.done("POST", "auth/token/lookup", json!({ "token": token }))["data"];
        assert_eq!((&made["num_uses"], &made["creation_ttl"]), (&json!(uses), &json!(ttl)), "{more}: {made}");
        assert!(made["bound_cidrs"].to_string().contains(range), "{more}: {made}");
    }
    stand.role(&mount, "web", ("narrow", "web"), json!({"token_ttl": "1h", "token_ends_with_proof": true}));
    let login = stand.login(&mount, "web", &jwt);
    let left = login.body["auth"]["lease_duration"].as_u64().unwrap();
    assert!((500..=600).contains(&left), "{left}");
}
