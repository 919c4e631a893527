//! Whatever a peer sends to the listener: it is shut out, and nobody else notices.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test ends where it fails")]

mod rig;

use hsm_api::frame::FRAME_BYTES_MAX;
use hsm_api::{Boundary, DataKeyAsk, HsmError, KeySpec, KeyUsage, NewKey, ProtectionLevel, Reply, Request, Role};
use hsm_channel::Identity;
use hsm_serve::Limits;
use rig::{House, Raw, len, random, write_plain};
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

fn item(id: u32, service: u8, len: u32, body: &[u8]) -> Vec<u8> {
    [&id.to_be_bytes()[..], &[service], &len.to_be_bytes(), body].concat()
}

fn framed(body: &[u8]) -> Vec<u8> {
    [&u32::try_from(body.len()).unwrap().to_be_bytes()[..], body].concat()
}

#[tokio::test]
async fn bytes_that_are_not_of_the_protocol_close_their_channel_and_no_other() {
    let house = House::start(Limits::default());
    let boundary = house.connect().await;
    let mut noise = 0x2545_f491_u32;
    let mut noise = |len: usize| -> Vec<u8> {
        let mut next = || {
            noise ^= noise << 13;
            noise ^= noise >> 17;
            noise ^= noise << 5;
            noise.to_be_bytes()[0]
        };
        (0..len).map(|_| next()).collect()
    };
    for bytes in [b"GET / HTTP/1.1\r\n\r\n".to_vec(), noise(100), noise(100_000), vec![0x16, 3, 1, 0x40, 0]] {
        let closed_by_us = bytes.len() == 5;
        if closed_by_us {
            UnixStream::connect(&house.socket).unwrap().write_all(&bytes).unwrap();
        } else {
            write_plain(&house.socket, &bytes);
        }
        assert_eq!(len(&boundary.submit(random(3)).await), Ok(3));
    }
    for bytes in [
        0u32.to_be_bytes().to_vec(),
        u32::try_from(FRAME_BYTES_MAX + 1).unwrap().to_be_bytes().to_vec(),
        u32::MAX.to_be_bytes().to_vec(),
        b"GET / HTTP/1.1\r\n\r\n".to_vec(),
        framed(&[1, 2, 3]),
        framed(&item(1, 10, 200, &[0, 1])),
        framed(&item(1, 10, 2, &[0, 1]).repeat(129)),
    ] {
        let mut raw = house.raw();
        raw.send(&bytes);
        assert!(raw.is_closed(), "{bytes:?}");
        assert_eq!(len(&boundary.submit(random(4)).await), Ok(4));
    }
    // a record that was altered on its way
    let mut raw = house.raw();
    raw.socket.write_all(&[0x17, 3, 3, 0, 32]).unwrap();
    raw.socket.write_all(&noise(32)).unwrap();
    assert!(raw.is_closed());
    for seed in 0..50 {
        let mut raw = house.raw();
        raw.send(&framed(&noise(1 + seed * 7)));
        // it may look like a request by chance; then it is refused, and the channel stays
        drop(raw);
        assert_eq!(len(&boundary.submit(random(5)).await), Ok(5));
    }
}

#[test]
fn a_broken_or_unknown_item_is_refused_under_its_id_and_the_others_are_served() {
    let house = House::start(Limits::default());
    let mut raw = house.raw();
    let body = [
        item(1, 10, 2, &[0, 9]),
        item(2, 99, 0, &[]),
        item(3, 0, 0, &[]),
        item(4, 10, 1, &[0]),
        item(5, 10, 3, &[0, 9, 9]),
        item(6, 3, 4, &[0, 0, 0, 1]),
        item(7, 10, 2, &[0xff, 0xff]),
        item(1, 10, 2, &[0, 7]),
    ];
    raw.send(&framed(&body.concat()));
    let replies: Vec<_> = raw.replies().unwrap().iter().map(|(id, reply)| (*id, len(reply))).collect();
    let broken = Err(HsmError::Protocol);
    let expected = [
        (1, Ok(9)),
        (2, broken),
        (3, broken),
        (4, broken),
        (5, broken),
        (6, broken),
        (7, Err(HsmError::OutOfRange)),
        (1, Ok(7)),
    ];
    assert_eq!(replies, expected);
}

#[test]
fn a_role_gets_its_services_and_no_others() {
    let house = House::start(Limits::default());
    let stranger = Identity::generate().unwrap();
    let refused = Raw::connect(&house.socket, &stranger, house.boundary).is_none_or(|mut raw| {
        raw.send_requests(&[(1, Request::Status)]);
        raw.is_closed()
    });
    assert!(refused, "a stranger has no channel");
    let counters = || Request::Counters { after: None, limit: 1, challenge: [0; 32] };
    let forbidden = Some(HsmError::RoleForbidden);
    for (identity, refusals) in [
        (&house.user, [None, None, None, forbidden, forbidden]),
        (&house.officer, [None, None, forbidden, Some(HsmError::OutOfRange), Some(HsmError::StateForbidden)]),
        (&house.auditor, [None, None, forbidden, forbidden, forbidden]),
    ] {
        let mut raw = Raw::connect(&house.socket, identity, house.boundary).unwrap();
        let backup = Request::Backup { threshold: 3, shares: 2 };
        let requests =
            [Request::Status, counters(), random(1), backup, Request::Initialise { threshold: 1, shares: 1 }];
        for (request, refusal) in requests.into_iter().zip(refusals) {
            let name = format!("{identity:?} {request:?}");
            raw.send_requests(&[(1, request)]);
            let (_, reply) = raw.replies().unwrap().remove(0);
            assert_eq!(reply.err(), refusal, "{name}");
        }
    }
}

#[tokio::test]
async fn whoever_stays_silent_half_way_is_let_go_and_does_not_fill_the_house() {
    let limits = Limits { handshake_time: Duration::from_millis(300), handshakes: 4, ..Limits::default() };
    let house = House::start(limits);
    let silent: Vec<_> = (0..40).map(|_| UnixStream::connect(&house.socket).unwrap()).collect();
    let began = Instant::now();
    let boundary = house.connect().await;
    assert_eq!(len(&boundary.submit(random(2)).await), Ok(2));
    for mut socket in silent {
        socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        assert_eq!(std::io::Read::read(&mut socket, &mut [0]).unwrap(), 0, "closed");
    }
    assert!(began.elapsed() < Duration::from_secs(15));
    // half a frame costs nobody but its sender anything
    let mut half: Vec<_> = (0..20).map(|_| house.raw()).collect();
    for raw in &mut half {
        raw.send(&framed(&item(1, 10, 2, &[0, 9]))[..9]);
    }
    assert_eq!(len(&boundary.submit(random(2)).await), Ok(2));
    drop(half);
    assert_eq!(len(&boundary.submit(random(2)).await), Ok(2));
}

#[test]
fn channels_are_bounded_in_all_and_for_each_pin() {
    let house = House::start(Limits { channels: 5, channels_pin: 3, ..Limits::default() });
    let open = |identity: &Identity| {
        let mut raw = Raw::connect(&house.socket, identity, house.boundary)?;
        raw.send_requests(&[(1, Request::Status)]);
        raw.replies().ok().map(|_| raw)
    };
    let mut users: Vec<_> = (0..3).map(|_| open(&house.user).unwrap()).collect();
    assert!(open(&house.user).is_none(), "a pin's share");
    let _officers = [open(&house.officer).unwrap(), open(&house.officer).unwrap()];
    assert!(open(&house.auditor).is_none(), "the house is full");
    users.pop();
    let again = (0..100).find_map(|_| {
        std::thread::sleep(Duration::from_millis(20));
        open(&house.auditor)
    });
    assert!(again.is_some());
}

#[test]
fn a_user_of_this_machine_that_is_not_on_the_list_is_not_spoken_to() {
    let own = rustix::process::geteuid().as_raw();
    let house = House::start(Limits { uids: vec![own + 1], ..Limits::default() });
    assert!(Raw::connect(&house.socket, &house.user, house.boundary).is_none());
    let house = House::start(Limits { uids: vec![own + 1, own], ..Limits::default() });
    assert!(Raw::connect(&house.socket, &house.user, house.boundary).is_some());
}

/// One asks for megabytes and never reads, one floods the pool: the third has its replies all the same.
#[tokio::test]
async fn a_peer_that_does_not_read_and_one_that_floods_the_pool_disturb_nobody() {
    let house = House::start(Limits { pool_queue: 64, pool_queue_channel: 16, ..Limits::default() });
    let new = |spec, usage| {
        let level = ProtectionLevel::Boundary;
        let new = NewKey { key_id: None, version: 1, tenant: [1; 16], spec, usage, level, not_after: None };
        match house.module.serve(Role::User, Request::GenerateKey(new)) {
            Ok(Reply::Key(key)) => key.token,
            other => panic!("{other:?}"),
        }
    };
    let (aes, rsa) = (new(KeySpec::Aes256, KeyUsage::EncryptDecrypt), new(KeySpec::Rsa2048, KeyUsage::SignVerify));
    let boundary = house.connect().await;

    let (socket, user, pin) = (house.socket.clone(), std::sync::Arc::clone(&house.user), house.boundary);
    let greedy = std::thread::spawn(move || {
        let mut raw = Raw::connect(&socket, &user, pin).unwrap();
        raw.socket.set_write_timeout(Some(Duration::from_millis(500))).unwrap();
        let ask = || DataKeyAsk { aad_digest: [0; 32], bytes: 1024, plaintext: true };
        for id in 0..2_000 {
            let asks = (0..28).map(|_| ask()).collect();
            raw.send_requests(&[(id, Request::GenerateDataKeys { key: aes.clone(), asks })]);
            if raw.stream.unsent() > 0 {
                return (raw, id);
            }
        }
        panic!("the boundary took 2000 requests whose replies nobody read");
    });
    let mut flood = house.raw();
    let message = || hsm_api::MessageToSign::Digest(vec![7; 32].into());
    let algorithm = hsm_api::SigningAlgorithm::RsassaPssSha256;
    let sign = |id| (id, Request::Sign { key: rsa.clone(), algorithm, message: message() });
    for first in [0, 32] {
        flood.send_requests(&(first..first + 32).map(sign).collect::<Vec<_>>());
    }

    for bytes in 1..=500 {
        assert_eq!(len(&boundary.submit(random(bytes)).await), Ok(usize::from(bytes)));
    }
    let (mut raw, sent) = greedy.join().unwrap();
    assert!(sent > 3);
    let (mut signed, mut busy) = (0, 0);
    while signed + busy < 64 {
        for (_, reply) in flood.replies().unwrap() {
            match reply {
                Ok(Reply::Signature(_)) => signed += 1,
                Err(HsmError::Busy) => busy += 1,
                other => panic!("{other:?}"),
            }
        }
    }
    assert!(signed >= 16 && busy > 0, "{signed} {busy}");
    // and the greedy one gets everything once it reads
    raw.socket.set_write_timeout(None).unwrap();
    let mut came = 0;
    while came < 3 {
        came += raw.replies().unwrap().len();
    }
}

#[test]
fn an_enrolment_counts_at_once_and_changes_the_channels_that_are_open() {
    let house = House::start(Limits::default());
    let newcomer = Identity::generate().unwrap();
    let mut officer = Raw::connect(&house.socket, &house.officer, house.boundary).unwrap();
    let mut enrol = |role, identity: &Identity| {
        officer.send_requests(&[(1, Request::Enrol { role, pin: *identity.pin().bytes() })]);
        officer.replies().unwrap().remove(0).1
    };
    assert!(matches!(enrol(Role::User, &newcomer), Ok(Reply::Done)));
    let mut raw = Raw::connect(&house.socket, &newcomer, house.boundary).unwrap();
    let mut ask = || {
        raw.send_requests(&[(1, random(8))]);
        len(&raw.replies().unwrap().remove(0).1)
    };
    assert_eq!(ask(), Ok(8));
    assert!(matches!(enrol(Role::Auditor, &newcomer), Ok(Reply::Done)));
    assert_eq!(ask(), Err(HsmError::RoleForbidden));
    let file = std::fs::read_to_string(house.dir.path().join("pins")).unwrap();
    assert_eq!(file, format!("auditor={}\n", newcomer.pin()));
}
