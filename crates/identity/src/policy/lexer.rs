//! The words of a policy. HCL and JSON share them but for comments and bare words.

use super::{MalformedPolicy, PolicyFault};
use std::borrow::Cow;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Word<'a> {
    /// `{ } [ ] , : =`
    Mark(char),
    Text(Cow<'a, str>),
    /// A word without quotes: in JSON only `true`, `false` and `null`.
    Bare(&'a str),
    /// As it is written.
    Number(&'a str),
    End,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Language {
    Hcl,
    Json,
}

pub(super) struct Lexer<'a> {
    rest: &'a str,
    line: u32,
    language: Language,
}

impl<'a> Lexer<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        let language = if text.trim_start().starts_with('{') { Language::Json } else { Language::Hcl };
        Self { rest: text, line: 1, language }
    }

    pub(super) fn language(&self) -> Language {
        self.language
    }

    pub(super) fn fault<T>(&self, fault: PolicyFault) -> Result<T, MalformedPolicy> {
        Err(MalformedPolicy { line: self.line, fault })
    }

    pub(super) fn next(&mut self) -> Result<Word<'a>, MalformedPolicy> {
        self.skip_blank()?;
        let Some(first) = self.rest.chars().next() else { return Ok(Word::End) };
        match first {
            '{' | '}' | '[' | ']' | ',' | ':' | '=' => {
                self.advance(1);
                Ok(Word::Mark(first))
            }
            '"' => self.text(),
            'a'..='z' | 'A'..='Z' | '_' if self.language == Language::Hcl => {
                let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
                let len = self.rest.find(|c| !legal(c)).unwrap_or(self.rest.len());
                let (bare, _) = self.rest.split_at(len);
                self.advance(len);
                Ok(Word::Bare(bare))
            }
            '-' | '0'..='9' => {
                let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '+' | '.');
                let len = self.rest.find(|c| !legal(c)).unwrap_or(self.rest.len());
                let (number, _) = self.rest.split_at(len);
                if number.parse::<f64>().is_ok_and(f64::is_finite) {
                    self.advance(len);
                    return Ok(Word::Number(number));
                }
                self.fault(PolicyFault::Character(first))
            }
            't' | 'f' | 'n' => {
                let constant = ["true", "false", "null"].into_iter().find(|word| self.rest.starts_with(word));
                let Some(constant) = constant else { return self.fault(PolicyFault::Character(first)) };
                self.advance(constant.len());
                Ok(Word::Bare(constant))
            }
            other => self.fault(PolicyFault::Character(other)),
        }
    }

    /// Takes `mark` if it is the next word.
    pub(super) fn take_if(&mut self, mark: char) -> Result<bool, MalformedPolicy> {
        self.skip_blank()?;
        let next = self.rest.starts_with(mark);
        if next {
            self.advance(mark.len_utf8());
        }
        Ok(next)
    }

    fn skip_blank(&mut self) -> Result<(), MalformedPolicy> {
        loop {
            let blank = self.rest.len() - self.rest.trim_start_matches([' ', '\t', '\r', '\n']).len();
            self.advance(blank);
            let hcl = self.language == Language::Hcl;
            if hcl && (self.rest.starts_with('#') || self.rest.starts_with("//")) {
                self.advance(self.rest.find('\n').unwrap_or(self.rest.len()));
            } else if hcl && self.rest.starts_with("/*") {
                // `/*/` does not end itself
                match self.rest.get(2..).and_then(|rest| rest.find("*/")) {
                    Some(at) => self.advance(at + 4),
                    None => return self.fault(PolicyFault::UnterminatedComment),
                }
            } else {
                return Ok(());
            }
        }
    }

    /// A string in its line, from quote to quote.
    fn text(&mut self) -> Result<Word<'a>, MalformedPolicy> {
        let body = self.rest.get(1..).unwrap_or_default();
        let mut unescaped: Option<String> = None;
        let mut chars = body.char_indices();
        while let Some((at, c)) = chars.next() {
            match c {
                '"' => {
                    let plain = body.get(..at).unwrap_or_default();
                    let text = unescaped.map_or(Cow::Borrowed(plain), Cow::Owned);
                    self.advance(at + 2);
                    return if text.contains("${") { self.fault(PolicyFault::Template) } else { Ok(Word::Text(text)) };
                }
                '\n' => break,
                '\\' => {
                    let escape = chars.next().map(|(_, c)| c);
                    let meant = match escape {
                        Some(c @ ('"' | '\\' | '/')) => Some(c),
                        Some('u') => hex_escape(&mut chars),
                        Some(_) | None => None,
                    };
                    let Some(meant) = meant else { return self.fault(PolicyFault::StringCharacter) };
                    unescaped.get_or_insert_with(|| body.get(..at).unwrap_or_default().to_owned()).push(meant);
                }
                c if c.is_control() => return self.fault(PolicyFault::StringCharacter),
                c => {
                    if let Some(text) = &mut unescaped {
                        text.push(c);
                    }
                }
            }
        }
        self.fault(PolicyFault::UnterminatedString)
    }

    fn advance(&mut self, bytes: usize) {
        let (passed, rest) = self.rest.split_at(bytes);
        let lines = passed.bytes().filter(|byte| *byte == b'\n').count();
        // POLICY_BYTES_MAX bounds it.
        self.line = self.line.saturating_add(u32::try_from(lines).unwrap_or(u32::MAX));
        self.rest = rest;
    }
}

/// Four hex digits; surrogates are none.
fn hex_escape(chars: &mut std::str::CharIndices<'_>) -> Option<char> {
    let mut code = 0;
    for _ in 0..4 {
        code = code * 16 + chars.next()?.1.to_digit(16)?;
    }
    char::from_u32(code)
}
