//! Key files: the secret one of a purpose with one or more versions of its top key, and its public counterpart.

use std::{collections::BTreeMap, path::Path};

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, Zeroizing};

use super::{Purpose, SealError, TopId, TopKey, TopVerifier};

/// The versions of a purpose's top key that one file holds.
#[derive(Debug)]
pub struct TopRing {
    purpose: Purpose,
    keys: BTreeMap<u32, TopKey>,
}

/// A file with version 1 alone has its values at the top, as builds before there were versions read it.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct KeyFile {
    purpose: Purpose,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    wrapping_key: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    signing_seed: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    keys: Vec<KeyText>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct KeyText {
    version: u32,
    wrapping_key: String,
    signing_seed: String,
}

impl Drop for KeyFile {
    fn drop(&mut self) {
        self.wrapping_key.zeroize();
        self.signing_seed.zeroize();
    }
}

impl Drop for KeyText {
    fn drop(&mut self) {
        self.wrapping_key.zeroize();
        self.signing_seed.zeroize();
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct VerifierFile {
    purpose: Purpose,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    verifying_key: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    keys: Vec<VerifierText>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct VerifierText {
    key: String,
    verifying_key: String,
}

impl TopRing {
    /// With one version.
    pub fn new(key: TopKey) -> Self {
        Self { purpose: key.purpose, keys: BTreeMap::from([(key.version, key)]) }
    }

    /// Reads the secret file.
    pub fn load(path: &Path) -> Result<Self, SealError> {
        let fault = |fault| SealError::KeyFile { path: path.display().to_string(), fault };
        let text = Zeroizing::new(std::fs::read_to_string(path).map_err(|_| fault("cannot be read"))?);
        let mut file: KeyFile = serde_json::from_str(&text).map_err(|_| fault("is not a top key file"))?;
        let decode = |text: &str| BASE64.decode(text).map(Zeroizing::new).map_err(|_| fault("is not base64"));
        let mut texts = std::mem::take(&mut file.keys);
        match (file.wrapping_key.take(), file.signing_seed.take()) {
            (None, None) => {}
            (Some(wrapping_key), Some(signing_seed)) => {
                texts.push(KeyText { version: 1, wrapping_key, signing_seed });
            }
            _ => return Err(fault("is not a top key file")),
        }
        let mut keys = BTreeMap::new();
        for text in &texts {
            let (wrap, seed) = (decode(&text.wrapping_key)?, decode(&text.signing_seed)?);
            let key = TopKey::build(file.purpose, text.version, wrap, seed)
                .map_err(|_| fault("holds a key of the wrong size or version"))?;
            if keys.insert(text.version, key).is_some() {
                return Err(fault("holds a version twice"));
            }
        }
        if keys.is_empty() {
            return Err(fault("holds no key"));
        }
        Ok(Self { purpose: file.purpose, keys })
    }

    /// The content of the secret file; write it with mode 600.
    pub fn to_file(&self) -> Result<Zeroizing<String>, SealError> {
        key_file(self.purpose, self.keys.values())
    }

    /// The purpose its keys serve.
    pub fn purpose(&self) -> Purpose {
        self.purpose
    }

    /// Its versions, lowest first.
    pub fn versions(&self) -> impl Iterator<Item = u32> {
        self.keys.keys().copied()
    }

    /// Adds a fresh version after the highest, and tells it.
    pub fn add(&mut self) -> Result<u32, SealError> {
        let version = self.versions().max().unwrap_or(0) + 1;
        self.keys.insert(version, TopKey::generate_version(self.purpose, version)?);
        Ok(version)
    }

    /// Removes a version; false when it is not there, or is the last one.
    pub fn remove(&mut self, version: u32) -> bool {
        self.keys.len() > 1 && self.keys.remove(&version).is_some()
    }

    /// The public counterpart of all versions.
    pub fn verifier(&self) -> TopVerifier {
        let keys = self.keys.values().flat_map(|key| key.verifier().keys).collect();
        TopVerifier { purpose: self.purpose, keys }
    }

    pub(super) fn key(&self, version: u32) -> Option<&TopKey> {
        self.keys.get(&version)
    }

    pub(super) fn only(mut self) -> Option<TopKey> {
        let (_, key) = self.keys.pop_first()?;
        self.keys.is_empty().then_some(key)
    }
}

pub(super) fn key_file<'a>(
    purpose: Purpose,
    keys: impl IntoIterator<Item = &'a TopKey>,
) -> Result<Zeroizing<String>, SealError> {
    let mut file = KeyFile { purpose, wrapping_key: None, signing_seed: None, keys: Vec::new() };
    file.keys.extend(keys.into_iter().map(|key| KeyText {
        version: key.version,
        wrapping_key: BASE64.encode(&key.wrap),
        signing_seed: BASE64.encode(&key.seed),
    }));
    if let [KeyText { version: 1, wrapping_key, signing_seed }] = &mut *file.keys {
        file.wrapping_key = Some(std::mem::take(wrapping_key));
        file.signing_seed = Some(std::mem::take(signing_seed));
        file.keys.clear();
    }
    serde_json::to_string_pretty(&file).map(Zeroizing::new).map_err(|_| SealError::Crypto)
}

pub(super) fn verifier(path: &Path) -> Result<TopVerifier, SealError> {
    let fault = |fault| SealError::KeyFile { path: path.display().to_string(), fault };
    let text = std::fs::read_to_string(path).map_err(|_| fault("cannot be read"))?;
    let file: VerifierFile = serde_json::from_str(&text).map_err(|_| fault("is not a top verifier file"))?;
    let decode = |text: &str| BASE64.decode(text).map_err(|_| fault("is not base64"));
    let mut keys = Vec::new();
    if let Some(key) = &file.verifying_key {
        keys.push((TopId::File(1), decode(key)?));
    }
    for VerifierText { key, verifying_key } in &file.keys {
        let id = key.parse().map_err(|()| fault("names a key that is neither file:N nor vault:N"))?;
        keys.push((id, decode(verifying_key)?));
    }
    if keys.is_empty() {
        return Err(fault("holds no key"));
    }
    Ok(TopVerifier { purpose: file.purpose, keys })
}

pub(super) fn verifier_file(verifier: &TopVerifier) -> Result<String, SealError> {
    let mut file = VerifierFile { purpose: verifier.purpose, verifying_key: None, keys: Vec::new() };
    if let [(TopId::File(1), key)] = &*verifier.keys {
        file.verifying_key = Some(BASE64.encode(key));
    } else {
        file.keys.extend(
            verifier
                .keys
                .iter()
                .map(|(id, key)| VerifierText { key: id.to_string(), verifying_key: BASE64.encode(key) }),
        );
    }
    serde_json::to_string_pretty(&file).map_err(|_| SealError::Crypto)
}
