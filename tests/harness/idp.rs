//! The simulator as services meet it: the providers' own host names over TLS, with a CA of its own.

use std::path::PathBuf;
use std::sync::Arc;

use idp_simulator::faults::Fault;
use idp_simulator::log::{Change, Event, Submission};
use idp_simulator::model::Directory;
use parapet::certs::Certificates;
use serde_json::Value;
use shared::provider::{Account, Cursor, Listing, Next, Provider, ProviderError};
use shared::provider::{
    http::{Egress, EgressConfig},
    resolver::FixedAddress,
};

/// A running simulator and the way to it.
#[derive(Debug)]
pub struct Idp {
    /// The simulator, with its state in reach.
    pub simulator: idp_simulator::Running,
    dir: tempfile::TempDir,
}

impl Idp {
    /// Starts one on free ports.
    pub async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let certificates = Certificates::prepare(dir.path(), &[]).unwrap();
        let files = certificates.of("idp-simulator");
        let config = idp_simulator::Config {
            tls: Some((files.cert, files.key)),
            ca: Some(certificates.ca()),
            ..idp_simulator::Config::default()
        };
        Self { simulator: idp_simulator::start(config).await.unwrap(), dir }
    }

    /// The certificate authority to trust.
    pub fn ca(&self) -> PathBuf {
        self.dir.path().join("ca.pem")
    }

    /// The deployment configuration that leads the providers' names here.
    pub fn egress_config(&self) -> EgressConfig {
        let names = ["login.microsoftonline.com", "graph.microsoft.com", "okta.com", "login.acme.example"];
        let fixed = |name: &str| FixedAddress { suffix: name.to_owned(), address: self.simulator.addr };
        EgressConfig {
            extra_ca: Some(self.ca()),
            proxy: None,
            resolve: names.into_iter().map(fixed).collect(),
            ..EgressConfig::default()
        }
    }

    /// Egress that leads here.
    pub fn egress(&self) -> Egress {
        Egress::new(&self.egress_config()).unwrap()
    }

    /// Creates or replaces a directory.
    pub fn directory(&self, spec: Value) -> Arc<Directory> {
        self.simulator.world.put(serde_json::from_value(spec).unwrap()).unwrap()
    }

    /// Adds a fault.
    pub fn fault(&self, fault: Value) {
        let fault: Fault = serde_json::from_value(fault).unwrap();
        self.simulator.world.faults.add(fault);
    }

    /// The owner of an account signs in at the directory's own page.
    pub async fn sign_in(&self, directory: &str, account: &str) {
        self.as_owner(directory, account, "sign-in", serde_json::json!({})).await;
    }

    /// The owner of an account mistypes.
    pub async fn mistype(&self, directory: &str, account: &str, times: u32) {
        self.as_owner(directory, account, "wrong-passwords", serde_json::json!({ "count": times })).await;
    }

    async fn as_owner(&self, directory: &str, account: &str, what: &str, body: Value) {
        let base = self.simulator.control_url();
        let client = reqwest::Client::builder().timeout(std::time::Duration::from_secs(30)).build().unwrap();
        let request = client.post(format!("{base}/directories/{directory}/accounts/{account}/{what}"));
        request.json(&body).send().await.unwrap().error_for_status().unwrap();
    }

    /// Password submissions over the wire so far.
    pub fn submissions(&self) -> Vec<Submission> {
        let entries = self.simulator.world.log.after(0, usize::MAX, |_| true);
        let submission = |event| if let Event::Submission(s) = event { Some(s) } else { None };
        entries.into_iter().filter_map(|entry| submission(entry.event)).collect()
    }

    /// Changes of accounts so far.
    pub fn changes(&self) -> Vec<Change> {
        let entries = self.simulator.world.log.after(0, usize::MAX, |_| true);
        let change = |event| if let Event::Change(c) = event { Some(c) } else { None };
        entries.into_iter().filter_map(|entry| change(entry.event)).collect()
    }
}

/// Walks a listing to its end; returns the accounts in order and where changes begin.
pub async fn walk(
    provider: &dyn Provider,
    listing: Listing,
    from: Option<Cursor>,
) -> Result<(Vec<Account>, Cursor), ProviderError> {
    let (mut all, mut at) = (Vec::new(), from);
    loop {
        let page = provider.accounts(listing, at.as_ref()).await?;
        all.extend(page.accounts);
        match page.next {
            Next::Page(cursor) => at = Some(cursor),
            Next::End(cursor) => return Ok((all, cursor.unwrap())),
        }
    }
}
