//! Checkpoints: signed statements of how far a chain had come, each naming the one before it.
//!
//! The statement that is hashed and signed is `"parapet-checkpoint-1" | tenant | sequence | event hash | time |
//! previous checkpoint's hash`, in the encoding of [`crate::chain`]; the Ed25519 signature is over that hash.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::Context;
use aws_lc_rs::{
    digest,
    signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey},
};
use base64::{Engine, prelude::BASE64_STANDARD};
use shared::db::{Db, StoreError};
use time::OffsetDateTime;
use tokio_util::sync::CancellationToken;
use zeroize::Zeroizing;

use crate::{
    chain::{Chain, Hash, Parts, micros},
    store,
};

/// A chain is signed at least so often while it grows.
pub const EVERY: Duration = Duration::from_mins(1);
/// A chain is signed at the latest after so many events.
pub const EVENTS: i64 = 1000;
const LOOK: Duration = Duration::from_secs(1);

/// A checkpoint.
#[derive(Clone, Debug)]
pub struct Checkpoint {
    /// The last event it covers.
    pub sequence: i64,
    /// That event's hash.
    pub event_hash: Hash,
    /// When it was signed, in whole microseconds.
    pub signed_at: OffsetDateTime,
    /// The previous checkpoint's hash; zeros for the first.
    pub previous: Hash,
    /// Hash of the statement.
    pub hash: Hash,
    /// The key whose private half signed it.
    pub public_key: Vec<u8>,
    /// Signature of the hash.
    pub signature: Vec<u8>,
}

impl Checkpoint {
    /// The hash that this checkpoint must have.
    pub fn derive(&self, chain: Chain) -> Hash {
        let mut parts = Parts::new(b"parapet-checkpoint-1");
        parts.push(chain.uuid().as_bytes());
        parts.push(&self.sequence.to_be_bytes());
        parts.push(&self.event_hash.0);
        parts.push(&micros(self.signed_at).to_be_bytes());
        parts.push(&self.previous.0);
        parts.finish()
    }
    /// Whether the signature holds and one of the trusted keys made it.
    pub fn is_signed_by(&self, trusted: &[Vec<u8>]) -> bool {
        trusted.contains(&self.public_key)
            && UnparsedPublicKey::new(&ED25519, &self.public_key)
                .verify(&self.hash.0, &self.signature)
                .is_ok()
    }
}

/// The private key that signs checkpoints.
#[derive(Debug)]
pub struct SigningKey(Ed25519KeyPair);

const PEM_LABEL: &str = "PRIVATE KEY";
const PUBLIC_LABEL: &str = "PUBLIC KEY";
/// What precedes the 32 bytes of an Ed25519 key in its SubjectPublicKeyInfo (RFC 8410 §4).
const SPKI: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

impl SigningKey {
    /// Makes a new key, as the text of its file (PKCS#8, PEM).
    pub fn generate_pem() -> anyhow::Result<Zeroizing<String>> {
        let key = Ed25519KeyPair::generate().context("no randomness")?;
        let der = key.to_pkcs8().context("the key cannot be encoded")?;
        let body = Zeroizing::new(BASE64_STANDARD.encode(der.as_ref()));
        Ok(Zeroizing::new(format!("-----BEGIN {PEM_LABEL}-----\n{}\n-----END {PEM_LABEL}-----\n", *body)))
    }
    /// Reads a key from its file.
    pub fn load(path: &Path) -> anyhow::Result<Self> {
        let text = Zeroizing::new(
            std::fs::read_to_string(path)
                .with_context(|| format!("checkpoint signing key {}: cannot be read", path.display()))?,
        );
        Self::parse(&text).with_context(|| {
            format!("checkpoint signing key {}: not an Ed25519 key in PKCS#8 PEM", path.display())
        })
    }
    pub(crate) fn parse(pem: &str) -> anyhow::Result<Self> {
        let blocks = blocks(pem, PEM_LABEL)?;
        Ok(Self(Ed25519KeyPair::from_pkcs8(blocks.first().context("holds no private key")?)?))
    }
    /// The public half, as checkpoints carry it.
    pub fn public_key(&self) -> Vec<u8> {
        self.0.public_key().as_ref().to_vec()
    }
    /// Signs how far a chain has come.
    pub(crate) fn sign(
        &self,
        chain: Chain,
        sequence: i64,
        event_hash: Hash,
        signed_at: OffsetDateTime,
        previous: Hash,
    ) -> Checkpoint {
        let mut checkpoint = Checkpoint {
            sequence,
            event_hash,
            signed_at,
            previous,
            hash: Hash::ZERO,
            public_key: self.public_key(),
            signature: Vec::new(),
        };
        checkpoint.hash = checkpoint.derive(chain);
        checkpoint.signature = self.0.sign(&checkpoint.hash.0).as_ref().to_vec();
        checkpoint
    }
}

/// The contents of a text's PEM blocks with this label.
fn blocks(pem: &str, label: &str) -> anyhow::Result<Vec<Zeroizing<Vec<u8>>>> {
    let (begin, end) = (format!("-----BEGIN {label}-----"), format!("-----END {label}-----"));
    let mut found = Vec::new();
    for rest in pem.split(begin.as_str()).skip(1) {
        let (body, _) = rest.split_once(end.as_str()).context("a block does not end")?;
        let body: Zeroizing<String> = Zeroizing::new(body.split_ascii_whitespace().collect());
        found.push(Zeroizing::new(BASE64_STANDARD.decode(body.as_bytes())?));
    }
    Ok(found)
}

/// The key that signs now, and the public halves of those that signed before it.
#[derive(Debug)]
struct Loaded {
    /// Of the file's text, to see that it changed.
    digest: digest::Digest,
    key: Arc<SigningKey>,
    former: Vec<Vec<u8>>,
}

impl Loaded {
    fn read(path: &Path) -> anyhow::Result<Self> {
        let said = || format!("checkpoint signing key {}", path.display());
        let text = Zeroizing::new(std::fs::read_to_string(path).with_context(said)?);
        let key = Arc::new(SigningKey::parse(&text).with_context(said)?);
        let former = blocks(&text, PUBLIC_LABEL)?.into_iter().map(|der| {
            let raw = der.strip_prefix(&SPKI).filter(|raw| raw.len() == 32);
            raw.map(<[u8]>::to_vec).context("a public key in it is not an Ed25519 key")
        });
        let former = former.collect::<anyhow::Result<_>>().with_context(said)?;
        Ok(Self { digest: digest::digest(&digest::SHA256, text.as_bytes()), key, former })
    }
}

/// The keys of checkpoints, as their file has them: it is read again when it changes, so that a key can be replaced while
/// the service runs (`parapet keys add --purpose checkpoint`).
#[derive(Debug)]
pub(crate) struct Keys {
    path: PathBuf,
    /// Trusted beside those in the file.
    more: Vec<Vec<u8>>,
    loaded: Mutex<Loaded>,
}

impl Keys {
    pub(crate) fn open(path: &Path, more: Vec<Vec<u8>>) -> anyhow::Result<Self> {
        Ok(Self { path: path.to_owned(), more, loaded: Mutex::new(Loaded::read(path)?) })
    }

    /// The key that signs, and all that are trusted. A file that cannot be read leaves them as they were.
    pub(crate) fn now(&self) -> (Arc<SigningKey>, Vec<Vec<u8>>) {
        let read = Loaded::read(&self.path);
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        match read {
            Ok(read) if read.digest.as_ref() != loaded.digest.as_ref() => {
                let key = hex::encode(read.key.public_key());
                tracing::info!(key, former = read.former.len(), "the keys of checkpoints were read again");
                *loaded = read;
            }
            Ok(_) => {}
            Err(error) => {
                tracing::warn!(error = format!("{error:#}"), "the keys of checkpoints stay as they were");
            }
        }
        let own = std::iter::once(loaded.key.public_key());
        let trusted = own.chain(loaded.former.iter().cloned()).chain(self.more.iter().cloned());
        (Arc::clone(&loaded.key), trusted.collect())
    }
}

/// Signs whatever is due until asked to stop. Any number of replicas may do so.
pub(crate) async fn run(db: Db, keys: Arc<Keys>, stop: CancellationToken) -> anyhow::Result<()> {
    loop {
        let (key, _) = keys.now();
        if let Err(error) = round(&db, &key).await {
            tracing::warn!(%error, "checkpoints could not be written");
        }
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            () = tokio::time::sleep(LOOK) => {}
        }
    }
}

/// Signs every chain that is due, each in a transaction of its own; returns how many.
pub async fn round(db: &Db, key: &SigningKey) -> Result<usize, StoreError> {
    let due = store::due_for_checkpoint(db, EVERY, EVENTS).await?;
    let mut signed = 0;
    for chain in due {
        signed += usize::from(one(db, key, chain).await?);
    }
    metrics::counter!("parapet_audit_checkpoints_total").increment(signed as u64);
    Ok(signed)
}

async fn one(db: &Db, key: &SigningKey, chain: Chain) -> Result<bool, StoreError> {
    let mut tx = db.tenant(chain.tenant()).await?;
    let Some(head) = store::lock_head(&mut tx, chain).await? else {
        tx.rollback().await?;
        return Ok(false);
    };
    // Another replica may have signed while this one waited for the lock.
    if head.sequence == head.checkpoint_sequence {
        tx.rollback().await?;
        return Ok(false);
    }
    let now = crate::chain::whole_micros(tx.clock().await?);
    let checkpoint = key.sign(chain, head.sequence, head.hash, now, head.checkpoint_hash);
    store::insert_checkpoint(&mut tx, chain, &checkpoint).await?;
    tx.commit().await?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checkpoint_holds_only_for_its_own_chain_and_under_a_trusted_key() {
        let key = SigningKey::parse(&SigningKey::generate_pem().unwrap()).unwrap();
        let other = SigningKey::parse(&SigningKey::generate_pem().unwrap()).unwrap();
        let checkpoint =
            key.sign(Chain::INSTALLATION, 5, Hash([7; 32]), OffsetDateTime::UNIX_EPOCH, Hash::ZERO);
        assert!(checkpoint.is_signed_by(&[other.public_key(), key.public_key()]));
        assert!(!checkpoint.is_signed_by(&[other.public_key()]));
        assert_eq!(checkpoint.derive(Chain::INSTALLATION), checkpoint.hash);
        assert_ne!(checkpoint.derive(Chain::from(uuid::Uuid::from_u128(1))), checkpoint.hash);
        let mut moved = checkpoint.clone();
        moved.sequence = 6;
        assert_ne!(moved.derive(Chain::INSTALLATION), checkpoint.hash);
    }
}
