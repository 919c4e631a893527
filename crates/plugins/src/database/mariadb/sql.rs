//! Texts of SQL: nothing stands in them but what was quoted here. Sound whatever `sql_mode` is: of what could mean two things
//! (a backslash, a double quote as a delimiter) nothing is made.

use aws_lc_rs::digest;
use zeroize::Zeroizing;

/// As an identifier, whatever it holds.
pub(super) fn ident(name: &str) -> String {
    format!("`{}`", name.replace('\0', "").replace('`', "``"))
}

/// As a string, whatever it holds: where a backslash could mean something, by its bytes.
pub(super) fn literal(text: &str) -> String {
    if text.contains(['\\', '\0']) {
        return format!("CONVERT(X'{}' USING utf8mb4)", hex::encode(text));
    }
    format!("'{}'", text.replace('\'', "''"))
}

/// As the name of an account, where no expression may stand. What cannot be said in every mode is not said.
pub(super) fn account(name: &str, host: &str) -> Option<String> {
    let sound = |text: &str| !text.contains(['\\', '\0']);
    (sound(name) && sound(host) && !name.is_empty())
        .then(|| format!("'{}'@'{}'", name.replace('\'', "''"), host.replace('\'', "''")))
}

/// What `mysql_native_password` stores: all that is ever sent of a password.
pub(super) fn hashed(password: &str) -> Zeroizing<String> {
    let sha1 = |bytes: &[u8]| digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, bytes);
    let stored = sha1(sha1(password.as_bytes()).as_ref());
    Zeroizing::new(format!("*{}", hex::encode_upper(stored)))
}

/// A text of a role's. What is put in is of characters that end no quotation, or nothing is. What is put in for a password is
/// its hash: `IDENTIFIED BY '{{password}}'`, as Vault's users write it, becomes `IDENTIFIED BY PASSWORD '…'`.
pub(super) fn render(text: &str, values: &[(&str, &str)]) -> Option<String> {
    let plain = |c: char| {
        c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | '@' | '$' | ':' | '=' | '+' | '/' | ' ' | '*')
    };
    // two dashes begin a comment where a blank or the end follows; a name may well hold them elsewhere
    let comments = |value: &str| value.contains("-- ") || value.ends_with("--") || value.contains("/*");
    if values.iter().any(|(_, value)| !value.chars().all(plain) || comments(value)) {
        return None;
    }
    let mut out = String::new();
    let mut rest = text.trim().trim_end_matches(';');
    while let Some((before, after)) = rest.split_once("{{password}}") {
        let open = before.trim_end_matches(['\'', '"']);
        let quote = &before[open.len()..];
        let words = open.trim_end();
        let is_by = words.len() >= 2 && words.is_char_boundary(words.len() - 2);
        let by = is_by && words[words.len() - 2..].eq_ignore_ascii_case("by");
        out.push_str(open);
        out.push_str(if by { "PASSWORD " } else { "" });
        out.push_str(quote);
        out.push_str("{{password}}");
        rest = after;
    }
    out.push_str(rest);
    for (name, value) in values {
        out = out.replace(&format!("{{{{{name}}}}}"), value);
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_quoted_stays_quoted_in_every_mode() {
        for (name, quoted) in [("a", "`a`"), ("a`;drop", "`a``;drop`"), ("a\0b", "`ab`"), ("ä\"", "`ä\"`")] {
            assert_eq!(ident(name), quoted);
        }
        for (text, quoted) in [("a", "'a'"), ("a';--", "'a'';--'"), ("\\'", "CONVERT(X'5c27' USING utf8mb4)")] {
            assert_eq!(literal(text), quoted);
        }
        assert_eq!(account("a'b", "%").unwrap(), "'a''b'@'%'");
        for (name, host) in [("a\\", "%"), ("a", "\\"), ("", "%"), ("a\0", "%")] {
            assert_eq!(account(name, host), None);
        }
    }

    #[test]
    fn a_password_is_sent_as_what_the_server_stores() {
        // as the manual's PASSWORD() tells it
        assert_eq!(*hashed("password"), "*2470C0C06DEE42FD1618BB99005ADCA2EC9D1E19");
        let values = [("name", "v-a"), ("password", "*AB")];
        for (text, rendered) in [
            (
                "CREATE USER '{{name}}'@'%' IDENTIFIED BY '{{password}}';",
                "CREATE USER 'v-a'@'%' IDENTIFIED BY PASSWORD '*AB'",
            ),
            ("ALTER USER x identified  by \"{{password}}\"", "ALTER USER x identified  by PASSWORD \"*AB\""),
            ("IDENTIFIED BY PASSWORD '{{password}}'", "IDENTIFIED BY PASSWORD '*AB'"),
            ("VIA mysql_native_password USING '{{password}}'", "VIA mysql_native_password USING '*AB'"),
        ] {
            assert_eq!(render(text, &values).unwrap(), rendered);
        }
        for value in ["a\"", "a'", "a;", "a\\", "a\n", "ä", "a(", "a`", "a--", "a---", "a-- b", "a--- b", "/*"] {
            assert_eq!(render("{{name}}", &[("name", value)]), None, "{value:?}");
        }
        // of a role that is called `reports-ro`, by somebody without a name
        for value in ["v--reports--Ab1-17", "v-token-reports--Ab1-17", "a---b"] {
            assert_eq!(render("{{name}}", &[("name", value)]).as_deref(), Some(value));
        }
    }
}
