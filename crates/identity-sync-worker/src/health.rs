//! Looks at every integration that is at work, again and again, and tells integration-api what it saw: a credential that
//! does not work any more is noticed between two syncs, and so is one that works again.
//!
//! Reading is looked at each time, with a fresh access token. What else is switched on is tried once an hour: the
//! provider's logs show each try.

use std::{sync::Arc, time::Duration};

use futures::future::join_all;
use serde_json::json;
use shared::{
    db::{Db, StoreError},
    id::WorkId,
    integration_store::{self, Integration, Status},
    provider::{
        Capability, CapabilityTest, Missing, TestReport,
        directory::{ConnectError, Directories},
    },
    work::{self, NewWork},
};
use time::OffsetDateTime;
use tokio_util::sync::CancellationToken;

use crate::{
    ending::{observation, report},
    request::{ASKED, WORK},
    store_directories::{self as directories, Directory, Next},
    store_health::{self as store, Due},
};

const PAUSE: Duration = Duration::from_secs(2);
/// Integrations looked at together; one that does not answer keeps the others waiting for its patience at most.
const AT_ONCE: i64 = 16;
const PATIENCE: Duration = Duration::from_secs(25);
/// What may pass is believed when it was seen so many times in a row.
const BELIEVED: i32 = 2;

/// The loop.
pub(crate) struct Watch {
    pub db: Db,
    pub directories: Arc<Directories>,
    pub every: Duration,
    pub stop: CancellationToken,
}

impl Watch {
    /// Looks until asked to stop.
    pub async fn run(self) -> anyhow::Result<()> {
        loop {
            tokio::select! {
                () = self.stop.cancelled() => return Ok(()),
                () = self.round() => {}
            }
        }
    }

    async fn round(&self) {
        match store::claim(&self.db, self.every, AT_ONCE).await {
            Ok(due) => drop(join_all(due.iter().map(|due| self.look(due))).await),
            Err(error) => tracing::warn!(%error, "integrations not looked at"),
        }
        tokio::time::sleep(PAUSE).await;
    }

    async fn look(&self, due: &Due) {
        if let Err(error) = self.looked(due).await {
            tracing::warn!(tenant = %due.tenant_id, integration = %due.integration_id, %error, "integration not looked at");
        }
    }

    async fn looked(&self, due: &Due) -> Result<(), StoreError> {
        let mut tx = self.db.tenant(due.tenant_id).await?;
        // What is changed from now on is not what is looked at: integration-api believes no older knowledge.
        let begun = tx.clock().await?;
        let Some(integration) = integration_store::integration(&mut tx, due.integration_id).await? else {
            store::forget(&mut tx, due.integration_id).await?;
            return tx.commit().await;
        };
        if integration.status == Status::Disabled {
            return tx.rollback().await;
        }
        let provider = self.directories.connect_draft(&mut tx, &integration, None).await;
        tx.rollback().await?;
        let mut wanted = integration.settings.capabilities();
        if !due.is_full {
            wanted.retain(|capability| *capability == Capability::Read);
        }
        let seen = match provider {
            Ok(provider) => {
                let silent = |_| {
                    lost(Missing {
                        reason: "unavailable",
                        message: "the directory did not answer in time".to_owned(),
                        not_granted: false,
                    })
                };
                tokio::time::timeout(PATIENCE, provider.test(&wanted)).await.unwrap_or_else(silent)
            }
            Err(ConnectError::Provider(error)) => lost(error.into_missing()),
            Err(ConnectError::Store(error)) => return Err(error),
            Err(error) => {
                // Our own keys: they say nothing about the directory.
                tracing::warn!(integration = %integration.id, %error, "integration not looked at");
                return Ok(());
            }
        };
        self.tell(due, &integration, begun, seen).await
    }

    async fn tell(
        &self,
        due: &Due,
        integration: &Integration,
        begun: OffsetDateTime,
        seen: TestReport,
    ) -> Result<(), StoreError> {
        let may_pass =
            seen.capabilities.iter().filter_map(|test| test.result.as_ref().err()).any(Missing::may_pass);
        let (tenant, id) = (integration.tenant, integration.id);
        let mut tx = self.db.tenant(tenant).await?;
        let directory = directories::lock_directory(&mut tx, tenant, id, integration.provider).await?;
        let failures = store::looked(&mut tx, due, may_pass).await?;
        let mut told = Vec::new();
        for CapabilityTest { capability, result } in &seen.capabilities {
            match result {
                // INVARIANT: what a run found wrong, only a run finds right: it saw more than this look does.
                Ok(()) if *capability == Capability::Read && directory.lost_reason.is_some() => {
                    let now = tx.clock().await?;
                    directories::schedule(&mut tx, tenant, id, at_once(&directory, now)).await?;
                    work::schedule(&mut tx, &work_of(integration, &directory)).await?;
                }
                // Who asks to slow down answers.
                Err(missing) if missing.reason == "throttled" => {}
                Err(missing) if missing.may_pass() && failures < BELIEVED => {}
                result => {
                    let result =
                        result.as_ref().map_err(|missing| (missing.reason, missing.message.as_str()));
                    told.push(observation(*capability, result.copied()));
                }
            }
        }
        if due.is_full && !may_pass {
            let notices = seen.warnings.iter().map(|w| json!({"reason": w.reason, "message": w.message}));
            directories::notice(&mut tx, tenant, id, &notices.collect()).await?;
        }
        if !told.is_empty() {
            report(&mut tx, integration, begun, told, seen.directory_id.as_deref(), None).await?;
        }
        tx.commit().await
    }
}

fn lost(missing: Missing) -> TestReport {
    let read = CapabilityTest { capability: Capability::Read, result: Err(missing) };
    TestReport { capabilities: vec![read], ..TestReport::default() }
}

/// The run that was due next, now. One that was to read everything still does (I6).
fn at_once(directory: &Directory, now: OffsetDateTime) -> Next {
    let full = if directory.next_full_at <= directory.next_changes_at { now } else { directory.next_full_at };
    Next { changes: now, full }
}

fn work_of(integration: &Integration, directory: &Directory) -> NewWork {
    NewWork {
        work_id: WorkId::new(),
        tenant: integration.tenant,
        directory: directory.id.clone().unwrap_or_else(|| integration.id.to_string()),
        kind: WORK,
        subject: integration.id.uuid(),
        priority: ASKED,
        due_at: None,
    }
}
