//! The Okta adapter against the simulator: real names, real TLS, real permits.

mod connection;
mod containment;
mod memberships;
mod reading;
mod sign_in;

use std::sync::Arc;

use e2e::{Idp, walk};
use idp_simulator::model::{Directory, Settings};
use serde_json::{Value, json};
use shared::integration::OktaConnection;
use shared::provider::okta::{Okta, keys};
use shared::provider::{Account, Cursor, Listing, Provider, ProviderError};

const CLIENT: &str = "0oaparapet0000000001";
const ORG: &str = "00oacme0000000000001";
const SCOPES: [&str; 6] = [
    "okta.users.read",
    "okta.users.manage",
    "okta.policies.read",
    "okta.roles.read",
    "okta.userRisk.manage",
    "okta.userRisk.read",
];

/// An org, an adapter for it, and the simulator both live on.
struct Stage {
    idp: Idp,
    okta: Okta,
    directory: Arc<Directory>,
    key: keys::ClientKey,
}

impl Stage {
    /// An org whose settings and service app are the defaults with these changes.
    async fn with(settings: Value, app: Value, accounts: Value) -> Self {
        let idp = Idp::start().await;
        let key = keys::generate().unwrap();
        let mut service = json!({"client_id": CLIENT, "scopes": SCOPES, "roles": ["SUPER_ADMIN"],
            "jwks": keys::jwks(std::slice::from_ref(&key.public))});
        merge(&mut service, app);
        let mut org =
            json!({"org_id": ORG, "subdomain": "acme", "mail_domain": "acme.example", "apps": [service]});
        merge(&mut org, settings);
        let mut spec = json!({"name": "Acme", "provider": {"okta": org}});
        merge(&mut spec, accounts);
        let directory = idp.directory(spec);
        let okta = adapter(&idp, "https://ACME.okta.com/", &key);
        Self { idp, okta, directory, key }
    }

    /// Another adapter for the same org.
    fn another(&self) -> Okta {
        adapter(&self.idp, "acme.okta.com", &self.key)
    }

    /// Some people told one by one.
    async fn people(settings: Value) -> Self {
        Self::with(settings, json!({}), json!({"accounts": people()})).await
    }

    /// A directory of generated accounts.
    async fn generated(count: u64) -> Self {
        Self::with(json!({}), json!({}), json!({"generated": {"seed": 7, "count": count}})).await
    }

    fn patch_settings(&self, patch: Value) {
        let Settings::Okta(okta) = &*self.directory.settings() else { panic!("not an Okta org") };
        let mut merged = serde_json::to_value(okta).unwrap();
        merge(&mut merged, patch);
        self.directory.set_settings(Settings::Okta(serde_json::from_value(merged).unwrap()));
    }

    fn patch(&self, login: &str, patch: Value) {
        let id = self.id(login);
        let now = self.idp.simulator.world.now();
        self.directory.accounts.patch(&id, &patch, now).unwrap().unwrap();
    }

    fn id(&self, login: &str) -> String {
        self.directory.accounts.by_login(login).unwrap().id
    }

    async fn account(&self, login: &str) -> Account {
        self.okta.account(&self.id(login)).await.unwrap().unwrap()
    }

    /// Walks a listing to its end.
    async fn walk(
        &self,
        listing: Listing,
        from: Option<Cursor>,
    ) -> Result<(Vec<Account>, Cursor), ProviderError> {
        walk(&self.okta, listing, from).await
    }
}

fn adapter(idp: &Idp, host: &str, key: &keys::ClientKey) -> Okta {
    let connection = OktaConnection { host: host.into(), client_id: CLIENT.into() };
    Okta::new(&connection, &key.kid, &key.pkcs8, idp.egress()).unwrap()
}

fn people() -> Value {
    json!([
        {"login": "ann@acme.example", "password": "right horse battery", "given_name": "Ann", "family_name": "Lee"},
        {"login": "mfa@acme.example", "password": "right horse battery", "second_factor": "required"},
        {"login": "enrol@acme.example", "password": "right horse battery", "second_factor": "unregistered"},
        {"login": "old@acme.example", "password": "right horse battery", "password_expired": true},
        {"login": "gone@acme.example", "password": "right horse battery", "status": "deprovisioned"},
        {"login": "off@acme.example", "password": "right horse battery", "status": "suspended"},
        {"login": "boss@acme.example", "password": "right horse battery", "roles": ["ORG_ADMIN"]},
        {"login": "fed@acme.example", "authority": "federated"},
        {"login": "warn@acme.example", "password": "right horse battery", "gate": "PASSWORD_WARN"},
        {"login": "denied@acme.example", "password": "right horse battery", "gate": "E0000085"},
    ])
}

/// Overlays one JSON object on another; arrays are replaced.
fn merge(target: &mut Value, patch: Value) {
    idp_simulator::model::merge(target, &patch);
}
