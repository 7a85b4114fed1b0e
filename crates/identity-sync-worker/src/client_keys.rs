//! Client keys of Okta integrations: made at first sight, and rotated in five steps, so that no token call fails at an org that
//! keeps our key set for a while: publish the next key, wait until every cache has it, sign with it once a token call has
//! proven it, keep the old one published, destroy it (reliability.md §4.5).
//!
//! Each step is one transaction on the integration's row, which says when the next one is due by the database's clock: any
//! replica goes on where another stopped.

use std::{sync::Arc, time::Duration};

use serde::Deserialize;
use shared::{
    audit::{self, Actor, Event, EventType, Outcome, names},
    db::{Db, Tx},
    id::{IntegrationId, TenantId},
    integration::Connection,
    integration_store::{self, Sealed},
    provider::{
        ProviderError,
        directory::{ConnectError, Directories},
        okta::{self, rotation},
    },
    sealing::{Owner, column},
    service::Faults,
};
use tokio_util::sync::CancellationToken;

use crate::{
    NAME,
    keys::KeyError,
    store_client_keys::{self as store, Due, Step},
    store_keys,
};

const LOOK: Duration = Duration::from_millis(500);
/// Every how manieth look is for keys that grew old.
const THOROUGH: u32 = 20;
/// How long a token call may take; less than the lease of a step (30 s).
const PATIENCE: Duration = Duration::from_secs(20);
/// Seconds until a failed proof is tried again, the first time and at most: each wait is twice the one before.
const PLANNED_AGAIN: (f64, f64) = (10.0, 600.0);
const EMERGENCY_AGAIN: (f64, f64) = (1.0, 30.0);

/// How client keys are rotated.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ClientKeyConfig {
    /// A client key is replaced when it is so many days old; 0: only when somebody asks.
    pub every_days: u32,
    /// Seconds for which a key is published before it signs, at least [`rotation::PUBLISHED_AT_LEAST`]: longer than any
    /// directory keeps our key set. How long Okta does is not documented (okta.md §1.3); we say 300 seconds.
    pub publish_seconds: u32,
    /// Seconds for which a key stays published after another signs, at least [`rotation::KEPT_AT_LEAST`]: until nothing
    /// that it signed can be on its way.
    pub keep_seconds: u32,
}

impl Default for ClientKeyConfig {
    fn default() -> Self {
        Self { every_days: 90, publish_seconds: 86_400, keep_seconds: 86_400 }
    }
}

impl ClientKeyConfig {
    /// Adds what is wrong with it.
    pub(crate) fn check(&self, faults: &mut Faults, path: &str) {
        let Self { every_days, publish_seconds, keep_seconds } = *self;
        faults.require(every_days <= 3650, &format!("{path}.every_days"), "must be 0 to 3650");
        for (name, seconds, least) in [
            ("publish_seconds", publish_seconds, rotation::PUBLISHED_AT_LEAST),
            ("keep_seconds", keep_seconds, rotation::KEPT_AT_LEAST),
        ] {
            faults.require(
                (least.as_secs()..=2_592_000).contains(&seconds.into()),
                &format!("{path}.{name}"),
                &format!("must be {} to 2592000", least.as_secs()),
            );
        }
    }
}

/// Why a key was not proven.
#[derive(Debug, thiserror::Error)]
enum Unproven {
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error(transparent)]
    Provider(#[from] ProviderError),
    #[error("the directory did not answer in time")]
    Late,
}

/// Makes and rotates client keys.
#[derive(Debug)]
pub(crate) struct ClientKeys {
    pub db: Db,
    pub directories: Arc<Directories>,
    pub config: ClientKeyConfig,
}

impl ClientKeys {
    /// Takes steps that are due until asked to stop.
    pub(crate) async fn run(self: Arc<Self>, stop: CancellationToken) -> anyhow::Result<()> {
        let mut looks = 0_u32;
        loop {
            let thorough = looks.is_multiple_of(THOROUGH);
            looks = looks.wrapping_add(1);
            let worked = match self.look(thorough).await {
                Ok(worked) => worked,
                Err(error) => {
                    tracing::warn!(%error, "a client key was not rotated; it is tried again");
                    false
                }
            };
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                () = tokio::time::sleep(LOOK), if !worked => {}
                () = std::future::ready(()), if worked => {}
            }
        }
    }

    /// Takes one step that is due; false when there is none.
    async fn look(&self, thorough: bool) -> Result<bool, KeyError> {
        let mut tx = self.db.system().await?;
        if thorough {
            store::schedule(&mut tx, self.config.every_days).await?;
        }
        // A step that fails, or dies with this process, is due again when its lease has ended.
        let due = store::claim(&mut tx).await?;
        tx.commit().await?;
        let Some(due) = due else { return Ok(false) };
        match due.step {
            Step::Idle => drop(self.publish(due.tenant, due.integration, "schedule").await?),
            Step::Published => self.activate(&due).await?,
            Step::Activated => self.retire(&due).await?,
            Step::Emergency => self.accept(&due).await?,
        }
        Ok(true)
    }

    /// The public key set of an Okta integration, making its client key at first sight.
    pub(crate) async fn ensure(
        &self,
        tenant: TenantId,
        integration: IntegrationId,
    ) -> Result<serde_json::Value, KeyError> {
        let mut tx = self.db.tenant(tenant).await?;
        let present = store_keys::public_jwks(&mut tx, integration).await?;
        tx.rollback().await?;
        if let Some(jwks) = present {
            return Ok(jwks);
        }
        let made = self.make(tenant, integration).await?;
        let mut tx = self.locked(tenant, integration).await?;
        // Another call may have been first: then its key counts.
        if store::newest(&mut tx, integration).await? == 0 {
            store::insert(&mut tx, tenant, integration, &made, "signing").await?;
            store::first(&mut tx, tenant, integration).await?;
            let message = "the integration's client key was made";
            let event =
                event(tenant, integration, names::KEY_CREATED, message).detail("purpose", "client_key");
            audit::record(&mut tx, &event.detail("kid", &made.key.kid)).await?;
        }
        let jwks = store_keys::public_jwks(&mut tx, integration).await?;
        tx.commit().await?;
        jwks.ok_or(KeyError::Generate)
    }

    /// Step one: the next key is published. False when a rotation is under way.
    pub(crate) async fn publish(
        &self,
        tenant: TenantId,
        integration: IntegrationId,
        cause: &'static str,
    ) -> Result<bool, KeyError> {
        let made = self.make(tenant, integration).await?;
        let mut tx = self.locked(tenant, integration).await?;
        let step = store::lock(&mut tx, tenant, integration).await?.ok_or(KeyError::Gone)?;
        if step != Step::Idle || store::newest(&mut tx, integration).await? + 1 != made.version {
            tx.rollback().await?;
            return Ok(false);
        }
        store::insert(&mut tx, tenant, integration, &made, "next").await?;
        store::enter(&mut tx, integration, Step::Published, self.config.publish_seconds.into()).await?;
        let message =
            "the integration's next client key was published; it signs once the directory can know it";
        let event = event(tenant, integration, names::CLIENT_KEY_PUBLISHED, message).detail("cause", cause);
        audit::record(&mut tx, &event.detail("kid", &made.key.kid)).await?;
        tx.commit().await?;
        Ok(true)
    }

    /// Step three: the next key signs, once the directory has granted a token for it.
    async fn activate(&self, due: &Due) -> Result<(), KeyError> {
        let mut tx = self.db.tenant(due.tenant).await?;
        let Some(next) = integration_store::next_client_key(&mut tx, due.integration).await? else {
            return Ok(tx.rollback().await?);
        };
        if let Err(error) = self.prove(tx, due, &next).await {
            return self.failed(due, &next, &error, PLANNED_AGAIN).await;
        }
        let mut tx = self.locked(due.tenant, due.integration).await?;
        if !store::lock_claimed(&mut tx, due).await?
            || !store::activate(&mut tx, due.integration, next.version).await?
        {
            return Ok(tx.rollback().await?);
        }
        store::enter(&mut tx, due.integration, Step::Activated, self.config.keep_seconds.into()).await?;
        let message = "the integration's new client key was proven by a token call and signs from now on";
        let event = event(due.tenant, due.integration, names::CLIENT_KEY_ACTIVATED, message);
        audit::record(&mut tx, &event.detail("kid", &next.kid)).await?;
        Ok(tx.commit().await?)
    }

    /// Step five: the old key is published no longer, and its private half destroyed.
    async fn retire(&self, due: &Due) -> Result<(), KeyError> {
        let mut tx = self.locked(due.tenant, due.integration).await?;
        if !store::lock_claimed(&mut tx, due).await? {
            return Ok(tx.rollback().await?);
        }
        for kid in store::remove(&mut tx, due.tenant, due.integration, "old").await? {
            let message = "the integration's old client key was destroyed and is published no longer";
            let event = event(due.tenant, due.integration, names::CLIENT_KEY_RETIRED, message);
            audit::record(&mut tx, &event.detail("kid", kid)).await?;
        }
        store::idle(&mut tx, due.integration, self.config.every_days).await?;
        Ok(tx.commit().await?)
    }

    /// All keys there are may be known to somebody else: they are destroyed, and a new one signs at once.
    pub(crate) async fn replace(&self, tenant: TenantId, integration: IntegrationId) -> Result<(), KeyError> {
        let made = self.make(tenant, integration).await?;
        let mut tx = self.locked(tenant, integration).await?;
        store::lock(&mut tx, tenant, integration).await?.ok_or(KeyError::Gone)?;
        // INVARIANT: no version is used twice; adapters are told apart by it.
        if store::newest(&mut tx, integration).await? + 1 != made.version {
            return Err(KeyError::Changed);
        }
        let gone = store_keys::destroy_client_keys(&mut tx, tenant, integration).await?;
        store::insert(&mut tx, tenant, integration, &made, "unproven").await?;
        store::enter(&mut tx, integration, Step::Emergency, 0.0).await?;
        let message =
            "the integration's client keys were destroyed and replaced by a new one, which signs at once";
        let event = event(tenant, integration, names::CLIENT_KEY_EMERGENCY, message)
            .detail("kid", &made.key.kid)
            .detail("destroyed", gone.join(" "));
        audit::record(&mut tx, &event).await?;
        Ok(tx.commit().await?)
    }

    /// The end of an emergency: the directory has fetched the new key.
    async fn accept(&self, due: &Due) -> Result<(), KeyError> {
        let mut tx = self.db.tenant(due.tenant).await?;
        let signing = integration_store::sealed_client_key(&mut tx, due.integration).await?;
        let Some(signing) = signing.filter(|key| key.unproven) else {
            return Ok(tx.rollback().await?);
        };
        if let Err(error) = self.prove(tx, due, &signing).await {
            return self.failed(due, &signing, &error, EMERGENCY_AGAIN).await;
        }
        let mut tx = self.locked(due.tenant, due.integration).await?;
        if !store::lock_claimed(&mut tx, due).await?
            || !store::accept(&mut tx, due.integration, signing.version).await?
        {
            return Ok(tx.rollback().await?);
        }
        store::idle(&mut tx, due.integration, self.config.every_days).await?;
        let message = "the directory has accepted the integration's new client key";
        let event = event(due.tenant, due.integration, names::CLIENT_KEY_ACTIVATED, message);
        audit::record(&mut tx, &event.detail("kid", &signing.kid)).await?;
        Ok(tx.commit().await?)
    }

    /// Gets a token with a key. Where no application is named yet nobody signs, and there is nothing to prove.
    async fn prove(&self, mut tx: Tx, due: &Due, key: &Sealed) -> Result<(), Unproven> {
        let integration =
            integration_store::integration(&mut tx, due.integration).await.map_err(ConnectError::from)?;
        let Some(integration) = integration else {
            return Ok(tx.rollback().await.map_err(ConnectError::from)?);
        };
        let named = matches!(&integration.connection, Connection::Okta(okta) if !okta.client_id.is_empty());
        let okta =
            if named { Some(self.directories.connect_with(&mut tx, &integration, key).await?) } else { None };
        tx.rollback().await.map_err(ConnectError::from)?;
        let Some(okta) = okta else { return Ok(()) };
        tokio::time::timeout(PATIENCE, okta.prove()).await.map_err(|_| Unproven::Late)??;
        Ok(())
    }

    async fn failed(
        &self,
        due: &Due,
        key: &Sealed,
        error: &Unproven,
        again: (f64, f64),
    ) -> Result<(), KeyError> {
        tracing::warn!(tenant = %due.tenant, integration = %due.integration, kid = key.kid, %error, "client key not proven");
        let mut tx = self.db.tenant(due.tenant).await?;
        let tries = store::failed(&mut tx, due, &error.to_string(), again.0, again.1).await?;
        if tries == Some(1) {
            let message = match due.step {
                Step::Emergency => "the directory does not accept the integration's new client key yet",
                _ => "the integration's next client key could not be proven; the old one stays in use",
            };
            let event = Event::new(
                Some(due.tenant),
                names::CLIENT_KEY_UNPROVEN,
                Actor::Service(NAME),
                Outcome::Failure,
                message,
            );
            let event = event.integration(due.integration).detail("kid", &key.kid);
            audit::record(&mut tx, &event.detail("error", error)).await?;
        }
        Ok(tx.commit().await?)
    }

    /// A new key, sealed as the version after the newest.
    async fn make(&self, tenant: TenantId, integration: IntegrationId) -> Result<store::Made, KeyError> {
        let mut tx = self.db.tenant(tenant).await?;
        let sealing = store_keys::public_sealing_key(&mut tx, tenant).await?;
        let version = store::newest(&mut tx, integration).await? + 1;
        tx.rollback().await?;
        let (sealing, public, signature) = sealing.ok_or(KeyError::NotPrepared)?;
        let sealer = self.directories.top().sealer(Some(tenant), sealing, &public, &signature)?;
        let key = tokio::task::spawn_blocking(okta::keys::generate)
            .await
            .map_err(|_| KeyError::Generate)?
            .map_err(|_| KeyError::Generate)?;
        let owner =
            Owner { tenant: Some(tenant), table: column::CLIENT_KEY, row: integration.uuid(), version };
        let sealed = sealer.seal(&owner, key.pkcs8.expose())?;
        Ok(store::Made { version, key, sealed })
    }

    /// A transaction that alone makes or destroys keys of an integration that is there.
    async fn locked(&self, tenant: TenantId, integration: IntegrationId) -> Result<Tx, KeyError> {
        let mut tx = self.db.tenant(tenant).await?;
        // INVARIANT: under this lock an integration that is there cannot lose its keys before the transaction ends.
        store_keys::lock_client_keys(&mut tx, integration).await?;
        if integration_store::integration(&mut tx, integration).await?.is_none() {
            return Err(KeyError::Gone);
        }
        Ok(tx)
    }
}

fn event(tenant: TenantId, integration: IntegrationId, kind: &'static EventType, message: &str) -> Event {
    Event::new(Some(tenant), kind, Actor::Service(NAME), Outcome::Success, message).integration(integration)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rotation_shorter_than_what_it_has_to_wait_for_is_refused() {
        let faults = |publish: u64, keep: u64| {
            let (publish_seconds, keep_seconds) = (publish.try_into().unwrap(), keep.try_into().unwrap());
            let mut faults = Faults::default();
            ClientKeyConfig { every_days: 90, publish_seconds, keep_seconds }
                .check(&mut faults, "keys.client");
            faults.to_string()
        };
        let (publish, keep) = (rotation::PUBLISHED_AT_LEAST.as_secs(), rotation::KEPT_AT_LEAST.as_secs());
        assert!(faults(publish, keep).ends_with(" 0 fault(s):"));
        assert!(faults(publish - 1, keep).contains("keys.client.publish_seconds"));
        assert!(faults(publish, keep - 1).contains("keys.client.keep_seconds"));
    }
}
