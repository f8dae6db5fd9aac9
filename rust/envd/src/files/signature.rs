//! Access to one file by a signature in its URL.

use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

use crate::files::query::Query;

/// Computes `v1_` and the unpadded base64 of SHA-256 over `path:operation:user:token[:expiration]`.
fn sign(query: &Query, operation: &str, token: &str) -> String {
    let mut hash = Sha256::new();
    hash.update(query.path.as_deref().unwrap_or_default());
    for part in [operation, query.username.as_deref().unwrap_or_default(), token] {
        hash.update(b":");
        hash.update(part.as_bytes());
    }
    if let Some(expiration) = &query.signature_expiration {
        hash.update(b":");
        hash.update(expiration.as_bytes());
    }
    format!("v1_{}", base64::engine::general_purpose::STANDARD_NO_PAD.encode(hash.finalize()))
}

/// Checks the signature in the URL. The expiry is checked only after the signature was found valid.
pub fn check(query: &Query, operation: &str, token: &str) -> Result<(), &'static str> {
    let Some(given) = &query.signature else { return Err("missing signature query parameter") };
    if !bool::from(given.as_bytes().ct_eq(sign(query, operation, token).as_bytes())) {
        return Err("invalid signature");
    }
    if let Some(expiration) = &query.signature_expiration {
        let expiration: u64 = expiration.parse().map_err(|_| "invalid signature")?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map(|d| d.as_secs()).unwrap_or_default();
        if expiration < now {
            return Err("signature is already expired");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(expiration: Option<&str>) -> Query {
        Query { path: Some(b"/a".to_vec()), signature_expiration: expiration.map(str::to_owned), ..Query::default() }
    }

    #[test]
    fn a_signature_holds_for_its_path_operation_user_and_token() {
        let mut signed = query(None);
        signed.signature = Some(sign(&signed, "read", "secret"));
        // printf '/a:read::secret' | openssl dgst -sha256 -binary | base64
        assert_eq!(check(&signed, "read", "secret"), Ok(()));
        assert_eq!(check(&signed, "write", "secret"), Err("invalid signature"));
        assert_eq!(check(&signed, "read", "other"), Err("invalid signature"));
        signed.username = Some("root".into());
        assert_eq!(check(&signed, "read", "secret"), Err("invalid signature"));
        assert_eq!(check(&query(None), "read", "secret"), Err("missing signature query parameter"));
    }

    #[test]
    fn expiry_is_told_only_of_a_right_signature() {
        let mut signed = query(Some("1"));
        signed.signature = Some("v1_x".into());
        assert_eq!(check(&signed, "read", "secret"), Err("invalid signature"));
        signed.signature = Some(sign(&signed, "read", "secret"));
        assert_eq!(check(&signed, "read", "secret"), Err("signature is already expired"));
        let mut later = query(Some("99999999999"));
        later.signature = Some(sign(&later, "read", "secret"));
        assert_eq!(check(&later, "read", "secret"), Ok(()));
    }
}
