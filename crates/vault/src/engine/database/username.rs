//! Names of users: of what a template says, of characters that mean nothing in any statement, never used twice.
//!
//! Always: of letters, digits, `_`, `-`, `.` and `@` alone: whatever a display name or a role's name is, nothing of it can
//! end a quotation.

use crate::error::VaultError;
use std::borrow::Cow;
use storage::Barrier;

/// What a name is made of.
#[derive(Debug, Clone, Copy)]
pub(super) struct Parts<'a> {
    pub(super) display_name: &'a str,
    pub(super) role: &'a str,
    pub(super) unix_secs: u64,
}

/// A template that would not give names that are used once is refused: enough of what is random is left in the longest name.
pub(super) fn check(template: &str, bytes_max: usize) -> Result<(), VaultError> {
    let wrong = |why: String| VaultError::field("username_template", why);
    if template.len() > TEMPLATE_BYTES_MAX {
        return Err(wrong("too long".to_owned()));
    }
    let long = "d".repeat(PART_BYTES_MAX);
    let parts = Parts { display_name: &long, role: &long, unix_secs: 9_999_999_999 };
    let named = |random: &str| {
        let mut text = String::new();
        let rendered = render(or_default(template), &parts, &mut text, &mut |count| Ok(random.repeat(count)));
        rendered.map(|()| fit(&text, bytes_max)).map_err(|error| wrong(error.to_string()))
    };
    let (one, other) = (named("x")?, named("y")?);
    let random = one.bytes().zip(other.bytes()).filter(|(one, other)| one != other).count();
    if random < RANDOM_MIN {
        return Err(wrong(format!("fewer than {RANDOM_MIN} characters of `random` are left in a name")));
    }
    Ok(())
}

pub(super) fn make(
    template: &str,
    parts: &Parts<'_>,
    bytes_max: usize,
    barrier: &Barrier,
) -> Result<String, VaultError> {
    let mut text = String::new();
    render(or_default(template), parts, &mut text, &mut |count| {
        crate::sys::passwords::letters_and_digits(barrier, count).map(|text| text.to_string())
    })?;
    Ok(fit(&text, bytes_max))
}

/// As a name: the random part stands late in most templates, so that what is too long loses its beginning.
fn fit(text: &str, bytes_max: usize) -> String {
    let mut name: String = text.chars().map(|c| if is_plain(c) { c } else { '-' }).collect();
    let excess = name.len().saturating_sub(bytes_max);
    name.drain(..excess);
    name
}

fn or_default(template: &str) -> &str {
    if template.is_empty() { DEFAULT } else { template }
}

fn is_plain(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | '@')
}

fn render(
    template: &str,
    parts: &Parts<'_>,
    out: &mut String,
    random: &mut impl FnMut(usize) -> Result<String, VaultError>,
) -> Result<(), VaultError> {
    let mut rest = template;
    while let Some((text, after)) = rest.split_once("{{") {
        let (inner, after) = after.split_once("}}").ok_or_else(|| wrong("`{{` without `}}`"))?;
        out.push_str(text);
        out.push_str(&expression(inner, parts, random)?);
        rest = after;
    }
    out.push_str(rest);
    Ok(())
}

fn expression(
    inner: &str,
    parts: &Parts<'_>,
    random: &mut impl FnMut(usize) -> Result<String, VaultError>,
) -> Result<String, VaultError> {
    // what a pipe is fed with may stand in parentheses
    let mut stages = inner.split('|').map(|stage| stage.trim().trim_matches(|c| matches!(c, '(' | ')')).trim());
    let first: Vec<&str> = stages.next().unwrap_or_default().split_whitespace().collect();
    let mut value: Cow<'_, str> = match first[..] {
        [".DisplayName"] => parts.display_name.into(),
        [".RoleName"] => parts.role.into(),
        ["unix_time"] => parts.unix_secs.to_string().into(),
        ["random", count] => random(number(count)?)?.into(),
        _ => return Err(wrong("an expression that is not known")),
    };
    for stage in stages {
        let words: Vec<&str> = stage.split_whitespace().collect();
        value = match words[..] {
            ["truncate", count] => value.chars().take(number(count)?).collect::<String>().into(),
            ["lowercase"] => value.to_lowercase().into(),
            ["uppercase"] => value.to_uppercase().into(),
            _ => return Err(wrong("a pipe that is not known")),
        };
    }
    Ok(value.into_owned())
}

fn number(text: &str) -> Result<usize, VaultError> {
    text.parse().ok().filter(|number| (1..=NUMBER_MAX).contains(number)).ok_or_else(|| wrong("a number from 1 to 63"))
}

fn wrong(why: &'static str) -> VaultError {
    VaultError::field("username_template", why)
}

/// Vault's.
const DEFAULT: &str = "v-{{.DisplayName | truncate 8}}-{{.RoleName | truncate 8}}-{{random 20}}-{{unix_time}}";
/// The least that any kind of database takes.
pub(super) const BYTES_MAX: usize = 63;
/// What is longer is met as well, and cut alike.
const PART_BYTES_MAX: usize = 128;
const RANDOM_MIN: usize = 10;
const NUMBER_MAX: usize = 63;
const TEMPLATE_BYTES_MAX: usize = 512;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_a_name_is_made_of_ends_a_quotation() {
        let parts = Parts { display_name: "a\";x'\\\0ä", role: "r'; DROP", unix_secs: 7 };
        for (template, expected) in [
            ("", "v-a--x-----r---DROP-RRRRRRRRRRRRRRRRRRRR-7"),
            ("{{random 12}}\"'--", "RRRRRRRRRRRR----"),
            ("{{.RoleName | uppercase | truncate 3}}_{{ random 10 }}", "R--_RRRRRRRRRR"),
        ] {
            let mut text = String::new();
            render(or_default(template), &parts, &mut text, &mut |count| Ok("R".repeat(count))).unwrap();
            assert_eq!(fit(&text, BYTES_MAX), expected, "{template}");
        }
        for (template, sound) in [
            ("", true),
            ("{{random 10}}", true),
            ("{{random 9}}", false),
            ("x", false),
            ("{{random", false),
            ("{{.X}}", false),
            // nothing is left of it, or too little
            ("{{random 20 | truncate 9}}", false),
            ("{{random 20 | truncate 10}}", true),
            ("{{random 20}}-{{.RoleName}}", false),
            ("{{random 20}}-{{.RoleName | truncate 40}}", true),
            ("{{.RoleName}}-{{random 20}}", true),
            ("{{random 5}}{{random 5}}", true),
        ] {
            assert_eq!(check(template, BYTES_MAX).is_ok(), sound, "{template}");
        }
    }
}
