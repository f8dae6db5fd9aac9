//! The query of `/files`.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;

use crate::agent::Agent;
use crate::files::{FilesError, signature};
use crate::paths::{self, percent_decode};
use crate::users::User;

/// The query, decoded.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Query {
    /// As it was signed.
    pub path: Option<Vec<u8>>,
    /// The user named.
    pub username: Option<String>,
    /// Access without a token.
    pub signature: Option<String>,
    /// Unix seconds, as text.
    pub signature_expiration: Option<String>,
}

impl Query {
    /// Reads the query of a URL.
    pub fn parse(text: &str) -> Self {
        let mut query = Self::default();
        for pair in text.split('&') {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let value = percent_decode(value, true);
            let text = || Some(String::from_utf8_lossy(&value).into_owned());
            match name {
                "username" => query.username = text(),
                "signature" => query.signature = text(),
                "signature_expiration" => query.signature_expiration = text(),
                "path" => query.path = Some(value),
                _ => {}
            }
        }
        query
    }

    /// The path as a name: bytes that are no UTF-8 stand for themselves, escapes of ours are undone.
    pub fn name(&self) -> Result<Option<OsString>, FilesError> {
        let Some(path) = self.path.as_ref().filter(|p| !p.is_empty()) else { return Ok(None) };
        if path.contains(&0) {
            return Err(FilesError::Invalid("the path holds a NUL character".into()));
        }
        Ok(Some(match std::str::from_utf8(path) {
            Ok(text) => paths::to_name(text),
            Err(_) => OsString::from_vec(path.clone()),
        }))
    }

    /// Lets in by token or signature, and gives the user.
    pub fn admit(&self, agent: &Agent, has_token: bool, operation: &str) -> Result<User, FilesError> {
        if !has_token {
            let token = agent.access_token().unwrap_or_default();
            signature::check(self, operation, &token).map_err(FilesError::Unauthorized)?;
        }
        Ok(agent.user(self.username.as_deref())?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_query_is_decoded() {
        let query = Query::parse("path=%2Fa%20b%2Bc+d&username=root&other=1");
        assert_eq!(query.path.as_deref(), Some(&b"/a b+c d"[..]));
        assert_eq!(query.username.as_deref(), Some("root"));
        assert_eq!(query.signature, None);
    }
}
