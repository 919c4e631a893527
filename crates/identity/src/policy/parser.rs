//! The two grammars. Both are of a fixed depth, so that nothing recurs.

mod limits;

use super::lexer::{Language, Lexer, Word};
use super::{
    Capabilities, Capability, Limits, MalformedPolicy, POLICY_RULES_MAX, Pattern, Policy, PolicyFault, Template,
};
use audit::Ack;
use std::collections::BTreeSet;

pub(super) fn parse(text: &str) -> Result<Policy, MalformedPolicy> {
    let policy = Policy { rules: Vec::new(), templates: Vec::new() };
    let mut parser = Parser { lexer: Lexer::new(text), policy };
    match parser.lexer.language() {
        Language::Hcl => parser.hcl()?,
        Language::Json => parser.json()?,
    }
    Ok(parser.policy)
}

struct Parser<'a> {
    lexer: Lexer<'a>,
    policy: Policy,
}

/// A block's path.
enum RulePath {
    Pattern(Pattern),
    Template(Template),
}

impl RulePath {
    fn as_str(&self) -> &str {
        match self {
            Self::Pattern(pattern) => pattern.as_str(),
            Self::Template(template) => template.as_str(),
        }
    }
}

/// What was read of one path's block. Each key stands once.
#[derive(Default)]
struct Block {
    capabilities: Option<Capabilities>,
    ack: Option<Ack>,
    limits: Limits,
    seen: BTreeSet<String>,
}

impl Parser<'_> {
    /// `path "…" { capabilities = […] audit_ack = "…" }`, any number of times.
    fn hcl(&mut self) -> Result<(), MalformedPolicy> {
        loop {
            match self.lexer.next()? {
                Word::End => return Ok(()),
                Word::Bare("path") => {}
                Word::Bare(key) => return self.lexer.fault(PolicyFault::UnknownKey(key.to_owned())),
                Word::Mark(_) | Word::Text(_) | Word::Number(_) => {
                    return self.lexer.fault(PolicyFault::Expected("`path`"));
                }
            }
            let pattern = self.pattern()?;
            self.mark('{', "`{`")?;
            let mut block = Block::default();
            loop {
                match self.lexer.next()? {
                    Word::Mark('}') => break,
                    Word::Bare(key) => self.member(&mut block, &pattern, key, ('=', "`=`"))?,
                    Word::End | Word::Mark(_) | Word::Text(_) | Word::Number(_) => {
                        return self.lexer.fault(PolicyFault::Expected("`capabilities`"));
                    }
                }
            }
            self.add(pattern, block)?;
        }
    }

    /// `{"path": {"…": {"capabilities": […], "audit_ack": "…"}, …}}`
    fn json(&mut self) -> Result<(), MalformedPolicy> {
        self.mark('{', "`{`")?;
        if !self.ends_object()? {
            self.key("path")?;
            self.mark('{', "`{`")?;
            let mut first = true;
            while self.another_member(&mut first)? {
                let pattern = self.pattern()?;
                self.mark(':', "`:`")?;
                self.mark('{', "`{`")?;
                let (mut block, mut first) = (Block::default(), true);
                while self.another_member(&mut first)? {
                    let Word::Text(key) = self.lexer.next()? else {
                        return self.lexer.fault(PolicyFault::Expected("a key in quotes"));
                    };
                    self.member(&mut block, &pattern, &key, (':', "`:`"))?;
                }
                self.add(pattern, block)?;
            }
            self.end_of_single()?;
        }
        match self.lexer.next()? {
            Word::End => Ok(()),
            Word::Mark(_) | Word::Text(_) | Word::Bare(_) | Word::Number(_) => {
                self.lexer.fault(PolicyFault::Expected("the end"))
            }
        }
    }

    /// A key of a block, what stands before its value, and the value.
    fn member(
        &mut self,
        block: &mut Block,
        pattern: &RulePath,
        key: &str,
        (mark, named): (char, &'static str),
    ) -> Result<(), MalformedPolicy> {
        if !KEYS.contains(&key) {
            return self.lexer.fault(PolicyFault::UnknownKey(key.to_owned()));
        }
        if !block.seen.insert(key.to_owned()) {
            return self.lexer.fault(PolicyFault::RepeatedKey);
        }
        if matches!(key, "allowed_parameters" | "denied_parameters") {
            let values = Some(self.parameters((mark, named))?).filter(|values| !values.is_empty());
            if key == "allowed_parameters" {
                block.limits.allowed = values;
            } else {
                block.limits.denied = values;
            }
            return Ok(());
        }
        self.mark(mark, named)?;
        match key {
            "capabilities" => self.capabilities(block.capabilities.get_or_insert_default())?,
            "policy" => self.shorthand(block.capabilities.get_or_insert_default())?,
            "audit_ack" => block.ack = Some(self.ack(pattern)?),
            "required_parameters" => block.limits.required = self.required()?,
            "min_wrapping_ttl" => block.limits.min_wrapping = self.wrapping_ttl()?,
            _ => block.limits.max_wrapping = self.wrapping_ttl()?,
        }
        Ok(())
    }

    fn ack(&mut self, pattern: &RulePath) -> Result<Ack, MalformedPolicy> {
        let Word::Text(word) = self.lexer.next()? else {
            return self.lexer.fault(PolicyFault::Expected("\"checkpoint\" or \"witness\""));
        };
        match Ack::STRICT.into_iter().find(|ack| ack.as_str() == word) {
            Some(ack) => Ok(ack),
            None => {
                let (path, word) = (pattern.as_str().to_owned(), word.into_owned());
                self.lexer.fault(PolicyFault::UnknownAck { path, word })
            }
        }
    }

    fn add(&mut self, pattern: RulePath, block: Block) -> Result<(), MalformedPolicy> {
        let Some(mut capabilities) = block.capabilities else {
            return self.lexer.fault(PolicyFault::Expected("`capabilities`"));
        };
        capabilities.demand(block.ack.unwrap_or_default());
        if matches!((block.limits.min_wrapping, block.limits.max_wrapping), (Some(min), Some(max)) if min > max) {
            return self.lexer.fault(PolicyFault::WrappingTtl);
        }
        capabilities.limit(block.limits);
        if self.policy.rules.len() + self.policy.templates.len() == POLICY_RULES_MAX {
            return self.lexer.fault(PolicyFault::TooManyRules);
        }
        match pattern {
            RulePath::Pattern(pattern) => self.policy.rules.push((pattern, capabilities)),
            RulePath::Template(template) => self.policy.templates.push((template, capabilities)),
        }
        Ok(())
    }

    fn pattern(&mut self) -> Result<RulePath, MalformedPolicy> {
        let Word::Text(raw) = self.lexer.next()? else {
            return self.lexer.fault(PolicyFault::Expected("a path in quotes"));
        };
        let path = if raw.contains("{{") {
            Template::parse(&raw).map(RulePath::Template)
        } else {
            Pattern::parse(&raw).map(RulePath::Pattern)
        };
        path.or_else(|fault| self.lexer.fault(fault))
    }

    /// `[` strings `]`. A comma may end an HCL list.
    fn capabilities(&mut self, capabilities: &mut Capabilities) -> Result<(), MalformedPolicy> {
        self.mark('[', "`[`")?;
        let mut after_comma = false;
        loop {
            match self.lexer.next()? {
                Word::Mark(']') if !after_comma || self.lexer.language() == Language::Hcl => return Ok(()),
                Word::Text(word) if &*word == "deny" => capabilities.deny(),
                Word::Text(word) => match Capability::ALL.into_iter().find(|known| known.as_str() == word) {
                    Some(capability) => capabilities.give(capability),
                    None => return self.lexer.fault(PolicyFault::UnknownCapability(word.into_owned())),
                },
                Word::End | Word::Mark(_) | Word::Bare(_) | Word::Number(_) => {
                    return self.lexer.fault(PolicyFault::Expected("a capability in quotes"));
                }
            }
            match self.lexer.next()? {
                Word::Mark(']') => return Ok(()),
                Word::Mark(',') => after_comma = true,
                Word::End | Word::Mark(_) | Word::Text(_) | Word::Bare(_) | Word::Number(_) => {
                    return self.lexer.fault(PolicyFault::Expected("`,` or `]`"));
                }
            }
        }
    }

    fn mark(&mut self, mark: char, named: &'static str) -> Result<(), MalformedPolicy> {
        if self.lexer.next()? == Word::Mark(mark) { Ok(()) } else { self.lexer.fault(PolicyFault::Expected(named)) }
    }

    /// The one key that an object may hold, with its colon.
    fn key(&mut self, known: &'static str) -> Result<(), MalformedPolicy> {
        match self.lexer.next()? {
            Word::Text(key) if key == known => self.mark(':', "`:`"),
            Word::Text(key) => self.lexer.fault(PolicyFault::UnknownKey(key.into_owned())),
            Word::End | Word::Mark(_) | Word::Bare(_) | Word::Number(_) => {
                self.lexer.fault(PolicyFault::Expected("a key in quotes"))
            }
        }
    }

    /// After an object's only member.
    fn end_of_single(&mut self) -> Result<(), MalformedPolicy> {
        match self.lexer.next()? {
            Word::Mark('}') => Ok(()),
            Word::Mark(',') => match self.lexer.next()? {
                Word::Text(key) if key == "path" => self.lexer.fault(PolicyFault::RepeatedKey),
                Word::Text(key) => self.lexer.fault(PolicyFault::UnknownKey(key.into_owned())),
                Word::End | Word::Mark(_) | Word::Bare(_) | Word::Number(_) => {
                    self.lexer.fault(PolicyFault::Expected("a key in quotes"))
                }
            },
            Word::End | Word::Mark(_) | Word::Text(_) | Word::Bare(_) | Word::Number(_) => {
                self.lexer.fault(PolicyFault::Expected("`}`"))
            }
        }
    }

    fn ends_object(&mut self) -> Result<bool, MalformedPolicy> {
        self.lexer.take_if('}')
    }

    fn another_member(&mut self, first: &mut bool) -> Result<bool, MalformedPolicy> {
        if self.lexer.take_if('}')? {
            return Ok(false);
        }
        if !std::mem::take(first) {
            self.mark(',', "`,` or `}`")?;
        }
        Ok(true)
    }
}

/// What a block may hold.
const KEYS: [&str; 8] = [
    "capabilities",
    "policy",
    "audit_ack",
    "allowed_parameters",
    "denied_parameters",
    "required_parameters",
    "min_wrapping_ttl",
    "max_wrapping_ttl",
];
