//! Accounts and Pods that are gone: their tokens let nobody in, at the latest when the API server has forgotten that it
//! vouched for them (10 s), and one more second for what is on its way.

use crate::stand::{AUDIENCE, shared};
use serde_json::json;
use std::time::{Duration, Instant};

/// The API server keeps what it has found for 10 s. What else is there is the test's, on a machine that does other things.
const SEEN_WITHIN: Duration = Duration::from_secs(15);

#[test]
fn what_is_deleted_logs_in_no_more_and_what_is_made_anew_is_another() {
    let stand = shared();
    let (api, mount) = (&stand.api, stand.mount());
    api.namespace("gone", json!({}));
    for name in ["web", "worker"] {
        api.account("gone", name);
        stand.role(&mount, name, ("gone", name), json!({}));
    }
    let pod = api.pod("gone", "worker-0", "worker", "node-9");
    let tokens = [
        ("web", api.token("gone", "web", Some(AUDIENCE), None)),
        ("worker", api.token("gone", "worker", Some(AUDIENCE), Some(("worker-0", &pod)))),
    ];
    for (role, jwt) in &tokens {
        stand.login(&mount, role, jwt).token();
    }
    api.delete_account("gone", "web");
    api.account("gone", "web");
    api.delete_pod("gone", "worker-0");
    let deleted = Instant::now();
    for (role, jwt) in &tokens {
        let cause = loop {
            let login = stand.login(&mount, role, jwt);
            if login.status != 200 {
                break login.cause().to_owned();
            }
            assert!(deleted.elapsed() < SEEN_WITHIN, "{role} is still let in");
            std::thread::sleep(Duration::from_millis(200));
        };
        assert_eq!(cause, "KUBERNETES_NOT_AUTHENTICATED");
        println!("{role}: refused {:.1} s after it was deleted", deleted.elapsed().as_secs_f32());
    }
    // it stays so, whoever has the name now
    stand.login(&mount, "web", &api.token("gone", "web", Some(AUDIENCE), None)).token();
    assert_eq!(stand.login(&mount, "web", &tokens[0].1).cause(), "KUBERNETES_NOT_AUTHENTICATED");
}
