//! The executor's own configuration.

use serde::Deserialize;
use shared::{
    provider::http::EgressConfig,
    sealing::KeySourceConfig,
    service::{Common, Configuration, Faults},
};

/// Everything the executor is configured with.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// What every service has.
    pub common: Common,
    /// How to reach the directories.
    pub idp: EgressConfig,
    /// Key files.
    pub keys: Keys,
    /// How it works.
    pub executor: Tuning,
}

/// Where its keys come from.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Keys {
    /// Top key of purpose `integration`.
    pub integration: KeySourceConfig,
}

/// How the executor works.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Tuning {
    /// Actions carried out at once by this process.
    pub concurrency: u16,
    /// Actions in flight per tenant and directory, all replicas together.
    pub in_flight: u32,
    /// Seconds after an action at which the account is read again: the first shows whether it took effect, the later
    /// ones whether it stuck. A directory that is written back from Active Directory undoes a change within 30 minutes.
    pub check_after_seconds: Vec<u32>,
}

impl Default for Tuning {
    fn default() -> Self {
        Self { concurrency: 32, in_flight: 64, check_after_seconds: vec![0, 60, 2100, 3900] }
    }
}

impl Configuration for Config {
    fn common(&self) -> &Common {
        &self.common
    }

    fn check(&self, faults: &mut Faults) {
        self.keys.integration.check(faults, "keys.integration");
        self.idp.check(faults, "idp");
        faults.require(self.common.tls.is_some(), "common.tls", "is required");
        let tuning = &self.executor;
        faults.require((1..=1000).contains(&tuning.concurrency), "executor.concurrency", "must be 1 to 1000");
        faults.require((1..=1000).contains(&tuning.in_flight), "executor.in_flight", "must be 1 to 1000");
        let checks = &tuning.check_after_seconds;
        faults.require(
            (1..=10).contains(&checks.len()) && checks.is_sorted() && checks.iter().all(|s| *s <= 86_400),
            "executor.check_after_seconds",
            "must be 1 to 10 ascending numbers of at most 86400",
        );
    }
}
