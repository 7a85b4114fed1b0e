//! KeyService: rotation of keys, and their state.

use shared::{
    audit::{self, Event, Outcome, names},
    db::Db,
    sealing::{Purpose, TopId},
    wire::v1::{self, key_service_server::KeyService},
};
use tonic::{Request, Response, Status};

use super::{convert, optional_id};
use crate::{
    auth::{Caller, caller},
    error::ApiError,
    store::{
        keys::{self as store, Holder, Job},
        registry,
    },
};

/// The service.
#[derive(Clone, Debug)]
pub struct Keys {
    db: Db,
}

impl Keys {
    /// On this database.
    pub fn new(db: Db) -> Self {
        Self { db }
    }

    async fn rotate_top(
        &self,
        caller: &Caller,
        request: v1::RotateTopKeyRequest,
    ) -> Result<v1::RotateTopKeyResponse, ApiError> {
        let v1::RotateTopKeyRequest { purpose, key } = request;
        let purpose = purpose_in(&purpose)?;
        let mut tx = self.db.system().await?;
        let holders = store::holders(&mut tx, purpose).await?;
        let halves = store::halves(&mut tx, purpose).await?;
        let key = if key.is_empty() {
            newest(&holders)?
        } else {
            key.parse()
                .map_err(|()| ApiError::field("key", "name a key as GetKeyStatus does: file:2, vault:5"))?
        };
        loaded(purpose, &holders, key)?;
        let name = key.to_string();
        let others = halves.iter().filter(|h| h.wrapped_by.as_ref().is_some_and(|by| *by != name));
        let others: i64 = others.map(|h| h.count).sum();
        let current = store::wanted(&mut tx, purpose).await?;
        if others == 0 && current.is_none_or(|c| c.wanted == name) {
            return Err(ApiError::Precondition {
                reason: "NOT_NEWER",
                message: format!("every half is wrapped by {name} already; add a version first"),
            });
        }
        store::ask(&mut tx, purpose, &store::Request::Top(&name), caller.named().0).await?;
        let message = "the rotation of a top key was asked for";
        let event =
            Event::new(None, names::KEY_ROTATION_REQUESTED, caller.actor(), Outcome::Success, message)
                .detail("purpose", purpose.as_str())
                .detail("top_key", &name);
        audit::record(&mut tx, &event).await?;
        tx.commit().await?;
        Ok(v1::RotateTopKeyResponse { key: name, halves: others })
    }

    async fn rotate_pair(
        &self,
        caller: &Caller,
        request: v1::RotateKeyPairRequest,
    ) -> Result<v1::RotateKeyPairResponse, ApiError> {
        let v1::RotateKeyPairRequest { purpose, tenant_id } = request;
        let purpose = purpose_in(&purpose)?;
        let tenant = optional_id("tenant_id", &tenant_id)?;
        let mut tx = self.db.system().await?;
        match tenant {
            Some(tenant) => {
                registry::tenant(&mut tx, tenant).await?.ok_or(ApiError::NotFound("tenant"))?;
            }
            None if purpose == Purpose::Leak => {}
            None => {
                return Err(ApiError::field(
                    "tenant_id",
                    "the installation has a key pair of purpose leak only",
                ));
            }
        }
        store::ask(&mut tx, purpose, &store::Request::Pair(tenant), caller.named().0).await?;
        let message = "the rotation of a sealing key pair was asked for";
        let event =
            Event::new(tenant, names::KEY_ROTATION_REQUESTED, caller.actor(), Outcome::Success, message)
                .detail("purpose", purpose.as_str());
        audit::record(&mut tx, &event).await?;
        tx.commit().await?;
        Ok(v1::RotateKeyPairResponse {})
    }

    async fn status(&self) -> Result<v1::GetKeyStatusResponse, ApiError> {
        let mut tx = self.db.system().await?;
        let mut purposes = Vec::new();
        for purpose in [Purpose::Integration, Purpose::Leak] {
            let wanted = store::wanted(&mut tx, purpose).await?;
            let halves = store::halves(&mut tx, purpose).await?;
            let destroyed = halves.iter().filter(|h| h.wrapped_by.is_none()).map(|h| h.count).sum();
            let halves = halves.into_iter().filter_map(|h| {
                let (key, oldest_made_at) = (h.wrapped_by?, Some(convert::timestamp(h.oldest)));
                Some(v1::WrappedHalves { key, count: h.count, oldest_made_at })
            });
            purposes.push(v1::KeyPurpose {
                purpose: purpose.as_str().into(),
                wanted: wanted.as_ref().map(|w| w.wanted.clone()).unwrap_or_default(),
                wanted_at: wanted.as_ref().map(|w| convert::timestamp(w.requested_at)),
                finished_at: wanted.as_ref().and_then(|w| w.finished_at).map(convert::timestamp),
                rewrapped: wanted.as_ref().map(|w| w.rewrapped).unwrap_or_default(),
                halves: halves.collect(),
                destroyed,
                holders: store::holders(&mut tx, purpose).await?.into_iter().map(holder_out).collect(),
                rotations: store::jobs(&mut tx, purpose).await?.into_iter().map(job_out).collect(),
            });
        }
        tx.rollback().await?;
        Ok(v1::GetKeyStatusResponse { purposes })
    }
}

fn purpose_in(name: &str) -> Result<Purpose, ApiError> {
    [Purpose::Integration, Purpose::Leak]
        .into_iter()
        .find(|purpose| purpose.as_str() == name)
        .ok_or_else(|| ApiError::field("purpose", "give integration or leak"))
}

fn has(holder: &Holder, key: TopId) -> bool {
    holder.keys.iter().any(|held| held.parse() == Ok(key))
}

/// The highest key that every process that opens has loaded.
fn newest(holders: &[Holder]) -> Result<TopId, ApiError> {
    let mut openers = holders.iter().filter(|h| h.opens);
    let first = openers.next().map(|h| h.keys.as_slice()).unwrap_or_default();
    let shared = first.iter().filter_map(|key| key.parse().ok());
    shared.filter(|key| holders.iter().filter(|h| h.opens).all(|h| has(h, *key))).max().ok_or_else(|| {
        ApiError::Precondition {
            reason: "NOT_LOADED",
            message: "no running process has loaded a top key of this purpose".into(),
        }
    })
}

/// Nothing is wrapped by a key that somebody who must open it does not have, nor signed by one that somebody who seals does
/// not know. What Vault signs with is a key of its own, whose version does not change with this one.
fn loaded(purpose: Purpose, holders: &[Holder], key: TopId) -> Result<(), ApiError> {
    let needs = |h: &&Holder| (h.opens || matches!(key, TopId::File(_))) && !has(h, key);
    let without: Vec<_> = holders.iter().filter(needs).map(|h| h.service.as_str()).collect();
    if without.is_empty() && holders.iter().any(|h| h.opens) {
        return Ok(());
    }
    let who = if without.is_empty() { "no running process".to_owned() } else { without.join(", ") };
    Err(ApiError::Precondition {
        reason: "NOT_LOADED",
        message: format!("{key} of purpose {} is not loaded everywhere: {who}", purpose.as_str()),
    })
}

fn holder_out(holder: Holder) -> v1::KeyHolder {
    let Holder { service, instance, opens, keys, lacks, seen_at } = holder;
    v1::KeyHolder {
        service,
        instance: instance.to_string(),
        opens,
        keys,
        lacks: lacks.unwrap_or_default(),
        seen_at: Some(convert::timestamp(seen_at)),
    }
}

fn job_out(job: Job) -> v1::KeyPairRotation {
    let Job { tenant_id, to_version, resealed, started_at, finished_at, last_error } = job;
    v1::KeyPairRotation {
        tenant_id: if tenant_id.is_nil() { String::new() } else { tenant_id.to_string() },
        version: to_version,
        resealed,
        started_at: Some(convert::timestamp(started_at)),
        finished_at: finished_at.map(convert::timestamp),
        last_error: last_error.unwrap_or_default(),
    }
}

#[tonic::async_trait]
impl KeyService for Keys {
    async fn rotate_top_key(
        &self,
        request: Request<v1::RotateTopKeyRequest>,
    ) -> Result<Response<v1::RotateTopKeyResponse>, Status> {
        let caller = caller(&request)?;
        Ok(Response::new(self.rotate_top(&caller, request.into_inner()).await?))
    }
    async fn rotate_key_pair(
        &self,
        request: Request<v1::RotateKeyPairRequest>,
    ) -> Result<Response<v1::RotateKeyPairResponse>, Status> {
        let caller = caller(&request)?;
        Ok(Response::new(self.rotate_pair(&caller, request.into_inner()).await?))
    }
    async fn get_key_status(
        &self,
        _: Request<v1::GetKeyStatusRequest>,
    ) -> Result<Response<v1::GetKeyStatusResponse>, Status> {
        Ok(Response::new(self.status().await?))
    }
}
