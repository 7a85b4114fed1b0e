//! Where a service has its top keys from, behind one interface: key files and Vault.

use std::{
    collections::HashMap,
    fmt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use arc_swap::{ArcSwap, ArcSwapOption};
use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor, value::MapAccessDeserializer},
};
use zeroize::Zeroizing;

use super::{
    Opener, Purpose, SealError, Sealer, StoredKeyPair, TopId, TopKey, TopRing, TopVerifier,
    top::{self, fresh_halves},
    vault::{Vault, VaultConfig},
};
use crate::{id::TenantId, service::Faults};

/// How long an unwrapped private half may be used without asking the key's source again (reliability §4.1).
pub const UNWRAPPED_FOR: Duration = Duration::from_mins(10);
/// Most unwrapped halves kept.
const KEPT: usize = 1024;

/// A file, Vault, or both while halves move from one to the other. A string is the path of a file.
#[derive(Clone, Debug, Default)]
pub struct KeySourceConfig {
    /// The key file.
    pub file: Option<PathBuf>,
    /// Vault.
    pub vault: Option<VaultConfig>,
}

impl From<PathBuf> for KeySourceConfig {
    fn from(file: PathBuf) -> Self {
        Self { file: Some(file), vault: None }
    }
}

impl<'de> Deserialize<'de> for KeySourceConfig {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Table {
            #[serde(default)]
            file: Option<PathBuf>,
            #[serde(default)]
            vault: Option<VaultConfig>,
        }
        struct PathOrTable;
        impl<'de> Visitor<'de> for PathOrTable {
            type Value = KeySourceConfig;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the path of a key file, or a table with `file` or `vault`")
            }
            fn visit_str<E>(self, path: &str) -> Result<KeySourceConfig, E> {
                Ok(KeySourceConfig { file: (!path.is_empty()).then(|| PathBuf::from(path)), vault: None })
            }
            fn visit_map<M: MapAccess<'de>>(self, map: M) -> Result<KeySourceConfig, M::Error> {
                let Table { file, vault } = Table::deserialize(MapAccessDeserializer::new(map))?;
                Ok(KeySourceConfig { file, vault })
            }
        }
        deserializer.deserialize_any(PathOrTable)
    }
}

impl KeySourceConfig {
    /// Adds what is wrong with it.
    pub fn check(&self, faults: &mut Faults, path: &str) {
        if let Some(file) = &self.file {
            faults.require_file(file, path);
        }
        if let Some(vault) = &self.vault {
            for (field, fault) in vault.faults() {
                faults.add(format!("{path}.vault.{field}"), fault);
            }
            if let Some(file) = &vault.ca_file {
                faults.require_file(file, &format!("{path}.vault.ca_file"));
            }
        }
        if self.file.is_none() && self.vault.is_none() {
            faults.add(path, "is required: the path of a key file, or Vault");
        }
    }
}

/// Where top keys are kept.
#[derive(Debug)]
enum KeySource {
    /// In a file, read anew when it changes.
    File(FileKeys),
    /// In Vault.
    Vault(Box<Vault>),
}

#[derive(Debug)]
struct FileKeys {
    path: Option<PathBuf>,
    ring: ArcSwap<TopRing>,
    read: Mutex<Option<Stamp>>,
}

/// What changes when a file is written or another takes its place.
type Stamp = (SystemTime, u64, u64);

fn stamp(path: &Path) -> Option<Stamp> {
    let facts = std::fs::metadata(path).ok()?;
    Some((facts.modified().ok()?, std::os::unix::fs::MetadataExt::ino(&facts), facts.len()))
}

impl KeySource {
    fn ids(&self) -> Vec<TopId> {
        match self {
            Self::File(file) => file.ring.load().versions().map(TopId::File).collect(),
            Self::Vault(vault) => vault.versions().into_iter().map(TopId::Vault).collect(),
        }
    }

    fn verifier(&self) -> Option<TopVerifier> {
        match self {
            Self::File(file) => Some(file.ring.load().verifier()),
            Self::Vault(vault) => vault.verifier(),
        }
    }

    async fn refresh(&self, purpose: Purpose) -> Result<(), SealError> {
        match self {
            Self::File(file) => file.refresh(purpose),
            Self::Vault(vault) => vault.refresh().await,
        }
    }
}

impl FileKeys {
    fn refresh(&self, purpose: Purpose) -> Result<(), SealError> {
        let Some(path) = &self.path else { return Ok(()) };
        let now = stamp(path);
        if *self.read.lock().unwrap_or_else(PoisonError::into_inner) == now {
            return Ok(());
        }
        self.ring.store(load(path, purpose)?.into());
        *self.read.lock().unwrap_or_else(PoisonError::into_inner) = now;
        tracing::info!(purpose = purpose.as_str(), file = %path.display(), "top keys loaded");
        Ok(())
    }
}

fn load(path: &Path, purpose: Purpose) -> Result<TopRing, SealError> {
    let ring = TopRing::load(path)?;
    if ring.purpose() == purpose {
        return Ok(ring);
    }
    Err(SealError::KeyFile { path: path.display().to_string(), fault: "is of another purpose" })
}

/// A purpose's top keys, for a service that may open what they protect.
#[derive(Debug)]
pub struct TopKeys {
    purpose: Purpose,
    sources: Vec<KeySource>,
    /// The key that is to wrap new halves; until one was asked for, the first that is loaded.
    wanted: ArcSwapOption<TopId>,
    kept: Mutex<HashMap<(Option<TenantId>, u32), Kept>>,
    keep_for: Duration,
}

#[derive(Debug)]
struct Kept {
    opener: Arc<Opener>,
    until: Instant,
}

/// A half that is to be wrapped by another key.
#[derive(Clone, Debug)]
pub struct Half {
    /// Whose.
    pub tenant: Option<TenantId>,
    /// Its version.
    pub version: u32,
    /// As it is stored.
    pub pair: StoredKeyPair,
}

impl TopKeys {
    /// Reads the file; asks Vault, but does not fail when it is away: that shows in [`TopKeys::refresh`].
    pub async fn open(config: &KeySourceConfig, purpose: Purpose) -> Result<Self, SealError> {
        let mut sources = Vec::new();
        if let Some(path) = &config.file {
            let read = stamp(path);
            let ring = ArcSwap::from_pointee(load(path, purpose)?);
            sources.push(KeySource::File(FileKeys {
                path: Some(path.clone()),
                ring,
                read: Mutex::new(read),
            }));
        }
        if let Some(vault) = &config.vault {
            let vault = Vault::new(purpose, vault.clone())?;
            if let Err(error) = vault.refresh().await {
                tracing::warn!(%error, "Vault was not asked for its keys; it is tried again");
            }
            sources.push(KeySource::Vault(Box::new(vault)));
        }
        Ok(Self::of(purpose, sources))
    }

    /// With these sources.
    fn of(purpose: Purpose, sources: Vec<KeySource>) -> Self {
        Self {
            purpose,
            sources,
            wanted: ArcSwapOption::empty(),
            kept: Mutex::default(),
            keep_for: UNWRAPPED_FOR,
        }
    }

    /// Unwrapped halves are used for so long: for tests of what happens afterwards.
    #[must_use]
    pub fn kept_for(mut self, at_most: Duration) -> Self {
        self.keep_for = at_most.min(UNWRAPPED_FOR);
        self
    }

    /// The purpose.
    pub fn purpose(&self) -> Purpose {
        self.purpose
    }

    /// The keys it has loaded.
    pub fn loaded(&self) -> Vec<TopId> {
        self.sources.iter().flat_map(KeySource::ids).collect()
    }

    /// The key that wraps new halves. An error names the one that is wanted and not loaded.
    pub fn current(&self) -> Result<TopId, SealError> {
        let loaded = self.loaded();
        match self.wanted.load().as_deref() {
            Some(wanted) if loaded.contains(wanted) => Ok(*wanted),
            Some(wanted) => Err(self.not_loaded(*wanted)),
            None => loaded.into_iter().next().ok_or_else(|| self.away("no key was loaded yet")),
        }
    }

    /// From now on this key is to wrap new halves.
    pub fn want(&self, key: Option<TopId>) {
        self.wanted.store(key.map(Arc::new));
    }

    /// Reads the file again if it changed, and asks Vault which versions there are.
    pub async fn refresh(&self) -> Result<(), SealError> {
        for source in &self.sources {
            source.refresh(self.purpose).await?;
        }
        Ok(())
    }

    /// Checks a public half and makes it usable for sealing.
    pub fn sealer(
        &self,
        tenant: Option<TenantId>,
        version: u32,
        public: &[u8],
        signature: &[u8],
    ) -> Result<Sealer, SealError> {
        let keys = self.sources.iter().filter_map(KeySource::verifier).flat_map(|v| v.keys).collect();
        TopVerifier { purpose: self.purpose, keys }.sealer(tenant, version, public, signature)
    }

    /// Makes a key pair for a tenant (or the installation).
    pub async fn new_key_pair(
        &self,
        tenant: Option<TenantId>,
        version: u32,
    ) -> Result<StoredKeyPair, SealError> {
        let (public, private) = fresh_halves()?;
        let pair = StoredKeyPair { public, signature: Vec::new(), wrapped_private: Vec::new() };
        let mut made = self.wrap(self.current()?, &[Half { tenant, version, pair }], vec![private]).await?;
        made.pop().ok_or(SealError::Crypto)
    }

    /// The opener of a stored pair. It is kept for ten minutes at most: then its source is asked again, and without that
    /// nothing more is opened.
    pub async fn opener(
        &self,
        tenant: Option<TenantId>,
        version: u32,
        pair: &StoredKeyPair,
    ) -> Result<Arc<Opener>, SealError> {
        if let Some(kept) = self.kept(tenant, version) {
            return Ok(kept);
        }
        let private = self.unwrap(tenant, version, pair).await?;
        let opener = Arc::new(top::opener(version, &pair.public, &private)?);
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() >= KEPT {
            kept.clear();
        }
        let until = Instant::now() + self.keep_for;
        kept.insert((tenant, version), Kept { opener: Arc::clone(&opener), until });
        Ok(opener)
    }

    /// The same, if it was unwrapped within ten minutes.
    pub fn kept(&self, tenant: Option<TenantId>, version: u32) -> Option<Arc<Opener>> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        match kept.get(&(tenant, version)) {
            Some(Kept { opener, until }) if Instant::now() < *until => Some(Arc::clone(opener)),
            Some(_) => {
                kept.remove(&(tenant, version));
                None
            }
            None => None,
        }
    }

    /// Forgets a tenant's unwrapped halves: they were destroyed.
    pub fn forget(&self, tenant: TenantId) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.retain(|(owner, _), _| *owner != Some(tenant));
    }

    /// Wraps and signs halves by this key, in their order. Within Vault they are wrapped again without leaving it.
    pub async fn rewrap(&self, by: TopId, halves: &[Half]) -> Result<Vec<StoredKeyPair>, SealError> {
        if let (TopId::Vault(version), Some(vault)) = (by, self.vault())
            && halves.iter().all(|h| matches!(TopId::of(&h.pair.wrapped_private), Ok(TopId::Vault(_))))
        {
            let contexts: Vec<_> =
                halves.iter().map(|h| (self.context(h), h.pair.wrapped_private.as_slice())).collect();
            let wrapped = vault.rewrap(version, &contexts).await?;
            return self.signed_by(by, halves, wrapped).await;
        }
        let mut private = Vec::with_capacity(halves.len());
        for half in halves {
            private.push(self.unwrap(half.tenant, half.version, &half.pair).await?);
        }
        self.wrap(by, halves, private).await
    }

    async fn wrap(
        &self,
        by: TopId,
        halves: &[Half],
        private: Vec<Zeroizing<Vec<u8>>>,
    ) -> Result<Vec<StoredKeyPair>, SealError> {
        let contexts = halves.iter().map(|half| self.context(half));
        let bound: Vec<_> = contexts.zip(private).collect();
        let wrapped = match by {
            TopId::File(version) => {
                let ring = self.ring(version)?;
                let key = self.key(&ring, version)?;
                bound.iter().map(|(aad, half)| key.wrap(aad, half)).collect::<Result<_, _>>()?
            }
            TopId::Vault(version) => {
                self.vault().ok_or_else(|| self.not_loaded(by))?.wrap(version, &bound).await?
            }
        };
        self.signed_by(by, halves, wrapped).await
    }

    async fn signed_by(
        &self,
        by: TopId,
        halves: &[Half],
        wrapped: Vec<Vec<u8>>,
    ) -> Result<Vec<StoredKeyPair>, SealError> {
        let statements =
            halves.iter().map(|h| top::signed(self.purpose, h.tenant, h.version, &h.pair.public));
        let signatures: Vec<Vec<u8>> = match by {
            TopId::File(version) => {
                let ring = self.ring(version)?;
                let key = self.key(&ring, version)?;
                statements.map(|statement| key.sign(&statement)).collect()
            }
            TopId::Vault(_) => {
                let statements: Vec<_> = statements.collect();
                self.vault().ok_or_else(|| self.not_loaded(by))?.sign(&statements).await?
            }
        };
        let made = halves.iter().zip(wrapped).zip(signatures);
        Ok(made
            .map(|((half, wrapped_private), signature)| StoredKeyPair {
                public: half.pair.public.clone(),
                signature,
                wrapped_private,
            })
            .collect())
    }

    async fn unwrap(
        &self,
        tenant: Option<TenantId>,
        version: u32,
        pair: &StoredKeyPair,
    ) -> Result<Zeroizing<Vec<u8>>, SealError> {
        let by = TopId::of(&pair.wrapped_private)?;
        let bound = top::wrapped(self.purpose, tenant, version, &pair.public);
        match by {
            TopId::File(number) => {
                let ring = self.ring(number)?;
                self.key(&ring, number)?.unwrap(&bound, &pair.wrapped_private)
            }
            TopId::Vault(_) => {
                let vault = self.vault().ok_or_else(|| self.not_loaded(by))?;
                vault.unwrap(&bound, &pair.wrapped_private).await
            }
        }
    }

    fn context(&self, half: &Half) -> Vec<u8> {
        top::wrapped(self.purpose, half.tenant, half.version, &half.pair.public)
    }

    fn vault(&self) -> Option<&Vault> {
        self.sources.iter().find_map(|source| match source {
            KeySource::Vault(vault) => Some(&**vault),
            KeySource::File(_) => None,
        })
    }

    fn ring(&self, version: u32) -> Result<Arc<TopRing>, SealError> {
        let file = self.sources.iter().find_map(|source| match source {
            KeySource::File(file) => Some(file.ring.load_full()),
            KeySource::Vault(_) => None,
        });
        file.ok_or_else(|| self.not_loaded(TopId::File(version)))
    }

    fn key<'a>(&self, ring: &'a TopRing, version: u32) -> Result<&'a TopKey, SealError> {
        ring.key(version).ok_or_else(|| self.not_loaded(TopId::File(version)))
    }

    fn not_loaded(&self, key: TopId) -> SealError {
        SealError::NotLoaded { purpose: self.purpose.as_str(), key: key.to_string() }
    }

    fn away(&self, fault: &str) -> SealError {
        SealError::Away { purpose: self.purpose.as_str(), fault: fault.to_owned() }
    }
}

impl From<TopKey> for TopKeys {
    /// With one key that no file holds.
    fn from(key: TopKey) -> Self {
        let purpose = key.purpose();
        let ring = ArcSwap::from_pointee(TopRing::new(key));
        Self::of(purpose, vec![KeySource::File(FileKeys { path: None, ring, read: Mutex::default() })])
    }
}
