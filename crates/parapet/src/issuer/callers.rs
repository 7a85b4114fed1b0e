//! Who gets a token from the development issuer, and what the token says.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::bootstrap::ids;
use crate::servers::write_private;

/// The callers of the sample installation. Embedded: the program works without its source tree.
const SAMPLE: &str = include_str!("../../../../deploy/local/callers.toml");

/// One caller, as the issuer's file lists it.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Caller {
    /// What it logs in with, next to its secret.
    pub id: String,
    /// Its secret.
    pub secret: String,
    /// How people call it.
    pub name: String,
    /// Who the audit trail says it is.
    pub subject: String,
    /// Its organization; an operator has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub organization: Option<Uuid>,
    /// The tenants it may act in.
    #[serde(default)]
    pub tenants: Vec<Uuid>,
    /// What it may do there.
    pub roles: Vec<String>,
}

/// All callers of an issuer.
#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Callers {
    #[serde(default, rename = "caller")]
    callers: Vec<Caller>,
}

/// A caller in the sample file: by names, without secret.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Named {
    id: String,
    name: String,
    organization: Option<String>,
    #[serde(default)]
    tenants: Vec<String>,
    roles: Vec<String>,
    /// No person: its tokens have the client's own id as subject.
    #[serde(default)]
    service: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Sample {
    caller: Vec<Named>,
}

/// The file of an issuer's callers.
pub fn file(dir: &Path) -> PathBuf {
    dir.join("callers.toml")
}

/// Lists the sample's callers in `dir`, each with a new secret. Callers that are there stay as they are, but for roles that
/// the sample has given them since.
pub fn prepare(dir: &Path) -> anyhow::Result<()> {
    let file = file(dir);
    let mut callers = if file.exists() { Callers::load(&file)? } else { Callers::default() };
    let sample: Sample = toml::from_str(SAMPLE).context("deploy/local/callers.toml is damaged")?;
    for Named { id, name, organization, tenants, roles, service } in sample.caller {
        if let Some(known) = callers.callers.iter_mut().find(|caller| caller.id == id) {
            known
                .roles
                .extend(roles.into_iter().filter(|role| !known.roles.contains(role)).collect::<Vec<_>>());
            continue;
        }
        let of = organization.as_deref().unwrap_or_default();
        callers.callers.push(Caller {
            subject: if service { id.clone() } else { format!("local|{id}") },
            secret: hex::encode(rand::random::<[u8; 24]>()),
            organization: organization.as_deref().map(ids::organization),
            tenants: tenants.iter().map(|tenant| ids::tenant(of, tenant)).collect(),
            id,
            name,
            roles,
        });
    }
    callers.save(&file)
}

impl Callers {
    /// Reads the file.
    pub fn load(file: &Path) -> anyhow::Result<Self> {
        let text =
            std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
        // The parser's message would quote the line, and the line may hold a secret.
        toml::from_str(&text).map_err(|e| match e.span() {
            Some(span) => {
                anyhow::anyhow!("{} is not a list of callers, at byte {}", file.display(), span.start)
            }
            None => anyhow::anyhow!("{} is not a list of callers", file.display()),
        })
    }

    /// Writes the file.
    pub fn save(&self, file: &Path) -> anyhow::Result<()> {
        write_private(file, toml::to_string(self)?.as_bytes())
    }

    /// Adds a caller, or replaces the one with its id.
    pub fn put(&mut self, caller: Caller) {
        self.callers.retain(|other| other.id != caller.id);
        self.callers.push(caller);
    }

    /// The caller with this id.
    pub fn find(&self, id: &str) -> Option<&Caller> {
        self.callers.iter().find(|caller| caller.id == id)
    }

    /// Their ids.
    pub fn ids(&self) -> impl Iterator<Item = &str> {
        self.callers.iter().map(|caller| caller.id.as_str())
    }

    /// The caller with this id, if the secret is right.
    pub fn authenticate(&self, id: &str, secret: &str) -> Option<&Caller> {
        self.find(id).filter(|caller| {
            aws_lc_rs::constant_time::verify_slices_are_equal(caller.secret.as_bytes(), secret.as_bytes())
                .is_ok()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_preparation_keeps_every_secret() {
        let dir = tempfile::tempdir().unwrap();
        prepare(dir.path()).unwrap();
        let before = Callers::load(&file(dir.path())).unwrap();
        prepare(dir.path()).unwrap();
        let after = Callers::load(&file(dir.path())).unwrap();
        for id in before.ids() {
            assert_eq!(before.find(id).unwrap().secret, after.find(id).unwrap().secret);
        }
    }

    #[test]
    fn a_damaged_file_is_reported_without_quoting_it() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(file(dir.path()), "[[caller]]\nid = \"a\"\nsecret = hunter2").unwrap();
        let error = Callers::load(&file(dir.path())).unwrap_err();
        assert!(!format!("{error:#}").contains("hunter2"));
    }
}
