//! The keys that bound a request, and the older word for capabilities.

use super::super::limits::{ALL, Values};
use super::super::{Capabilities, Capability, MalformedPolicy, PolicyFault};
use super::{Language, Parser, Word};
use std::time::Duration;

impl Parser<'_> {
    /// `policy = "write"`.
    pub(super) fn shorthand(&mut self, capabilities: &mut Capabilities) -> Result<(), MalformedPolicy> {
        let Word::Text(word) = self.lexer.next()? else {
            return self.lexer.fault(PolicyFault::Expected("\"read\", \"write\", \"sudo\" or \"deny\""));
        };
        use Capability::{Create, Delete, List, Read, Sudo, Update};
        let given: &[Capability] = match &*word {
            "deny" => {
                capabilities.deny();
                &[]
            }
            "read" => &[Read, List],
            "write" => &[Create, Read, Update, Delete, List],
            "sudo" => &[Create, Read, Update, Delete, List, Sudo],
            _ => return self.lexer.fault(PolicyFault::UnknownShorthand(word.into_owned())),
        };
        given.iter().for_each(|capability| capabilities.give(*capability));
        Ok(())
    }

    /// `["a", "b"]`
    pub(super) fn required(&mut self) -> Result<Vec<Box<str>>, MalformedPolicy> {
        let mut names = Vec::new();
        self.list(|parser, word| match word {
            Word::Text(name) => {
                names.push(name.into());
                Ok(())
            }
            Word::End | Word::Mark(_) | Word::Bare(_) | Word::Number(_) => {
                parser.lexer.fault(PolicyFault::Expected("a parameter in quotes"))
            }
        })?;
        names.sort_unstable();
        names.dedup();
        Ok(names)
    }

    /// `{ "a" = ["x", 1, true], "*" = [] }`. In HCL it may follow its key without a mark, a comma between members may be
    /// missing, and a name may stand without quotes.
    pub(super) fn parameters(&mut self, (mark, named): (char, &'static str)) -> Result<Values, MalformedPolicy> {
        let hcl = self.lexer.language() == Language::Hcl;
        if !self.lexer.take_if(mark)? && !hcl {
            return self.lexer.fault(PolicyFault::Expected(named));
        }
        self.mark('{', "`{`")?;
        let mut values = Values::new();
        let mut first = true;
        loop {
            let comma = !std::mem::take(&mut first) && self.lexer.take_if(',')?;
            if (hcl || !comma) && self.lexer.take_if('}')? {
                return Ok(values);
            }
            if !hcl && !comma && !values.is_empty() {
                return self.lexer.fault(PolicyFault::Expected("`,` or `}`"));
            }
            let name: Box<str> = match self.lexer.next()? {
                Word::Text(name) => name.into(),
                Word::Bare(name) if hcl => name.into(),
                Word::End | Word::Mark(_) | Word::Bare(_) | Word::Number(_) => {
                    return self.lexer.fault(PolicyFault::Expected("a parameter"));
                }
            };
            self.mark(mark, named)?;
            let mut list = self.values()?;
            if &*name == ALL && !list.is_empty() {
                return self.lexer.fault(PolicyFault::Parameter("the parameter `*` takes only []"));
            }
            list.sort_unstable();
            list.dedup();
            if values.insert(name, list).is_some() {
                return self.lexer.fault(PolicyFault::RepeatedKey);
            }
        }
    }

    /// Strings, numbers and booleans.
    fn values(&mut self) -> Result<Vec<Box<str>>, MalformedPolicy> {
        let mut values = Vec::new();
        self.list(|parser, word| {
            let value: Box<str> = match word {
                Word::Text(value) => value.into(),
                Word::Number(value) | Word::Bare(value @ ("true" | "false")) => value.into(),
                Word::End | Word::Mark(_) | Word::Bare(_) => {
                    return parser.lexer.fault(PolicyFault::Expected("a string, a number or a boolean"));
                }
            };
            let inner = value.strip_prefix('*').unwrap_or(&value);
            if inner.strip_suffix('*').unwrap_or(inner).contains('*') {
                return parser.lexer.fault(PolicyFault::Parameter("`*` stands only at the ends of a value"));
            }
            values.push(value);
            Ok(())
        })?;
        Ok(values)
    }

    /// `[` items `]`. A comma may end an HCL list.
    fn list(
        &mut self,
        mut item: impl FnMut(&mut Self, Word<'_>) -> Result<(), MalformedPolicy>,
    ) -> Result<(), MalformedPolicy> {
        self.mark('[', "`[`")?;
        if self.lexer.take_if(']')? {
            return Ok(());
        }
        loop {
            let word = self.lexer.next()?;
            item(self, word)?;
            if self.lexer.take_if(']')? {
                return Ok(());
            }
            self.mark(',', "`,` or `]`")?;
            if self.lexer.language() == Language::Hcl && self.lexer.take_if(']')? {
                return Ok(());
            }
        }
    }

    /// Whole seconds, or Go's notation with days. Zero bounds nothing.
    pub(super) fn wrapping_ttl(&mut self) -> Result<Option<Duration>, MalformedPolicy> {
        let secs = match self.lexer.next()? {
            Word::Text(text) => seconds(&text),
            Word::Number(text) => text.parse().ok(),
            Word::End | Word::Mark(_) | Word::Bare(_) => None,
        };
        match secs.filter(|secs| *secs <= WRAPPING_SECS_MAX) {
            Some(secs) => Ok((secs > 0).then(|| Duration::from_secs(secs))),
            None => self.lexer.fault(PolicyFault::WrappingTtl),
        }
    }
}

fn seconds(text: &str) -> Option<u64> {
    if let Ok(secs) = text.parse() {
        return Some(secs);
    }
    let mut rest = text;
    let mut total = 0u64;
    while !rest.is_empty() {
        let (amount, tail) = rest.split_at_checked(rest.find(|c: char| !c.is_ascii_digit())?)?;
        let (unit, tail) = tail.split_at_checked(1)?;
        let unit = match unit {
            "s" => 1,
            "m" => 60,
            "h" => 3600,
            "d" => 86_400,
            _ => return None,
        };
        total = total.checked_add(amount.parse::<u64>().ok()?.checked_mul(unit)?)?;
        rest = tail;
    }
    (!text.is_empty()).then_some(total)
}

const WRAPPING_SECS_MAX: u64 = 366 * 86_400;
