//! Which top keys a process has loaded: read anew when they change, told to everybody, and missed by name.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{RotationError, store_holders as store};
use crate::{
    db::Db,
    id::TenantId,
    sealing::{Purpose, SealError, TopId, TopKeys},
    service::Service,
};

const EVERY: Duration = Duration::from_secs(2);

/// What is told when a tenant's halves were destroyed.
type Destroyed = Box<dyn Fn(TenantId) + Send + Sync>;
/// Reads the public keys anew and tells which they are.
type Verifiers = Box<dyn Fn() -> Result<Vec<TopId>, SealError> + Send + Sync>;

/// What a process has of one purpose.
pub enum Holding {
    /// Its top keys.
    Top {
        /// They.
        keys: Arc<TopKeys>,
        /// Told of each tenant whose halves were destroyed: what was unwrapped of it is to be forgotten.
        destroyed: Destroyed,
    },
    /// Only their public halves.
    Verifier {
        /// The purpose.
        purpose: Purpose,
        /// Reads them anew.
        reload: Verifiers,
    },
}

impl fmt::Debug for Holding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Holding").field(&self.purpose()).finish()
    }
}

impl Holding {
    /// Top keys, of which others keep nothing.
    pub fn top(keys: Arc<TopKeys>) -> Self {
        let kept = Arc::clone(&keys);
        Self::Top { keys, destroyed: Box::new(move |tenant| kept.forget(tenant)) }
    }

    fn purpose(&self) -> Purpose {
        match self {
            Self::Top { keys, .. } => keys.purpose(),
            Self::Verifier { purpose, .. } => *purpose,
        }
    }
}

/// Keeps a process's keys up to date and tells which they are.
#[derive(Debug)]
pub struct Holder {
    service: &'static str,
    db: Db,
    holdings: Vec<Holding>,
    lacks: Arc<Mutex<Vec<String>>>,
}

impl Holder {
    /// Starts it; a process that lacks a key which something is wrapped by is not ready.
    pub fn spawn(service: &Service, holdings: Vec<Holding>) {
        let lacks: Arc<Mutex<Vec<String>>> = Arc::default();
        let shown = Arc::clone(&lacks);
        service.readiness().add(move || {
            let lacks = shown.lock().unwrap_or_else(PoisonError::into_inner);
            if lacks.is_empty() { Ok(()) } else { Err(format!("keys: {}", lacks.join("; "))) }
        });
        let holder = Self { service: service.name(), db: service.db().clone(), holdings, lacks };
        service.spawn("key holder", holder.run(service.stop_token()));
    }

    async fn run(self, stop: CancellationToken) -> anyhow::Result<()> {
        let instance = Uuid::now_v7();
        loop {
            if let Err(error) = self.look(instance).await {
                tracing::warn!(%error, "which keys are loaded was not told; it is tried again");
            }
            tokio::select! {
                () = stop.cancelled() => break,
                () = tokio::time::sleep(EVERY) => {}
            }
        }
        // Otherwise a rotation would ask about a process that is gone for some seconds more.
        let told = tokio::time::timeout(EVERY, async {
            let mut tx = self.db.system().await?;
            store::let_go(&mut tx, instance).await?;
            tx.commit().await
        });
        if !matches!(told.await, Ok(Ok(()))) {
            tracing::debug!("that the keys are let go was not told");
        }
        Ok(())
    }

    async fn look(&self, instance: Uuid) -> Result<(), RotationError> {
        let mut missing = Vec::new();
        for holding in &self.holdings {
            let (keys, lacks) = match holding {
                Holding::Top { keys, destroyed } => self.top(keys, destroyed, &mut missing).await?,
                Holding::Verifier { reload, .. } => match reload() {
                    Ok(keys) => (keys, None),
                    Err(error) => {
                        tracing::warn!(%error, "the public keys were not read anew; the ones before stay");
                        (Vec::new(), Some(error.to_string()))
                    }
                },
            };
            let keys: Vec<_> = keys.iter().map(ToString::to_string).collect();
            let opens = matches!(holding, Holding::Top { .. });
            let mut tx = self.db.system().await?;
            store::hold(&mut tx, instance, self.service, holding.purpose(), opens, &keys, lacks.as_deref())
                .await?;
            tx.commit().await?;
        }
        let mut lacks = self.lacks.lock().unwrap_or_else(PoisonError::into_inner);
        if *lacks != missing && !missing.is_empty() {
            tracing::error!(lacks = missing.join("; "), "a top key is missing");
        }
        *lacks = missing;
        Ok(())
    }

    async fn top(
        &self,
        keys: &TopKeys,
        destroyed: &Destroyed,
        missing: &mut Vec<String>,
    ) -> Result<(Vec<TopId>, Option<String>), RotationError> {
        let away = keys.refresh().await.err().map(|error| error.to_string());
        let mut tx = self.db.system().await?;
        let (wraps, wanted, tenants) = store::needed(&mut tx, keys.purpose()).await?;
        tx.rollback().await?;
        tenants.into_iter().for_each(destroyed);
        keys.want(wanted.as_deref().and_then(|wanted| wanted.parse().ok()));
        let loaded = keys.loaded();
        let has = |key: &String| key.parse().is_ok_and(|key| loaded.contains(&key));
        let purpose = keys.purpose().as_str();
        let mut lacks: Vec<String> = wraps
            .iter()
            .chain(&wanted)
            .filter(|key| !has(key))
            .map(|key| format!("top key {key} of purpose {purpose} is needed and not loaded"))
            .collect();
        lacks.dedup();
        if loaded.is_empty() {
            lacks.push(format!("no top key of purpose {purpose} was loaded yet"));
        }
        missing.extend(lacks.iter().cloned());
        if let Some(away) = away {
            tracing::warn!(purpose, error = away, "top keys not looked at again; the ones before stay");
            lacks.push(away);
        }
        Ok((loaded, (!lacks.is_empty()).then(|| lacks.join("; "))))
    }
}
