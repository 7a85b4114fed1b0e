//! A key pair is replaced: the new one serves whoever seals from then on, and what the old one sealed is sealed again, row by
//! row. The old private half is destroyed when nothing needs it.

use std::{collections::HashMap, sync::Arc, time::Duration};

use uuid::Uuid;

use super::{
    Rotation, RotationError, SealedColumn,
    store::{self, Job, SealedRow},
};
use crate::{
    audit::{self, Actor, Event, EventType, Outcome, names},
    db::{StoreError, Tx},
    failpoint,
    id::TenantId,
    sealing::{Opener, Owner, SealError, Sealer},
};

/// Rows sealed again in one transaction.
const BATCH: i64 = 100;
/// Seconds until a rotation that left something behind begins anew.
const AGAIN: f64 = 60.0;

impl Rotation {
    /// Begins what is due, and does one batch of one rotation that is under way. How long to rest then; nothing when there
    /// was nothing to do.
    pub(super) async fn rotate_pairs(&self, thorough: bool) -> Result<Option<Duration>, RotationError> {
        let purpose = self.top.purpose();
        let mut tx = self.db.system().await?;
        let days = if thorough { self.config.every_days } else { 0 };
        let due = store::due(&mut tx, purpose, days).await?;
        tx.rollback().await?;
        for (of, request) in due {
            if let Err(error) = self.begin(of, request).await {
                tracing::warn!(%error, tenant = ?of, purpose = purpose.as_str(), "a new key pair was not made");
            }
        }
        self.work().await
    }

    async fn begin(&self, of: Option<TenantId>, request: Option<Uuid>) -> Result<(), RotationError> {
        if of.is_none() && self.of_installation.is_empty() {
            return Ok(());
        }
        let mut tx = self.db.system().await?;
        let newest = store::newest(&mut tx, of).await?;
        tx.rollback().await?;
        let Some(newest) = newest else { return Ok(()) };
        let to = newest + 1;
        let pair = self.top.new_key_pair(of, to).await?;
        let mut tx = self.transaction(of).await?;
        match store::begin(&mut tx, of, to, &pair, request).await {
            Ok(true) => {}
            Ok(false) | Err(StoreError::Duplicate { .. }) => return Ok(tx.rollback().await?),
            Err(error) => return Err(error.into()),
        }
        let message = "a new sealing key pair was made; what the old one sealed is being sealed again";
        let event = self.event(of, names::KEY_ROTATION_STARTED, message).detail("version", to);
        let event = event.detail("cause", if request.is_some() { "request" } else { "schedule" });
        audit::record(&mut tx, &event).await?;
        Ok(tx.commit().await?)
    }

    async fn work(&self) -> Result<Option<Duration>, RotationError> {
        let mut tx = self.db.system().await?;
        let Some(job) = store::job(&mut tx).await? else {
            tx.rollback().await?;
            return Ok(None);
        };
        let (of, to) = (job.of, job.to);
        match self.batch(tx, job).await {
            Ok(rest) => Ok(Some(rest)),
            Err(error) => {
                // The others have their turn; this one stays visible.
                let mut tx = self.db.system().await?;
                store::postpone(&mut tx, of, to, &error.to_string()).await?;
                tx.commit().await?;
                Err(error)
            }
        }
    }

    /// One batch of a rotation, and how long to rest then.
    async fn batch(&self, mut tx: Tx, mut job: Job) -> Result<Duration, RotationError> {
        if let Some(tenant) = job.of {
            tx.set_tenant(tenant).await?;
        }
        // Without it the tenant was deleted meanwhile, and there is nothing left to rotate.
        let Some(new) = store::pair(&mut tx, job.of, job.to).await? else {
            store::gone(&mut tx, &job).await?;
            tx.commit().await?;
            return Ok(Duration::ZERO);
        };
        let columns = if job.of.is_some() { self.of_tenants } else { self.of_installation };
        let Some(column) = columns.get(job.column) else {
            return self.finish(tx, job, columns).await;
        };
        let rows = store::rows(&mut tx, column, job.after, job.to, BATCH).await?;
        let Some(last) = rows.last() else {
            job = Job { column: job.column + 1, after: Uuid::nil(), ..job };
            store::note(&mut tx, &job, 0.0, None).await?;
            tx.commit().await?;
            return Ok(Duration::ZERO);
        };
        job.after = last.row;
        let again = Again {
            column,
            of: job.of,
            sealer: self.top.sealer(job.of, job.to, &new.public, &new.signature)?,
            opener: self.top.opener(job.of, job.to, &new).await?,
        };
        let (mut openers, mut failed) = (HashMap::new(), None);
        for row in &rows {
            match self.reseal(&mut tx, &again, row, &mut openers).await {
                Ok(true) => job.resealed += 1,
                Ok(false) => {}
                // It stays as it is, and keeps the old private half from being destroyed.
                Err(RotationError::Seal(error @ (SealError::DoesNotOpen | SealError::Malformed))) => {
                    tracing::error!(%error, tenant = ?job.of, place = column.place, row = %row.row, "not sealed again");
                    failed = Some(format!("{} {}: {error}", column.place, row.row));
                }
                Err(error) => return Err(error),
            }
        }
        store::note(&mut tx, &job, 0.0, failed.as_deref()).await?;
        failpoint::reach("reseal");
        tx.commit().await?;
        let count = u32::try_from(rows.len()).unwrap_or(u32::MAX);
        Ok(Duration::from_secs(1) * count / self.config.rows_per_second)
    }

    /// Seals one row again and reads back what was stored. False when somebody else has changed it.
    async fn reseal(
        &self,
        tx: &mut Tx,
        again: &Again<'_>,
        row: &SealedRow,
        openers: &mut HashMap<u32, Arc<Opener>>,
    ) -> Result<bool, RotationError> {
        let version = Opener::version_of(&row.envelope)?;
        let old = if let Some(opener) = openers.get(&version) {
            Arc::clone(opener)
        } else {
            let pair = store::pair(tx, again.of, version).await?.ok_or(SealError::DoesNotOpen)?;
            let opener = self.top.opener(again.of, version, &pair).await?;
            openers.insert(version, Arc::clone(&opener));
            opener
        };
        let place = Owner { tenant: again.of, table: again.column.place, row: row.row, version: row.version };
        let plain = old.open(&place, &row.envelope)?;
        let envelope = again.sealer.seal(&place, &plain)?;
        let Some(stored) = store::replace(tx, again.column, row, &envelope).await? else { return Ok(false) };
        let read =
            again.opener.open(&place, &stored).map_err(|_| RotationError::ReadBack(again.column.place))?;
        if aws_lc_rs::constant_time::verify_slices_are_equal(&read, &plain).is_err() {
            return Err(RotationError::ReadBack(again.column.place));
        }
        Ok(true)
    }

    /// Every column was gone through: destroys the old halves, unless something was sealed to one meanwhile.
    async fn finish(
        &self,
        mut tx: Tx,
        mut job: Job,
        columns: &[SealedColumn],
    ) -> Result<Duration, RotationError> {
        let left = time::Duration::seconds(self.config.grace_seconds.into()) - job.age;
        if left.is_positive() {
            store::note(&mut tx, &job, left.as_seconds_f64(), None).await?;
            tx.commit().await?;
            return Ok(Duration::ZERO);
        }
        // INVARIANT: from here on nobody can seal to the old halves: who does holds a lock on the key, or is refused by the
        // reference of its row to it.
        store::lock_older(&mut tx, job.of, job.to).await?;
        let mut needed = false;
        for column in columns {
            needed |= !store::rows(&mut tx, column, Uuid::nil(), job.to, 1).await?.is_empty();
        }
        if needed {
            (job.column, job.after) = (0, Uuid::nil());
            store::note(&mut tx, &job, AGAIN, None).await?;
            tx.commit().await?;
            return Ok(Duration::ZERO);
        }
        let destroyed = store::destroy_older(&mut tx, job.of, job.to).await?;
        store::finish(&mut tx, &job).await?;
        let message = "the sealing key pair was replaced and its old private half destroyed";
        let event = self
            .event(job.of, names::KEY_ROTATED, message)
            .detail("version", job.to)
            .detail("rows", job.resealed)
            .detail("destroyed", destroyed);
        audit::record(&mut tx, &event).await?;
        tx.commit().await?;
        tracing::info!(tenant = ?job.of, purpose = self.top.purpose().as_str(), version = job.to, "key pair rotated");
        Ok(Duration::ZERO)
    }

    async fn transaction(&self, of: Option<TenantId>) -> Result<Tx, StoreError> {
        match of {
            Some(tenant) => self.db.tenant(tenant).await,
            None => self.db.system().await,
        }
    }

    fn event(&self, of: Option<TenantId>, kind: &'static EventType, message: &str) -> Event {
        Event::new(of, kind, Actor::Service(self.service), Outcome::Success, message)
            .detail("purpose", self.top.purpose().as_str())
    }
}

/// How the rows of a column are sealed again.
struct Again<'a> {
    column: &'a SealedColumn,
    of: Option<TenantId>,
    sealer: Sealer,
    opener: Arc<Opener>,
}
