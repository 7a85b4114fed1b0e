//! What integration-api is configured with.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
};

use serde::Deserialize;
use shared::{
    id::{OrganizationId, TenantId},
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
    /// Programs of the customer's that call with a client certificate instead of a token. Needs `tls.client_ca_file`.
    pub services: Vec<CertifiedService>,
}

/// A program that calls with a client certificate, and what it may.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CertifiedService {
    /// A subject alternative name of its certificate: a DNS name, or a URI such as `spiffe://acme/feeds`.
    pub san: String,
    /// Name for display in the audit log; the `san` unless given.
    pub name: String,
    /// Organization.
    pub organization: Option<OrganizationId>,
    /// Tenants it may work in.
    pub tenants: BTreeSet<TenantId>,
    /// Roles, as in tokens; never `approver`, which a person holds.
    pub roles: Vec<String>,
}

/// Certificate and key of the public gRPC port (PEM files).
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PublicTls {
    /// Certificate chain.
    pub cert_file: PathBuf,
    /// Private key.
    pub key_file: PathBuf,
    /// The authority of client certificates. With it the port asks for one; a caller without still needs a token.
    pub client_ca_file: Option<PathBuf>,
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
    /// What the issuer's roles or groups are here. Unless empty, only these count: a group that happens to be called
    /// `org_admin` grants nothing.
    pub roles: Vec<RoleMapping>,
    /// Which tenant the issuer's groups or application roles stand for. Unless empty, only these count; otherwise the
    /// claim holds ids.
    pub tenants: Vec<TenantMapping>,
    /// The organization of every caller whose token names none.
    pub organization: Option<OrganizationId>,
    /// What marks a token without a person, beside a `sub` that is the client's own id: claims and their values.
    pub services: BTreeMap<String, String>,
}

/// What one of the issuer's roles or groups is here.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RoleMapping {
    /// The value in the claim, exactly.
    pub theirs: String,
    /// Our roles.
    pub ours: Vec<String>,
}

/// Which tenant one of the issuer's groups stands for.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TenantMapping {
    /// The value in the claim, exactly.
    pub theirs: String,
    /// Our tenant.
    pub tenant: TenantId,
}

impl Default for OidcConfig {
    fn default() -> Self {
        Self {
            issuer: String::new(),
            audience: String::new(),
            algorithms: ["RS256", "PS256", "ES256", "EdDSA"].map(str::to_owned).to_vec(),
            ca_file: None,
            claims: ClaimNames::default(),
            roles: Vec::new(),
            tenants: Vec::new(),
            organization: None,
            // Entra ID and Auth0.
            services: [("idtyp", "app"), ("gty", "client-credentials")]
                .map(|(claim, value)| (claim.to_owned(), value.to_owned()))
                .into(),
        }
    }
}

/// Names of the claims that say who a caller is: a claim, or the path to one inside others, `realm_access.roles`. A claim
/// whose own name has dots is found first.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ClaimNames {
    /// Organization (UUID).
    pub organization: String,
    /// Tenants (list of UUIDs, or of what `oidc.tenants` maps).
    pub tenants: String,
    /// Roles (list of names, or of what `oidc.roles` maps).
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
            if let Some(file) = &tls.client_ca_file {
                faults.require_file(file, "api.tls.client_ca_file");
            }
        }
        let certificates = api.tls.as_ref().is_some_and(|tls| tls.client_ca_file.is_some());
        faults.require(
            api.services.is_empty() || certificates,
            "api.services",
            "needs api.tls.client_ca_file, the authority of their certificates",
        );
        let mut sans = BTreeSet::new();
        for service in &api.services {
            faults.require(
                !service.san.is_empty() && sans.insert(&service.san),
                "api.services.san",
                "must be a name of its own",
            );
            check_roles(&service.roles, "api.services.roles", faults);
            faults.require(
                !service.roles.iter().any(|role| role == "approver"),
                "api.services.roles",
                "never hold approver: a person approves",
            );
        }
        for mapping in &oidc.roles {
            faults.require(!mapping.theirs.is_empty(), "oidc.roles.theirs", "is required");
            check_roles(&mapping.ours, "oidc.roles.ours", faults);
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

fn check_roles(names: &[String], path: &str, faults: &mut Faults) {
    faults.require(!names.is_empty(), path, "must name at least one role");
    for name in names {
        faults.require(crate::auth::role(name).is_some(), path, "may hold the names of our roles only");
    }
}
