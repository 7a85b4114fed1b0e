//! Top keys: what wraps the private halves of a purpose and signs the public ones.

use std::{fmt, path::Path, str::FromStr};

use aws_lc_rs::{
    agreement::{PrivateKey, X25519},
    signature::{self, Ed25519KeyPair, KeyPair as _},
};
use zeroize::Zeroizing;

use super::{KEY, Opener, Purpose, SealError, Sealer, TopRing, append_tenant, decrypt, encrypt, random};
use crate::id::TenantId;

const FIRST: u8 = 3;
const LATER: u8 = 4;
const BY_VAULT: u8 = 5;

/// The name of a top key within its purpose: where it is kept, and its version there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TopId {
    /// In a key file.
    File(u32),
    /// In Vault.
    Vault(u32),
}

impl TopId {
    /// Which key wrapped a private half.
    pub fn of(wrapped: &[u8]) -> Result<Self, SealError> {
        match wrapped {
            [FIRST, ..] => Ok(Self::File(1)),
            [LATER, a, b, c, d, ..] => Ok(Self::File(u32::from_be_bytes([*a, *b, *c, *d]))),
            [BY_VAULT, text @ ..] => {
                let text = std::str::from_utf8(text).ok().and_then(|text| text.strip_prefix("vault:v"));
                let version = text.and_then(|text| text.split_once(':')).and_then(|(v, _)| v.parse().ok());
                version.map(Self::Vault).ok_or(SealError::Malformed)
            }
            _ => Err(SealError::Malformed),
        }
    }
}

impl fmt::Display for TopId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(version) => write!(f, "file:{version}"),
            Self::Vault(version) => write!(f, "vault:{version}"),
        }
    }
}

impl FromStr for TopId {
    type Err = ();
    fn from_str(text: &str) -> Result<Self, ()> {
        let (kind, version) = text.split_once(':').ok_or(())?;
        match (kind, version.parse().map_err(|_| ())?) {
            ("file", version) => Ok(Self::File(version)),
            ("vault", version) => Ok(Self::Vault(version)),
            _ => Err(()),
        }
    }
}

/// One version of a file's top key: wraps private halves and signs public ones.
pub struct TopKey {
    pub(super) purpose: Purpose,
    pub(super) version: u32,
    pub(super) wrap: Zeroizing<Vec<u8>>,
    signer: Ed25519KeyPair,
    pub(super) seed: Zeroizing<Vec<u8>>,
}

/// The public keys of a purpose: one of them must have signed a public half.
#[derive(Clone, Debug)]
pub struct TopVerifier {
    pub(super) purpose: Purpose,
    pub(super) keys: Vec<(TopId, Vec<u8>)>,
}

/// A key pair as it is stored: the private half is already wrapped.
#[derive(Clone)]
pub struct StoredKeyPair {
    /// Public half, 32 bytes.
    pub public: Vec<u8>,
    /// Signature of the public half by a top key, 64 bytes.
    pub signature: Vec<u8>,
    /// Private half, wrapped by a top key.
    pub wrapped_private: Vec<u8>,
}

impl fmt::Debug for StoredKeyPair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoredKeyPair").finish_non_exhaustive()
    }
}

impl fmt::Debug for TopKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TopKey")
            .field("purpose", &self.purpose)
            .field("version", &self.version)
            .finish_non_exhaustive()
    }
}

impl TopKey {
    /// Makes a purpose's first top key.
    pub fn generate(purpose: Purpose) -> Result<Self, SealError> {
        Self::generate_version(purpose, 1)
    }

    /// Makes a later version.
    pub fn generate_version(purpose: Purpose, version: u32) -> Result<Self, SealError> {
        Self::build(purpose, version, random(KEY)?, random(KEY)?)
    }

    pub(super) fn build(
        purpose: Purpose,
        version: u32,
        wrap: Zeroizing<Vec<u8>>,
        seed: Zeroizing<Vec<u8>>,
    ) -> Result<Self, SealError> {
        if wrap.len() != KEY || version == 0 {
            return Err(SealError::Crypto);
        }
        let signer = Ed25519KeyPair::from_seed_unchecked(&seed).map_err(|_| SealError::Crypto)?;
        Ok(Self { purpose, version, wrap, signer, seed })
    }

    /// Reads a key file that holds one version.
    pub fn load(path: &Path) -> Result<Self, SealError> {
        TopRing::load(path)?.only().ok_or_else(|| SealError::KeyFile {
            path: path.display().to_string(),
            fault: "holds several versions",
        })
    }

    /// The content of a key file with this version alone; write it with mode 600.
    pub fn to_file(&self) -> Result<Zeroizing<String>, SealError> {
        super::file::key_file(self.purpose, [self])
    }

    /// The public counterpart.
    pub fn verifier(&self) -> TopVerifier {
        let key = self.signer.public_key().as_ref().to_vec();
        TopVerifier { purpose: self.purpose, keys: vec![(self.id(), key)] }
    }

    /// The purpose this key serves.
    pub fn purpose(&self) -> Purpose {
        self.purpose
    }

    /// Its name.
    pub fn id(&self) -> TopId {
        TopId::File(self.version)
    }

    /// Makes a key pair for a tenant (or the installation).
    pub fn new_key_pair(&self, tenant: Option<TenantId>, version: u32) -> Result<StoredKeyPair, SealError> {
        let (public, private) = fresh_halves()?;
        let signature = self.sign(&signed(self.purpose, tenant, version, &public));
        let wrapped_private = self.wrap(&wrapped(self.purpose, tenant, version, &public), &private)?;
        Ok(StoredKeyPair { public, signature, wrapped_private })
    }

    /// Unwraps a stored private half.
    pub fn opener(
        &self,
        tenant: Option<TenantId>,
        version: u32,
        pair: &StoredKeyPair,
    ) -> Result<Opener, SealError> {
        let aad = wrapped(self.purpose, tenant, version, &pair.public);
        opener(version, &pair.public, &self.unwrap(&aad, &pair.wrapped_private)?)
    }

    pub(super) fn sign(&self, statement: &[u8]) -> Vec<u8> {
        self.signer.sign(statement).as_ref().to_vec()
    }

    pub(super) fn wrap(&self, aad: &[u8], private: &[u8]) -> Result<Vec<u8>, SealError> {
        let body = encrypt(FIRST, &self.wrap, aad, private)?;
        if self.version == 1 {
            return Ok(body);
        }
        // The format's own byte gives way to a longer head.
        let head = [&[LATER][..], &self.version.to_be_bytes()].concat();
        Ok([head.as_slice(), body.get(1..).unwrap_or_default()].concat())
    }

    pub(super) fn unwrap(&self, aad: &[u8], wrapped: &[u8]) -> Result<Zeroizing<Vec<u8>>, SealError> {
        match TopId::of(wrapped)? {
            TopId::File(version) if version == self.version => {}
            _ => return Err(SealError::DoesNotOpen),
        }
        let skip = if self.version == 1 { 1 } else { 5 };
        let body = [&[FIRST], wrapped.get(skip..).ok_or(SealError::Malformed)?].concat();
        decrypt(FIRST, &self.wrap, aad, &body)
    }
}

impl TopVerifier {
    /// Reads the public file.
    pub fn load(path: &Path) -> Result<Self, SealError> {
        super::file::verifier(path)
    }

    /// The content of the public file.
    pub fn to_file(&self) -> Result<String, SealError> {
        super::file::verifier_file(self)
    }

    /// The keys whose signatures it accepts.
    pub fn ids(&self) -> impl Iterator<Item = TopId> {
        self.keys.iter().map(|(id, _)| *id)
    }

    /// Checks a public half and makes it usable for sealing.
    ///
    /// INVARIANT: nothing is sealed to a key that a top key did not sign for this tenant and purpose.
    pub fn sealer(
        &self,
        tenant: Option<TenantId>,
        version: u32,
        public: &[u8],
        signature: &[u8],
    ) -> Result<Sealer, SealError> {
        let statement = signed(self.purpose, tenant, version, public);
        let good = |key: &[u8]| {
            signature::UnparsedPublicKey::new(&signature::ED25519, key).verify(&statement, signature).is_ok()
        };
        if !self.keys.iter().any(|(_, key)| good(key)) {
            return Err(SealError::Unsigned(self.purpose.as_str()));
        }
        Ok(Sealer { version, public: public.to_vec() })
    }
}

/// A fresh pair: public, private.
pub(super) fn fresh_halves() -> Result<(Vec<u8>, Zeroizing<Vec<u8>>), SealError> {
    let bytes = random(KEY)?;
    let private = PrivateKey::from_private_key(&X25519, &bytes).map_err(|_| SealError::Crypto)?;
    let public = private.compute_public_key()?.as_ref().to_vec();
    Ok((public, bytes))
}

pub(super) fn opener(version: u32, public: &[u8], private: &[u8]) -> Result<Opener, SealError> {
    let private = PrivateKey::from_private_key(&X25519, private).map_err(|_| SealError::Crypto)?;
    Ok(Opener { version, private, public: public.to_vec() })
}

/// A private half as Vault wrapped it.
pub(super) fn by_vault(ciphertext: &str) -> Result<Vec<u8>, SealError> {
    let wrapped = [&[BY_VAULT], ciphertext.as_bytes()].concat();
    TopId::of(&wrapped).map(|_| wrapped)
}

/// What is signed of a public half.
pub(super) fn signed(purpose: Purpose, tenant: Option<TenantId>, version: u32, public: &[u8]) -> Vec<u8> {
    key_statement(b"parapet-key-1", purpose, tenant, version, public)
}

/// What a wrapped private half is bound to.
pub(super) fn wrapped(purpose: Purpose, tenant: Option<TenantId>, version: u32, public: &[u8]) -> Vec<u8> {
    key_statement(b"parapet-wrap-1", purpose, tenant, version, public)
}

fn key_statement(
    label: &[u8],
    purpose: Purpose,
    tenant: Option<TenantId>,
    version: u32,
    public: &[u8],
) -> Vec<u8> {
    let mut statement = label.to_vec();
    statement.push(match purpose {
        Purpose::Integration => 1,
        Purpose::Leak => 2,
    });
    append_tenant(&mut statement, tenant);
    statement.extend_from_slice(&version.to_be_bytes());
    statement.extend_from_slice(public);
    statement
}
