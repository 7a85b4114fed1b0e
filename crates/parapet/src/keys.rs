//! The sealing keys of the local stack: one top key for each purpose, and its public counterpart.

use anyhow::Context as _;
use rcgen::KeyPair;
use shared::sealing::{Purpose, TopKey, TopRing};

use crate::data::DataDir;
use crate::servers::write_private;

/// The secret file of a purpose; only services that may open what it protects are given it.
pub fn top_key(data: &DataDir, purpose: Purpose) -> std::path::PathBuf {
    data.key(&format!("{}.key", purpose.as_str()))
}

/// The public file of a purpose, for whoever seals.
pub fn verifier(data: &DataDir, purpose: Purpose) -> std::path::PathBuf {
    data.key(&format!("{}.pub", purpose.as_str()))
}

/// The key of the validator's digests.
pub fn digest_key(data: &DataDir) -> std::path::PathBuf {
    data.key("digest.hex")
}

/// The key with which the audit writer signs checkpoints.
pub fn checkpoint_key(data: &DataDir) -> std::path::PathBuf {
    data.key("checkpoint.pem")
}

/// Makes the key files that are missing.
pub fn prepare(data: &DataDir) -> anyhow::Result<()> {
    let (digest, checkpoint) = (digest_key(data), checkpoint_key(data));
    if !digest.exists() {
        write_private(&digest, hex::encode(rand::random::<[u8; 32]>()).as_bytes())?;
    }
    if !checkpoint.exists() {
        write_private(&checkpoint, KeyPair::generate_for(&rcgen::PKCS_ED25519)?.serialize_pem().as_bytes())?;
    }
    for purpose in [Purpose::Integration, Purpose::Leak] {
        let (secret, public) = (top_key(data, purpose), verifier(data, purpose));
        let key = if secret.exists() {
            TopRing::load(&secret)?
        } else {
            let key = TopKey::generate(purpose)?;
            write_private(&secret, key.to_file()?.as_bytes())?;
            TopRing::new(key)
        };
        write_private(&public, key.verifier().to_file()?.as_bytes())
            .context("cannot write a public key file")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_start_keeps_every_key() {
        let dir = tempfile::tempdir().unwrap();
        let data = DataDir::find(Some(dir.path())).unwrap();
        data.create().unwrap();
        prepare(&data).unwrap();
        let before = std::fs::read(top_key(&data, Purpose::Leak)).unwrap();
        prepare(&data).unwrap();
        assert_eq!(std::fs::read(top_key(&data, Purpose::Leak)).unwrap(), before);
    }
}
