//! What integration-api is configured with.

use std::path::PathBuf;

use serde::Deserialize;
use shared::{
    provider::okta::host::ApprovedDomains,
    service::{Common, Configuration, Faults},
};
use url::Url;

/// The whole configuration.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// What every service has. Peers: `identity-sync-worker`, `mitigation-executor` and `audit-writer`.
    pub common: Common,
    /// The public API.
    pub api: ApiConfig,
    /// Who issues callers' tokens.
    pub oidc: OidcConfig,
    /// The public files of the sealing purposes.
    pub keys: KeysConfig,
    /// What the directories' hosts may be.
    pub idp: IdpConfig,
    /// Bounds.
    pub limits: Limits,
}

/// What the directories' hosts may be. This service calls none of them.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct IdpConfig {
    /// Approved custom domains of Okta orgs, for example `["login.acme.com"]`. Set the same for the workers.
    pub okta_domains: ApprovedDomains,
}

/// The public API.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ApiConfig {
    /// Where the plain port is reached from outside, for example `https://parapet.example.com`: the base of the JWKS
    /// URLs that Okta fetches.
    pub public_url: String,
    /// Certificate and key of the public gRPC port; without them it is plain, for a proxy that ends TLS.
    pub tls: Option<PublicTls>,
}

/// Certificate and key of the public gRPC port (PEM files).
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PublicTls {
    /// Certificate chain.
    pub cert_file: PathBuf,
    /// Private key.
    pub key_file: PathBuf,
}

/// Who issues callers' tokens and what their claims are called.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct OidcConfig {
    /// The issuer, exactly as in the `iss` claim. Its discovery document names the key set.
    pub issuer: String,
    /// The audience tokens must be for.
    pub audience: String,
    /// Accepted signature algorithms, of RS256, PS256, ES256 and EdDSA.
    pub algorithms: Vec<String>,
    /// Certificate authority of the issuer (PEM) beside the system's.
    pub ca_file: Option<PathBuf>,
    /// Names of the claims.
    pub claims: ClaimNames,
}

impl Default for OidcConfig {
    fn default() -> Self {
        Self {
            issuer: String::new(),
            audience: String::new(),
            algorithms: ["RS256", "PS256", "ES256", "EdDSA"].map(str::to_owned).to_vec(),
            ca_file: None,
            claims: ClaimNames::default(),
        }
    }
}

/// Names of the claims that say who a caller is.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ClaimNames {
    /// Organization (UUID).
    pub organization: String,
    /// Tenants (list of UUIDs).
    pub tenants: String,
    /// Roles (list of names).
    pub roles: String,
    /// Display name.
    pub name: String,
}

impl Default for ClaimNames {
    fn default() -> Self {
        Self {
            organization: "org".into(),
            tenants: "tenants".into(),
            roles: "roles".into(),
            name: "name".into(),
        }
    }
}

/// The public files of the sealing purposes: with them this service can seal, and nothing else.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct KeysConfig {
    /// Of purpose `integration`.
    pub integration_verifier: PathBuf,
    /// Of purpose `leak`.
    pub leak_verifier: PathBuf,
}

/// Bounds.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Unsent messages beyond which new feed batches and requests are turned away.
    pub outbox_rows: i64,
    /// Feed streams at once.
    pub feed_streams: usize,
    /// Days a feed record keeps its sealed secret.
    pub retention_days: u16,
}

impl Default for Limits {
    fn default() -> Self {
        Self { outbox_rows: 20_000, feed_streams: 32, retention_days: 30 }
    }
}

/// The name of the sync worker among the peers.
pub const SYNC_WORKER: &str = "identity-sync-worker";
/// The name of the mitigation executor among the peers.
pub const EXECUTOR: &str = "mitigation-executor";
/// The name of the audit writer among the peers.
pub const AUDIT_WRITER: &str = "audit-writer";

impl Configuration for Config {
    fn common(&self) -> &Common {
        &self.common
    }

    fn check(&self, faults: &mut Faults) {
        let Self { common, api, oidc, keys, idp: _, limits } = self;
        for peer in [SYNC_WORKER, EXECUTOR, AUDIT_WRITER] {
            faults.require(common.peers.contains_key(peer), &format!("common.peers.{peer}"), "is required");
        }
        faults.require(
            Url::parse(&api.public_url).is_ok_and(|u| matches!(u.scheme(), "http" | "https") && u.has_host()),
            "api.public_url",
            "must be the http(s) address under which the plain port is reached from outside",
        );
        if let Some(tls) = &api.tls {
            faults.require_file(&tls.cert_file, "api.tls.cert_file");
            faults.require_file(&tls.key_file, "api.tls.key_file");
        }
        // Whoever can answer in the issuer's place can sign anybody in.
        let issuer_is_safe = Url::parse(&oidc.issuer).is_ok_and(|u| match u.host() {
            Some(url::Host::Ipv4(ip)) if ip.is_loopback() => true,
            Some(url::Host::Ipv6(ip)) if ip.is_loopback() => true,
            Some(url::Host::Domain("localhost")) => true,
            Some(_) => u.scheme() == "https",
            None => false,
        });
        faults.require(
            issuer_is_safe,
            "oidc.issuer",
            "must be an https address (http only on the loopback interface)",
        );
        faults.require(!oidc.audience.is_empty(), "oidc.audience", "is required");
        faults.require(!oidc.algorithms.is_empty(), "oidc.algorithms", "must name at least one");
        for name in &oidc.algorithms {
            faults.require(
                crate::auth::algorithm(name).is_some(),
                "oidc.algorithms",
                "may hold RS256, PS256, ES256 and EdDSA only",
            );
        }
        if let Some(file) = &oidc.ca_file {
            faults.require_file(file, "oidc.ca_file");
        }
        faults.require_file(&keys.integration_verifier, "keys.integration_verifier");
        faults.require_file(&keys.leak_verifier, "keys.leak_verifier");
        faults.require(limits.outbox_rows > 0, "limits.outbox_rows", "must be above 0");
        faults.require((1..=1024).contains(&limits.feed_streams), "limits.feed_streams", "must be 1 to 1024");
        faults.require(limits.retention_days > 0, "limits.retention_days", "must be above 0");
    }
}
