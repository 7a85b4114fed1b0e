//! Work that waits is a row with a due time and a priority, never a message.
//!
//! The [`Dispatcher`] turns due rows into messages: the most urgent first, tenants in turn, and never more in flight
//! per tenant and directory than the cap, and nothing to a directory that is left alone ([`lane`]). The handler that gets the message must end with [`finish`], [`postpone`] or
//! [`park`]; a row whose handler vanished is given out again when its lease ends.

use std::time::{Duration, Instant};

use sqlx::Row;
use time::OffsetDateTime;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{
    db::{Db, Reader, StoreError, Tx},
    id::{TenantId, WorkId},
    outbox::{self, Topic},
};

pub mod lane;

/// Leases that may run out in a row before the work is parked.
pub const MAX_TRIES: i32 = 5;

/// Work to be scheduled.
#[derive(Clone, Debug)]
pub struct NewWork {
    /// Id of the row, if it becomes a new one.
    pub work_id: WorkId,
    /// Whose work it is.
    pub tenant: TenantId,
    /// Directory it will talk to; the cap counts per tenant and directory.
    pub directory: String,
    /// What is to be done.
    pub kind: &'static str,
    /// What it is to be done to.
    pub subject: Uuid,
    /// 0 is the most urgent.
    pub priority: i16,
    /// When; None is now.
    pub due_at: Option<OffsetDateTime>,
}

/// A due row, as the dispatcher hands it to the function that writes its message.
#[derive(Clone, Debug)]
pub struct WorkRow {
    /// The row.
    pub work_id: WorkId,
    /// Whose work it is.
    pub tenant: TenantId,
    /// What is to be done.
    pub kind: String,
    /// What it is to be done to.
    pub subject: Uuid,
}

/// Schedules work. There is one row per (tenant, kind, subject): the earlier due time and the more urgent priority
/// win; work in flight is done once more afterwards; parked work waits again.
pub async fn schedule(tx: &mut Tx, work: &NewWork) -> Result<(), StoreError> {
    schedule_many(tx, std::slice::from_ref(work)).await
}

/// Schedules many pieces of work in one statement.
pub async fn schedule_many(tx: &mut Tx, work: &[NewWork]) -> Result<(), StoreError> {
    // Sorted and without repetition: one statement may touch a row once, and two statements never deadlock.
    let mut work: Vec<&NewWork> = work.iter().collect();
    work.sort_by_key(|w| (w.tenant, w.kind, w.subject, w.due_at));
    work.dedup_by_key(|w| (w.tenant, w.kind, w.subject));
    if work.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "INSERT INTO work AS w (work_id, tenant_id, directory, kind, subject, priority, due_at)
         SELECT n.work_id, n.tenant_id, n.directory, n.kind, n.subject, n.priority, coalesce(n.due_at, clock_timestamp())
         FROM unnest($1::uuid[], $2::uuid[], $3::text[], $4::text[], $5::uuid[], $6::smallint[], $7::timestamptz[])
              AS n (work_id, tenant_id, directory, kind, subject, priority, due_at)
         ON CONFLICT (tenant_id, kind, subject) DO UPDATE SET
             directory = excluded.directory,
             priority = least(w.priority, excluded.priority),
             due_at = CASE w.state WHEN 'waiting' THEN least(w.due_at, excluded.due_at)
                                   WHEN 'parked' THEN excluded.due_at ELSE w.due_at END,
             again_at = CASE w.state WHEN 'in_flight' THEN least(w.again_at, excluded.due_at) END,
             tries = CASE w.state WHEN 'parked' THEN 0 ELSE w.tries END,
             reason = CASE w.state WHEN 'parked' THEN NULL ELSE w.reason END,
             state = CASE w.state WHEN 'parked' THEN 'waiting' ELSE w.state END",
    )
    .bind(work.iter().map(|w| w.work_id.uuid()).collect::<Vec<_>>())
    .bind(work.iter().map(|w| w.tenant.uuid()).collect::<Vec<_>>())
    .bind(work.iter().map(|w| w.directory.as_str()).collect::<Vec<_>>())
    .bind(work.iter().map(|w| w.kind).collect::<Vec<_>>())
    .bind(work.iter().map(|w| w.subject).collect::<Vec<_>>())
    .bind(work.iter().map(|w| w.priority).collect::<Vec<_>>())
    .bind(work.iter().map(|w| w.due_at).collect::<Vec<_>>())
    .execute(&mut **tx)
    .await?;
    tx.changed_work();
    Ok(())
}

/// How work ends, or waits, for a statement that has more to do: the CTEs of the work `$work` that waits until `$until` for
/// `$reason`, or is done where `$until` is null. The caller says [`Tx::changed_work`].
#[macro_export]
macro_rules! end_work {
    ($work:literal, $until:literal, $reason:literal) => {
        concat!(
            "again AS (
                 UPDATE work SET state = 'waiting', due_at = least(",
            $until,
            "::timestamptz, again_at), again_at = NULL, lease_until = NULL, tries = 0, reason = ",
            $reason,
            " WHERE work_id = ",
            $work,
            " AND (",
            $until,
            " IS NOT NULL OR again_at IS NOT NULL)),
             over AS (DELETE FROM work WHERE work_id = ",
            $work,
            " AND ",
            $until,
            " IS NULL AND again_at IS NULL)"
        )
    };
}

/// The work is done: its row goes, unless it was scheduled once more meanwhile.
pub async fn finish(tx: &mut Tx, work: WorkId) -> Result<(), StoreError> {
    end(tx, work, None).await
}

/// The work waits until then, for a reason that is shown; a run that was asked for meanwhile keeps its earlier time.
pub async fn postpone(
    tx: &mut Tx,
    work: WorkId,
    until: OffsetDateTime,
    reason: &str,
) -> Result<(), StoreError> {
    end(tx, work, Some((until, reason))).await
}

async fn end(tx: &mut Tx, work: WorkId, wait: Option<(OffsetDateTime, &str)>) -> Result<(), StoreError> {
    let (until, reason) = wait.unzip();
    sqlx::query(concat!("WITH ", end_work!("$1", "$2", "$3"), " SELECT"))
        .bind(work)
        .bind(until)
        .bind(reason)
        .execute(&mut **tx)
        .await?;
    tx.changed_work();
    Ok(())
}

/// The work cannot be done; it stays, with its reason, until a person schedules it again.
pub async fn park(tx: &mut Tx, work: WorkId, reason: &str) -> Result<(), StoreError> {
    sqlx::query("UPDATE work SET state = 'parked', lease_until = NULL, again_at = NULL, reason = $2 WHERE work_id = $1")
        .bind(work)
        .bind(reason)
        .execute(&mut **tx)
        .await?;
    tx.changed_work();
    Ok(())
}

/// Takes work back, whatever its state; a handler that has it already finishes.
pub async fn cancel(tx: &mut Tx, tenant: TenantId, kind: &str, subjects: &[Uuid]) -> Result<(), StoreError> {
    sqlx::query("DELETE FROM work WHERE tenant_id = $1 AND kind = $2 AND subject = ANY ($3)")
        .bind(tenant)
        .bind(kind)
        .bind(subjects)
        .execute(&mut **tx)
        .await?;
    tx.changed_work();
    Ok(())
}

/// Bounds of what the dispatcher gives out.
#[derive(Clone, Copy, Debug)]
pub struct Caps {
    /// Most work in flight per tenant and directory.
    pub in_flight: i64,
    /// Most rows given out in one transaction.
    pub batch: i64,
    /// How long a handler has before the work is given out again.
    pub lease: Duration,
}

impl Default for Caps {
    fn default() -> Self {
        Self { in_flight: 64, batch: 256, lease: Duration::from_mins(10) }
    }
}

/// Turns due rows into messages of this service's outbox.
#[derive(Debug)]
pub struct Dispatcher {
    db: Db,
    topic_of: fn(&WorkRow) -> (Topic, Vec<u8>),
    caps: Caps,
}

/// Every (tenant, directory, priority) with waiting work, one index probe each.
macro_rules! lanes {
    () => {
        "lanes AS (
             (SELECT tenant_id, directory, priority FROM work WHERE state = 'waiting'
              ORDER BY tenant_id, directory, priority LIMIT 1)
             UNION ALL
             SELECT n.* FROM lanes l, LATERAL (
                 SELECT tenant_id, directory, priority FROM work
                 WHERE state = 'waiting' AND (tenant_id, directory, priority) > (l.tenant_id, l.directory, l.priority)
                 ORDER BY tenant_id, directory, priority LIMIT 1) n)"
    };
}

/// What was changed elsewhere is seen after this long at most;
const IDLE: Duration = Duration::from_millis(500);
/// and what was changed here at once, unless it looked so short a time ago: rows that come together go together.
const SPACING: Duration = Duration::from_millis(20);
/// How often the age of the oldest ready work is measured; autoscalers look every 15 to 30 s.
const MEASURED_EVERY: Duration = Duration::from_secs(5);

impl Dispatcher {
    /// A dispatcher; `topic_of` names the topic and writes the body of a row's message.
    pub fn new(db: Db, topic_of: fn(&WorkRow) -> (Topic, Vec<u8>), caps: Caps) -> Self {
        Self { db, topic_of, caps }
    }

    /// Gives out work until asked to stop.
    pub async fn run(self, stop: CancellationToken) -> anyhow::Result<()> {
        let mut pause = SPACING;
        let mut measured: Option<Instant> = None;
        loop {
            if measured.is_none_or(|at| at.elapsed() >= MEASURED_EVERY) {
                measured = Some(Instant::now());
                match self.oldest_ready().await {
                    Ok(age) => metrics::gauge!("parapet_work_ready_seconds").set(age.as_secs_f64()),
                    Err(error) => tracing::warn!(%error, "the age of the oldest ready work was not measured"),
                }
            }
            let at_most;
            (pause, at_most) = match self.look().await {
                Ok(Looked::Gave(_)) => (SPACING, SPACING),
                Ok(Looked::Nothing { until_due }) => {
                    let longer = (pause * 2).min(IDLE);
                    (longer, longer.min(until_due))
                }
                Err(error) => {
                    tracing::warn!(%error, "work could not be given out");
                    (IDLE, IDLE)
                }
            };
            if !self.db.rest(Reader::Dispatcher, [SPACING, at_most], &stop).await {
                return Ok(());
            }
        }
    }

    /// Gives out what is due and fits under the caps; returns how many rows. One dispatcher works at a time.
    pub async fn round(&self) -> Result<usize, StoreError> {
        Ok(match self.look().await? {
            Looked::Gave(rows) => rows,
            Looked::Nothing { .. } => 0,
        })
    }

    async fn look(&self) -> Result<Looked, StoreError> {
        // Two dispatchers at once would both count before either gives out, and exceed the cap.
        let (mut tx, alone) = self
            .db
            .system_by_key_with(
                "SELECT pg_try_advisory_xact_lock(hashtextextended('dispatch ' || current_schema(), 0))",
            )
            .await?;
        if !alone.first().map_or(Ok(false), |row| row.try_get(0))? {
            tx.rollback().await?;
            return Ok(Looked::Nothing { until_due: IDLE });
        }
        let reclaimed = self.reclaim(&mut tx).await?;
        let rows = self.take(&mut tx).await?;
        if rows.is_empty() && reclaimed == 0 {
            let until_due = until_due(&mut tx).await?;
            tx.rollback().await?;
            return Ok(Looked::Nothing { until_due });
        }
        for row in &rows {
            let (topic, body) = (self.topic_of)(row);
            outbox::enqueue_encoded(&mut tx, topic, Some(row.tenant), body).await?;
        }
        tx.commit().await?;
        metrics::counter!("parapet_work_dispatched_total").increment(rows.len() as u64);
        Ok(Looked::Gave(rows.len()))
    }

    /// How long the oldest work is due that waits for nothing but its turn: neither for its time nor for a directory that
    /// is left alone. Zero when there is none. Every replica finds the same.
    pub async fn oldest_ready(&self) -> Result<Duration, StoreError> {
        let query = concat!(
            "WITH RECURSIVE ",
            lanes!(),
            " SELECT extract(epoch FROM clock_timestamp() - min(first.due_at))::float8
             FROM lanes l LEFT JOIN lane_holds h USING (tenant_id, directory), LATERAL (
                 SELECT due_at FROM work
                 WHERE state = 'waiting' AND tenant_id = l.tenant_id AND directory = l.directory AND priority = l.priority
                   AND due_at <= statement_timestamp() ORDER BY due_at LIMIT 1) first
             WHERE h.held_until IS NULL OR h.held_until <= statement_timestamp()"
        );
        let mut tx = self.db.system_by_key().await?;
        let seconds: Option<f64> = sqlx::query_scalar(query).fetch_one(&mut *tx).await?;
        tx.rollback().await?;
        Ok(seconds.and_then(|s| Duration::try_from_secs_f64(s.max(0.0)).ok()).unwrap_or_default())
    }

    async fn reclaim(&self, tx: &mut Tx) -> Result<u64, StoreError> {
        let expired = sqlx::query(
            "UPDATE work SET tries = tries + 1, lease_until = NULL, again_at = NULL,
                 state = CASE WHEN tries >= $1 THEN 'parked' ELSE 'waiting' END,
                 reason = CASE WHEN tries >= $1 THEN 'given out ' || (tries + 1) || ' times without an answer' ELSE reason END
             WHERE state = 'in_flight' AND lease_until < statement_timestamp()",
        )
        .bind(MAX_TRIES)
        .execute(&mut **tx)
        .await?
        .rows_affected();
        if expired > 0 {
            tracing::warn!(expired, "leases of work ran out");
            metrics::counter!("parapet_work_leases_expired_total").increment(expired);
        }
        Ok(expired)
    }

    async fn take(&self, tx: &mut Tx) -> Result<Vec<WorkRow>, StoreError> {
        let rows = sqlx::query(concat!(
            "WITH RECURSIVE ",
            lanes!(),
            ", open AS ( -- a directory that did not answer gets one piece of work to try
                 SELECT l.*, CASE WHEN h.opened > 0 THEN 1 ELSE $1 END AS cap
                 FROM lanes l LEFT JOIN lane_holds h USING (tenant_id, directory)
                 WHERE h.held_until IS NULL OR h.held_until <= statement_timestamp()
             ), due AS (
                 SELECT w.*, l.cap FROM open l, LATERAL (
                     SELECT work_id, tenant_id, directory, priority, due_at FROM work
                     WHERE state = 'waiting' AND tenant_id = l.tenant_id AND directory = l.directory
                       AND priority = l.priority AND due_at <= statement_timestamp()
                     ORDER BY due_at LIMIT least(l.cap, $2)) w
             ), ranked AS (
                 SELECT work_id, tenant_id, directory, priority, due_at, cap,
                        row_number() OVER (PARTITION BY tenant_id, directory ORDER BY priority, due_at) AS place
                 FROM due
             ), busy AS ( -- counted once for each lane, not for each row that might go
                 SELECT tenant_id, directory, count(*) AS in_flight FROM work
                 WHERE state = 'in_flight' GROUP BY tenant_id, directory
             ), free AS (
                 SELECT r.*, row_number() OVER (PARTITION BY tenant_id ORDER BY priority, due_at) AS turn
                 FROM ranked r LEFT JOIN busy b USING (tenant_id, directory)
                 WHERE place <= cap - coalesce(b.in_flight, 0)
             ), taken AS (
                 SELECT work_id, row_number() OVER (ORDER BY turn, priority, due_at) AS place
                 FROM free ORDER BY turn, priority, due_at LIMIT $2
             )
             UPDATE work w SET state = 'in_flight', lease_until = clock_timestamp() + $3 * interval '1 second', reason = NULL
             FROM taken t WHERE w.work_id = t.work_id AND w.state = 'waiting'
             RETURNING w.work_id, w.tenant_id, w.kind, w.subject, t.place",
        ))
        .bind(self.caps.in_flight)
        .bind(self.caps.batch)
        .bind(self.caps.lease.as_secs_f64())
        .fetch_all(&mut **tx)
        .await?;
        let mut rows = rows
            .into_iter()
            .map(|row| {
                let place: i64 = row.try_get("place")?;
                Ok((
                    place,
                    WorkRow {
                        work_id: WorkId(row.try_get("work_id")?),
                        tenant: TenantId(row.try_get("tenant_id")?),
                        kind: row.try_get("kind")?,
                        subject: row.try_get("subject")?,
                    },
                ))
            })
            .collect::<Result<Vec<_>, StoreError>>()?;
        rows.sort_by_key(|(place, _)| *place);
        Ok(rows.into_iter().map(|(_, row)| row).collect())
    }
}

/// What a look at the work led to.
enum Looked {
    /// So many rows were given out, or got their lease back.
    Gave(usize),
    /// Nothing was, or another dispatcher looks; something falls due after this long.
    Nothing { until_due: Duration },
}

/// How long until something falls due that waits for its time; [`IDLE`] when that is longer.
async fn until_due(tx: &mut Tx) -> Result<Duration, StoreError> {
    let seconds: Option<f64> = sqlx::query_scalar(concat!(
        "WITH RECURSIVE ",
        lanes!(),
        " SELECT extract(epoch FROM min(next.due_at) - clock_timestamp())::float8 FROM lanes l, LATERAL (
             SELECT due_at FROM work
             WHERE state = 'waiting' AND tenant_id = l.tenant_id AND directory = l.directory AND priority = l.priority
               AND due_at > statement_timestamp() ORDER BY due_at LIMIT 1) next"
    ))
    .fetch_one(&mut **tx)
    .await?;
    let due = seconds.and_then(|s| Duration::try_from_secs_f64(s.max(0.0)).ok());
    Ok(due.map_or(IDLE, |due| due.min(IDLE)))
}
