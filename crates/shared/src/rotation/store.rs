//! The SQL of rotation. Tables without a schema are those of the owner of the key pairs (its `search_path`).

use sqlx::Row;
use time::OffsetDateTime;
use uuid::Uuid;

use super::SealedColumn;
use crate::{
    db::{StoreError, Tx, parse},
    id::TenantId,
    sealing::{Purpose, StoredKeyPair, TopId, source::Half},
};

/// The all-zero id stands for the installation in tables whose key it belongs to.
pub(super) fn owner(tenant: Option<TenantId>) -> Uuid {
    tenant.map_or(Uuid::nil(), TenantId::uuid)
}

pub(super) fn tenant(owner: Uuid) -> Option<TenantId> {
    (!owner.is_nil()).then_some(TenantId(owner))
}

/// The top key that is to wrap every half.
#[derive(Debug)]
pub(super) struct Wanted {
    pub key: TopId,
    pub finished: bool,
}

/// Takes the latest request up, and tells what is wanted; nothing, if nobody ever asked.
pub(super) async fn wanted(tx: &mut Tx, purpose: Purpose) -> Result<Option<Wanted>, StoreError> {
    let newer: Option<(Uuid, String, OffsetDateTime)> = sqlx::query_as(
        "SELECT r.request_id, r.wanted, r.requested_at FROM api.key_requests_v r
         WHERE r.purpose = $1 AND r.scope = 'top'
           AND NOT EXISTS (SELECT FROM top_key t WHERE (t.requested_at, t.request_id) >= (r.requested_at, r.request_id))
         ORDER BY r.requested_at DESC, r.request_id DESC LIMIT 1",
    )
    .bind(purpose.as_str())
    .fetch_optional(&mut **tx)
    .await?;
    if let Some((request, wanted, at)) = newer {
        sqlx::query(
            "INSERT INTO top_key (wanted, request_id, requested_at) VALUES ($1, $2, $3)
             ON CONFLICT (only_one) DO UPDATE
             SET wanted = excluded.wanted, request_id = excluded.request_id, requested_at = excluded.requested_at,
                 rewrapped = 0, finished_at = NULL
             WHERE top_key.requested_at < excluded.requested_at",
        )
        .bind(wanted)
        .bind(request)
        .bind(at)
        .execute(&mut **tx)
        .await?;
    }
    let row = sqlx::query("SELECT wanted, finished_at IS NOT NULL AS finished FROM top_key")
        .fetch_optional(&mut **tx)
        .await?;
    let Some(row) = row else { return Ok(None) };
    Ok(Some(Wanted {
        key: parse("top_key.wanted", row.try_get("wanted")?)?,
        finished: row.try_get("finished")?,
    }))
}

/// Whether no other transaction wraps this purpose's halves at this moment.
pub(super) async fn alone(tx: &mut Tx, purpose: Purpose) -> Result<bool, StoreError> {
    Ok(sqlx::query_scalar("SELECT pg_try_advisory_xact_lock(hashtextextended('rewrap ' || $1, 0))")
        .bind(purpose.as_str())
        .fetch_one(&mut **tx)
        .await?)
}

/// Halves that another key wraps.
pub(super) async fn to_wrap(
    tx: &mut Tx,
    by: TopId,
    after: (Uuid, i32),
    limit: i64,
) -> Result<Vec<(Uuid, i32)>, StoreError> {
    Ok(sqlx::query_as(
        "SELECT tenant_id, version FROM key_halves
         WHERE wrapped_by <> $1 AND (tenant_id, version) > ($2, $3) ORDER BY tenant_id, version LIMIT $4",
    )
    .bind(by.to_string())
    .bind(after.0)
    .bind(after.1)
    .bind(limit)
    .fetch_all(&mut **tx)
    .await?)
}

/// These halves, as far as they are there.
pub(super) async fn halves(tx: &mut Tx, places: &[(Uuid, i32)]) -> Result<Vec<Half>, StoreError> {
    let (owners, versions): (Vec<_>, Vec<_>) = places.iter().copied().unzip();
    let rows = sqlx::query("SELECT tenant, number, public, signed, wrapped FROM halves($1, $2)")
        .bind(owners)
        .bind(versions)
        .fetch_all(&mut **tx)
        .await?;
    rows.into_iter()
        .map(|row| {
            Ok(Half {
                tenant: tenant(row.try_get("tenant")?),
                version: version(row.try_get("number")?)?,
                pair: StoredKeyPair {
                    public: row.try_get("public")?,
                    signature: row.try_get("signed")?,
                    wrapped_private: row.try_get("wrapped")?,
                },
            })
        })
        .collect()
}

/// Replaces them by these, where they are still what they were; how many.
pub(super) async fn put_halves(
    tx: &mut Tx,
    before: &[Half],
    after: &[StoredKeyPair],
) -> Result<i64, StoreError> {
    let versions = before.iter().map(|h| number(h.version)).collect::<Result<Vec<_>, _>>()?;
    Ok(sqlx::query_scalar("SELECT put_halves($1, $2, $3, $4, $5)")
        .bind(before.iter().map(|h| owner(h.tenant)).collect::<Vec<_>>())
        .bind(versions)
        .bind(before.iter().map(|h| h.pair.wrapped_private.as_slice()).collect::<Vec<_>>())
        .bind(after.iter().map(|p| p.wrapped_private.as_slice()).collect::<Vec<_>>())
        .bind(after.iter().map(|p| p.signature.as_slice()).collect::<Vec<_>>())
        .fetch_one(&mut **tx)
        .await?)
}

pub(super) async fn count_rewrapped(tx: &mut Tx, halves: i64) -> Result<(), StoreError> {
    sqlx::query("UPDATE top_key SET rewrapped = rewrapped + $1").bind(halves).execute(&mut **tx).await?;
    Ok(())
}

/// Notes that no half is wrapped by another key, if so; how many had to be wrapped. Nothing when it was noted before.
pub(super) async fn finish_top(tx: &mut Tx, by: TopId) -> Result<Option<i64>, StoreError> {
    Ok(sqlx::query_scalar(
        "UPDATE top_key SET finished_at = clock_timestamp()
         WHERE finished_at IS NULL AND wanted = $1 AND NOT EXISTS (SELECT FROM key_halves WHERE wrapped_by <> $1)
         RETURNING rewrapped",
    )
    .bind(by.to_string())
    .fetch_optional(&mut **tx)
    .await?)
}

/// Whose key pair is to be replaced: somebody asked, or it is this many days old.
pub(super) async fn due(
    tx: &mut Tx,
    purpose: Purpose,
    days: u32,
) -> Result<Vec<(Option<TenantId>, Option<Uuid>)>, StoreError> {
    let rows: Vec<(Uuid, Option<Uuid>)> = sqlx::query_as(
        "(SELECT coalesce(r.tenant_id, '00000000-0000-0000-0000-000000000000'::uuid) AS owner, r.request_id
          FROM api.key_requests_v r
          WHERE r.purpose = $1 AND r.scope IN ('tenant', 'installation')
            AND NOT EXISTS (SELECT FROM key_jobs j WHERE j.request_id = r.request_id)
          ORDER BY r.requested_at LIMIT 20)
         UNION ALL
         (SELECT h.tenant_id, NULL FROM key_halves h GROUP BY h.tenant_id
          HAVING $2 > 0 AND max(h.made_at) < clock_timestamp() - make_interval(days => $2) AND bool_and(h.destroyed_at IS NULL)
             AND NOT EXISTS (SELECT FROM key_jobs j WHERE j.tenant_id = h.tenant_id AND j.finished_at IS NULL)
          LIMIT 20)",
    )
    .bind(purpose.as_str())
    .bind(i32::try_from(days).unwrap_or(i32::MAX))
    .fetch_all(&mut **tx)
    .await?;
    Ok(rows.into_iter().map(|(owner, request)| (tenant(owner), request)).collect())
}

/// The newest version of an owner's key pair that was not destroyed; none while another rotation of it is under way.
pub(super) async fn newest(tx: &mut Tx, of: Option<TenantId>) -> Result<Option<u32>, StoreError> {
    let found: Option<i32> = sqlx::query_scalar(
        "SELECT max(version) FROM key_halves h WHERE tenant_id = $1 AND destroyed_at IS NULL
           AND NOT EXISTS (SELECT FROM key_jobs j WHERE j.tenant_id = $1 AND j.finished_at IS NULL)",
    )
    .bind(owner(of))
    .fetch_one(&mut **tx)
    .await?;
    found.map(version).transpose()
}

/// Begins a rotation: the new pair is there for whoever seals from now on. False when another process was first.
pub(super) async fn begin(
    tx: &mut Tx,
    of: Option<TenantId>,
    to: u32,
    pair: &StoredKeyPair,
    request: Option<Uuid>,
) -> Result<bool, StoreError> {
    if of.is_some() {
        // Takes turns with who destroys all of a tenant's halves.
        sqlx::query("SELECT FROM sealing_key_tenants WHERE tenant_id = $1 FOR SHARE")
            .bind(of)
            .execute(&mut **tx)
            .await?;
    }
    let began = sqlx::query(
        "INSERT INTO key_jobs (tenant_id, to_version, request_id) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING",
    )
    .bind(owner(of))
    .bind(number(to)?)
    .bind(request)
    .execute(&mut **tx)
    .await?
    .rows_affected();
    if began == 0 {
        return Ok(false);
    }
    let statement = match of {
        Some(_) => {
            "INSERT INTO sealing_keys (version, public_key, signature, wrapped_private, tenant_id)
             VALUES ($1, $2, $3, $4, $5)"
        }
        None => {
            "INSERT INTO installation_sealing_keys (version, public_key, signature, wrapped_private)
             SELECT $1, $2, $3, $4 WHERE $5::uuid IS NULL"
        }
    };
    sqlx::query(statement)
        .bind(number(to)?)
        .bind(&pair.public)
        .bind(&pair.signature)
        .bind(&pair.wrapped_private)
        .bind(of)
        .execute(&mut **tx)
        .await?;
    Ok(true)
}

/// A rotation under way.
#[derive(Debug)]
pub(super) struct Job {
    pub of: Option<TenantId>,
    pub to: u32,
    pub column: usize,
    pub after: Uuid,
    pub resealed: i64,
    pub age: time::Duration,
}

/// Takes a rotation that nobody else is working at, until the end of the transaction.
pub(super) async fn job(tx: &mut Tx) -> Result<Option<Job>, StoreError> {
    let row = sqlx::query(
        "SELECT tenant_id, to_version, column_at, row_at, resealed,
                extract(epoch FROM clock_timestamp() - started_at)::float8 AS age
         FROM key_jobs WHERE finished_at IS NULL AND next_at <= clock_timestamp()
         ORDER BY next_at LIMIT 1 FOR UPDATE SKIP LOCKED",
    )
    .fetch_optional(&mut **tx)
    .await?;
    let Some(row) = row else { return Ok(None) };
    Ok(Some(Job {
        of: tenant(row.try_get("tenant_id")?),
        to: version(row.try_get("to_version")?)?,
        column: usize::try_from(row.try_get::<i32, _>("column_at")?).unwrap_or_default(),
        after: row.try_get("row_at")?,
        resealed: row.try_get("resealed")?,
        age: time::Duration::seconds_f64(row.try_get("age")?),
    }))
}

/// Notes how far a rotation is, and after how many seconds it goes on.
pub(super) async fn note(tx: &mut Tx, job: &Job, rest: f64, error: Option<&str>) -> Result<(), StoreError> {
    sqlx::query(
        "UPDATE key_jobs SET column_at = $3, row_at = $4, resealed = $5, last_error = coalesce($7, last_error),
                next_at = clock_timestamp() + make_interval(secs => $6)
         WHERE tenant_id = $1 AND to_version = $2",
    )
    .bind(owner(job.of))
    .bind(number(job.to)?)
    .bind(i32::try_from(job.column).unwrap_or(i32::MAX))
    .bind(job.after)
    .bind(job.resealed)
    .bind(rest)
    .bind(error)
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// Lets a rotation that failed rest.
pub(super) async fn postpone(
    tx: &mut Tx,
    of: Option<TenantId>,
    to: u32,
    error: &str,
) -> Result<(), StoreError> {
    sqlx::query(
        "UPDATE key_jobs SET last_error = $3, next_at = clock_timestamp() + interval '5 seconds'
         WHERE tenant_id = $1 AND to_version = $2 AND finished_at IS NULL",
    )
    .bind(owner(of))
    .bind(number(to)?)
    .bind(error)
    .execute(&mut **tx)
    .await?;
    Ok(())
}

pub(super) async fn finish(tx: &mut Tx, job: &Job) -> Result<(), StoreError> {
    sqlx::query(
        "UPDATE key_jobs SET finished_at = clock_timestamp(), last_error = NULL WHERE tenant_id = $1 AND to_version = $2",
    )
    .bind(owner(job.of))
    .bind(number(job.to)?)
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// Gives a rotation up whose key pair is gone: the tenant was deleted.
pub(super) async fn gone(tx: &mut Tx, job: &Job) -> Result<(), StoreError> {
    sqlx::query(
        "UPDATE key_jobs SET finished_at = clock_timestamp(), last_error = 'the key pair was destroyed'
         WHERE tenant_id = $1 AND to_version = $2",
    )
    .bind(owner(job.of))
    .bind(number(job.to)?)
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// One version of a key pair.
pub(super) async fn pair(
    tx: &mut Tx,
    of: Option<TenantId>,
    wanted: u32,
) -> Result<Option<StoredKeyPair>, StoreError> {
    let statement = match of {
        Some(_) => {
            "SELECT public_key, signature, wrapped_private FROM sealing_keys
             WHERE version = $1 AND tenant_id = $2 AND wrapped_private IS NOT NULL"
        }
        None => {
            "SELECT public_key, signature, wrapped_private FROM installation_sealing_keys
             WHERE version = $1 AND $2::uuid IS NULL AND wrapped_private IS NOT NULL"
        }
    };
    let row = sqlx::query(statement).bind(number(wanted)?).bind(of).fetch_optional(&mut **tx).await?;
    let Some(row) = row else { return Ok(None) };
    Ok(Some(StoredKeyPair {
        public: row.try_get("public_key")?,
        signature: row.try_get("signature")?,
        wrapped_private: row.try_get("wrapped_private")?,
    }))
}

/// Locks the halves before this version against being sealed to, and deletes them; how many. Refused by the database while
/// anything that refers to them is there.
pub(super) async fn lock_older(tx: &mut Tx, of: Option<TenantId>, to: u32) -> Result<(), StoreError> {
    let statement = match of {
        Some(_) => "SELECT FROM sealing_keys WHERE version < $1 AND tenant_id = $2 FOR UPDATE",
        None => "SELECT FROM installation_sealing_keys WHERE version < $1 AND $2::uuid IS NULL FOR UPDATE",
    };
    sqlx::query(statement).bind(number(to)?).bind(of).execute(&mut **tx).await?;
    Ok(())
}

/// Destroys the halves before this version; how many. Refused by the database while a row refers to one.
pub(super) async fn destroy_older(tx: &mut Tx, of: Option<TenantId>, to: u32) -> Result<u64, StoreError> {
    let statement = match of {
        Some(_) => "DELETE FROM sealing_keys WHERE version < $1 AND tenant_id = $2",
        None => "DELETE FROM installation_sealing_keys WHERE version < $1 AND $2::uuid IS NULL",
    };
    let done = sqlx::query(statement).bind(number(to)?).bind(of).execute(&mut **tx).await?;
    Ok(done.rows_affected())
}

/// A row that is sealed to another version.
#[derive(Debug)]
pub(super) struct SealedRow {
    pub row: Uuid,
    pub version: u32,
    pub envelope: Vec<u8>,
}

/// Some rows of a column.
pub(super) async fn rows(
    tx: &mut Tx,
    column: &SealedColumn,
    after: Uuid,
    to: u32,
    limit: i64,
) -> Result<Vec<SealedRow>, StoreError> {
    let rows: Vec<(Uuid, i32, Vec<u8>)> =
        sqlx::query_as(column.select).bind(after).bind(number(to)?).bind(limit).fetch_all(&mut **tx).await?;
    rows.into_iter()
        .map(|(row, payload, envelope)| Ok(SealedRow { row, version: version(payload)?, envelope }))
        .collect()
}

/// Replaces an envelope; what is stored afterwards, or nothing if it was another one.
pub(super) async fn replace(
    tx: &mut Tx,
    column: &SealedColumn,
    row: &SealedRow,
    envelope: &[u8],
) -> Result<Option<Vec<u8>>, StoreError> {
    let stored: Option<Option<Vec<u8>>> = sqlx::query_scalar(column.update)
        .bind(row.row)
        .bind(number(row.version)?)
        .bind(&row.envelope)
        .bind(envelope)
        .fetch_optional(&mut **tx)
        .await?;
    Ok(stored.flatten())
}

fn number(version: u32) -> Result<i32, StoreError> {
    i32::try_from(version).map_err(|_| StoreError::Corrupt("a key version beyond any that was made".into()))
}

fn version(number: i32) -> Result<u32, StoreError> {
    u32::try_from(number).map_err(|_| StoreError::Corrupt("a key version is negative".into()))
}
