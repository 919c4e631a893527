//! Texts of SQL: nothing stands in them but what was quoted here.

use std::fmt::Write as _;

/// As an identifier, whatever it holds.
pub(super) fn ident(name: &str) -> String {
    format!("\"{}\"", name.replace('\0', "").replace('"', "\"\""))
}

/// As a literal, whatever it holds.
pub(super) fn literal(text: &str) -> String {
    let text = text.replace('\0', "").replace('\'', "''");
    // a backslash means itself only in this form, whatever the session's settings are
    if text.contains('\\') { format!("E'{}'", text.replace('\\', "\\\\")) } else { format!("'{text}'") }
}

/// A list of literals, for `IN (…)`.
pub(super) fn literals<'a>(texts: impl IntoIterator<Item = &'a str>) -> String {
    let mut out = String::new();
    for text in texts {
        let _ = write!(out, "{}{}", if out.is_empty() { "" } else { ", " }, literal(text));
    }
    if out.is_empty() { "NULL".to_owned() } else { out }
}

/// What several at once begin with: where one has to wait, each goes by itself instead.
pub(super) fn hurry(users: usize) -> &'static str {
    if users > 1 { "SET LOCAL lock_timeout = '200ms'; SET LOCAL statement_timeout = '2s';" } else { "" }
}

/// A setting's name, which may have parts: each as an identifier.
pub(super) fn setting(name: &str) -> String {
    name.split('.').map(ident).collect::<Vec<_>>().join(".")
}

/// A text of a role's. What is put in is of characters that end no quotation, or nothing is.
pub(super) fn render(text: &str, values: &[(&str, &str)]) -> Option<String> {
    let plain =
        |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | '@' | '$' | ':' | '=' | '+' | '/' | ' ');
    if values.iter().any(|(_, value)| !value.chars().all(plain)) {
        return None;
    }
    let mut out = text.to_owned();
    for (name, value) in values {
        out = out.replace(&format!("{{{{{name}}}}}"), value);
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_quoted_stays_quoted() {
        for (name, quoted) in [("a", "\"a\""), ("a\";drop", "\"a\"\";drop\""), ("a\0b", "\"ab\""), ("ä b", "\"ä b\"")]
        {
            assert_eq!(ident(name), quoted);
        }
        for (text, quoted) in [("a", "'a'"), ("a';--", "'a'';--'"), ("a\\'b", "E'a\\\\''b'"), ("\0", "''")] {
            assert_eq!(literal(text), quoted);
        }
        assert_eq!(setting("app.\"x"), "\"app\".\"\"\"x\"");
        assert_eq!(literals(["a", "b'"]), "'a', 'b'''");
        assert_eq!(literals([]), "NULL");
        let text = "CREATE ROLE \"{{name}}\" PASSWORD '{{password}}'";
        assert_eq!(
            render(text, &[("name", "v-a"), ("password", "SCRAM-SHA-256$4096:a+/=$b=:c=")]).unwrap(),
            "CREATE ROLE \"v-a\" PASSWORD 'SCRAM-SHA-256$4096:a+/=$b=:c='"
        );
        for value in ["a\"", "a'", "a;", "a\\", "a\n", "ä", "a(", "a--\0"] {
            assert_eq!(render(text, &[("name", value)]), None, "{value:?}");
        }
    }
}
