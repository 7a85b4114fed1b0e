//! Which messages were seen, how often they were tried, and which effects are committed.
//!
//! A message costs two transactions: the first counts the try, so that a message that kills its handler is counted
//! too; the second holds the effect and marks the row done. A row lives at least 14 days; a message older than that
//! is parked unread, because nobody could tell any more whether it was handled.

use std::collections::HashMap;

use sqlx::Row;
use time::{Duration, OffsetDateTime};
use uuid::Uuid;

use crate::{
    db::{Db, StoreError, Tx, outgoing},
    id::{MessageId, TenantId},
    outbox::Topic,
};

/// Tries after which a message is parked.
pub const MAX_TRIES: i32 = 5;

/// Oldest message that is still read; inbox rows are kept longer than this.
pub const MAX_AGE: Duration = Duration::days(14);

/// How far a message id may lie in the future, for clocks that disagree; partitions exist that far ahead.
pub const MAX_AHEAD: Duration = Duration::days(1);

/// What the inbox knows of a message after counting a try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// Work on it; this is the n-th try.
    Try(i32),
    /// Its effect is committed, or it is parked: acknowledge it.
    Settled,
}

/// Counts a try of each message, in a transaction of its own.
pub(crate) async fn begin(
    db: &Db,
    topic: Topic,
    ids: &[MessageId],
) -> Result<HashMap<MessageId, Seen>, StoreError> {
    // Sorted, so that two consumers of the same messages never wait for each other in a circle.
    let mut ids: Vec<Uuid> = ids.iter().map(|id| id.uuid()).collect();
    ids.sort_unstable();
    ids.dedup();
    let mut tx = db.system_by_key().await?;
    let rows = sqlx::query(
        "INSERT INTO inbox AS i (message_id, consumer) SELECT unnest($1::uuid[]), $2
         ON CONFLICT (message_id, consumer) DO UPDATE SET tries = i.tries + 1
         RETURNING message_id, tries, status",
    )
    .bind(&ids)
    .bind(topic.as_str())
    .fetch_all(&mut *tx)
    .await?;
    tx.commit().await?;
    rows.into_iter()
        .map(|row| {
            let seen = match row.try_get::<&str, _>("status")? {
                "working" => Seen::Try(row.try_get("tries")?),
                _ => Seen::Settled,
            };
            Ok((MessageId(row.try_get("message_id")?), seen))
        })
        .collect()
}

/// Marks messages done; returns those that were not before. The others' effects were committed by somebody else.
pub(crate) async fn done(tx: &mut Tx, topic: Topic, ids: &[MessageId]) -> Result<Vec<MessageId>, StoreError> {
    let ids: Vec<Uuid> = ids.iter().map(|id| id.uuid()).collect();
    // The bounds tell a kept plan which days' partitions it needs.
    let rows = sqlx::query_scalar(
        "UPDATE inbox SET status = 'done'
         WHERE consumer = $1 AND message_id = ANY ($2) AND message_id BETWEEN $3 AND $4 AND status <> 'done'
         RETURNING message_id",
    )
    .bind(topic.as_str())
    .bind(&ids)
    .bind(ids.iter().min())
    .bind(ids.iter().max())
    .fetch_all(&mut **tx)
    .await?;
    Ok(rows.into_iter().map(MessageId).collect())
}

/// Marks one message done and, in the same statement, writes what the transaction sends. Whether it was not done before.
pub(crate) async fn done_one(tx: &mut Tx, topic: Topic, id: MessageId) -> Result<bool, StoreError> {
    let sent = tx.take_outgoing();
    let marked = outgoing::bind(
        concat!(
            "WITH sent AS (",
            outgoing::send!(),
            ") UPDATE inbox SET status = 'done' WHERE consumer = $6 AND message_id = $7 AND status <> 'done'"
        ),
        sent,
    )
    .bind(topic.as_str())
    .bind(id)
    .execute(&mut **tx)
    .await?;
    Ok(marked.rows_affected() > 0)
}

/// Remembers why a try failed, for whoever looks at the inbox.
pub(crate) async fn failed(db: &Db, topic: Topic, id: MessageId, error: &str) -> Result<(), StoreError> {
    let mut tx = db.system().await?;
    sqlx::query(
        "UPDATE inbox SET last_error = $3 WHERE consumer = $1 AND message_id = $2 AND status = 'working'",
    )
    .bind(topic.as_str())
    .bind(id)
    .bind(error)
    .execute(&mut *tx)
    .await?;
    tx.commit().await
}

/// A message that cannot be done, with all that is needed to try it again.
#[derive(Debug)]
pub(crate) struct Parked<'a> {
    pub topic: Topic,
    pub message_id: MessageId,
    pub tenant: Option<TenantId>,
    pub content_type: Option<&'a str>,
    pub traceparent: Option<&'a str>,
    pub body: &'a [u8],
    pub reason: &'a str,
    pub tries: i32,
}

/// Parks a message: it is out of the broker and waits, visibly, for an operator. A message whose effect was
/// committed meanwhile is left alone.
pub(crate) async fn park(db: &Db, parked: &Parked<'_>) -> Result<(), StoreError> {
    let mut tx = db.system().await?;
    sqlx::query(
        "WITH mine AS (
             UPDATE inbox SET status = 'parked', last_error = $7
             WHERE consumer = $2 AND message_id = $1 AND status = 'working')
         INSERT INTO parked (message_id, consumer, tenant_id, content_type, traceparent, body, reason, tries)
         SELECT $1, $2, $3, $4, $5, $6, $7, $8
         WHERE NOT EXISTS (SELECT FROM inbox WHERE consumer = $2 AND message_id = $1 AND status = 'done')
         ON CONFLICT (message_id, consumer) DO NOTHING",
    )
    .bind(parked.message_id)
    .bind(parked.topic.as_str())
    .bind(parked.tenant)
    .bind(parked.content_type)
    .bind(parked.traceparent)
    .bind(parked.body)
    .bind(parked.reason)
    .bind(parked.tries)
    .execute(&mut *tx)
    .await?;
    tx.commit().await
}

/// Sends a parked message again, under a new id, through this service's outbox. False when it is not parked.
pub async fn retry(tx: &mut Tx, id: MessageId) -> Result<bool, StoreError> {
    let again = sqlx::query(
        "WITH taken AS (DELETE FROM parked WHERE message_id = $1 RETURNING *)
         INSERT INTO outbox (id, tenant_id, topic, body, traceparent)
         SELECT $2, tenant_id, consumer, body, traceparent FROM taken",
    )
    .bind(id)
    .bind(MessageId::new())
    .execute(&mut **tx)
    .await?;
    tx.wrote_messages();
    Ok(again.rows_affected() > 0)
}

/// Gives a parked message up. False when it is not parked.
pub async fn discard(tx: &mut Tx, id: MessageId) -> Result<bool, StoreError> {
    let gone = sqlx::query("DELETE FROM parked WHERE message_id = $1").bind(id).execute(&mut **tx).await?;
    Ok(gone.rows_affected() > 0)
}

/// Creates the partitions of the coming days and drops those past their time.
pub async fn maintain(db: &Db) -> Result<(), StoreError> {
    let mut tx = db.system().await?;
    sqlx::query("SELECT platform.maintain_inbox()").execute(&mut *tx).await?;
    tx.commit().await
}

/// Number of parked messages, for the gauge operators watch.
pub async fn parked(db: &Db) -> Result<i64, StoreError> {
    let mut tx = db.system().await?;
    let count = sqlx::query_scalar("SELECT count(*) FROM parked").fetch_one(&mut *tx).await?;
    tx.rollback().await?;
    Ok(count)
}

/// Why the message's id rules it out unread, if it does.
pub(crate) fn refused_by_age(id: MessageId, now: OffsetDateTime) -> Option<&'static str> {
    let Some(sent) = sent_at(id) else {
        return Some("the message id is not a UUIDv7");
    };
    if now - sent > MAX_AGE {
        Some("the message is older than 14 days")
    } else if sent - now > MAX_AHEAD {
        Some("the message comes from the future")
    } else {
        None
    }
}

fn sent_at(id: MessageId) -> Option<OffsetDateTime> {
    if id.uuid().get_version_num() != 7 {
        return None;
    }
    let (seconds, nanoseconds) = id.uuid().get_timestamp()?.to_unix();
    let seconds = OffsetDateTime::from_unix_timestamp(i64::try_from(seconds).ok()?).ok()?;
    Some(seconds + Duration::nanoseconds(i64::from(nanoseconds)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_read_for_fourteen_days_and_then_parked_unread() {
        let id = MessageId::new();
        let sent = sent_at(id).unwrap();
        assert_eq!(refused_by_age(id, sent + Duration::days(14)), None);
        assert!(refused_by_age(id, sent + Duration::days(14) + Duration::SECOND).unwrap().contains("older"));
        assert_eq!(refused_by_age(id, sent - Duration::hours(23)), None);
        assert!(refused_by_age(id, sent - Duration::days(2)).unwrap().contains("future"));
    }

    #[test]
    fn an_id_that_carries_no_time_is_refused() {
        assert!(refused_by_age(MessageId(Uuid::new_v4()), OffsetDateTime::UNIX_EPOCH).is_some());
    }
}
