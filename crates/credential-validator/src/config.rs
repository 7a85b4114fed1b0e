//! The validator's own configuration.

use std::path::PathBuf;

use serde::Deserialize;
use shared::{
    provider::http::EgressConfig,
    rotation::RotationConfig,
    sealing::KeySourceConfig,
    service::{Common, Configuration, Faults},
};

/// Everything the validator is configured with. No setting changes the attempt budget.
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
    pub validator: Tuning,
}

/// Where its keys come from.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Keys {
    /// Top key of purpose `integration`.
    pub integration: KeySourceConfig,
    /// Top key of purpose `leak`.
    pub leak: KeySourceConfig,
    /// Key of the digests, 64 hexadecimal digits. Only the validator has it.
    pub digest: PathBuf,
    /// How the key pairs of purpose `leak` are rotated.
    pub rotation: RotationConfig,
}

/// How the validator works.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Tuning {
    /// Exposures handled at once by this process.
    pub concurrency: u16,
    /// Batches of feed records matched at once by this process.
    pub matching: u16,
    /// Exposures in flight per tenant and directory, all replicas together.
    pub in_flight: u32,
    /// Days after which a leaked secret that proved nothing is destroyed.
    pub retention_days: u32,
    /// The deployment declares that a failover of the database loses no acknowledged commit: `synchronous_mode_strict` of
    /// Patroni, or as strict. A failover then does not stop attempts for a day. It counts only while PostgreSQL is seen
    /// to wait for a synchronous replica.
    pub synchronous_replication: bool,
}

impl Default for Tuning {
    fn default() -> Self {
        Self {
            concurrency: 16,
            matching: 2,
            in_flight: 64,
            retention_days: 30,
            synchronous_replication: false,
        }
    }
}

impl Configuration for Config {
    fn common(&self) -> &Common {
        &self.common
    }

    fn check(&self, faults: &mut Faults) {
        self.keys.integration.check(faults, "keys.integration");
        self.idp.check(faults, "idp");
        self.keys.leak.check(faults, "keys.leak");
        self.keys.rotation.check(faults, "keys.rotation");
        faults.require_file(&self.keys.digest, "keys.digest");
        let tuning = &self.validator;
        faults.require(
            (1..=1000).contains(&tuning.concurrency),
            "validator.concurrency",
            "must be 1 to 1000",
        );
        faults.require((1..=32).contains(&tuning.matching), "validator.matching", "must be 1 to 32");
        faults.require((1..=1000).contains(&tuning.in_flight), "validator.in_flight", "must be 1 to 1000");
        faults.require(
            (1..=3650).contains(&tuning.retention_days),
            "validator.retention_days",
            "must be 1 to 3650",
        );
    }
}
