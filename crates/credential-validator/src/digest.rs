//! Recognises a password that was tried before without keeping it: HMAC-SHA-256 under a key only the validator has.

use std::path::Path;

use aws_lc_rs::hmac;
use shared::id::{AccountKey, TenantId};
use zeroize::Zeroizing;

/// The key of all digests. Not bound to a tenant, but every digest is.
pub struct DigestKey(hmac::Key);

impl std::fmt::Debug for DigestKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("DigestKey(..)")
    }
}

/// The key file cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("digest key file {path}: {fault}")]
pub struct DigestKeyError {
    path: String,
    fault: &'static str,
}

impl DigestKey {
    /// Reads the key file: 64 hexadecimal digits.
    pub fn load(path: &Path) -> Result<Self, DigestKeyError> {
        let fault = |fault| DigestKeyError { path: path.display().to_string(), fault };
        let text = Zeroizing::new(std::fs::read_to_string(path).map_err(|_| fault("cannot be read"))?);
        let key = Zeroizing::new(hex::decode(text.trim()).map_err(|_| fault("is not hexadecimal"))?);
        if key.len() != 32 {
            return Err(fault("must hold 64 hexadecimal digits"));
        }
        Ok(Self(hmac::Key::new(hmac::HMAC_SHA256, &key)))
    }

    /// The digest of a password for one account in one tenant. The bytes are taken as they are: they are what is sent.
    pub fn of(&self, tenant: TenantId, account: &AccountKey, password: &[u8]) -> Vec<u8> {
        let mut context = hmac::Context::with_key(&self.0);
        context.update(b"parapet-tried-1");
        context.update(tenant.uuid().as_bytes());
        for part in [account.provider.as_str(), &account.directory, &account.object] {
            // Lengths in front, so that no two accounts share an input.
            context.update(&(part.len() as u64).to_be_bytes());
            context.update(part.as_bytes());
        }
        context.update(password);
        context.sign().as_ref().to_vec()
    }
}

#[cfg(test)]
mod tests {
    use shared::id::ProviderKind;

    use super::*;

    fn key() -> DigestKey {
        DigestKey(hmac::Key::new(hmac::HMAC_SHA256, &[7; 32]))
    }
    fn account(directory: &str, object: &str) -> AccountKey {
        AccountKey { provider: ProviderKind::Okta, directory: directory.into(), object: object.into() }
    }

    #[test]
    fn a_digest_tells_tenants_accounts_and_passwords_apart() {
        let (key, tenant) = (key(), TenantId::new());
        let one = key.of(tenant, &account("ab", "c"), b"secret");
        assert_eq!(one, key.of(tenant, &account("ab", "c"), b"secret"));
        assert_ne!(one, key.of(tenant, &account("ab", "c"), b"Secret"));
        assert_ne!(one, key.of(tenant, &account("a", "bc"), b"secret"));
        assert_ne!(one, key.of(TenantId::new(), &account("ab", "c"), b"secret"));
    }

    #[test]
    fn a_key_file_of_another_size_is_refused() {
        let file = std::env::temp_dir().join(format!("parapet-digest-{}", std::process::id()));
        std::fs::write(&file, "abcd").unwrap();
        assert!(DigestKey::load(&file).unwrap_err().to_string().contains("64 hexadecimal"));
        std::fs::write(&file, format!("{}\n", "0a".repeat(32))).unwrap();
        assert!(DigestKey::load(&file).is_ok());
        std::fs::remove_file(&file).unwrap();
    }
}
