//! The numbers that the README promises. Debug builds print them; release builds are held to them
//! (`cargo xtask soak` runs this file in release).
#![allow(clippy::unwrap_used, reason = "a test ends where it fails")]
#![allow(clippy::print_stdout, reason = "the numbers are the result")]

use proto::kms::{CreateKeyRequest, ListKeysRequest};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tests::{Dev, bearer};

/// Whether promises bind this build.
const RELEASE: bool = !cfg!(debug_assertions);

const RESIDENT_KIB_MAX: u64 = 40 * 1024;
const START_MAX: Duration = Duration::from_millis(300);
const KEYS: usize = if RELEASE { 100_000 } else { 1_000 };

#[test]
fn server_and_boundary_stay_below_40_mib_ten_seconds_after_ready() {
    for (name, dev) in [("hsm-sim", Dev::sim()), ("SoftHSM2", Dev::softhsm())] {
        std::thread::sleep(Duration::from_secs(10));
        let (server, boundary) = (dev.server().unwrap().resident_kib(), dev.boundary().unwrap().resident_kib());
        println!(
            "resident memory on {name}: server {server} KiB, boundary {boundary} KiB, parent {} KiB",
            dev.parent().resident_kib()
        );
        assert!(server > 0 && boundary > 0);
        if RELEASE && name == "hsm-sim" {
            assert!(server + boundary < RESIDENT_KIB_MAX, "{} KiB", server + boundary);
        }
    }
}

#[test]
fn a_folder_with_100_000_keys_is_ready_within_300_ms() {
    let mut dev = Dev::sim();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(seed(&dev));
    let mut times = Vec::new();
    for _ in 0..7 {
        dev.start_again().unwrap();
        times.push(dev.took);
    }
    times.sort();
    let median = times[times.len() / 2];
    println!("exec to ready with {KEYS} keys: median {median:?} of {times:?}");
    let listed = runtime.block_on(async {
        let request = bearer(&dev.root_token(), ListKeysRequest { limit: 1000, marker: String::new() });
        dev.clients().keys.list_keys(request).await.unwrap().into_inner().keys.len()
    });
    assert_eq!(listed, 1000, "the keys are there");
    if RELEASE {
        assert!(median < START_MAX, "{median:?}");
    }
}

/// By the front door, many at once.
async fn seed(dev: &Dev) {
    let left = Arc::new(AtomicUsize::new(KEYS));
    let token = dev.root_token();
    let tasks: Vec<_> = (0..128)
        .map(|_| (dev.clients(), token.clone(), Arc::clone(&left)))
        .map(|(mut clients, token, left)| {
            tokio::spawn(async move {
                let take = || left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
                while take().is_ok() {
                    clients.keys.create_key(bearer(&token, CreateKeyRequest::default())).await.unwrap();
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
}
