//! A top key is replaced: every private half is wrapped again, and nothing else is touched.

use uuid::Uuid;

use super::{Rotation, RotationError, store};
use crate::{
    audit::{self, Actor, Event, Outcome, names},
    failpoint,
    sealing::{SealError, TopId, source::Half},
};

/// Halves wrapped again in one transaction.
const BATCH: i64 = 500;

impl Rotation {
    /// Brings every half under the key that is wanted. What was begun by another process is gone on with: what is left to
    /// do shows in the halves themselves.
    pub(super) async fn rotate_top(&self, thorough: bool) -> Result<(), RotationError> {
        let purpose = self.top.purpose();
        let mut tx = self.db.system().await?;
        let wanted = store::wanted(&mut tx, purpose).await?;
        tx.commit().await?;
        let Some(wanted) = wanted else { return Ok(()) };
        self.top.want(Some(wanted.key));
        if !self.top.loaded().contains(&wanted.key) {
            let (purpose, key) = (purpose.as_str(), wanted.key.to_string());
            return Err(SealError::NotLoaded { purpose, key }.into());
        }
        if wanted.finished && !thorough {
            return Ok(());
        }
        let mut after = (Uuid::nil(), -1);
        let mut failed = None;
        while let Some(last) = self.rewrap(wanted.key, after, &mut failed).await? {
            after = last;
        }
        if let Some(error) = failed {
            return Err(error.into());
        }
        if wanted.finished {
            return Ok(());
        }
        let mut tx = self.db.system().await?;
        if let Some(rewrapped) = store::finish_top(&mut tx, wanted.key).await? {
            let message =
                format!("every private half of purpose {} is wrapped by its new top key", purpose.as_str());
            let event =
                Event::new(None, names::KEY_ROTATED, Actor::Service(self.service), Outcome::Success, message)
                    .detail("purpose", purpose.as_str())
                    .detail("top_key", wanted.key)
                    .detail("halves", rewrapped);
            audit::record(&mut tx, &event).await?;
        }
        tx.commit().await?;
        Ok(())
    }

    /// One batch; the last half it looked at.
    async fn rewrap(
        &self,
        by: TopId,
        after: (Uuid, i32),
        failed: &mut Option<SealError>,
    ) -> Result<Option<(Uuid, i32)>, RotationError> {
        let mut tx = self.db.system().await?;
        // Another process at the same work would only do it twice.
        if !store::alone(&mut tx, self.top.purpose()).await? {
            tx.rollback().await?;
            return Ok(None);
        }
        let places = store::to_wrap(&mut tx, by, after, BATCH).await?;
        let Some(last) = places.last().copied() else {
            tx.rollback().await?;
            return Ok(None);
        };
        let mut halves = store::halves(&mut tx, &places).await?;
        let made = match self.top.rewrap(by, &halves).await {
            Ok(made) => made,
            // One that does not open must not keep the others.
            Err(SealError::DoesNotOpen | SealError::Malformed | SealError::NotLoaded { .. }) => {
                let mut made = Vec::new();
                let mut good = Vec::new();
                for half in halves {
                    match self.top.rewrap(by, std::slice::from_ref(&half)).await {
                        Ok(one) => {
                            made.extend(one);
                            good.push(half);
                        }
                        Err(error @ SealError::Away { .. }) => return Err(error.into()),
                        Err(error) => {
                            let Half { tenant, version, .. } = half;
                            tracing::error!(%error, ?tenant, version, "a private half is not wrapped again");
                            *failed = Some(error);
                        }
                    }
                }
                halves = good;
                made
            }
            Err(error) => return Err(error.into()),
        };
        let written = store::put_halves(&mut tx, &halves, &made).await?;
        store::count_rewrapped(&mut tx, written).await?;
        failpoint::reach("rewrap");
        tx.commit().await?;
        Ok(Some(last))
    }
}
