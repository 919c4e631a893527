//! PKCS#11 URIs (RFC 7512), as far as they name one token and its module, strictly.
//!
//! Always: the token is matched by label, serial, manufacturer and model; each attribute stands once.
//! Never: a PIN in the URI (`pin-value` ends up in process lists and logs); a match by slot number (modules renumber).

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// Which token, behind which module, unlocked from where.
#[derive(Clone, PartialEq, Eq)]
pub struct Uri {
    pub(crate) token: Option<String>,
    pub(crate) serial: Option<String>,
    pub(crate) manufacturer: Option<String>,
    pub(crate) model: Option<String>,
    module_path: PathBuf,
    pin_source: Option<PathBuf>,
}

/// Why a URI is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UriError {
    #[error("a PKCS#11 URI begins with `pkcs11:`")]
    Scheme,
    #[error("the URI is too long")]
    Length,
    #[error("`{0}` is not of the form name=value")]
    Form(String),
    #[error("bad percent-encoding in `{0}`")]
    Encoding(String),
    #[error("`{0}` stands twice")]
    Twice(String),
    #[error(
        "`{0}` is not understood here: token, serial, manufacturer, model, slot-id, module-path and pin-source are"
    )]
    Unknown(String),
    #[error("`pin-value` would put the PIN among arguments and logs: use pin-source, --pin-env or --pin-fd")]
    PinValue,
    #[error("pin-source is a file, `file:/path` or `/path`")]
    PinSource,
    #[error("module-path=/path/to/module.so is required, absolute")]
    ModulePath,
    #[error("token= or serial= is required")]
    NoToken,
}

impl Uri {
    pub fn module_path(&self) -> &Path {
        &self.module_path
    }

    pub fn pin_source(&self) -> Option<&Path> {
        self.pin_source.as_deref()
    }
}

impl FromStr for Uri {
    type Err = UriError;

    fn from_str(raw: &str) -> Result<Self, UriError> {
        if raw.len() > URI_BYTES_MAX {
            return Err(UriError::Length);
        }
        let rest = raw.strip_prefix("pkcs11:").ok_or(UriError::Scheme)?;
        let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
        let mut fields = Fields::default();
        for attribute in path.split(';').filter(|attribute| !attribute.is_empty()) {
            fields.put(attribute, &["token", "serial", "manufacturer", "model", "slot-id"])?;
        }
        for attribute in query.split('&').filter(|attribute| !attribute.is_empty()) {
            fields.put(attribute, &["module-path", "pin-source"])?;
        }
        let module_path = fields.take("module-path").map(PathBuf::from).ok_or(UriError::ModulePath)?;
        if !module_path.is_absolute() {
            return Err(UriError::ModulePath);
        }
        let uri = Self {
            token: fields.take("token"),
            serial: fields.take("serial"),
            manufacturer: fields.take("manufacturer"),
            model: fields.take("model"),
            module_path,
            pin_source: fields.take("pin-source").map(|source| pin_file(&source)).transpose()?,
        };
        if uri.token.is_none() && uri.serial.is_none() { Err(UriError::NoToken) } else { Ok(uri) }
    }
}

/// `file:/path`, `file:///path` or `/path`; never a command.
fn pin_file(source: &str) -> Result<PathBuf, UriError> {
    let path = source.strip_prefix("file:").map_or(source, |path| path.strip_prefix("//").unwrap_or(path));
    let path = PathBuf::from(path);
    if path.is_absolute() { Ok(path) } else { Err(UriError::PinSource) }
}

#[derive(Default)]
struct Fields(Vec<(String, String)>);

impl Fields {
    fn put(&mut self, attribute: &str, known: &[&str]) -> Result<(), UriError> {
        let Some((name, value)) = attribute.split_once('=') else {
            return Err(UriError::Form(attribute.to_owned()));
        };
        if name == "pin-value" {
            return Err(UriError::PinValue);
        }
        if !known.contains(&name) {
            return Err(UriError::Unknown(name.to_owned()));
        }
        if self.0.iter().any(|(taken, _)| taken == name) {
            return Err(UriError::Twice(name.to_owned()));
        }
        let value = decode(value).ok_or_else(|| UriError::Encoding(name.to_owned()))?;
        self.0.push((name.to_owned(), value));
        Ok(())
    }

    fn take(&mut self, name: &str) -> Option<String> {
        let at = self.0.iter().position(|(taken, _)| taken == name)?;
        Some(self.0.swap_remove(at).1)
    }
}

fn decode(raw: &str) -> Option<String> {
    let mut out = Vec::with_capacity(raw.len());
    let mut bytes = raw.bytes();
    while let Some(byte) = bytes.next() {
        if byte == b'%' {
            let pair = [bytes.next()?, bytes.next()?];
            let digits = std::str::from_utf8(&pair).ok().filter(|_| pair.iter().all(u8::is_ascii_hexdigit))?;
            out.push(u8::from_str_radix(digits, 16).ok()?);
        } else {
            out.push(byte);
        }
    }
    String::from_utf8(out).ok().filter(|text| !text.contains('\0') && !text.is_empty())
}

impl fmt::Debug for Uri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "pkcs11:token={:?};serial={:?}", self.token, self.serial)
    }
}

const URI_BYTES_MAX: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uri_names_a_token_its_module_and_a_file_with_the_pin() {
        let uri: Uri =
            "pkcs11:token=My%20token;serial=0a;slot-id=3?module-path=/m.so&pin-source=file:/run/pin".parse().unwrap();
        assert_eq!((uri.token.as_deref(), uri.serial.as_deref()), (Some("My token"), Some("0a")));
        assert_eq!(uri.module_path(), Path::new("/m.so"));
        for (source, path) in [("file:/p", "/p"), ("file:///p", "/p"), ("/p", "/p"), ("%2Fp", "/p")] {
            let uri: Uri = format!("pkcs11:token=a?module-path=/m.so&pin-source={source}").parse().unwrap();
            assert_eq!(uri.pin_source(), Some(Path::new(path)), "{source}");
        }
    }

    #[test]
    fn what_is_not_understood_is_refused_by_name() {
        use UriError as E;
        for (raw, error) in [
            ("", E::Scheme),
            ("PKCS11:token=a?module-path=/m", E::Scheme),
            ("pkcs11:token=a", E::ModulePath),
            ("pkcs11:token=a?module-path=m.so", E::ModulePath),
            ("pkcs11:?module-path=/m", E::NoToken),
            ("pkcs11:slot-id=1?module-path=/m", E::NoToken),
            ("pkcs11:token=a?module-path=/m&pin-value=1234", E::PinValue),
            ("pkcs11:token=a;pin-value=1234?module-path=/m", E::PinValue),
            ("pkcs11:token=a;token=b?module-path=/m", E::Twice("token".into())),
            ("pkcs11:object=a?module-path=/m", E::Unknown("object".into())),
            ("pkcs11:token=a?module-path=/m&module-name=x", E::Unknown("module-name".into())),
            ("pkcs11:token?module-path=/m", E::Form("token".into())),
            ("pkcs11:token=%2?module-path=/m", E::Encoding("token".into())),
            ("pkcs11:token=%+1?module-path=/m", E::Encoding("token".into())),
            ("pkcs11:token=a%00?module-path=/m", E::Encoding("token".into())),
            ("pkcs11:token=?module-path=/m", E::Encoding("token".into())),
            ("pkcs11:token=a?module-path=/m&pin-source=|cat", E::PinSource),
            ("pkcs11:token=a?module-path=/m&pin-source=pin", E::PinSource),
        ] {
            assert_eq!(raw.parse::<Uri>(), Err(error), "{raw}");
        }
        assert_eq!(format!("pkcs11:{}", "a".repeat(5000)).parse::<Uri>(), Err(E::Length));
    }
}
