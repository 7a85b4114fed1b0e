//! How Vault is reached.

use std::path::PathBuf;

use serde::Deserialize;

/// How Vault is reached, and which of its keys are used.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VaultConfig {
    /// `https://host:port`.
    pub address: url::Url,
    /// PEM file of the authorities that may vouch for it; the system's when absent.
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
    /// Namespace, for Vault Enterprise.
    #[serde(default)]
    pub namespace: Option<String>,
    /// Where the transit engine is mounted.
    #[serde(default = "transit")]
    pub mount: String,
    /// The transit key that wraps.
    pub key: String,
    /// The transit key that signs.
    pub signing_key: String,
    /// Which version of it signs. Raise it when every integration-api has the public half.
    #[serde(default = "first")]
    pub signing_version: u32,
    /// File with a token; read anew for each call, since agents renew it there.
    #[serde(default)]
    pub token_file: Option<PathBuf>,
    /// Or: log in with the pod's service account.
    #[serde(default)]
    pub kubernetes: Option<KubernetesConfig>,
    /// Longest wait for an answer, in seconds.
    #[serde(default = "patience")]
    pub timeout_seconds: u64,
}

/// Login by Vault's Kubernetes method.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KubernetesConfig {
    /// The role.
    pub role: String,
    /// Where the method is mounted.
    #[serde(default = "kubernetes")]
    pub mount: String,
    /// The service account's token.
    #[serde(default = "account_token")]
    pub token_file: PathBuf,
}

fn transit() -> String {
    "transit".into()
}
fn kubernetes() -> String {
    "kubernetes".into()
}
fn account_token() -> PathBuf {
    "/var/run/secrets/kubernetes.io/serviceaccount/token".into()
}
const fn first() -> u32 {
    1
}
const fn patience() -> u64 {
    3
}

impl VaultConfig {
    /// What is wrong with it, by field.
    pub fn faults(&self) -> Vec<(&'static str, &'static str)> {
        let mut faults = Vec::new();
        let mut require = |holds: bool, field, fault| {
            if !holds {
                faults.push((field, fault));
            }
        };
        require(
            self.address.scheme() == "https" && self.address.has_host(),
            "address",
            "must be https://host:port",
        );
        require(
            self.token_file.is_some() != self.kubernetes.is_some(),
            "token_file",
            "give a token file or kubernetes, and not both",
        );
        let plain = |name: &str| {
            !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_./".contains(&b))
        };
        require(plain(&self.mount), "mount", "may hold letters, digits and -_./");
        require(plain(&self.key), "key", "may hold letters, digits and -_./");
        require(plain(&self.signing_key), "signing_key", "may hold letters, digits and -_./");
        require(self.signing_version > 0, "signing_version", "must be above 0");
        require((1..=30).contains(&self.timeout_seconds), "timeout_seconds", "must be 1 to 30");
        faults
    }
}
