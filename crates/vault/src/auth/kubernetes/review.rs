//! What the API server is asked, and what its answer is worth. Pure.

use super::cause;
use super::token::{Account, Bound, Claims};
use crate::body::Strict;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use zeroize::Zeroizing;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Asked<'a> {
    api_version: &'a str,
    kind: &'a str,
    spec: Spec<'a>,
}

#[derive(Serialize)]
struct Spec<'a> {
    token: &'a str,
    audiences: [&'a str; 1],
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Review {
    api_version: String,
    kind: String,
    #[serde(default)]
    status: Status,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Status {
    authenticated: bool,
    error: String,
    audiences: Vec<String>,
    user: User,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct User {
    username: String,
    uid: String,
    groups: Vec<String>,
    extra: BTreeMap<String, Vec<String>>,
}

/// A TokenReview for `token`, meant for `audience`.
pub(crate) fn asked(token: &str, audience: &str) -> Zeroizing<Vec<u8>> {
    let spec = Spec { token, audiences: [audience] };
    let mut text = Zeroizing::new(Vec::with_capacity(2 * token.len() + 1024));
    // what is text can be written
    let _ = serde_json::to_writer(&mut *text, &Asked { api_version: API_VERSION, kind: KIND, spec });
    text
}

/// For whom the API server vouches: exactly whom the token speaks of, or a cause.
pub(crate) fn judged(answer: &[u8], claims: &Claims, audience: &str) -> Result<Account, &'static str> {
    serde_json::from_slice::<Strict>(answer).map_err(|_| cause::REVIEW_MALFORMED)?;
    let review: Review = serde_json::from_slice(answer).map_err(|_| cause::REVIEW_MALFORMED)?;
    if review.api_version != API_VERSION || review.kind != KIND {
        return Err(cause::REVIEW_MALFORMED);
    }
    let Status { authenticated, error, audiences, user } = review.status;
    if !authenticated || !error.is_empty() {
        return Err(cause::NOT_AUTHENTICATED);
    }
    if !audiences.iter().any(|own| own == audience) {
        return Err(cause::REVIEW_AUDIENCE);
    }
    let account = user.account().ok_or(cause::REVIEW_OTHER)?;
    if !account.is_of(&claims.account) {
        return Err(cause::REVIEW_OTHER);
    }
    Ok(account)
}

impl User {
    /// A service account, of the groups that it is in.
    fn account(&self) -> Option<Account> {
        let (namespace, name) = self.username.strip_prefix("system:serviceaccount:")?.split_once(':')?;
        let group = format!("system:serviceaccounts:{namespace}");
        if !self.groups.contains(&group) || !self.groups.iter().any(|own| own == "system:serviceaccounts") {
            return None;
        }
        let account = Account {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            uid: self.uid.clone(),
            pod: self.bound("pod")?,
            node: self.bound("node")?,
        };
        account.is_sound().then_some(account)
    }

    /// Nothing within nothing: it stands there twice.
    fn bound(&self, what: &str) -> Option<Option<Bound>> {
        let one = |part: &str| match self
            .extra
            .get(&format!("authentication.kubernetes.io/{what}-{part}"))
            .map(Vec::as_slice)
        {
            None | Some([]) => Some(None),
            Some([one]) => Some(Some(one.clone())),
            Some(_) => None,
        };
        let (name, uid) = (one("name")?, one("uid")?);
        Some(name.map(|name| Bound { name, uid: uid.unwrap_or_default() }))
    }
}

impl Account {
    /// Older API servers do not tell the node.
    fn is_of(&self, claimed: &Self) -> bool {
        let node = self.node.is_none() || self.node == claimed.node;
        let same = |of: &Self| (of.namespace.clone(), of.name.clone(), of.uid.clone(), of.pod.clone());
        node && same(self) == same(claimed)
    }
}

const API_VERSION: &str = "authentication.k8s.io/v1";
const KIND: &str = "TokenReview";

#[cfg(test)]
mod tests {
    use super::super::token::tests::{payload, token};
    use super::*;
    use serde_json::{Value, json};

    fn claims() -> Claims {
        Claims::read(&token(&json!({"alg": "RS256"}), &payload())).unwrap()
    }

    fn answer() -> Value {
        json!({
            "kind": "TokenReview", "apiVersion": "authentication.k8s.io/v1", "metadata": {"creationTimestamp": null},
            "status": {
                "authenticated": true, "audiences": ["vault"],
                "user": {
                    "username": "system:serviceaccount:prod:web", "uid": "u-1",
                    "groups": ["system:serviceaccounts", "system:serviceaccounts:prod", "system:authenticated"],
                    "extra": {
                        "authentication.kubernetes.io/credential-id": ["JTI=j-1"],
                        "authentication.kubernetes.io/pod-name": ["web-0"],
                        "authentication.kubernetes.io/pod-uid": ["p-1"],
                        "authentication.kubernetes.io/node-name": ["node-1"],
                        "authentication.kubernetes.io/node-uid": ["n-1"],
                    },
                },
            },
        })
    }

    #[test]
    fn a_review_names_token_and_audience() {
        let text: Value = serde_json::from_slice(&asked("a\"b", "vault")).unwrap();
        assert_eq!(text["spec"], json!({"token": "a\"b", "audiences": ["vault"]}));
        assert_eq!((&text["kind"], &text["apiVersion"]), (&json!("TokenReview"), &json!("authentication.k8s.io/v1")));
    }

    #[test]
    fn an_answer_counts_only_where_it_vouches_for_this_account_and_this_audience() {
        let whole = answer();
        assert_eq!(judged(whole.to_string().as_bytes(), &claims(), "vault").unwrap(), claims().account);
        for (pointer, set, refusal) in [
            ("/kind", json!("Status"), cause::REVIEW_MALFORMED),
            ("/apiVersion", json!("authentication.k8s.io/v1beta1"), cause::REVIEW_MALFORMED),
            ("/status", json!({}), cause::NOT_AUTHENTICATED),
            ("/status", json!("yes"), cause::REVIEW_MALFORMED),
            ("/status/authenticated", json!(false), cause::NOT_AUTHENTICATED),
            ("/status/authenticated", json!("true"), cause::REVIEW_MALFORMED),
            ("/status/authenticated", json!(1), cause::REVIEW_MALFORMED),
            ("/status/audiences", json!([]), cause::REVIEW_AUDIENCE),
            ("/status/audiences", json!(["vault2", "https://kubernetes.default.svc"]), cause::REVIEW_AUDIENCE),
            ("/status/audiences", json!("vault"), cause::REVIEW_MALFORMED),
            ("/status/user", json!({}), cause::REVIEW_OTHER),
            ("/status/user/username", json!("system:serviceaccount:prod:admin"), cause::REVIEW_OTHER),
            ("/status/user/username", json!("system:serviceaccount:prod:web:x"), cause::REVIEW_OTHER),
            ("/status/user/username", json!("system:node:web"), cause::REVIEW_OTHER),
            ("/status/user/username", json!("admin"), cause::REVIEW_OTHER),
            ("/status/user/uid", json!("u-2"), cause::REVIEW_OTHER),
            ("/status/user/uid", json!(""), cause::REVIEW_OTHER),
            ("/status/user/groups", json!(["system:serviceaccounts"]), cause::REVIEW_OTHER),
            ("/status/user/groups", json!(["system:serviceaccounts:prod"]), cause::REVIEW_OTHER),
            ("/status/user/extra/authentication.kubernetes.io~1pod-uid", json!(["p-2"]), cause::REVIEW_OTHER),
            ("/status/user/extra/authentication.kubernetes.io~1pod-uid", json!(["p-1", "p-2"]), cause::REVIEW_OTHER),
            ("/status/user/extra/authentication.kubernetes.io~1pod-name", json!([]), cause::REVIEW_OTHER),
            ("/status/user/extra/authentication.kubernetes.io~1node-name", json!(["node-2"]), cause::REVIEW_OTHER),
        ] {
            let mut changed = answer();
            *changed.pointer_mut(pointer).unwrap() = set.clone();
            assert_eq!(judged(changed.to_string().as_bytes(), &claims(), "vault"), Err(refusal), "{pointer} {set}");
        }
        let mut failed = answer();
        failed["status"]["error"] = json!("invalid bearer token");
        assert_eq!(judged(failed.to_string().as_bytes(), &claims(), "vault"), Err(cause::NOT_AUTHENTICATED));
        let text = whole.to_string();
        for text in [
            String::new(),
            "null".into(),
            "[]".into(),
            text.replacen("\"authenticated\":true", "\"authenticated\":false,\"authenticated\":true", 1),
            format!("{text}{text}"),
            text.trim_end_matches('}').into(),
        ] {
            assert_eq!(judged(text.as_bytes(), &claims(), "vault"), Err(cause::REVIEW_MALFORMED), "{text}");
        }
    }
}
