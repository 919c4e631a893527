//! Why logins are refused, for the operator: what a cause in the audit log means, and what to look at.
//!
//! Always: every cause that a method records stands in its table; a test reads the methods' texts.
//! Never: told to the caller, who hears one text per method.

use super::{approle, aws, azure, cert, gcp, jose, jwt, kubernetes, proven, spiffe, userpass, x509};

/// What a recorded cause means.
pub fn explained(cause: &str) -> Option<&'static str> {
    let all = TABLES.iter().copied().flatten();
    all.copied().find(|(known, _)| *known == cause).map(|(_, told)| told)
}

/// A cause, and a line.
pub(crate) type Causes = &'static [(&'static str, &'static str)];

const TABLES: &[Causes] = &[
    proven::CAUSES,
    approle::CAUSES,
    userpass::CAUSES,
    jose::CAUSES,
    jwt::CAUSES,
    aws::CAUSES,
    gcp::CAUSES,
    azure::CAUSES,
    cert::CAUSES,
    x509::CAUSES,
    x509::ocsp::CAUSES,
    spiffe::CAUSES,
    kubernetes::CAUSES,
    OTHERS,
];

/// Of the pipeline.
const OTHERS: Causes = &[
    (
        "INVALID_FIELD",
        "a field of the login was missing, malformed, or wider than the role gives; the caller was told which",
    ),
    ("LIMIT_EXCEEDED", "more at once than is looked at: the caller may try again"),
    ("RATE_LIMITED", "too many requests of this kind, or from this address: see sys/quotas/rate-limit"),
    ("PERMISSION_DENIED", "the mount was disabled while the login was looked at"),
    ("CONFLICT", "others changed the same role again and again: the caller may try again"),
    ("UNAVAILABLE", "the store or the audit log was away"),
    (
        "NO_CREDENTIALS",
        "no method is enabled where the login was sent, and no token was shown: look at its path and namespace",
    ),
    ("NO_ROUTE", "nothing logs in at this path: is the method enabled there?"),
    ("UNSUPPORTED_OPERATION", "a login is a write"),
    ("SEALED", "this node was sealed"),
];

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use std::path::Path;

    /// Literals that look like a cause and are none, and why.
    const NO_CAUSES: &[(&str, &str)] = &[];

    /// As `JWT_EXPIRED`.
    fn looks_like_cause(text: &str) -> bool {
        let is_part =
            |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit());
        text.contains('_') && text.starts_with(|c: char| c.is_ascii_uppercase()) && text.split('_').all(is_part)
    }

    /// String literals outside tests. What stands between two literals is code, and looks like no cause.
    fn literals(path: &Path, found: &mut BTreeSet<String>) {
        if path.is_dir() {
            for entry in std::fs::read_dir(path).unwrap() {
                literals(&entry.unwrap().path(), found);
            }
        } else if !path.ends_with("tests.rs") && !path.ends_with("explain.rs") {
            let text = std::fs::read_to_string(path).unwrap();
            // modules of tests stand last
            let code = text.split("#[cfg(test)]\nmod ").next().unwrap();
            found.extend(code.split('"').filter(|text| looks_like_cause(text)).map(str::to_owned));
        }
    }

    #[test]
    fn every_cause_that_is_recorded_is_explained() {
        let (sources, mut found) = (Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), BTreeSet::new());
        literals(&sources.join("auth"), &mut found);
        literals(&sources.join("outside.rs"), &mut found);
        for (literal, _why) in NO_CAUSES {
            assert!(found.remove(*literal), "{literal} is nowhere by now");
        }
        assert!(found.len() > 120, "{found:?}");
        let untold: Vec<_> = found.iter().filter(|cause| explained(cause).is_none()).collect();
        assert!(untold.is_empty(), "{untold:?}");
        assert_eq!(explained("APPROLE_"), None);
    }
}
