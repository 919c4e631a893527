//! Why a login is refused: for the record and the operator. The caller hears one text.

use crate::error::VaultError;

pub(super) const TOLD: &str = "invalid AWS login";

pub(super) fn refused(cause: &'static str) -> VaultError {
    VaultError::LoginRefused { told: TOLD, cause }
}

macro_rules! causes {
    ($($name:ident = $cause:literal : $told:literal;)*) => {
        $(pub(super) const $name: &str = $cause;)*
        /// Each cause, and what it means to an operator.
        pub const CAUSES: &[(&str, &str)] = &[$(($cause, $told)),*];
    };
}

causes! {
    UNCONFIGURED = "AWS_UNCONFIGURED": "The mount has no server id: write `iam_server_id_header_value` to its config/client. Without it a login that was captured elsewhere would count here.";
    ROLE_UNKNOWN = "AWS_ROLE_UNKNOWN": "There is no such role at this mount.";
    MALFORMED = "AWS_MALFORMED": "A field of the login is not of its alphabet or length: is the client what it says it is?";
    METHOD_OTHER = "AWS_METHOD_OTHER": "The signed request is no POST.";
    URL_OTHER = "AWS_URL_OTHER": "The signed request's URL is not `https://HOST/` of its own Host header, without path and query.";
    HOST_OTHER = "AWS_HOST_OTHER": "The signed request is for a host that is not the service's in the signature's region, nor the mount's `sts_endpoint`. Where that is set to a host that is not the service's own, clients sign for it alone.";
    BODY_OTHER = "AWS_BODY_OTHER": "The signed request asks something else than GetCallerIdentity: an attack, or another client.";
    HEADERS_OTHER = "AWS_HEADERS_OTHER": "Headers stand twice, hold what headers cannot, or others are signed than a login needs: an attack, or another client.";
    HEADERS_UNSIGNED = "AWS_HEADERS_UNSIGNED": "Host, date or security token are not among the signed headers.";
    AUTHORIZATION_MALFORMED = "AWS_AUTHORIZATION_MALFORMED": "The Authorization header is not one of signature version 4 for the service `sts`.";
    SERVER_ID_MISSING = "AWS_SERVER_ID_MISSING": "The client signed no server id: give it the mount's `iam_server_id_header_value` (vault login: header_value).";
    SERVER_ID_UNSIGNED = "AWS_SERVER_ID_UNSIGNED": "The server id stands beside the signature instead of in it: somebody put it there.";
    SERVER_ID_OTHER = "AWS_SERVER_ID_OTHER": "The login was made for another server: a client's wrong setting, or a login that was captured there.";
    REGION_OTHER = "AWS_REGION_OTHER": "The signature's region is unknown, or not the mount's `sts_region`.";
    DATE_OTHER = "AWS_DATE_OTHER": "The signature is older or newer than fifteen minutes, or its two dates differ: look at the client's clock.";
    NONCE_UNKNOWN = "AWS_NONCE_UNKNOWN": "The nonce is not one of this mount's, or older than a minute.";
    REPLAYED = "AWS_REPLAYED": "This very login was let in before: a replay, or a client that sends one twice.";
    NONCE_MISSING = "AWS_NONCE_MISSING": "The role lets in logins with a nonce only (`require_nonce`), and Vault's form has none.";
    CERTIFICATE_MISSING = "AWS_CERTIFICATE_MISSING": "The role lets in logins only whose signature names the client's certificate (`require_certificate`).";
    CERTIFICATE_OTHER = "AWS_CERTIFICATE_OTHER": "The signature names another client certificate than the connection's: a login that was captured, or a proxy in between.";
    STS_REFUSED = "AWS_STS_REFUSED": "AWS does not know this signature: wrong or expired credentials, or anything else was signed than what this server wrote.";
    STS_ANSWER = "AWS_STS_ANSWER": "What answered in AWS's place did not answer as it does: look at `sts_endpoint`, and at what stands between.";
    ANSWER_CONTRADICTS = "AWS_ANSWER_CONTRADICTS": "Account, ARN and user id of the answer contradict one another, or the endpoint's partition: look at `sts_endpoint`.";
    ROOT = "AWS_ROOT": "An account's root user logs in nowhere.";
    PRINCIPAL_OTHER = "AWS_PRINCIPAL_OTHER": "The caller is a principal of another kind than a user or an assumed role.";
    PRINCIPAL_UNBOUND = "AWS_PRINCIPAL_UNBOUND": "The role is not bound to this principal: account, kind, name and unique id are compared together.";
    UNIQUE_ID_OTHER = "AWS_UNIQUE_ID_OTHER": "A principal of this name logged in before under another unique id: it was deleted and made again. If that is as it should be, write the role's `bound_iam_principal_arn` again.";
    SESSION_OTHER = "AWS_SESSION_OTHER": "The session's name is none of the role's `bound_session_names`.";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_are_told_apart() {
        let mut names: Vec<_> = CAUSES.iter().map(|(cause, _)| cause).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), CAUSES.len());
    }
}
