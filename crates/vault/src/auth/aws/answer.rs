//! What the security token service answers: JSON where it does as it is asked, XML where it does not.
//!
//! Always: exactly one `GetCallerIdentityResponse`, with exactly one result of exactly three texts. What else there is, or
//! what is there twice, makes it no answer (CVE-2020-16250 lived on a lenient reader).
//! Never: a document type, an entity of its own, an attribute on what is read.

use super::arn::Told;
use serde::Deserialize;
use serde::de::IgnoredAny;

/// Longest answer that is read.
pub(super) const ANSWER_BYTES_MAX: usize = 64 << 10;
const NAMESPACE: &str = "https://sts.amazonaws.com/doc/2011-06-15/";
const NODES_MAX: u32 = 64;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Outer {
    #[serde(rename = "GetCallerIdentityResponse")]
    response: Response,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Response {
    #[serde(rename = "GetCallerIdentityResult")]
    result: Identity,
    #[serde(rename = "ResponseMetadata", default)]
    _metadata: Option<IgnoredAny>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
struct Identity {
    account: String,
    arn: String,
    user_id: String,
}

/// Of an answer with status 200. Nothing: it is not one.
pub(super) fn parse(media_type: &str, body: &[u8]) -> Option<Told> {
    let text = std::str::from_utf8(body).ok().filter(|text| text.len() <= ANSWER_BYTES_MAX)?;
    let essence = media_type.split(';').next().unwrap_or_default().trim();
    let told = match essence {
        "application/json" | "application/x-amz-json-1.1" => json(text)?,
        "text/xml" | "application/xml" => xml(text)?,
        _ => return None,
    };
    let short = |text: &str| {
        !text.is_empty() && text.len() <= MEMBER_BYTES_MAX && text.bytes().all(|byte| byte.is_ascii_graphic())
    };
    (short(&told.account) && short(&told.arn) && short(&told.user_id)).then_some(told)
}

fn json(text: &str) -> Option<Told> {
    let Outer { response: Response { result: Identity { account, arn, user_id }, .. } } =
        serde_json::from_str(text).ok()?;
    Some(Told { account, arn, user_id })
}

fn xml(text: &str) -> Option<Told> {
    let options = roxmltree::ParsingOptions { allow_dtd: false, nodes_limit: NODES_MAX, ..Default::default() };
    let document = roxmltree::Document::parse_with_options(text, options).ok()?;
    let root = document.root_element();
    let mut results = None;
    for child in elements(root, "GetCallerIdentityResponse")? {
        match child.tag_name().name() {
            "GetCallerIdentityResult" if results.is_none() => results = Some(child),
            "ResponseMetadata" if child.tag_name().namespace() == Some(NAMESPACE) => {}
            _ => return None,
        }
    }
    let (mut account, mut arn, mut user_id) = (None, None, None);
    for member in elements(results?, "GetCallerIdentityResult")? {
        let place = match member.tag_name().name() {
            "Account" => &mut account,
            "Arn" => &mut arn,
            "UserId" => &mut user_id,
            _ => return None,
        };
        if place.replace(text_of(member)?).is_some() {
            return None;
        }
    }
    Some(Told { account: account?, arn: arn?, user_id: user_id? })
}

/// The elements in one that is called so, between which there is white space alone.
fn elements<'a, 'i>(node: roxmltree::Node<'a, 'i>, name: &str) -> Option<Vec<roxmltree::Node<'a, 'i>>> {
    if !node.has_tag_name((NAMESPACE, name)) || node.attributes().next().is_some() {
        return None;
    }
    let is_space =
        |node: &roxmltree::Node<'_, '_>| node.is_text() && node.text().is_some_and(|text| text.trim().is_empty());
    let children: Vec<_> = node.children().filter(|child| !is_space(child)).collect();
    children.iter().all(roxmltree::Node::is_element).then_some(children)
}

/// Of an element that holds one text and nothing else.
fn text_of(node: roxmltree::Node<'_, '_>) -> Option<String> {
    let mut children = node.children();
    let only = children.next().filter(roxmltree::Node::is_text)?;
    let alone = children.next().is_none() && node.attributes().next().is_none();
    let ours = node.tag_name().namespace() == Some(NAMESPACE);
    (alone && ours).then(|| only.text().unwrap_or_default().to_owned())
}

const MEMBER_BYTES_MAX: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;

    const JSON: &str = r#"{"GetCallerIdentityResponse":{"GetCallerIdentityResult":{"Account":"111122223333","Arn":"arn:aws:iam::111122223333:user/a","UserId":"AIDAX"},"ResponseMetadata":{"RequestId":"r"}}}"#;
    const XML: &str = r#"<?xml version="1.0"?><GetCallerIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/">
  <GetCallerIdentityResult>
    <Arn>arn:aws:iam::111122223333:user/a</Arn>
    <UserId>AIDAX</UserId>
    <Account>111122223333</Account>
  </GetCallerIdentityResult>
  <ResponseMetadata><RequestId>r</RequestId></ResponseMetadata>
</GetCallerIdentityResponse>"#;

    #[test]
    fn both_forms_tell_the_same() {
        let json = parse("application/json", JSON.as_bytes()).unwrap();
        assert_eq!(json.user_id, "AIDAX");
        for media_type in ["text/xml", "application/xml; charset=utf-8"] {
            assert_eq!(parse(media_type, XML.as_bytes()).as_ref(), Some(&json));
        }
    }

    #[test]
    fn what_is_not_exactly_one_answer_is_none() {
        let inner = XML.split_once("?>").unwrap().1;
        let json = |from: &str, to: &str| ("application/json", JSON.replacen(from, to, 1));
        let xml = |from: &str, to: &str| ("text/xml", XML.replacen(from, to, 1));
        for (media_type, text) in [
            ("application/json", XML.to_owned()),
            ("text/xml", JSON.to_owned()),
            ("text/html", XML.to_owned()),
            ("", JSON.to_owned()),
            ("application/json", format!("{JSON}{JSON}")),
            ("application/json", format!("{JSON}x")),
            json(r#""UserId":"AIDAX""#, r#""UserId":"AIDAX","UserId":"AIDAY""#),
            json(r#""UserId":"AIDAX""#, r#""UserId":"AIDAX","Extra":1"#),
            json(r#""UserId":"AIDAX""#, r#""UserId":"""#),
            json(r#""UserId":"AIDAX""#, r#""UserId":["AIDAX"]"#),
            json(r#","UserId":"AIDAX""#, ""),
            json("GetCallerIdentityResponse", "AssumeRoleResponse"),
            json(r#"{"GetCallerIdentityResponse":"#, r#"{"Other":1,"GetCallerIdentityResponse":"#),
            ("text/xml", format!("<Error>{inner}</Error>")),
            ("text/xml", format!("{XML}{inner}")),
            ("text/xml", format!("<!DOCTYPE x [<!ENTITY e \"y\">]>{inner}")),
            ("text/xml", XML.replace("<UserId>AIDAX", "<UserId>&e;")),
            xml("https://sts.amazonaws.com/doc/2011-06-15/", "https://evil.example/"),
            xml(" xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"", ""),
            xml("<UserId>AIDAX</UserId>", "<UserId>AIDAX</UserId><UserId>AIDAY</UserId>"),
            xml("<UserId>AIDAX</UserId>", "<UserId>AI<!-- x -->DAX</UserId>"),
            xml("<UserId>AIDAX</UserId>", "<UserId a=\"b\">AIDAX</UserId>"),
            xml("<UserId>AIDAX</UserId>", "<UserId><b>AIDAX</b></UserId>"),
            xml("<UserId>AIDAX</UserId>", "<UserId>AIDAX </UserId>"),
            xml("<UserId>AIDAX</UserId>", "<UserId/>"),
            xml("<UserId>AIDAX</UserId>", ""),
            xml("<UserId>AIDAX</UserId>", "<UserId xmlns=\"x\">AIDAX</UserId>"),
            xml("<ResponseMetadata>", "<GetCallerIdentityResult/><ResponseMetadata>"),
            xml("<ResponseMetadata>", "text<ResponseMetadata>"),
            xml("  <GetCallerIdentityResult>", "  <GetCallerIdentityResult x=\"y\">"),
            ("text/xml", format!("{XML}{}", " ".repeat(ANSWER_BYTES_MAX))),
            ("text/xml", XML.replacen("<ResponseMetadata>", &format!("<ResponseMetadata>{}", "<a/>".repeat(100)), 1)),
        ] {
            assert_eq!(parse(media_type, text.as_bytes()), None, "{media_type} {}", &text[..text.len().min(600)]);
        }
        assert_eq!(parse("text/xml", b"\xff\xfe"), None);
    }
}
