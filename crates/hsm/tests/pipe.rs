//! Many requests at once over one connection: each gets its own reply.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test ends where it fails")]

mod rig;

use futures_util::future::join_all;
use hsm::SocketBoundary;
use hsm_api::{Boundary, HsmError, KeySpec, KeyUsage, NewKey, ProtectionLevel, Reply, Request, ask};
use hsm_serve::Limits;
use rig::{House, len, random};
use std::sync::Arc;
use std::time::Duration;

#[tokio::test]
async fn each_of_many_requests_gets_its_own_reply() {
    let house = House::start(Limits::default());
    let boundary = Arc::new(house.connect().await);
    let callers = (0..200_u16).map(|caller| {
        let boundary = Arc::clone(&boundary);
        tokio::spawn(async move {
            for round in 0..50_u16 {
                let bytes = 1 + (caller * 7 + round * 13) % 1024;
                assert_eq!(len(&boundary.submit(random(bytes)).await), Ok(usize::from(bytes)));
            }
        })
    });
    for caller in join_all(callers).await {
        caller.unwrap();
    }
    // handed over when it is called, not when it is first polled; dropped ones hurt nobody
    for bytes in 1..=1024 {
        let pending = boundary.submit(random(bytes));
        let dropped = boundary.submit(random(1025 - bytes));
        drop(dropped);
        assert_eq!(len(&pending.await), Ok(usize::from(bytes)));
    }
}

#[test]
fn requests_of_other_threads_and_runtimes_are_answered_too() {
    let house = House::start(Limits::default());
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let boundary = runtime.block_on(async { Arc::new(house.connect().await) });
    let threads = (0..4_u16).map(|thread| {
        let boundary = Arc::clone(&boundary);
        std::thread::spawn(move || {
            let own = tokio::runtime::Builder::new_current_thread().build().unwrap();
            for round in 0..300 {
                let bytes = 1 + thread * 200 + round % 200;
                assert_eq!(len(&own.block_on(boundary.submit(random(bytes)))), Ok(usize::from(bytes)));
            }
        })
    });
    for thread in threads.collect::<Vec<_>>() {
        thread.join().unwrap();
    }
}

#[tokio::test]
async fn slow_requests_do_not_hold_up_quick_ones_and_answers_come_out_of_order() {
    let house = House::start(Limits::default());
    let boundary = house.connect().await;
    let new = |spec: KeySpec| {
        let (usage, level) = (spec.usage(), ProtectionLevel::Boundary);
        NewKey { key_id: None, version: 1, tenant: [1; 16], spec, usage, level, not_after: None }
    };
    let slow: Vec<_> = (0..6).map(|_| boundary.submit(Request::GenerateKey(new(KeySpec::Rsa2048)))).collect();
    let slow = tokio::spawn(join_all(slow));
    for bytes in 1..=200 {
        assert_eq!(len(&boundary.submit(random(bytes)).await), Ok(usize::from(bytes)));
    }
    assert!(!slow.is_finished(), "six RSA keys took less time than 200 round trips");
    for key in slow.await.unwrap() {
        assert!(matches!(key, Ok(Reply::Key(_))));
    }
    let sealing = NewKey { usage: KeyUsage::SystemSeal, ..new(KeySpec::Aes256) };
    let key = ask!(boundary, Request::GenerateKey(sealing) => Reply::Key).await.unwrap();
    let refused =
        ask!(boundary, Request::Mac { key: key.token, message: envelope::SecretBytes::copy_from(b"m") } => Reply::Mac);
    assert_eq!(refused.await.unwrap_err(), HsmError::UsageForbidden);
}

#[tokio::test]
async fn what_does_not_fit_a_frame_is_refused_before_it_is_sent() {
    let house = House::start(Limits::default());
    let boundary = house.connect().await;
    let package = |bytes: usize| Request::Restore { package: vec![0; bytes].into(), shares: vec![] };
    for (bytes, error) in [(65_519, HsmError::RoleForbidden), (65_530, HsmError::OutOfRange)] {
        assert_eq!(boundary.submit(package(bytes)).await.unwrap_err(), error, "{bytes}");
    }
    assert_eq!(len(&boundary.submit(random(3)).await), Ok(3));
}

#[tokio::test]
async fn one_client_that_goes_leaves_the_other_alone() {
    let house = House::start(Limits::default());
    let (one, other) = (house.connect().await, house.connect().await);
    for _ in 0..20 {
        let leaving = house.connect().await;
        let pending: Vec<_> = (0..200).map(|_| leaving.submit(random(100))).collect();
        drop(leaving);
        for pending in pending {
            let outcome = len(&pending.await);
            assert!(matches!(outcome, Ok(100) | Err(HsmError::Unavailable)), "{outcome:?}");
        }
        assert_eq!(len(&one.submit(random(3)).await), Ok(3));
        assert_eq!(len(&other.submit(random(4)).await), Ok(4));
    }
}

#[tokio::test]
async fn a_listener_that_restarts_is_found_again() {
    let mut house = House::start(Limits::default());
    let boundary = SocketBoundary::start(house.options(Duration::from_secs(20))).unwrap();
    boundary.connected().await;
    for _ in 0..3 {
        house.restart();
        // the old channel's end may be seen before or after this request
        let outcome = len(&boundary.submit(random(3)).await);
        assert!(matches!(outcome, Ok(3) | Err(HsmError::Unavailable | HsmError::Restarted)), "{outcome:?}");
        let mut again = outcome;
        for _ in 0..500 {
            if again == Ok(3) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
            again = len(&boundary.submit(random(3)).await);
        }
        assert_eq!(again, Ok(3));
    }
}
