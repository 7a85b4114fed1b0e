//! The key under which ids of records and batches are derived from a file's content.

use std::{
    fs::File,
    io::{self, Read as _},
    path::Path,
};

use anyhow::{Context as _, bail};
use aws_lc_rs::hmac;

/// The key of this machine's import ids.
#[derive(Clone)]
pub struct ImportKey(hmac::Key);

impl ImportKey {
    pub(super) fn of(bytes: &[u8; 32]) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, bytes))
    }

    /// Reads the key, or makes it on first use, readable by its owner only.
    pub fn load_or_create(file: &Path) -> anyhow::Result<Self> {
        let mut bytes = [0; 32];
        match std::fs::read(file) {
            Ok(read) if read.len() == bytes.len() => bytes.copy_from_slice(&read),
            Ok(_) => bail!("{} is damaged; remove it to get a new import key", file.display()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                aws_lc_rs::rand::fill(&mut bytes).map_err(|_| anyhow::anyhow!("no randomness"))?;
                if let Some(dir) = file.parent() {
                    crate::servers::private_dir(dir)?;
                }
                crate::servers::write_private(file, &bytes)?;
            }
            Err(error) => return Err(error).with_context(|| format!("cannot read {}", file.display())),
        }
        Ok(Self::of(&bytes))
    }

    /// A tag of these parts, each with its length.
    pub(super) fn tag(&self, parts: &[&[u8]]) -> hmac::Tag {
        let mut context = hmac::Context::with_key(&self.0);
        for part in parts {
            context.update(&(part.len() as u64).to_be_bytes());
            context.update(part);
        }
        context.sign()
    }

    /// A tag of a file's content.
    pub(super) fn file(&self, file: &mut File) -> io::Result<hmac::Tag> {
        let mut context = hmac::Context::with_key(&self.0);
        let mut buffer = zeroize::Zeroizing::new(vec![0; 256 * 1024]);
        loop {
            let read = file.read(&mut buffer)?;
            let Some(bytes) = buffer.get(..read).filter(|bytes| !bytes.is_empty()) else { break };
            context.update(bytes);
        }
        Ok(context.sign())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_is_made_once_and_is_private() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("secrets").join("import.key");
        let first = ImportKey::load_or_create(&file).unwrap();
        let again = ImportKey::load_or_create(&file).unwrap();
        assert_eq!(first.tag(&[b"x"]).as_ref(), again.tag(&[b"x"]).as_ref());
        assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    }
}
