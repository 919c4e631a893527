//! Every input that fuzzing kept goes through its target's body again: what was once found stays fixed.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test ends where it fails, and tells how much it ran")]

use std::path::Path;

#[test]
fn every_kept_input_passes_through_its_target() {
    let corpora = Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name("fuzz").join("corpus");
    let targets = Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name("fuzz").join("fuzz_targets");
    let names = |folder: &Path| {
        let mut names: Vec<String> = std::fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().path().file_stem().unwrap().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    };
    assert_eq!(names(&corpora), names(&targets), "every target has a corpus, and nothing else has");
    let mut ran = 0;
    for target in names(&targets) {
        let body: fn(&[u8]) = match target.as_str() {
            "sealed" => strongroom_fuzz::sealed,
            "hsm_frame" => strongroom_fuzz::hsm_frame,
            "file_format" => strongroom_fuzz::file_format,
            "entry_path" => strongroom_fuzz::entry_path,
            "storage_model" => strongroom_fuzz::storage_model,
            "acl_policy" => strongroom_fuzz::acl_policy,
            "jwt" => strongroom_fuzz::jwt,
            "audit_log" => strongroom_fuzz::audit_log,
            "audit_note" => strongroom_fuzz::audit_note,
            "x509" => strongroom_fuzz::x509,
            "spiffe" => strongroom_fuzz::spiffe,
            "ocsp" => strongroom_fuzz::ocsp,
            "audit_entry" => strongroom_fuzz::audit_entry,
            "kubernetes_review" => strongroom_fuzz::kubernetes_review,
            "aws" => strongroom_fuzz::aws,
            other => unreachable!("{other} has no body here: add it"),
        };
        for entry in std::fs::read_dir(corpora.join(&target)).unwrap() {
            body(&std::fs::read(entry.unwrap().path()).unwrap());
            ran += 1;
        }
    }
    println!("fuzz corpora: {ran} inputs replayed");
    assert!(ran >= 20, "only {ran} inputs were replayed");
}
