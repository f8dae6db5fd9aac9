//! The query parameters of `/files`.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;

use crate::agent::Agent;
use crate::files::{FilesError, signature};
use crate::paths::{self, percent_decode};
use crate::users::User;

/// The decoded query.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Query {
    /// The path exactly as it was signed.
    pub path: Option<Vec<u8>>,
    /// The requested user.
    pub username: Option<String>,
    /// The signature for access without a token.
    pub signature: Option<String>,
    /// Unix seconds, as text.
    pub signature_expiration: Option<String>,
    /// Mode of a written file, in octal digits.
    pub mode: Option<String>,
    /// Owner of a written file: `user`, `user:group` or numbers.
    pub owner: Option<String>,
    /// Whether a written file replaces the old one atomically.
    pub atomic: Option<String>,
    /// Of a file that is packed as an archive: its name there.
    pub entry_name: Option<Vec<u8>>,
    /// Whether directories of other file systems are packed without their content.
    pub one_file_system: Option<String>,
    /// Whether unpacked entries get the owners that the archive says.
    pub keep_owners: Option<String>,
}

impl Query {
    /// Parses the query of a URL.
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
                "mode" => query.mode = text(),
                "owner" => query.owner = text(),
                "atomic" => query.atomic = text(),
                "entry_name" => query.entry_name = Some(value),
                "one_file_system" => query.one_file_system = text(),
                "keep_owners" => query.keep_owners = text(),
                "path" => query.path = Some(value),
                _ => {}
            }
        }
        query
    }

    /// Returns the path as a file name: bytes that are not UTF-8 are kept, our escapes are decoded.
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

    /// Returns the requested mode.
    pub fn mode_bits(&self) -> Result<Option<u32>, FilesError> {
        let Some(text) = self.mode.as_deref().filter(|t| !t.is_empty()) else { return Ok(None) };
        let digits = text.len() <= 5 && text.bytes().all(|b| b.is_ascii_digit());
        let bits = u32::from_str_radix(text, 8).ok().filter(|bits| digits && *bits <= 0o7777);
        bits.map(Some).ok_or_else(|| FilesError::Invalid("the mode must be octal digits up to 7777".into()))
    }

    /// Whether the file is to be replaced atomically.
    pub fn is_atomic(&self) -> Result<bool, FilesError> {
        flag("atomic", self.atomic.as_deref())
    }

    /// Whether only one file system is to be packed.
    pub fn is_one_file_system(&self) -> Result<bool, FilesError> {
        flag("one_file_system", self.one_file_system.as_deref())
    }

    /// Whether entries keep the owners of the archive.
    pub fn keeps_owners(&self) -> Result<bool, FilesError> {
        flag("keep_owners", self.keep_owners.as_deref())
    }

    /// Returns the name in the archive of a file that is packed alone.
    pub fn entry(&self) -> Result<Option<OsString>, FilesError> {
        let Some(name) = self.entry_name.as_ref().filter(|n| !n.is_empty()) else { return Ok(None) };
        if name.contains(&0) || name.contains(&b'/') || matches!(name.as_slice(), b"." | b"..") {
            return Err(FilesError::Invalid("entry_name must be the name of one file".into()));
        }
        Ok(Some(match std::str::from_utf8(name) {
            Ok(text) => paths::to_name(text),
            Err(_) => OsString::from_vec(name.clone()),
        }))
    }

    /// Authorizes the request by token or signature, and returns the user.
    pub fn admit(&self, agent: &Agent, has_token: bool, operation: &str) -> Result<User, FilesError> {
        if !has_token {
            // A signature covers only the path: it must not allow, for example, to create a setuid program.
            if self.mode.is_some() || self.owner.is_some() || self.atomic.is_some() {
                return Err(FilesError::Unauthorized("mode, owner and atomic need the access token"));
            }
            let token = agent.access_token().unwrap_or_default();
            signature::check(self, operation, &token).map_err(FilesError::Unauthorized)?;
        }
        Ok(agent.user(self.username.as_deref())?)
    }
}

fn flag(name: &str, text: Option<&str>) -> Result<bool, FilesError> {
    match text {
        None | Some("" | "false") => Ok(false),
        Some("true") => Ok(true),
        Some(_) => Err(FilesError::Invalid(format!("{name} must be true or false"))),
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

    #[test]
    fn a_mode_is_octal() {
        let bits = |mode: &str| Query { mode: Some(mode.to_owned()), ..Query::default() }.mode_bits();
        assert_eq!(bits("0644").expect("good"), Some(0o644));
        assert_eq!(bits("4755").expect("good"), Some(0o4755));
        assert_eq!(bits("").expect("absent"), None);
        for wrong in ["9", "+7", "10000", "u+x", "000000644"] {
            assert!(bits(wrong).is_err(), "{wrong}");
        }
    }
}
