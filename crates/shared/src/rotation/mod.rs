//! Rotation of keys, and what goes with it: which process has loaded which top key, what wraps what, and what becomes of a
//! deleted tenant (design §8). The same for both purposes: the service that owns a purpose's key pairs has the tables of
//! these names in its own schema, so that no statement here names one.
//!
//! - [`Holder`] tells which top keys a process has, and keeps them up to date; in every service that is given any.
//! - [`Rotation`] wraps private halves again and seals again what an older key pair sealed; in the owning service.
//! - [`forget_deleted`] removes the rows of deleted tenants; in every service.

mod deleted;
mod holder;
mod pairs;
mod store;
mod store_holders;
mod top;

use std::{sync::Arc, time::Duration};

use serde::Deserialize;
use tokio_util::sync::CancellationToken;

pub use self::{
    deleted::forget_deleted,
    holder::{Holder, Holding},
};
use crate::{
    db::{Db, StoreError},
    sealing::{SealError, TopKeys},
    service::Faults,
};

/// How key pairs are rotated.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RotationConfig {
    /// A key pair is replaced when it is so many days old; 0: only when somebody asks.
    pub every_days: u32,
    /// Rows of one tenant sealed again in a second, by each process that works at it.
    pub rows_per_second: u32,
    /// A replaced private half is destroyed at the earliest so many seconds after its successor was made: what was sealed at
    /// that moment may still be on its way.
    pub grace_seconds: u32,
}

impl Default for RotationConfig {
    fn default() -> Self {
        Self { every_days: 90, rows_per_second: 500, grace_seconds: 60 }
    }
}

impl RotationConfig {
    /// Adds what is wrong with it.
    pub fn check(&self, faults: &mut Faults, path: &str) {
        let Self { every_days, rows_per_second, grace_seconds } = *self;
        faults.require(every_days <= 3650, &format!("{path}.every_days"), "must be 0 to 3650");
        faults.require(
            (1..=100_000).contains(&rows_per_second),
            &format!("{path}.rows_per_second"),
            "must be 1 to 100000",
        );
        faults.require(grace_seconds <= 86_400, &format!("{path}.grace_seconds"), "must be 0 to 86400");
    }
}

/// Why a key was not rotated.
#[derive(Debug, thiserror::Error)]
pub enum RotationError {
    /// A key is missing, or something does not open.
    #[error(transparent)]
    Seal(#[from] SealError),
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// What was stored is not what was sealed.
    #[error("{0} was read back and does not open to what was sealed")]
    ReadBack(&'static str),
}

impl From<sqlx::Error> for RotationError {
    fn from(error: sqlx::Error) -> Self {
        Self::Store(error.into())
    }
}

/// A sealed column that a purpose's key pairs protect, with the SQL that reads and writes it in the transaction of its owner.
#[derive(Clone, Copy, Debug)]
pub struct SealedColumn {
    /// As [`crate::sealing::column`] names it.
    pub place: &'static str,
    /// The next rows not sealed to the key version $2, after the row $1, at most $3: id, version of the payload, envelope.
    pub select: &'static str,
    /// Replaces the envelope $3 of the row $1 and payload version $2 by $4 and returns what is stored; no row when it is
    /// another one by now.
    pub update: &'static str,
}

/// What rotates the keys of one purpose.
#[derive(Debug)]
pub struct Rotation {
    /// The service, for the audit log.
    pub service: &'static str,
    /// The database, as the owner of the key pairs.
    pub db: Db,
    /// The purpose's top keys.
    pub top: Arc<TopKeys>,
    /// What a tenant's key pair protects.
    pub of_tenants: &'static [SealedColumn],
    /// What the installation's key pair protects; empty when it has none.
    pub of_installation: &'static [SealedColumn],
    /// How.
    pub config: RotationConfig,
}

const LOOK: Duration = Duration::from_millis(500);
/// Every how manieth look is for what nobody asked for: pairs that grew old, halves that a process which had not heard of a
/// rotation made under the key before.
const THOROUGH: u32 = 20;

impl Rotation {
    /// Rotates what is asked for and what is due, until asked to stop.
    pub async fn run(self, stop: CancellationToken) -> anyhow::Result<()> {
        let mut looks = 0_u32;
        loop {
            let mut rest = LOOK;
            let thorough = looks.is_multiple_of(THOROUGH);
            looks = looks.wrapping_add(1);
            if let Err(error) = self.rotate_top(thorough).await {
                tracing::warn!(%error, purpose = self.top.purpose().as_str(), "private halves not wrapped again; it is tried again");
            }
            match self.rotate_pairs(thorough).await {
                Ok(worked) => rest = worked.unwrap_or(LOOK),
                Err(error) => {
                    tracing::warn!(%error, purpose = self.top.purpose().as_str(), "a key pair was not rotated; it is tried again");
                }
            }
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                () = tokio::time::sleep(rest) => {}
            }
        }
    }
}
