//! Sealing: what is accepted as a secret is readable only by the services that must use it (design §8).
//!
//! Each (tenant, purpose) has an X25519 key pair. Whoever has the public half can seal; its signature by the
//! purpose's top key is checked first, so that a planted key seals nothing. The private half is stored wrapped by
//! the top key, which only services that may open the purpose are given: as a file ([`TopRing`]) or by Vault's transit
//! engine ([`vault`]), both behind [`TopKeys`]. Rotating a top key re-wraps private halves and touches no payload.
//!
//! Formats, all binary, first byte the format's version:
//! - sealed to a key pair: `1 | key version (u32 BE) | ephemeral public (32) | AES-256-GCM ciphertext and tag`.
//!   The AES key is HKDF-SHA-256 of the X25519 secret with both public keys as salt, fresh for every envelope.
//! - sealed with a batch's data key: `2 | nonce (12) | AES-256-GCM ciphertext and tag`.
//! - wrapped private half: `3 | nonce (12) | AES-256-GCM ciphertext and tag` by version 1 of a file's key;
//!   `4 | version (u32 BE) | nonce (12) | AES-256-GCM ciphertext and tag` by a later one;
//!   `5 | vault:vN:…` by version N of Vault's key.

mod file;
pub mod source;
mod top;
pub mod vault;
mod vault_config;

use std::fmt;

use aws_lc_rs::{
    aead::{self, AES_256_GCM, LessSafeKey, Nonce, UnboundKey},
    agreement::{self, EphemeralPrivateKey, PrivateKey, UnparsedPublicKey, X25519},
    hkdf,
    rand::SystemRandom,
};
use serde::{Deserialize, Serialize};
use uuid::Uuid;
use zeroize::Zeroizing;

pub use self::{
    file::TopRing,
    source::{KeySourceConfig, TopKeys},
    top::{StoredKeyPair, TopId, TopKey, TopVerifier},
};
use crate::id::TenantId;

const TO_KEY_PAIR: u8 = 1;
const WITH_DATA_KEY: u8 = 2;
const KEY: usize = 32;
const NONCE: usize = 12;

/// What a key pair protects; who may open differs by purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Purpose {
    /// Credentials of integrations: opened by the sync worker, the validator and the executor.
    Integration,
    /// Leaked secrets: opened by the validator alone.
    Leak,
}

impl Purpose {
    /// The stable name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Integration => "integration",
            Self::Leak => "leak",
        }
    }
}

/// Why sealing or opening failed. Says nothing about the content.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    /// Wrong key, wrong owner, or a changed envelope: these cannot be told apart.
    #[error("the envelope does not open with this key for this owner")]
    DoesNotOpen,
    /// The envelope is not of a format this version knows.
    #[error("the envelope is malformed or of an unknown version")]
    Malformed,
    /// The public half is not signed by the purpose's top key.
    #[error("the public key is not signed by the top key of purpose {0}")]
    Unsigned(&'static str),
    /// A key file is missing or not readable as what it should be.
    #[error("key file {path}: {fault}")]
    KeyFile {
        /// The file.
        path: String,
        /// What is wrong; never the content.
        fault: &'static str,
    },
    /// A top key is needed that this process has not loaded.
    #[error("top key {key} of purpose {purpose} is needed and not loaded")]
    NotLoaded {
        /// Its purpose.
        purpose: &'static str,
        /// Its name, as `parapet keys status` shows it.
        key: String,
    },
    /// Vault does not answer, or not with what was asked for; it is worth trying again.
    #[error("the key source of purpose {purpose} cannot be used now: {fault}")]
    Away {
        /// The purpose.
        purpose: &'static str,
        /// What is wrong; never an answer's content.
        fault: String,
    },
    /// The cryptographic library refused.
    #[error("cryptography failed")]
    Crypto,
}

impl From<aws_lc_rs::error::Unspecified> for SealError {
    fn from(_: aws_lc_rs::error::Unspecified) -> Self {
        Self::Crypto
    }
}

/// Names of the sealed columns, as [`Owner::table`] binds them: sealer and opener must agree. Version 1 unless said.
pub mod column {
    /// An integration's secret; the row is the integration, the version that of
    /// `api.integration_secrets_v`. For Entra ID the bytes of the client secret.
    pub const INTEGRATION_SECRET: &str = "api.integrations.secret";
    /// An Okta integration's client key; the row is the integration, the version that of the key.
    pub const CLIENT_KEY: &str = "sync.client_keys.private";
    /// Data key of a batch of feed records; the row is the batch.
    pub const FEED_DATA_KEY: &str = "api.feed_batches.data_key";
    /// A feed record's password, sealed with the batch's data key; the row is the record.
    pub const FEED_SECRET: &str = "api.feed_records.secret";
    /// A feed record's session cookies, sealed with the batch's data key; the row is the record.
    pub const FEED_COOKIES: &str = "api.feed_records.cookies";
    /// What else a feed record says (whole hashes, hint, device, raw), JSON sealed with the batch's data key; the row
    /// is the record.
    pub const FEED_EXTRA: &str = "api.feed_records.extra";
    /// An exposure's password, sealed to its tenant; the row is the exposure.
    pub const EXPOSURE_SECRET: &str = "validator.exposures.secret";
    /// An exposure's session cookies, sealed to its tenant; the row is the exposure.
    pub const EXPOSURE_COOKIES: &str = "validator.exposures.cookies";
}

/// Whom and where a payload belongs to. A ciphertext moved to another tenant, table, row or version does not open.
#[derive(Clone, Copy, Debug)]
pub struct Owner<'a> {
    /// The tenant, or `None` for the installation's own feeds.
    pub tenant: Option<TenantId>,
    /// Schema-qualified table and column, for example `api.integrations.secret`.
    pub table: &'a str,
    /// The row's id.
    pub row: Uuid,
    /// The payload's version within the row, from 1.
    pub version: u32,
}

impl Owner<'_> {
    fn aad(&self) -> Vec<u8> {
        let mut aad = b"parapet-seal-1".to_vec();
        append_tenant(&mut aad, self.tenant);
        // Tables are our own constants, far below 2^32 bytes; the fixed-size fields around make this injective.
        aad.extend_from_slice(&(self.table.len() as u64).to_be_bytes());
        aad.extend_from_slice(self.table.as_bytes());
        aad.extend_from_slice(self.row.as_bytes());
        aad.extend_from_slice(&self.version.to_be_bytes());
        aad
    }
}

fn append_tenant(to: &mut Vec<u8>, tenant: Option<TenantId>) {
    match tenant {
        None => to.push(0),
        Some(tenant) => {
            to.push(1);
            to.extend_from_slice(tenant.uuid().as_bytes());
        }
    }
}

/// Can seal, cannot open: the public half of a key pair.
#[derive(Clone, Debug)]
pub struct Sealer {
    version: u32,
    public: Vec<u8>,
}

impl Sealer {
    /// Seals a payload for its owner.
    pub fn seal(&self, owner: &Owner<'_>, plain: &[u8]) -> Result<Vec<u8>, SealError> {
        let ephemeral = EphemeralPrivateKey::generate(&X25519, &SystemRandom::new())?;
        let ephemeral_public = ephemeral.compute_public_key()?.as_ref().to_vec();
        let peer = UnparsedPublicKey::new(&X25519, &self.public);
        let key = agreement::agree_ephemeral(ephemeral, peer, SealError::Crypto, |secret| {
            derive(secret, &ephemeral_public, &self.public)
        })?;
        let mut sealed = vec![TO_KEY_PAIR];
        sealed.extend_from_slice(&self.version.to_be_bytes());
        sealed.extend_from_slice(&ephemeral_public);
        let mut body = with_room_for_tag(plain);
        // The key is used for this one message, so the nonce may be constant.
        cipher(&key)?.seal_in_place_append_tag(
            Nonce::assume_unique_for_key([0; NONCE]),
            aead::Aad::from(owner.aad()),
            &mut *body,
        )?;
        sealed.extend_from_slice(&body);
        Ok(sealed)
    }
}

/// Can open: the private half of a key pair, in memory only.
pub struct Opener {
    version: u32,
    private: PrivateKey,
    public: Vec<u8>,
}

impl fmt::Debug for Opener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Opener").field("version", &self.version).finish_non_exhaustive()
    }
}

impl Opener {
    /// The key version an envelope was sealed to, to find its opener.
    pub fn version_of(sealed: &[u8]) -> Result<u32, SealError> {
        match sealed.split_first_chunk::<5>() {
            Some(([TO_KEY_PAIR, a, b, c, d], _)) => Ok(u32::from_be_bytes([*a, *b, *c, *d])),
            _ => Err(SealError::Malformed),
        }
    }

    /// Opens a payload of its owner.
    pub fn open(&self, owner: &Owner<'_>, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, SealError> {
        if Self::version_of(sealed)? != self.version {
            return Err(SealError::DoesNotOpen);
        }
        let (_, rest) = sealed.split_first_chunk::<5>().ok_or(SealError::Malformed)?;
        let (ephemeral_public, body) = rest.split_first_chunk::<KEY>().ok_or(SealError::Malformed)?;
        let peer = UnparsedPublicKey::new(&X25519, ephemeral_public);
        let key = agreement::agree(&self.private, peer, SealError::DoesNotOpen, |secret| {
            derive(secret, ephemeral_public, &self.public)
        })?;
        open_in_place(&key, [0; NONCE], owner.aad(), body)
    }
}

/// The symmetric key of one ingest batch: sealed once to the tenant, used for every record of the batch.
pub struct DataKey(Zeroizing<Vec<u8>>);

impl fmt::Debug for DataKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DataKey(..)")
    }
}

impl DataKey {
    /// A fresh key.
    pub fn generate() -> Result<Self, SealError> {
        Ok(Self(random(KEY)?))
    }
    /// Seals the data key itself, to be stored beside the batch.
    pub fn seal_to(&self, sealer: &Sealer, owner: &Owner<'_>) -> Result<Vec<u8>, SealError> {
        sealer.seal(owner, &self.0)
    }
    /// Opens a stored data key.
    pub fn open(opener: &Opener, owner: &Owner<'_>, sealed: &[u8]) -> Result<Self, SealError> {
        let key = opener.open(owner, sealed)?;
        if key.len() == KEY { Ok(Self(key)) } else { Err(SealError::Malformed) }
    }
    /// Seals one record's payload.
    pub fn seal(&self, owner: &Owner<'_>, plain: &[u8]) -> Result<Vec<u8>, SealError> {
        encrypt(WITH_DATA_KEY, &self.0, &owner.aad(), plain)
    }
    /// Opens one record's payload.
    pub fn unseal(&self, owner: &Owner<'_>, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, SealError> {
        decrypt(WITH_DATA_KEY, &self.0, &owner.aad(), sealed)
    }
}

fn encrypt(format: u8, key: &[u8], aad: &[u8], plain: &[u8]) -> Result<Vec<u8>, SealError> {
    let mut nonce = [0; NONCE];
    aws_lc_rs::rand::fill(&mut nonce)?;
    let mut body = with_room_for_tag(plain);
    cipher(key)?.seal_in_place_append_tag(
        Nonce::assume_unique_for_key(nonce),
        aead::Aad::from(aad),
        &mut *body,
    )?;
    let mut sealed = Vec::with_capacity(1 + NONCE + body.len());
    sealed.push(format);
    sealed.extend_from_slice(&nonce);
    sealed.extend_from_slice(&body);
    Ok(sealed)
}

/// A copy that is encrypted in place: of final size, so that no reallocation leaves another behind, and wiped if that fails.
fn with_room_for_tag(plain: &[u8]) -> Zeroizing<Vec<u8>> {
    let mut body = Zeroizing::new(Vec::with_capacity(plain.len() + AES_256_GCM.tag_len()));
    body.extend_from_slice(plain);
    body
}

fn decrypt(format: u8, key: &[u8], aad: &[u8], sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, SealError> {
    let (found, rest) = sealed.split_first().ok_or(SealError::Malformed)?;
    if *found != format {
        return Err(SealError::Malformed);
    }
    let (nonce, body) = rest.split_first_chunk::<NONCE>().ok_or(SealError::Malformed)?;
    open_in_place(key, *nonce, aad.to_vec(), body)
}

fn open_in_place(
    key: &[u8],
    nonce: [u8; NONCE],
    aad: Vec<u8>,
    body: &[u8],
) -> Result<Zeroizing<Vec<u8>>, SealError> {
    let mut buffer = Zeroizing::new(body.to_vec());
    let length = cipher(key)?
        .open_in_place(Nonce::assume_unique_for_key(nonce), aead::Aad::from(aad), &mut buffer)
        .map_err(|_| SealError::DoesNotOpen)?
        .len();
    buffer.truncate(length);
    Ok(buffer)
}

fn cipher(key: &[u8]) -> Result<LessSafeKey, SealError> {
    Ok(LessSafeKey::new(UnboundKey::new(&AES_256_GCM, key)?))
}

fn derive(secret: &[u8], ephemeral: &[u8], recipient: &[u8]) -> Result<Zeroizing<Vec<u8>>, SealError> {
    let salt = [ephemeral, recipient].concat();
    let info: [&[u8]; 1] = [b"parapet-seal-1"];
    let mut key = Zeroizing::new(vec![0; KEY]);
    hkdf::Salt::new(hkdf::HKDF_SHA256, &salt)
        .extract(secret)
        .expand(&info, hkdf::HKDF_SHA256)?
        .fill(&mut key)?;
    Ok(key)
}

fn random(length: usize) -> Result<Zeroizing<Vec<u8>>, SealError> {
    let mut bytes = Zeroizing::new(vec![0; length]);
    aws_lc_rs::rand::fill(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests;
