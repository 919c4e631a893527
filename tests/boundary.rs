//! One conformance suite over the boundary protocol, against every boundary process: hsm-sim, and hsm-pkcs11 on a real
//! SoftHSM2. Each row states its answer per capability: a result, or a refusal by name. What a boundary does not offer
//! it refuses as UNSUPPORTED, and that is a row too.
#![allow(clippy::unwrap_used, clippy::panic, clippy::wildcard_enum_match_arm, reason = "a test ends where it fails")]
#![allow(clippy::print_stdout, reason = "the number of rows run is part of the result")]

#[path = "boundary/admin.rs"]
mod admin;
#[path = "boundary/data.rs"]
mod data;
#[path = "boundary/keys.rs"]
mod keys;
#[path = "boundary/signing.rs"]
mod signing;
#[path = "boundary/stand.rs"]
mod stand;
#[path = "boundary/suite.rs"]
mod suite;
#[path = "boundary/system.rs"]
mod system;

use stand::{Kind, Stand};
use suite::Suite;

fn conforms(kind: Kind) -> usize {
    let mut suite = Suite::on(Stand::operational(kind));
    keys::status(&mut suite);
    keys::generate(&mut suite);
    keys::usages(&mut suite);
    keys::expiry(&mut suite);
    keys::tokens(&mut suite);
    data::data_keys(&mut suite);
    data::encrypt_and_decrypt(&mut suite);
    data::versions_and_splices(&mut suite);
    data::re_encrypt(&mut suite);
    data::random(&mut suite);
    data::many_at_once(&mut suite);
    signing::signatures(&mut suite);
    signing::refusals(&mut suite);
    signing::macs(&mut suite);
    system::seal(&mut suite);
    system::checkpoints(&mut suite);
    system::batches(&mut suite);
    system::counters(&mut suite);
    admin::restart(&mut suite);
    admin::roles_and_states(&mut suite);
    admin::backup_and_rotation(&mut suite);
    admin::zeroise(&mut suite);
    println!("boundary conformance, {kind:?}: {} rows run, {} of them refusals by name", suite.rows, suite.refusals);
    suite.rows
}

#[test]
fn hsm_sim_answers_every_row() {
    assert_eq!(conforms(Kind::Sim), 561);
}

#[test]
fn softhsm2_answers_every_row() {
    assert_eq!(conforms(Kind::SoftHsm), 554);
}
