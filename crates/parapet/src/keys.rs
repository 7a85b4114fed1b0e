//! The keys of an installation: one top key for each purpose and its public counterpart, and those of digests and
//! checkpoints.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use rcgen::KeyPair;
use shared::sealing::{Purpose, TopKey, TopRing};
use zeroize::Zeroizing;

use crate::data::DataDir;
use crate::servers::write_private;

const PUBLIC_KEY: &str = "-----BEGIN PUBLIC KEY-----";

/// The secret file of a purpose; only services that may open what it protects are given it.
pub fn top_key(data: &DataDir, purpose: Purpose) -> PathBuf {
    data.key(&top_key_name(purpose))
}

/// The public file of a purpose, for whoever seals.
pub fn verifier(data: &DataDir, purpose: Purpose) -> PathBuf {
    data.key(&verifier_name(purpose))
}

/// The key of the validator's digests.
pub fn digest_key(data: &DataDir) -> PathBuf {
    data.key(DIGEST)
}

/// The key with which the audit writer signs checkpoints.
pub fn checkpoint_key(data: &DataDir) -> PathBuf {
    data.key(CHECKPOINT)
}

const DIGEST: &str = "digest.hex";
const CHECKPOINT: &str = "checkpoint.pem";

fn top_key_name(purpose: Purpose) -> String {
    format!("{}.key", purpose.as_str())
}

fn verifier_name(purpose: Purpose) -> String {
    format!("{}.pub", purpose.as_str())
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

/// Makes the key files that are missing in a directory; returns which. What is there stays as it is.
pub fn prepare(dir: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut made = Vec::new();
    let mut make = |file: PathBuf, content: &[u8]| -> anyhow::Result<()> {
        write_private(&file, content)?;
        made.push(file);
        Ok(())
    };
    let (digest, checkpoint) = (dir.join(DIGEST), dir.join(CHECKPOINT));
    if !digest.exists() {
        make(digest, hex::encode(rand::random::<[u8; 32]>()).as_bytes())?;
    }
    if !checkpoint.exists() {
        make(checkpoint, KeyPair::generate_for(&rcgen::PKCS_ED25519)?.serialize_pem().as_bytes())?;
    }
    for purpose in [Purpose::Integration, Purpose::Leak] {
        let (secret, public) = (dir.join(top_key_name(purpose)), dir.join(verifier_name(purpose)));
        let ring = if secret.exists() {
            TopRing::load(&secret)?
        } else {
            let key = TopKey::generate(purpose)?;
            make(secret, key.to_file()?.as_bytes())?;
            TopRing::new(key)
        };
        let verifier = ring.verifier().to_file()?;
        if std::fs::read_to_string(&public).ok().as_deref() != Some(verifier.as_str()) {
            make(public, verifier.as_bytes()).context("cannot write a public key file")?;
        }
    }
    Ok(made)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_run_keeps_every_key() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(prepare(dir.path()).unwrap().len(), 6);
        let leak = dir.path().join("leak.key");
        let before = std::fs::read(&leak).unwrap();
        assert_eq!(prepare(dir.path()).unwrap(), Vec::<PathBuf>::new());
        assert_eq!(std::fs::read(&leak).unwrap(), before);
    }
}
