//! The language of password policies: `length = 20`, and rules of characters and how many of them there must be.
//!
//! ```text
//! length = 20
//! rule "charset" {
//!   charset = "abcdefghijklmnopqrstuvwxyz"
//!   min-chars = 1
//! }
//! ```
//!
//! Always: bounded; pure; what is random is an argument.

use std::borrow::Cow;
use std::iter::Peekable;
use std::str::Chars;
use zeroize::Zeroizing;

#[derive(Debug, PartialEq, Eq)]
pub(super) struct PasswordPolicy {
    length: usize,
    rules: Vec<Rule>,
    /// Those of all rules, each once.
    all: Vec<char>,
}

#[derive(Debug, PartialEq, Eq)]
struct Rule {
    charset: Vec<char>,
    min_chars: usize,
}

#[derive(Debug, PartialEq, Eq)]
enum Lexeme {
    Word(String),
    Text(String),
    Number(usize),
    Sign(char),
}

type Why = Cow<'static, str>;

impl PasswordPolicy {
    pub(super) fn parse(text: &str) -> Result<Self, Why> {
        if text.len() > TEXT_BYTES_MAX {
            return Err(format!("longer than {TEXT_BYTES_MAX} bytes").into());
        }
        let mut lexemes = lex(text)?.into_iter();
        let (mut length, mut rules) = (None, Vec::new());
        while let Some(lexeme) = lexemes.next() {
            match lexeme {
                Lexeme::Word(word) if word == "length" => {
                    if length.replace(number(&mut lexemes)?).is_some() {
                        return Err("length stands twice".into());
                    }
                }
                Lexeme::Word(word) if word == "rule" => rules.push(rule(&mut lexemes)?),
                Lexeme::Word(_) | Lexeme::Text(_) | Lexeme::Number(_) | Lexeme::Sign(_) => {
                    return Err("neither `length` nor `rule`".into());
                }
            }
        }
        Self::check(length.ok_or("length is missing")?, rules)
    }

    fn check(length: usize, rules: Vec<Rule>) -> Result<Self, Why> {
        if !LENGTHS.contains(&length) {
            return Err(format!("length is not from {} to {}", LENGTHS.start(), LENGTHS.end()).into());
        }
        if rules.is_empty() || rules.len() > RULES_MAX {
            return Err(format!("not 1 to {RULES_MAX} rules").into());
        }
        if rules.iter().map(|rule| rule.min_chars).sum::<usize>() > length {
            return Err("the rules demand more characters than length gives".into());
        }
        let mut all: Vec<char> = rules.iter().flat_map(|rule| rule.charset.iter().copied()).collect();
        all.sort_unstable();
        all.dedup();
        if all.len() > CHARSET_MAX {
            return Err(format!("more than {CHARSET_MAX} characters").into());
        }
        Ok(Self { length, rules, all })
    }

    /// `byte` gives random bytes.
    pub(super) fn generate<E>(&self, byte: &mut impl FnMut() -> Result<u8, E>) -> Result<Zeroizing<String>, E> {
        let mut chars = Zeroizing::new(Vec::with_capacity(self.length));
        for rule in &self.rules {
            for _ in 0..rule.min_chars {
                chars.push(pick(&rule.charset, byte)?);
            }
        }
        while chars.len() < self.length {
            chars.push(pick(&self.all, byte)?);
        }
        for last in (1..chars.len()).rev() {
            let other = below(last + 1, byte)?;
            chars.swap(last, other);
        }
        let mut out = Zeroizing::new(String::with_capacity(self.length * 4));
        out.extend(chars.iter());
        Ok(out)
    }
}

fn pick<E>(charset: &[char], byte: &mut impl FnMut() -> Result<u8, E>) -> Result<char, E> {
    let at = below(charset.len(), byte)?;
    Ok(charset.get(at).copied().unwrap_or_default())
}

/// Evenly from 0 up to `count`, which is at most 256.
fn below<E>(count: usize, byte: &mut impl FnMut() -> Result<u8, E>) -> Result<usize, E> {
    let even = 256 - 256 % count.max(1);
    loop {
        let drawn = usize::from(byte()?);
        if drawn < even {
            return Ok(drawn % count.max(1));
        }
    }
}

fn rule(lexemes: &mut impl Iterator<Item = Lexeme>) -> Result<Rule, Why> {
    match (lexemes.next(), lexemes.next()) {
        (Some(Lexeme::Text(name) | Lexeme::Word(name)), Some(Lexeme::Sign('{'))) if name == "charset" => {}
        _ => return Err("no rule but `rule \"charset\" { … }`".into()),
    }
    let (mut charset, mut min_chars) = (None, None);
    loop {
        match lexemes.next() {
            Some(Lexeme::Sign('}')) => break,
            Some(Lexeme::Word(word)) if word == "charset" && charset.is_none() => {
                charset = match (lexemes.next(), lexemes.next()) {
                    (Some(Lexeme::Sign('=')), Some(Lexeme::Text(text))) => Some(text),
                    _ => return Err("charset is no text".into()),
                };
            }
            Some(Lexeme::Word(word)) if matches!(word.as_str(), "min-chars" | "min_chars") && min_chars.is_none() => {
                min_chars = Some(number(lexemes)?);
            }
            _ => return Err("a rule has one `charset` and perhaps one `min-chars`, and ends in `}`".into()),
        }
    }
    let mut charset: Vec<char> = charset.unwrap_or_default().chars().collect();
    charset.sort_unstable();
    charset.dedup();
    if charset.is_empty() || charset.len() > CHARSET_MAX || charset.iter().any(|c| c.is_control()) {
        return Err(format!("charset is not 1 to {CHARSET_MAX} characters that can be seen").into());
    }
    Ok(Rule { charset, min_chars: min_chars.unwrap_or(0) })
}

fn number(lexemes: &mut impl Iterator<Item = Lexeme>) -> Result<usize, Why> {
    match (lexemes.next(), lexemes.next()) {
        (Some(Lexeme::Sign('=')), Some(Lexeme::Number(number))) => Ok(number),
        _ => Err("a whole number is missing".into()),
    }
}

fn lex(text: &str) -> Result<Vec<Lexeme>, Why> {
    let (mut out, mut rest) = (Vec::new(), text.chars().peekable());
    while let Some(c) = rest.next() {
        match c {
            c if c.is_whitespace() => {}
            '#' => skip_line(&mut rest),
            '/' if rest.peek() == Some(&'/') => skip_line(&mut rest),
            '=' | '{' | '}' => out.push(Lexeme::Sign(c)),
            '"' => out.push(Lexeme::Text(quoted(&mut rest)?)),
            c if c.is_ascii_digit() => {
                let digits = run(c, &mut rest, |c| c.is_ascii_digit());
                out.push(Lexeme::Number(digits.parse().map_err(|_| "a number is too large")?));
            }
            c if c.is_ascii_alphabetic() => {
                out.push(Lexeme::Word(run(c, &mut rest, |c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_'))));
            }
            _ => return Err("a character that has no place here".into()),
        }
    }
    Ok(out)
}

fn skip_line(rest: &mut Peekable<Chars<'_>>) {
    while rest.next().is_some_and(|c| c != '\n') {}
}

fn run(first: char, rest: &mut Peekable<Chars<'_>>, goes_on: impl Fn(char) -> bool) -> String {
    let mut out = String::from(first);
    while let Some(c) = rest.next_if(|c| goes_on(*c)) {
        out.push(c);
    }
    out
}

fn quoted(rest: &mut Peekable<Chars<'_>>) -> Result<String, Why> {
    let mut out = String::new();
    loop {
        match rest.next() {
            Some('"') => return Ok(out),
            Some('\\') => match rest.next() {
                Some(c @ ('"' | '\\')) => out.push(c),
                _ => return Err("no escape but `\\\"` and `\\\\`".into()),
            },
            Some('\n') | None => return Err("a text has no end".into()),
            Some(c) => out.push(c),
        }
    }
}

const TEXT_BYTES_MAX: usize = 16 * 1024;
const LENGTHS: std::ops::RangeInclusive<usize> = 4..=100;
const RULES_MAX: usize = 32;
/// A byte chooses among them.
const CHARSET_MAX: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    fn charset(charset: &str, min: usize) -> String {
        format!("rule \"charset\" {{ charset = \"{charset}\" min-chars = {min} }}\n")
    }

    #[test]
    fn a_policy_is_read_or_refused_in_words() {
        let many = charset("a", 0).repeat(33);
        let wide: String = ('\u{4e00}'..'\u{4f01}').collect();
        for (text, told) in [
            (format!("# twenty\nlength = 20 // so\n{}", charset("ab\\\"\\\\", 1)), None),
            (format!("length=4 {}{}", charset("a", 2), charset("b", 2)), None),
            ("length = 20\nrule \"charset\" {\n  charset = \"abc\"\n}\n".into(), None),
            (charset("a", 1), Some("length is missing")),
            (format!("length = 3 {}", charset("a", 1)), Some("not from 4 to 100")),
            (format!("length = 101 {}", charset("a", 1)), Some("not from 4 to 100")),
            (format!("length = 99999999999999999999 {}", charset("a", 1)), Some("too large")),
            (format!("length = 4 length = 5 {}", charset("a", 1)), Some("twice")),
            ("length = 20".into(), Some("rules")),
            (format!("length = 20 {many}"), Some("rules")),
            (format!("length = 4 {}{}", charset("a", 3), charset("b", 2)), Some("more characters than length")),
            (format!("length = 4 {}", charset("", 1)), Some("charset")),
            (format!("length = 4 {}", charset(&wide, 1)), Some("256")),
            ("length = 4 rule \"other\" { charset = \"a\" }".into(), Some("no rule but")),
            ("length = 4 rule \"charset\" { charset = \"a\"".into(), Some("ends in")),
            ("length = 4 rule \"charset\" { charset = \"a".into(), Some("no end")),
            ("length = 4 rule \"charset\" { charset = \"a\\n\" }".into(), Some("no escape")),
            ("length = \"4\"".into(), Some("whole number")),
            ("length = -4".into(), Some("no place")),
            ("{\"length\": 4}".into(), Some("no place")),
            ("#".repeat(20_000), Some("longer")),
            (String::new(), Some("length is missing")),
        ] {
            let found = PasswordPolicy::parse(&text);
            match told {
                None => assert!(found.is_ok(), "{text} {found:?}"),
                Some(told) => assert!(found.clone_err().contains(told), "{text} {found:?}"),
            }
        }
    }

    trait CloneErr {
        fn clone_err(&self) -> String;
    }

    impl CloneErr for Result<PasswordPolicy, Why> {
        fn clone_err(&self) -> String {
            self.as_ref().err().map(ToString::to_string).unwrap_or_default()
        }
    }

    #[test]
    fn a_password_has_what_its_rules_demand_and_every_character_is_as_likely() {
        let text = format!("length = 12 {}{}{}", charset("abc", 2), charset("XY", 3), charset("7", 1));
        let policy = PasswordPolicy::parse(&text).unwrap();
        let mut state = 1u64;
        let mut byte = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            Ok::<_, ()>((state >> 56) as u8)
        };
        let mut firsts = std::collections::BTreeMap::new();
        for _ in 0..3000 {
            let password = policy.generate(&mut byte).unwrap();
            let count = |set: &str| password.chars().filter(|c| set.contains(*c)).count();
            assert_eq!(password.chars().count(), 12);
            assert!(count("abc") >= 2 && count("XY") >= 3 && count("7") >= 1 && count("abcXY7") == 12, "{}", *password);
            *firsts.entry(password.chars().next().unwrap()).or_insert(0) += 1;
        }
        // expected of each place: (2 + 6·3/6)/12/3 for `abc`, (3 + 2)/12/2 for `XY`, (1 + 1)/12 for `7`
        for (c, share) in [('a', 139.), ('b', 139.), ('c', 139.), ('X', 208.), ('Y', 208.), ('7', 167.)] {
            let found = f64::from(firsts[&c]) / 3.;
            assert!((found - share).abs() < 30., "{c} {found} {share}");
        }
        for count in [1, 2, 3, 100, 255, 256] {
            let mut seen = vec![0; count];
            for drawn in 0..=255u8 {
                let mut drawn = Some(drawn);
                if let Ok(at) = below(count, &mut || drawn.take().ok_or(())) {
                    seen[at] += 1;
                }
            }
            assert!(seen.iter().all(|times| *times == seen[0] && seen[0] > 0), "{count}");
        }
    }
}
