//! Tokens, as the API shows them. What they are is identity's; its operations authorise and record themselves.

use crate::backend::Backend;
use crate::call::Verb;
use crate::error::VaultError;
use crate::reply::Reply;
use crate::scope::Scope;

#[derive(Debug)]
pub struct Tokens;

#[async_trait::async_trait]
impl Backend for Tokens {
    fn is_public(&self, _verb: Verb, _path: &str) -> bool {
        false
    }

    fn is_everybodys(&self, _verb: Verb, _path: &str) -> bool {
        false
    }

    fn needs_sudo(&self, _verb: Verb, _path: &str) -> bool {
        false
    }

    async fn exists(&self, _scope: &Scope<'_>) -> Result<bool, VaultError> {
        Ok(true)
    }

    async fn handle(&self, scope: &Scope<'_>) -> Result<Reply, VaultError> {
        Err(VaultError::NoRoute(scope.call.path.as_str().to_owned()))
    }
}
