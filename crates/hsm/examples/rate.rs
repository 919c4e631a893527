//! How many data keys a second come through one connection: client, TLS, listener and module, on this machine.
//! `cargo run --release -p hsm --example rate`
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "a tool of the workshop")]

#[path = "../tests/rig/mod.rs"]
mod rig;

use futures_util::future::join_all;
use hsm_api::{Boundary, DataKeyAsk, KeySpec, NewKey, ProtectionLevel, Reply, Request, ask};
use hsm_serve::Limits;
use rustix::time::{ClockId, clock_gettime};
use std::sync::Arc;
use std::time::{Duration, Instant};

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let house = rig::House::start(Limits::default());
    let boundary = Arc::new(house.connect().await);
    let (spec, level) = (KeySpec::Aes256, ProtectionLevel::Boundary);
    let new = NewKey { key_id: None, version: 1, tenant: [1; 16], spec, usage: spec.usage(), level, not_after: None };
    let key = ask!(boundary, Request::GenerateKey(new) => Reply::Key).await.unwrap().token;
    for callers in [1_u32, 4, 16, 64, 256] {
        let (began, cpu) = (Instant::now(), clock_gettime(ClockId::ProcessCPUTime));
        let until = began + Duration::from_secs(2);
        let asking = (0..callers).map(|_| {
            let (boundary, key) = (Arc::clone(&boundary), key.clone());
            tokio::spawn(async move {
                let mut done = 0_u32;
                while Instant::now() < until {
                    let asks = vec![DataKeyAsk { aad_digest: [0; 32], bytes: 32, plaintext: true }];
                    let request = Request::GenerateDataKeys { key: key.clone(), asks };
                    assert!(matches!(boundary.submit(request).await, Ok(Reply::DataKeys(_))));
                    done += 1;
                }
                done
            })
        });
        let done: u32 = join_all(asking).await.into_iter().map(Result::unwrap).sum();
        let used = clock_gettime(ClockId::ProcessCPUTime) - cpu;
        let micros = |time: Duration| time.as_secs_f64() * 1e6 / f64::from(done);
        let used = Duration::new(used.tv_sec.unsigned_abs(), u32::try_from(used.tv_nsec).unwrap());
        println!(
            "{callers:4} callers: {:8.0} a second, {:6.2} µs each, {:6.2} µs of processor on both sides",
            f64::from(done) / began.elapsed().as_secs_f64(),
            micros(began.elapsed()),
            micros(used),
        );
    }
}
