//! `sys/internal/specs/openapi`: what is served, as OpenAPI 3 tells it, of the mounts that the caller sees something of.

use super::mounts::may_see;
use crate::call::Verb;
use crate::error::VaultError;
use crate::mount::Mount;
use crate::namespace::is_roots;
use crate::reply::Reply;
use crate::routes::{self, Route};
use crate::scope::Scope;
use crate::text::Text;
use serde::Serialize;
use std::collections::BTreeMap;

#[derive(Serialize)]
struct Document {
    openapi: &'static str,
    info: Info,
    paths: BTreeMap<String, Item>,
}

#[derive(Serialize)]
struct Info {
    title: &'static str,
    description: &'static str,
    version: &'static str,
}

#[derive(Serialize, Default)]
struct Item {
    description: &'static str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    parameters: Vec<Parameter>,
    #[serde(skip_serializing_if = "Option::is_none")]
    get: Option<Operation>,
    #[serde(skip_serializing_if = "Option::is_none")]
    post: Option<Operation>,
    #[serde(skip_serializing_if = "Option::is_none")]
    patch: Option<Operation>,
    #[serde(skip_serializing_if = "Option::is_none")]
    delete: Option<Operation>,
}

#[derive(Serialize)]
struct Operation {
    summary: &'static str,
    #[serde(rename = "operationId")]
    operation_id: String,
    tags: [&'static str; 1],
    #[serde(skip_serializing_if = "Vec::is_empty")]
    parameters: Vec<Parameter>,
    responses: BTreeMap<&'static str, Told>,
}

#[derive(Serialize)]
struct Parameter {
    name: String,
    r#in: &'static str,
    required: bool,
    schema: Schema,
}

#[derive(Serialize)]
struct Schema {
    r#type: &'static str,
}

#[derive(Serialize)]
struct Told {
    description: &'static str,
}

pub(super) async fn handle(scope: &Scope<'_>) -> Result<Reply, VaultError> {
    if scope.call.verb != Verb::Read {
        return Err(VaultError::Unsupported);
    }
    let (table, by) = (scope.vault.table().await?, scope.by()?);
    let mut paths = BTreeMap::new();
    for (at, mount) in table.mounts.iter().filter(|(at, _)| may_see(by, at)) {
        for route in routes::of(mount.kind) {
            if !scope.vault.namespace().is_empty() && is_roots(&format!("{at}{}", route.path)) {
                continue;
            }
            paths.insert(format!("/{at}{}", route.path), item(at, mount, route));
        }
    }
    let info = Info {
        title: "HashiCorp Vault API, as Strongroom serves it",
        description: "HTTP API that gives you full access to Strongroom's vault. All paths are below `/v1`.",
        version: env!("CARGO_PKG_VERSION"),
    };
    let text = Text::of(&Document { openapi: "3.0.2", info, paths });
    let text = text.ok_or_else(|| VaultError::Internal("an answer cannot be written".into()))?;
    Ok(Reply { bare: Some((200, text)), ..Reply::default() })
}

fn item(at: &str, mount: &Mount, route: &Route) -> Item {
    let names = route.path.split('/').filter_map(|segment| segment.strip_prefix('{')?.strip_suffix('}'));
    let parameters = names.map(|name| parameter(name, "path", "string")).collect();
    let mut item = Item { description: route.told, parameters, ..Item::default() };
    let served = |verb: Verb| route.verbs.contains(&verb);
    let group = match mount.kind.is_auth() {
        true => "auth",
        false if mount.kind == crate::mount::Kind::System => "system",
        false => "secrets",
    };
    let operation = |verb: Verb, parameters: Vec<Parameter>| Operation {
        summary: route.told,
        operation_id: id(verb, at, route.path),
        tags: [group],
        parameters,
        responses: BTreeMap::from([("200", Told { description: "OK" }), ("204", Told { description: "empty body" })]),
    };
    if served(Verb::Read) || served(Verb::List) {
        let verb = if served(Verb::Read) { Verb::Read } else { Verb::List };
        let list = Parameter { required: !served(Verb::Read), ..parameter("list", "query", "string") };
        item.get = Some(operation(verb, if served(Verb::List) { vec![list] } else { Vec::new() }));
    }
    item.post = served(Verb::Write).then(|| operation(Verb::Write, Vec::new()));
    item.patch = served(Verb::Patch).then(|| operation(Verb::Patch, Vec::new()));
    item.delete = served(Verb::Delete).then(|| operation(Verb::Delete, Vec::new()));
    item
}

fn parameter(name: &str, place: &'static str, kind: &'static str) -> Parameter {
    Parameter { name: name.to_owned(), r#in: place, required: true, schema: Schema { r#type: kind } }
}

/// `read-auth-token-roles-role_name`: each once in the document.
fn id(verb: Verb, at: &str, path: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || c == '_' { c } else { '-' };
    let text: String = format!("{at}{path}").chars().filter(|c| !matches!(c, '{' | '}')).map(plain).collect();
    format!("{}-{text}", verb.as_str())
}
