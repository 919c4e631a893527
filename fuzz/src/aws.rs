//! Logins of AWS as anybody may write them, and answers as anybody may give them in its place.

use envelope::SecretBytes;
use vault::Body;
use vault::auth::aws::{named, written};

const SERVER_ID: &str = "vault.example";
const HEADERS: [&str; 10] = [
    "accept",
    "authorization",
    "content-type",
    "x-amz-content-sha256",
    "x-amz-date",
    "x-amz-security-token",
    "x-strongroom-certificate",
    "x-strongroom-nonce",
    "x-strongroom-server-id",
    "x-vault-aws-iam-server-id",
];

/// The first byte says what the rest is. What goes out is in our alphabets, to hosts of ours; who is named is a user or a role.
pub fn aws(data: &[u8]) {
    let Some((kind, rest)) = data.split_first() else { return };
    match kind % 3 {
        0 => {
            let Ok(body) = Body::parse(SecretBytes::copy_from(rest)) else { return };
            let Some((host, headers)) = written(&body, SERVER_ID) else { return };
            assert!(
                host.starts_with("sts.")
                    && host.bytes().all(|byte| byte.is_ascii_lowercase() || b"0123456789.-".contains(&byte))
            );
            assert!([".amazonaws.com", ".amazonaws.com.cn", ".amazonaws.eu"].iter().any(|end| host.ends_with(end)));
            for (at, (name, value)) in headers.iter().enumerate() {
                assert!(HEADERS.contains(name) && headers.iter().skip(at + 1).all(|(other, _)| other != name));
                assert!(value.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic()));
            }
            let servers =
                headers.iter().filter(|(name, value)| name.ends_with("server-id") && value.as_str() == SERVER_ID);
            assert_eq!(servers.count(), 1);
        }
        kind => {
            let media_type = if kind == 1 { "application/json" } else { "text/xml" };
            if let Some(arn) = named(media_type, rest) {
                assert!(arn.starts_with("arn:aws") && (arn.contains(":role/") || arn.contains(":user/")));
            }
        }
    }
}
