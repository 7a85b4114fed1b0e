//! Sends what the outbox holds and deletes what a queue took.

use std::time::{Duration, Instant};

use futures::{StreamExt, stream};
use sqlx::{AssertSqlSafe, Row};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{
    db::{Db, StoreError},
    id::{MessageId, TenantId},
    outbox::Topic,
    queue::{Message, Publisher},
};

/// How long a claimed row belongs to the relay that claimed it; longer than a confirm may take.
const LEASE_SECONDS: i32 = 60;
const BUSY: Duration = Duration::from_millis(20);
const IDLE: Duration = Duration::from_millis(500);
const GAUGES: Duration = Duration::from_secs(10);

/// Sends the rows of this service's outboxes. Any number of replicas may run at once.
#[derive(Debug)]
pub struct Relay {
    db: Db,
    publisher: Publisher,
    tables: &'static [&'static str],
}

#[derive(Debug)]
struct OutboxRow {
    id: MessageId,
    tries: i32,
    message: Result<Message, String>,
}

impl Relay {
    /// A relay for these tables: `outbox`, and `budget.outbox` in the validator.
    pub fn new(db: Db, publisher: Publisher, tables: &'static [&'static str]) -> Self {
        Self { db, publisher, tables }
    }

    /// Sends until asked to stop, looking every 20 to 500 ms.
    pub async fn run(self, stop: CancellationToken) -> anyhow::Result<()> {
        let mut pause = BUSY;
        let mut measured: Option<Instant> = None;
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(()),
                () = self.publisher.ready() => {}
            }
            let mut sent = 0;
            for table in self.tables {
                match self.round(table).await {
                    Ok(count) => sent += count,
                    Err(error) => tracing::warn!(%error, table, "outbox round failed"),
                }
            }
            if measured.is_none_or(|at| at.elapsed() > GAUGES) {
                measured = Some(Instant::now());
                if let Err(error) = self.measure().await {
                    tracing::warn!(%error, "outbox not measured");
                }
            }
            pause = if sent > 0 { BUSY } else { (pause * 2).min(IDLE) };
            if sent >= crate::queue::WINDOW {
                continue; // there is more
            }
            tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(()),
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// Claims up to a window of rows, publishes them without any transaction open, deletes what was taken.
    /// Returns how many rows left the table.
    pub async fn round(&self, table: &'static str) -> Result<usize, StoreError> {
        let rows = self.claim(table).await?;
        if rows.is_empty() {
            return Ok(0);
        }
        let results: Vec<(MessageId, i32, Result<(), String>, bool)> = stream::iter(rows)
            .map(|row| async move {
                match row.message {
                    Ok(message) => match self.publisher.publish(message).await {
                        Ok(()) => (row.id, row.tries, Ok(()), false),
                        Err(error) => (row.id, row.tries, Err(error.to_string()), error.concerns_message()),
                    },
                    Err(reason) => (row.id, row.tries, Err(reason), true),
                }
            })
            .buffer_unordered(crate::queue::WINDOW)
            .collect()
            .await;
        let mut taken = Vec::new();
        let (mut kept, mut errors, mut pauses, mut counts) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for (id, tries, result, at_fault) in results {
            match result {
                Ok(()) => taken.push(id.uuid()),
                Err(error) => {
                    kept.push(id.uuid());
                    // A lost connection is not the row's fault: it is ready at once.
                    pauses.push(if at_fault { pause_after(tries) } else { 0.0 });
                    counts.push(i32::from(at_fault));
                    errors.push(error);
                }
            }
        }
        self.delete(table, &taken).await?;
        self.keep(table, &kept, &errors, &pauses, &counts).await?;
        Ok(taken.len())
    }

    async fn claim(&self, table: &'static str) -> Result<Vec<OutboxRow>, StoreError> {
        let mut tx = self.db.system_by_key().await?;
        // The table's name is a constant of a service, never input.
        let rows = sqlx::query(AssertSqlSafe(format!(
            "UPDATE {table} SET ready_at = clock_timestamp() + $2 * interval '1 second'
             WHERE id IN (SELECT id FROM {table} WHERE ready_at <= clock_timestamp()
                          ORDER BY ready_at, seq LIMIT $1 FOR UPDATE SKIP LOCKED)
             RETURNING id, tenant_id, topic, body, traceparent, tries"
        )))
        .bind(i64::try_from(crate::queue::WINDOW).unwrap_or(i64::MAX))
        .bind(LEASE_SECONDS)
        .fetch_all(&mut *tx)
        .await?;
        tx.commit().await?;
        rows.into_iter()
            .map(|row| {
                let id = MessageId(row.try_get("id")?);
                let topic: String = row.try_get("topic")?;
                let message = match topic.parse::<Topic>() {
                    Ok(known) => Ok(Message {
                        id,
                        topic,
                        content_type: known.content_type(),
                        tenant: row.try_get::<Option<Uuid>, _>("tenant_id")?.map(TenantId),
                        traceparent: row.try_get("traceparent")?,
                        body: row.try_get("body")?,
                    }),
                    Err(_) => Err("unknown topic".to_owned()),
                };
                Ok(OutboxRow { id, tries: row.try_get("tries")?, message })
            })
            .collect()
    }

    async fn delete(&self, table: &'static str, ids: &[Uuid]) -> Result<(), StoreError> {
        if ids.is_empty() {
            return Ok(());
        }
        let mut tx = self.db.system_by_key().await?;
        sqlx::query(AssertSqlSafe(format!("DELETE FROM {table} WHERE id = ANY ($1)")))
            .bind(ids)
            .execute(&mut *tx)
            .await?;
        tx.commit().await?;
        metrics::counter!("parapet_outbox_sent_total").increment(ids.len() as u64);
        Ok(())
    }

    async fn keep(
        &self,
        table: &'static str,
        ids: &[Uuid],
        errors: &[String],
        pauses: &[f64],
        counts: &[i32],
    ) -> Result<(), StoreError> {
        let Some(error) = errors.first() else {
            return Ok(());
        };
        tracing::warn!(table, rows = ids.len(), error, "messages could not be sent and stay");
        metrics::counter!("parapet_outbox_failed_total").increment(ids.len() as u64);
        let mut tx = self.db.system().await?;
        sqlx::query(AssertSqlSafe(format!(
            "UPDATE {table} o SET tries = o.tries + f.counted, last_error = f.error,
                    ready_at = clock_timestamp() + f.pause * interval '1 second'
             FROM unnest($1::uuid[], $2::text[], $3::float8[], $4::int[]) AS f (id, error, pause, counted) WHERE o.id = f.id"
        )))
        .bind(ids)
        .bind(errors)
        .bind(pauses)
        .bind(counts)
        .execute(&mut *tx)
        .await?;
        tx.commit().await
    }

    async fn measure(&self) -> Result<(), StoreError> {
        for table in self.tables {
            let mut tx = self.db.system().await?;
            // Counted to a bound: an outbox that long needs a person whatever its length is.
            let (rows, oldest): (i64, Option<f64>) = sqlx::query_as(AssertSqlSafe(format!(
                "SELECT (SELECT count(*) FROM (SELECT FROM {table} LIMIT 100000) r),
                        (SELECT extract(epoch FROM clock_timestamp() - min(ready_at))::float8 FROM {table})"
            )))
            .fetch_one(&mut *tx)
            .await?;
            tx.rollback().await?;
            #[expect(clippy::cast_precision_loss, reason = "at most 100,000")]
            metrics::gauge!("parapet_outbox_rows", "table" => *table).set(rows as f64);
            metrics::gauge!("parapet_outbox_ready_seconds", "table" => *table)
                .set(oldest.unwrap_or(0.0).max(0.0));
        }
        Ok(())
    }
}

fn pause_after(tries: i32) -> f64 {
    (0.5 * 2_f64.powi(tries.clamp(0, 10))).min(60.0)
}
