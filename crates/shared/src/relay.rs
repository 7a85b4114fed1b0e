//! Sends what the outbox holds and deletes what the broker has.

use std::time::{Duration, Instant};

use futures::{StreamExt, stream};
use sqlx::{AssertSqlSafe, Row, postgres::PgRow};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{
    db::{Db, Reader, StoreError, Tx},
    id::{MessageId, TenantId},
    outbox::Destination,
    queue::{Message, Publisher},
};

/// How long a claimed row belongs to the relay that claimed it; longer than a confirm may take.
const LEASE_SECONDS: i32 = 60;
/// Rows that another process wrote, or whose pause is over, are seen after this long at most;
const IDLE: Duration = Duration::from_millis(500);
/// and those of this process at once, unless it looked so short a time ago: rows that come together go together.
const SPACING: Duration = Duration::from_millis(20);
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
    table: &'static str,
    id: MessageId,
    tries: i32,
    message: Result<Message, String>,
}

/// A row that was published, or was not.
#[derive(Debug)]
struct Sent {
    table: &'static str,
    id: MessageId,
    failure: Option<Failure>,
}

#[derive(Debug)]
struct Failure {
    error: String,
    /// It is the row's own fault: it waits, and this counts as a try.
    at_fault: bool,
    tries: i32,
}

impl Relay {
    /// A relay for these tables: `outbox`, and `budget.outbox` in the validator.
    pub fn new(db: Db, publisher: Publisher, tables: &'static [&'static str]) -> Self {
        Self { db, publisher, tables }
    }

    /// Sends until asked to stop.
    pub async fn run(self, stop: CancellationToken) -> anyhow::Result<()> {
        let mut measured: Option<Instant> = None;
        let mut sent = Vec::new();
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                () = self.publisher.ready() => {}
            }
            match self.round(&sent).await {
                Ok(results) => sent = results,
                Err(error) => tracing::warn!(%error, "outbox round failed"),
            }
            if measured.is_none_or(|at| at.elapsed() > GAUGES) {
                measured = Some(Instant::now());
                if let Err(error) = self.measure().await {
                    tracing::warn!(%error, "outbox not measured");
                }
            }
            // Rows can leave, and those that did are still to be deleted.
            let leave = sent.iter().any(|sent| sent.failure.is_none());
            let of = |table: &str| sent.iter().filter(|sent| sent.table == table).count();
            if leave && self.tables.iter().any(|table| of(table) >= crate::queue::WINDOW) {
                continue;
            }
            let at_most = if leave { SPACING } else { IDLE };
            if !self.db.rest(Reader::Relay, [SPACING, at_most], &stop).await {
                break;
            }
        }
        if let Err(error) = self.forget(&sent).await {
            tracing::warn!(%error, "what was sent last stays in the outbox, and is sent again");
        }
        Ok(())
    }

    /// Deletes what left in the round before and claims up to a window of rows of each table, in one transaction; then
    /// publishes these without any open. What cannot be deleted is sent again when its lease ends.
    async fn round(&self, before: &[Sent]) -> Result<Vec<Sent>, StoreError> {
        let mut tx = self.db.system_by_key().await?;
        self.delete(&mut tx, before).await?;
        let rows = self.claim(&mut tx).await?;
        tx.commit().await?;
        let results: Vec<Sent> = stream::iter(rows)
            .map(|row| self.send(row))
            .buffer_unordered(crate::queue::WINDOW)
            .collect()
            .await;
        if let Err(error) = self.keep(&results).await {
            tracing::warn!(%error, "what was not sent waits until its lease ends");
        }
        Ok(results)
    }

    async fn forget(&self, sent: &[Sent]) -> Result<(), StoreError> {
        if sent.is_empty() {
            return Ok(());
        }
        let mut tx = self.db.system_by_key().await?;
        self.delete(&mut tx, sent).await?;
        tx.commit().await
    }

    async fn send(&self, row: OutboxRow) -> Sent {
        let OutboxRow { table, id, tries, message } = row;
        let failure = match message {
            Ok(message) => self.publisher.publish(message).await.err().map(|error| Failure {
                // A lost connection is not the row's fault: it is ready at once.
                at_fault: error.concerns_message(),
                error: error.to_string(),
                tries,
            }),
            Err(error) => Some(Failure { at_fault: true, error, tries }),
        };
        Sent { table, id, failure }
    }

    // What was locked is updated by its place, since any join would be free to read the table.
    async fn claim(&self, tx: &mut Tx) -> Result<Vec<OutboxRow>, StoreError> {
        let mut claimed = Vec::new();
        for table in self.tables {
            // The table's name is a constant of a service, never input.
            let rows = sqlx::query(AssertSqlSafe(format!(
                "UPDATE {table} SET ready_at = clock_timestamp() + $2 * interval '1 second'
                 WHERE ctid = ANY (ARRAY(SELECT ctid FROM {table} WHERE ready_at <= statement_timestamp()
                                         ORDER BY ready_at, seq LIMIT $1 FOR UPDATE SKIP LOCKED))
                 RETURNING id, tenant_id, topic, body, traceparent, tries"
            )))
            .bind(i64::try_from(crate::queue::WINDOW).unwrap_or(i64::MAX))
            .bind(LEASE_SECONDS)
            .fetch_all(&mut **tx)
            .await?;
            claimed.push(rows.iter().map(|row| read(table, row)).collect::<Result<Vec<_>, _>>()?);
        }
        // A later table's rows go first: an attempt's intent, which was written before what came of it.
        Ok(claimed.into_iter().rev().flatten().collect())
    }

    async fn delete(&self, tx: &mut Tx, results: &[Sent]) -> Result<(), StoreError> {
        for table in self.tables {
            let taken = results.iter().filter(|sent| sent.table == *table && sent.failure.is_none());
            let ids: Vec<Uuid> = taken.map(|sent| sent.id.uuid()).collect();
            if ids.is_empty() {
                continue;
            }
            sqlx::query(AssertSqlSafe(format!("DELETE FROM {table} WHERE id = ANY ($1)")))
                .bind(&ids)
                .execute(&mut **tx)
                .await?;
            metrics::counter!("parapet_outbox_sent_total").increment(ids.len() as u64);
        }
        Ok(())
    }

    /// Puts back what could not be sent.
    async fn keep(&self, results: &[Sent]) -> Result<(), StoreError> {
        for table in self.tables {
            let of = results.iter().filter(|sent| sent.table == *table);
            let failed: Vec<_> = of
                .filter_map(|sent| sent.failure.as_ref().map(|failure| (sent.id.uuid(), failure)))
                .collect();
            let Some((_, first)) = failed.first() else { continue };
            let error = &first.error;
            tracing::warn!(table, rows = failed.len(), error, "messages could not be sent and stay");
            metrics::counter!("parapet_outbox_failed_total").increment(failed.len() as u64);
            let pause = |f: &Failure| if f.at_fault { pause_after(f.tries) } else { 0.0 };
            let mut tx = self.db.system().await?;
            sqlx::query(AssertSqlSafe(format!(
                "UPDATE {table} o SET tries = o.tries + f.counted, last_error = f.error,
                        ready_at = clock_timestamp() + f.pause * interval '1 second'
                 FROM unnest($1::uuid[], $2::text[], $3::float8[], $4::int[]) AS f (id, error, pause, counted)
                 WHERE o.id = f.id"
            )))
            .bind(failed.iter().map(|(id, _)| *id).collect::<Vec<_>>())
            .bind(failed.iter().map(|(_, f)| f.error.as_str()).collect::<Vec<_>>())
            .bind(failed.iter().map(|(_, f)| pause(f)).collect::<Vec<_>>())
            .bind(failed.iter().map(|(_, f)| i32::from(f.at_fault)).collect::<Vec<_>>())
            .execute(&mut *tx)
            .await?;
            tx.commit().await?;
        }
        Ok(())
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

fn read(table: &'static str, row: &PgRow) -> Result<OutboxRow, StoreError> {
    let id = MessageId(row.try_get("id")?);
    let message = match row.try_get::<&str, _>("topic")?.parse::<Destination>() {
        Ok(to) => Ok(Message {
            id,
            to,
            tenant: row.try_get::<Option<Uuid>, _>("tenant_id")?.map(TenantId),
            traceparent: row.try_get("traceparent")?,
            body: row.try_get("body")?,
        }),
        // A newer replica's, perhaps: it waits until one takes it, and holds up nothing.
        Err(unknown) => Err(unknown.to_string()),
    };
    Ok(OutboxRow { table, id, tries: row.try_get("tries")?, message })
}

fn pause_after(tries: i32) -> f64 {
    (0.5 * 2_f64.powi(tries.clamp(0, 10))).min(60.0)
}
