//! The sealing keys of the local stack: one top key for each purpose, and its public counterpart.

use std::{fs, path::Path};

use anyhow::Context as _;
use rcgen::KeyPair;
use shared::sealing::{Purpose, TopKey, TopRing};
use zeroize::Zeroizing;

use crate::data::DataDir;
use crate::servers::write_private;

const PUBLIC_KEY: &str = "-----BEGIN PUBLIC KEY-----";

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

/// Has a new key sign checkpoints: it takes the place of the one in the file, whose public half stays beside those before
/// it, so that what they signed still verifies. Tells the new public key.
pub fn rotate_checkpoint_key(file: &Path) -> anyhow::Result<Vec<u8>> {
    let wrong = || format!("{}: not an Ed25519 key in PKCS#8 PEM", file.display());
    let before = fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    let before = Zeroizing::new(before);
    let own = before.find(PUBLIC_KEY).map_or(before.as_str(), |at| before.split_at(at).0);
    let former = before.get(own.len()..).unwrap_or_default();
    let old = KeyPair::from_pem_and_sign_algo(own, &rcgen::PKCS_ED25519).with_context(wrong)?;
    let new = KeyPair::generate_for(&rcgen::PKCS_ED25519)?;
    let text = [new.serialize_pem().trim_end(), old.public_key_pem().trim_end(), former].join("\n");
    write_private(file, Zeroizing::new(text).as_bytes())?;
    Ok(new.public_key_raw().to_vec())
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
