//! AWS's signature, version 4, of the one request that a login is: GetCallerIdentity, which is never sent by us.

use super::aws::Credentials;
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::{Digest as _, Sha256};
use time::OffsetDateTime;
use zeroize::Zeroizing;

pub(super) struct Login<'a> {
    pub(super) region: &'a str,
    pub(super) host: &'a str,
    pub(super) server_id: &'a str,
    pub(super) nonce: &'a str,
    /// The thumbprint of the connection's client certificate, in hexadecimal.
    pub(super) certificate: Option<&'a str>,
}

pub(super) struct Signed {
    pub(super) amz_date: String,
    pub(super) signature: String,
}

/// Of a region's token service.
pub(super) fn host(region: &str) -> String {
    let suffix = match region {
        _ if region.starts_with("cn-") => "amazonaws.com.cn",
        _ if region.starts_with("eusc-") => "amazonaws.eu",
        _ => "amazonaws.com",
    };
    format!("sts.{region}.{suffix}")
}

impl Login<'_> {
    pub(super) fn sign(&self, credentials: &Credentials, at: OffsetDateTime) -> Signed {
        let (year, month, day) = (at.year(), u8::from(at.month()), at.day());
        let (hour, minute, second) = (at.hour(), at.minute(), at.second());
        let date = format!("{year:04}{month:02}{day:02}");
        let amz_date = format!("{date}T{hour:02}{minute:02}{second:02}Z");
        let token = credentials.session_token.as_ref().map(|token| String::from_utf8_lossy(token.expose()));
        // by their names
        let headers: [(&str, Option<&str>); 7] = [
            ("content-type", Some(CONTENT_TYPE)),
            ("host", Some(self.host)),
            ("x-amz-date", Some(&amz_date)),
            ("x-amz-security-token", token.as_deref()),
            ("x-strongroom-certificate", self.certificate),
            ("x-strongroom-nonce", Some(self.nonce)),
            ("x-strongroom-server-id", Some(self.server_id)),
        ];
        let mut lines = Zeroizing::new(String::new());
        let mut names = Vec::new();
        for (name, value) in headers.into_iter().filter_map(|(name, value)| Some((name, value?))) {
            lines.push_str(&format!("{name}:{}\n", value.trim()));
            names.push(name);
        }
        let body = hex(&Sha256::digest(BODY));
        let request = Zeroizing::new(format!("POST\n/\n\n{}\n{}\n{body}", *lines, names.join(";")));
        let secret = &credentials.secret_access_key;
        let signature = signature(secret.expose(), &amz_date, self.region, "sts", request.as_bytes());
        Signed { amz_date, signature }
    }
}

fn signature(secret: &[u8], amz_date: &str, region: &str, service: &str, request: &[u8]) -> String {
    let date = amz_date.get(..8).unwrap_or_default();
    let first = Zeroizing::new([b"AWS4", secret].concat());
    let mut key = keyed(&first, date);
    for part in [region, service, "aws4_request"] {
        key = keyed(&*key, part);
    }
    let hash = hex(&Sha256::digest(request));
    let text = format!("AWS4-HMAC-SHA256\n{amz_date}\n{date}/{region}/{service}/aws4_request\n{hash}");
    hex(&*keyed(&*key, &text))
}

fn keyed(key: &[u8], text: &str) -> Zeroizing<[u8; 32]> {
    #[expect(clippy::expect_used, reason = "HMAC takes keys of any length")]
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of any length");
    mac.update(text.as_bytes());
    Zeroizing::new(mac.finalize().into_bytes().into())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

const BODY: &[u8] = b"Action=GetCallerIdentity&Version=2011-06-15";
const CONTENT_TYPE: &str = "application/x-www-form-urlencoded; charset=utf-8";

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of AWS's documentation, "Signature Version 4 signing process".
    #[test]
    fn the_published_example_is_signed_as_published() {
        let request = "GET\n/\nAction=ListUsers&Version=2010-05-08\n\
                       content-type:application/x-www-form-urlencoded; charset=utf-8\nhost:iam.amazonaws.com\n\
                       x-amz-date:20150830T123600Z\n\ncontent-type;host;x-amz-date\n\
                       e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        let secret = b"wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";
        let signed = signature(secret, "20150830T123600Z", "us-east-1", "iam", request.as_bytes());
        assert_eq!(signed, "5d672d79c15b13162d9279b0855cfba6789a8edb4c82c400e06b5924a6f2b5d7");
    }

    #[test]
    fn a_date_is_written_with_all_its_digits() {
        let credentials = Credentials {
            access_key_id: "AKIA".into(),
            secret_access_key: crate::SecretBytes::copy_from(b"s"),
            session_token: None,
        };
        let login = Login { region: "r", host: "h", server_id: "s", nonce: "n", certificate: None };
        let at = OffsetDateTime::from_unix_timestamp(1_767_323_045).unwrap();
        assert_eq!(login.sign(&credentials, at).amz_date, "20260102T030405Z");
    }
}
