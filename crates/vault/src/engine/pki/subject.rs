//! Distinguished names, as roles and requests give them.

use super::x509::unbuilt;
use crate::body::Body;
use crate::error::VaultError;
use serde::{Deserialize, Serialize};
use x509_cert::attr::AttributeTypeAndValue;
use x509_cert::der::asn1::{Any, ObjectIdentifier, SetOfVec};
use x509_cert::der::{Tag, Tagged};
use x509_cert::name::{Name, RdnSequence, RelativeDistinguishedName};

/// What stands in a name beside the common name, each field perhaps several times.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Parts {
    pub(super) country: Vec<String>,
    pub(super) organization: Vec<String>,
    pub(super) ou: Vec<String>,
    pub(super) locality: Vec<String>,
    pub(super) province: Vec<String>,
    pub(super) street_address: Vec<String>,
    pub(super) postal_code: Vec<String>,
}

impl Parts {
    pub(super) fn update(&mut self, body: &Body) -> Result<(), VaultError> {
        for (field, _, most, values) in self.fields() {
            let Some(new) = body.list(field)? else { continue };
            let sound =
                |value: &String| (1..=most).contains(&value.chars().count()) && !value.chars().any(char::is_control);
            if new.len() > VALUES_MAX || !new.iter().all(sound) {
                return Err(VaultError::field(field, format!("at most {VALUES_MAX} values of 1 to {most} characters")));
            }
            if field == "country" && !new.iter().all(|value| value.len() == 2 && value.is_ascii()) {
                return Err(VaultError::field(field, "two letters, as in ISO 3166"));
            }
            *values = new;
        }
        Ok(())
    }

    /// In the order in which they stand in a name, with the upper bounds of RFC 5280 appendix A.1.
    fn fields(&mut self) -> [(&'static str, ObjectIdentifier, usize, &mut Vec<String>); 7] {
        [
            ("country", COUNTRY, 2, &mut self.country),
            ("organization", ORGANIZATION, 64, &mut self.organization),
            ("ou", UNIT, 64, &mut self.ou),
            ("locality", LOCALITY, 128, &mut self.locality),
            ("province", PROVINCE, 128, &mut self.province),
            ("street_address", STREET, 128, &mut self.street_address),
            ("postal_code", POSTAL_CODE, 40, &mut self.postal_code),
        ]
    }

    pub(super) fn name(&self, common_name: &str) -> Result<Name, VaultError> {
        let mut parts = Vec::new();
        for (_, oid, _, values) in self.clone().fields() {
            for value in values {
                parts.push(part(oid, if oid == COUNTRY { Tag::PrintableString } else { Tag::Utf8String }, value)?);
            }
        }
        if !common_name.is_empty() {
            if common_name.chars().count() > COMMON_NAME_MAX {
                return Err(VaultError::field("common_name", format!("more than {COMMON_NAME_MAX} characters")));
            }
            parts.push(part(COMMON_NAME, Tag::Utf8String, common_name)?);
        }
        Ok(RdnSequence(parts))
    }
}

fn part(oid: ObjectIdentifier, tag: Tag, value: &str) -> Result<RelativeDistinguishedName, VaultError> {
    let value = Any::new(tag, value.as_bytes()).map_err(unbuilt)?;
    let set = SetOfVec::try_from(vec![AttributeTypeAndValue { oid, value }]).map_err(unbuilt)?;
    Ok(RelativeDistinguishedName(set))
}

/// The common name that stands last in a name, if it is text.
pub(super) fn common_name(name: &Name) -> Option<String> {
    let mut all = name.0.iter().flat_map(|part| part.0.iter());
    let last = all.rfind(|part| part.oid == COMMON_NAME)?;
    let text = matches!(Tagged::tag(&last.value), Tag::Utf8String | Tag::PrintableString | Tag::Ia5String);
    let bytes = text.then(|| last.value.value().to_vec())?;
    String::from_utf8(bytes).ok()
}

const VALUES_MAX: usize = 8;
const COMMON_NAME_MAX: usize = 64;
const COMMON_NAME: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.4.3");
const COUNTRY: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.4.6");
const LOCALITY: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.4.7");
const PROVINCE: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.4.8");
const STREET: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.4.9");
const ORGANIZATION: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.4.10");
const UNIT: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.4.11");
const POSTAL_CODE: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.4.17");
