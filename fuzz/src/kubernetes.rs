//! What a Pod's token says of itself, and an API server's answer to a review of it.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use envelope::Timestamp;
use vault::auth::kubernetes::vouched;

/// A token's header, its payload and an answer, a zero byte between each: whatever they are, somebody is vouched for only
/// where the answer says so, of whom the token names, and for this audience. What is there of a token is tried raw too.
pub fn kubernetes_review(data: &[u8]) {
    let mut parts = data.splitn(3, |byte| *byte == 0);
    let mut part = || parts.next().unwrap_or_default();
    let (header, payload, answer) = (part(), part(), part());
    let token = format!("{}.{}.c2ln", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(payload));
    let now = Timestamp::from_unix_millis(1_000_000);
    if let Ok((username, uid)) = vouched(&token, "vault", answer, now) {
        let has = |text: &[u8], needle: &str| text.windows(needle.len()).any(|window| window == needle.as_bytes());
        let name = username.strip_prefix("system:serviceaccount:").expect("a service account");
        assert_eq!(name.split(':').count(), 2, "{username}");
        // as they stand, or with escapes
        for text in [payload, answer] {
            assert!(
                has(text, "\\") || (has(text, &username) && has(text, &uid) && has(text, "vault")),
                "{username} {uid}"
            );
        }
        assert!(has(answer, "true"));
    }
    if let Ok(raw) = std::str::from_utf8(data) {
        let _ = vouched(raw, "vault", answer, now);
    }
}
