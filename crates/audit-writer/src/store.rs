//! The SQL of schema `audit`.

use std::{collections::BTreeMap, time::Duration};

use shared::db::{Db, StoreError, Tx};
use sqlx::{Row, postgres::PgRow, types::Json};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::{
    chain::{Chain, Event, Hash, Link},
    checkpoint::Checkpoint,
};

/// How far a chain has come, and how far it is signed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Head {
    pub sequence: i64,
    pub hash: Hash,
    pub checkpoint_sequence: i64,
    pub checkpoint_hash: Hash,
}

/// Locks the heads of these chains, making those that are missing. Sorted: writers never wait for each other in a
/// circle.
pub(crate) async fn lock_heads(
    tx: &mut Tx,
    chains: &[Chain],
) -> Result<BTreeMap<Chain, (i64, Hash)>, StoreError> {
    let keys: Vec<Uuid> = chains.iter().map(|c| c.uuid()).collect();
    sqlx::query(
        "INSERT INTO heads (tenant_id) SELECT k FROM unnest($1::uuid[]) AS k ORDER BY k ON CONFLICT (tenant_id) DO NOTHING",
    )
    .bind(&keys)
    .execute(&mut **tx)
    .await?;
    sqlx::query("SELECT tenant_id, sequence, hash FROM heads WHERE tenant_id = ANY ($1) ORDER BY tenant_id FOR UPDATE")
        .bind(&keys)
        .fetch_all(&mut **tx)
        .await?
        .iter()
        .map(|row| Ok((Chain::from(row.try_get::<Uuid, _>("tenant_id")?), (row.try_get("sequence")?, hash(row, "hash")?))))
        .collect()
}

/// Which of these events are stored already. The transaction is in the chain's tenant.
pub(crate) async fn stored(tx: &mut Tx, chain: Chain, events: &[Uuid]) -> Result<Vec<Uuid>, StoreError> {
    Ok(sqlx::query_scalar("SELECT event_id FROM events WHERE tenant_id = $1 AND event_id = ANY ($2)")
        .bind(chain.uuid())
        .bind(events)
        .fetch_all(&mut **tx)
        .await?)
}

/// Appends links, in order, and moves the head. The transaction is in the chain's tenant and holds the head's lock.
pub(crate) async fn append(tx: &mut Tx, chain: Chain, links: &[Link]) -> Result<(), StoreError> {
    let Some(last) = links.last() else { return Ok(()) };
    macro_rules! column {
        ($link:ident => $value:expr) => {
            links.iter().map(|$link| $value).collect::<Vec<_>>()
        };
    }
    sqlx::query(
        "INSERT INTO events (tenant_id, sequence, event_id, occurred_at, stored_at, type, actor_kind, actor_id, actor_name,
                             outcome, cause_id, integration_id, object_kind, object_id, user_object_id, user_name, message,
                             details, previous_hash, hash)
         SELECT $1, n.sequence, n.event_id, n.occurred_at, n.stored_at, n.type, n.actor_kind, n.actor_id, n.actor_name,
                n.outcome, n.cause_id, n.integration_id, n.object_kind, n.object_id, n.user_object_id, n.user_name, n.message,
                n.details::jsonb, n.previous_hash, n.hash
         FROM unnest($2::bigint[], $3::uuid[], $4::timestamptz[], $5::timestamptz[], $6::text[], $7::text[], $8::text[],
                     $9::text[], $10::text[], $11::uuid[], $12::uuid[], $13::text[], $14::text[], $15::text[], $16::text[],
                     $17::text[], $18::text[], $19::bytea[], $20::bytea[])
              AS n (sequence, event_id, occurred_at, stored_at, type, actor_kind, actor_id, actor_name, outcome, cause_id,
                    integration_id, object_kind, object_id, user_object_id, user_name, message, details, previous_hash, hash)",
    )
    .bind(chain.uuid())
    .bind(column!(l => l.sequence))
    .bind(column!(l => l.event.event_id))
    .bind(column!(l => l.event.occurred_at))
    .bind(column!(l => l.stored_at))
    .bind(column!(l => l.event.kind.as_str()))
    .bind(column!(l => l.event.actor_kind.as_str()))
    .bind(column!(l => l.event.actor_id.as_str()))
    .bind(column!(l => l.event.actor_name.as_str()))
    .bind(column!(l => l.event.outcome.as_str()))
    .bind(column!(l => l.event.cause_id))
    .bind(column!(l => l.event.integration_id))
    .bind(column!(l => l.event.object_kind.as_str()))
    .bind(column!(l => l.event.object_id.as_str()))
    .bind(column!(l => l.event.user_object_id.as_str()))
    .bind(column!(l => l.event.user_name.as_str()))
    .bind(column!(l => l.event.message.as_str()))
    .bind(column!(l => serde_json::json!(l.event.details).to_string()))
    .bind(column!(l => l.previous.0.to_vec()))
    .bind(column!(l => l.hash.0.to_vec()))
    .execute(&mut **tx)
    .await?;
    let moved =
        sqlx::query("UPDATE heads SET sequence = $2, hash = $3 WHERE tenant_id = $1 AND sequence < $2")
            .bind(chain.uuid())
            .bind(last.sequence)
            .bind(last.hash.0.as_slice())
            .execute(&mut **tx)
            .await?;
    if moved.rows_affected() == 1 { Ok(()) } else { Err(StoreError::Stale("the head of the chain is gone")) }
}

/// Chains that have grown and were not signed for `every`, or have grown by `events`.
pub(crate) async fn due_for_checkpoint(
    db: &Db,
    every: Duration,
    events: i64,
) -> Result<Vec<Chain>, StoreError> {
    let mut tx = db.system().await?;
    let due: Vec<Uuid> = sqlx::query_scalar(
        "SELECT tenant_id FROM heads WHERE sequence > checkpoint_sequence
           AND (checkpoint_at < statement_timestamp() - $1 * interval '1 second' OR sequence - checkpoint_sequence >= $2)
         ORDER BY checkpoint_at LIMIT 1000",
    )
    .bind(every.as_secs_f64())
    .bind(events)
    .fetch_all(&mut *tx)
    .await?;
    tx.rollback().await?;
    Ok(due.into_iter().map(Chain::from).collect())
}

/// Locks one head.
pub(crate) async fn lock_head(tx: &mut Tx, chain: Chain) -> Result<Option<Head>, StoreError> {
    sqlx::query(
        "SELECT sequence, hash, checkpoint_sequence, checkpoint_hash FROM heads WHERE tenant_id = $1 FOR UPDATE",
    )
    .bind(chain.uuid())
    .fetch_optional(&mut **tx)
    .await?
    .map(|row| head(&row))
    .transpose()
}

fn head(row: &PgRow) -> Result<Head, StoreError> {
    Ok(Head {
        sequence: row.try_get("sequence")?,
        hash: hash(row, "hash")?,
        checkpoint_sequence: row.try_get("checkpoint_sequence")?,
        checkpoint_hash: hash(row, "checkpoint_hash")?,
    })
}

/// Stores a checkpoint and notes it at the head, whose lock the transaction holds.
pub(crate) async fn insert_checkpoint(
    tx: &mut Tx,
    chain: Chain,
    checkpoint: &Checkpoint,
) -> Result<(), StoreError> {
    let Checkpoint { sequence, event_hash, signed_at, previous, hash, public_key, signature } = checkpoint;
    sqlx::query(
        "INSERT INTO checkpoints (tenant_id, sequence, event_hash, signed_at, previous_hash, hash, public_key, signature)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
    )
    .bind(chain.uuid())
    .bind(sequence)
    .bind(event_hash.0.as_slice())
    .bind(signed_at)
    .bind(previous.0.as_slice())
    .bind(hash.0.as_slice())
    .bind(public_key)
    .bind(signature)
    .execute(&mut **tx)
    .await?;
    sqlx::query(
        "UPDATE heads SET checkpoint_sequence = $2, checkpoint_hash = $3, checkpoint_at = $4 WHERE tenant_id = $1",
    )
    .bind(chain.uuid())
    .bind(sequence)
    .bind(hash.0.as_slice())
    .bind(signed_at)
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// A chain's head as one statement sees it, with the last event and the last checkpoint that exist.
#[derive(Debug)]
pub(crate) struct Extent {
    pub head: Option<Head>,
    pub last_event: i64,
    pub last_checkpoint: i64,
}

/// How far a chain reaches.
pub(crate) async fn extent(db: &Db, chain: Chain) -> Result<Extent, StoreError> {
    let mut tx = db.tenant(chain.tenant()).await?;
    let row = sqlx::query(
        "SELECT h.sequence, h.hash, h.checkpoint_sequence, h.checkpoint_hash,
                coalesce((SELECT max(sequence) FROM events WHERE tenant_id = $1), 0) AS last_event,
                coalesce((SELECT max(sequence) FROM checkpoints WHERE tenant_id = $1), 0) AS last_checkpoint
         FROM (SELECT $1::uuid AS tenant_id) AS asked LEFT JOIN heads h USING (tenant_id)",
    )
    .bind(chain.uuid())
    .fetch_one(&mut *tx)
    .await?;
    tx.rollback().await?;
    let exists = row.try_get::<Option<i64>, _>("sequence")?.is_some();
    Ok(Extent {
        head: if exists { Some(head(&row)?) } else { None },
        last_event: row.try_get("last_event")?,
        last_checkpoint: row.try_get("last_checkpoint")?,
    })
}

/// The links after a position, in order.
pub(crate) async fn links_after(
    db: &Db,
    chain: Chain,
    after: i64,
    limit: i64,
) -> Result<Vec<Link>, StoreError> {
    let mut tx = db.tenant(chain.tenant()).await?;
    let rows =
        sqlx::query("SELECT * FROM events WHERE tenant_id = $1 AND sequence > $2 ORDER BY sequence LIMIT $3")
            .bind(chain.uuid())
            .bind(after)
            .bind(limit)
            .fetch_all(&mut *tx)
            .await?;
    tx.rollback().await?;
    rows.iter().map(link).collect()
}

/// The checkpoints after one position and up to another, in order.
pub(crate) async fn checkpoints_between(
    db: &Db,
    chain: Chain,
    after: i64,
    up_to: i64,
) -> Result<Vec<Checkpoint>, StoreError> {
    let mut tx = db.tenant(chain.tenant()).await?;
    let rows = sqlx::query(
        "SELECT * FROM checkpoints WHERE tenant_id = $1 AND sequence > $2 AND sequence <= $3 ORDER BY sequence",
    )
    .bind(chain.uuid())
    .bind(after)
    .bind(up_to)
    .fetch_all(&mut *tx)
    .await?;
    tx.rollback().await?;
    rows.iter()
        .map(|row| {
            Ok(Checkpoint {
                sequence: row.try_get("sequence")?,
                event_hash: hash(row, "event_hash")?,
                signed_at: row.try_get("signed_at")?,
                previous: hash(row, "previous_hash")?,
                hash: hash(row, "hash")?,
                public_key: row.try_get("public_key")?,
                signature: row.try_get("signature")?,
            })
        })
        .collect()
}

/// The place of the last event stored before an instant, of those up to `last`; 0 when there is none. Halves the range
/// each time: the times of storing grow with the places.
pub(crate) async fn last_before(
    db: &Db,
    chain: Chain,
    at: OffsetDateTime,
    last: i64,
) -> Result<i64, StoreError> {
    let mut tx = db.tenant(chain.tenant()).await?;
    let (mut before, mut not) = (0, last + 1);
    while before + 1 < not {
        let middle = before + (not - before) / 2;
        let stored: Option<OffsetDateTime> =
            sqlx::query_scalar("SELECT stored_at FROM events WHERE tenant_id = $1 AND sequence = $2")
                .bind(chain.uuid())
                .bind(middle)
                .fetch_optional(&mut *tx)
                .await?;
        if stored.is_none_or(|stored| stored < at) { before = middle } else { not = middle }
    }
    tx.rollback().await?;
    Ok(before)
}

/// An event as it is stored.
pub(crate) fn link(row: &PgRow) -> Result<Link, StoreError> {
    Ok(Link {
        event: Event {
            event_id: row.try_get("event_id")?,
            occurred_at: row.try_get("occurred_at")?,
            kind: row.try_get("type")?,
            actor_kind: row.try_get("actor_kind")?,
            actor_id: row.try_get("actor_id")?,
            actor_name: row.try_get("actor_name")?,
            outcome: row.try_get("outcome")?,
            cause_id: row.try_get("cause_id")?,
            integration_id: row.try_get("integration_id")?,
            object_kind: row.try_get("object_kind")?,
            object_id: row.try_get("object_id")?,
            user_object_id: row.try_get("user_object_id")?,
            user_name: row.try_get("user_name")?,
            message: row.try_get("message")?,
            details: row.try_get::<Json<BTreeMap<String, String>>, _>("details")?.0,
        },
        sequence: row.try_get("sequence")?,
        stored_at: row.try_get("stored_at")?,
        previous: hash(row, "previous_hash")?,
        hash: hash(row, "hash")?,
    })
}

fn hash(row: &PgRow, column: &str) -> Result<Hash, StoreError> {
    Hash::from_slice(row.try_get(column)?)
        .ok_or_else(|| StoreError::Corrupt(format!("audit column {column} is not a hash")))
}
