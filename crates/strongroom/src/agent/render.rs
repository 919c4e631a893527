//! Templates: Jinja2's language, and functions that ask the vault.
//!
//! Rendering is pure: it sees what is known, and says which secret it needs where it needs another one.
//!
//! Always: what is not defined is an error; work and length are bounded.
//! Never: a value in an error. A fault tells its kind, the template and the line.

use anyhow::{Result, bail};
use client::{Kv, SecretBytes};
use minijinja::syntax::SyntaxConfig;
use minijinja::value::Kwargs;
use minijinja::{AutoEscape, Environment, Error, ErrorKind, UndefinedBehavior, Value};
use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::sync::{Arc, Mutex, PoisonError};
use zeroize::Zeroizing;

/// Something that the vault is asked for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Source {
    /// Below `/v1/`.
    pub(super) path: String,
    pub(super) part: Part,
}

/// What of the answer's data a template sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Part {
    Whole,
    /// The version's data, without what KV tells about it.
    Version,
}

pub(super) type Known = BTreeMap<Source, Value>;

/// What rendering came to.
#[derive(Debug)]
pub(super) enum Rendered {
    Whole { text: SecretBytes, used: BTreeSet<Source> },
    Needs(Source),
}

/// What functions see and leave behind.
struct Look {
    known: Known,
    seen: Mutex<Seen>,
}

#[derive(Default)]
struct Seen {
    used: BTreeSet<Source>,
    needs: Option<Source>,
}

impl Look {
    fn up(&self, source: Source) -> Result<Value, Error> {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        match self.known.get(&source) {
            Some(value) => {
                seen.used.insert(source);
                Ok(value.clone())
            }
            None => {
                seen.needs.get_or_insert(source);
                Err(Error::new(ErrorKind::InvalidOperation, "not known yet"))
            }
        }
    }
}

/// Is it a template at all?
pub(super) fn check(name: &str, text: &str) -> Result<()> {
    match environment().template_from_named_str(name, text) {
        Ok(_) => Ok(()),
        // nothing was asked for yet, so nothing secret can be told
        Err(error) => bail!("{name}: {error}"),
    }
}

/// Renders with what is known.
pub(super) fn render(name: &str, text: &str, known: Known) -> Result<Rendered> {
    let look = Arc::new(Look { known, seen: Mutex::default() });
    let mut environment = environment();
    let here = Arc::clone(&look);
    environment.add_function("secret", move |path: String| here.up(Source::whole(&path)));
    let here = Arc::clone(&look);
    environment.add_function("database", move |role: String| here.up(Source::database(&role)?));
    let here = Arc::clone(&look);
    environment.add_function("kv", move |name: String, options: Kwargs| here.up(Source::kv(&name, &options)?));
    let mut out = Bounded(Zeroizing::new(Vec::with_capacity(4096)));
    let outcome = environment
        .template_from_named_str(name, text)
        .and_then(|template| template.render_captured_to((), &mut out).map(drop));
    let mut seen = std::mem::take(&mut *look.seen.lock().unwrap_or_else(PoisonError::into_inner));
    match (outcome, seen.needs.take()) {
        (_, Some(source)) => Ok(Rendered::Needs(source)),
        (Ok(()), None) => Ok(Rendered::Whole { text: SecretBytes::copy_from(&out.0), used: seen.used }),
        (Err(error), None) => bail!("{name}, line {}: {}", error.line().unwrap_or_default(), kind(&error)),
    }
}

fn environment<'a>() -> Environment<'a> {
    let mut environment = Environment::new();
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    environment.set_auto_escape_callback(|_| AutoEscape::None);
    // files end as their templates do, and lines that hold a block alone leave nothing
    let syntax = SyntaxConfig::builder().keep_trailing_newline(true).trim_blocks(true).lstrip_blocks(true).build();
    if let Ok(syntax) = syntax {
        environment.set_syntax(syntax);
    }
    environment.set_fuel(Some(FUEL));
    environment
}

/// Never the error's detail: it may quote a value.
fn kind(error: &Error) -> String {
    let said = [
        (ErrorKind::UndefinedError, "a field is not there (strict: `is defined` asks for it)".to_owned()),
        (ErrorKind::OutOfFuel, "it takes too long".to_owned()),
        (ErrorKind::WriteFailure, format!("it is longer than {TEXT_BYTES_MAX} bytes")),
    ];
    let found = said.into_iter().find(|(kind, _)| *kind == error.kind());
    found.map_or_else(|| error.kind().to_string(), |(_, said)| said)
}

impl Source {
    fn whole(path: &str) -> Self {
        Self { path: path.trim_matches('/').to_owned(), part: Part::Whole }
    }

    /// `MOUNT/ROLE`.
    fn database(role: &str) -> Result<Self, Error> {
        match role.trim_matches('/').rsplit_once('/') {
            Some((mount, role)) => Ok(Self::whole(&format!("{mount}/creds/{role}"))),
            None => Err(Error::new(ErrorKind::InvalidOperation, "a database is named MOUNT/ROLE")),
        }
    }

    /// `MOUNT/PATH`, where the mount's path has one segment unless `mount` names it.
    fn kv(name: &str, options: &Kwargs) -> Result<Self, Error> {
        let (label, version): (Option<String>, Option<u32>) = (options.get("label")?, options.get("version")?);
        let mount: Option<String> = options.get("mount")?;
        options.assert_all_used()?;
        let name = name.trim_matches('/');
        let (mount, path) = match &mount {
            Some(mount) => (mount.as_str(), name),
            None => name
                .split_once('/')
                .ok_or_else(|| Error::new(ErrorKind::InvalidOperation, "a secret is named MOUNT/PATH"))?,
        };
        let which = match (&label, version) {
            (_, Some(version)) => Kv::Version(version),
            (Some(label), None) => Kv::Label(label),
            (None, None) => Kv::Current,
        };
        Ok(Self { path: which.path(mount, path), part: Part::Version })
    }
}

/// What is written into it is wiped, but for what a growing vector leaves behind.
struct Bounded(Zeroizing<Vec<u8>>);

impl Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if self.0.len() + bytes.len() > TEXT_BYTES_MAX {
            return Err(std::io::ErrorKind::FileTooLarge.into());
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

const FUEL: u64 = 10_000_000;
const TEXT_BYTES_MAX: usize = 8 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    fn known() -> Known {
        let value = |json: &str| serde_json::from_str::<Value>(json).unwrap();
        let source = |path: &str, part| Source { path: path.to_owned(), part };
        Known::from([
            (source("secret/data/app/db", Part::Version), value(r#"{"password":"s3\"cret","port":5432}"#)),
            (source("secret/data/app/db?label=pending", Part::Version), value(r#"{"password":"next"}"#)),
            (source("team/kv/data/a", Part::Version), value(r#"{"b":{"c":[1,2]}}"#)),
            (source("database/creds/app", Part::Whole), value(r#"{"username":"u","password":"p"}"#)),
        ])
    }

    #[test]
    fn a_template_says_what_it_needs_or_is_rendered_whole() {
        for (text, expected) in [
            ("plain\n", Ok("plain\n")),
            ("{{ kv('secret/app/db').password }}:{{ kv('secret/app/db').port }}", Ok("s3\"cret:5432")),
            ("{{ kv('secret/app/db').password | tojson }}", Ok(r#""s3\"cret""#)),
            ("{{ kv('secret/app/db', label='pending').password }}", Ok("next")),
            ("{{ kv('a', mount='team/kv').b.c | last }}", Ok("2")),
            ("{% set d = database('database/app') %}{{ d.username }}/{{ d.password }}", Ok("u/p")),
            ("{{ secret('database/creds/app').username }}", Ok("u")),
            ("{{ kv('secret/other').x }}", Err("secret/data/other")),
            ("{{ database('db/pg/ro').username }}", Err("db/pg/creds/ro")),
        ] {
            match (render("t", text, known()).unwrap(), expected) {
                (Rendered::Whole { text: made, .. }, Ok(expected)) => {
                    assert_eq!(String::from_utf8_lossy(made.expose()), expected, "{text}");
                }
                (Rendered::Needs(source), Err(path)) => assert_eq!(source.path, path, "{text}"),
                (rendered, _) => panic!("{text}: {rendered:?}"),
            }
        }
    }

    #[test]
    fn a_fault_tells_where_it_is_and_no_value() {
        for (text, said) in [
            ("a\n{{ kv('secret/app/db').pasword }}", "line 2"),
            ("{{ kv('secret/app/db').password.x.y }}", "line 1"),
            ("{{ kv('secret/app/db').password | int }}", "line 1"),
            ("{{ kv('secret/app/db').password | round }}", "line 1"),
            ("{{ kv('secret/app/db').password + 1 }}", "line 1"),
            ("{{ [1][kv('secret/app/db').password] }}", "line 1"),
            ("{{ none_such() }}", "line 1"),
            ("{{ kv('secret/app/db', lable='x') }}", "line 1"),
            ("{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}", "too long"),
        ] {
            let error = render("t", text, known()).map(|_| ()).unwrap_err().to_string();
            assert!(error.contains(said) && !error.contains("s3"), "{text}: {error}");
        }
        assert!(check("t", "{{ a ").unwrap_err().to_string().contains("t:1"));
    }
}
