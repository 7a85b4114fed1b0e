//! IngestFeedRecords: batches in, each answered after its commit.

use std::{
    collections::{HashMap, HashSet},
    pin::Pin,
    sync::Arc,
};

use futures::{Stream, stream};
use prost::Message;
use shared::{
    audit::{self, Event, Outcome, names},
    db::Db,
    id::{BatchId, CauseId, TenantId},
    outbox::{self, Topic},
    sealing::{DataKey, Owner, column},
    wire::{
        events::FeedBatchReceived,
        v1::{self, Role},
    },
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::{Status, Streaming};

use super::ingest_record::{self, Rejection};
use crate::{
    auth::{Caller, role_name},
    error::ApiError,
    idempotent,
    sealers::Sealers,
    store::{self, feeds},
};

const MOST_RECORDS: usize = 500;
/// Largest batch on the wire.
pub const MOST_BYTES: usize = 4 * 1024 * 1024;

/// What a caller receives.
pub type Answers = Pin<Box<dyn Stream<Item = Result<v1::IngestFeedRecordsResponse, Status>> + Send>>;

/// Takes batches in. One batch of a stream at a time, a bounded number of streams: memory is bounded.
#[derive(Clone, Debug)]
pub struct Ingest {
    db: Db,
    sealers: Sealers,
    outbox_rows: i64,
    streams: Arc<Semaphore>,
}

struct Source {
    ingest: Ingest,
    caller: Caller,
    batches: Streaming<v1::IngestFeedRecordsRequest>,
    _slot: OwnedSemaphorePermit,
}

impl Ingest {
    /// With bounds on unsent messages and on streams.
    pub fn new(db: Db, sealers: Sealers, outbox_rows: i64, streams: usize) -> Self {
        Self { db, sealers, outbox_rows, streams: Arc::new(Semaphore::new(streams)) }
    }

    /// Answers a stream of batches, in order, until it ends or one cannot be taken.
    pub(super) fn stream(
        &self,
        caller: Caller,
        batches: Streaming<v1::IngestFeedRecordsRequest>,
    ) -> Result<Answers, ApiError> {
        let slot = Arc::clone(&self.streams)
            .try_acquire_owned()
            .map_err(|_| ApiError::Busy("too many feeds are being handed in at once"))?;
        let source = Source { ingest: self.clone(), caller, batches, _slot: slot };
        Ok(Box::pin(stream::try_unfold(source, |mut source| async move {
            let Some(batch) = source.batches.message().await? else { return Ok(None) };
            let answer = source.ingest.take(&source.caller, batch).await?;
            Ok(Some((answer, source)))
        })))
    }

    async fn take(
        &self,
        caller: &Caller,
        request: v1::IngestFeedRecordsRequest,
    ) -> Result<v1::IngestFeedRecordsResponse, ApiError> {
        let owner = owner(caller, request.feed_scope)?;
        check(&request)?;
        let fingerprint = fingerprint(&request);
        let v1::IngestFeedRecordsRequest { batch_id: client_id, feed, feed_scope: _, records } = request;
        let mut tx = match owner {
            Some(tenant) => self.db.tenant(tenant).await?,
            None => self.db.system().await?,
        };
        feeds::lock(&mut tx, owner, &feed, &client_id).await?;
        if let Some((known, answer)) = feeds::answered(&mut tx, owner, &feed, &client_id).await? {
            tx.rollback().await?;
            if known != fingerprint {
                return Err(ApiError::field(
                    "batch_id",
                    "this id was used for other records (BATCH_ID_REUSED); choose a new one",
                ));
            }
            let answer = v1::IngestFeedRecordsResponse::decode(answer.as_slice());
            let mut answer = answer.map_err(|_| ApiError::Internal("a remembered answer is damaged"))?;
            answer.repeated_batch = true;
            return Ok(answer);
        }
        if store::outbox_rows(&mut tx, self.outbox_rows).await? >= self.outbox_rows {
            return Err(ApiError::Busy("too much waits to be matched; hand the batch in again later"));
        }
        let sealer = self.sealers.leak(&mut tx, owner).await?;
        let (batch, key) = (BatchId::new(), DataKey::generate()?);
        let key_owner = Owner { tenant: owner, table: column::FEED_DATA_KEY, row: batch.uuid(), version: 1 };
        let data_key_sealed = key.seal_to(&sealer, &key_owner)?;
        let now = tx.clock().await?;
        let mut prepared = Vec::with_capacity(records.len());
        for record in records {
            prepared.push(ingest_record::prepare(owner, &key, record, now)?);
        }
        let (outcomes, fresh) = sort_out(prepared);
        let made = feeds::insert_records(&mut tx, owner, batch, &feed, &fresh).await?;
        let made: HashSet<_> = made.into_iter().map(shared::id::FeedRecordId::uuid).collect();
        let external: Vec<_> = fresh.iter().map(|r| r.external_id.as_str()).collect();
        let stored: HashMap<_, _> =
            feeds::stored(&mut tx, owner, &feed, &external).await?.into_iter().collect();
        let answer = answer(&client_id, batch, outcomes, &made, &stored);
        let row = feeds::Batch {
            id: batch,
            feed: &feed,
            client_id: &client_id,
            fingerprint: &fingerprint,
            data_key_sealed: &data_key_sealed,
            received_from: &caller.claims.subject,
        };
        feeds::insert_batch(&mut tx, owner, &row, answer.accepted, &answer.encode_to_vec()).await?;
        let event = Event::new(
            owner,
            names::FEED_BATCH_RECEIVED,
            caller.actor(),
            Outcome::Success,
            format!("{} records of feed {feed} received", answer.accepted),
        )
        .object("feed_batch", batch)
        .detail("feed", &feed)
        .detail("accepted", answer.accepted)
        .detail("duplicates", answer.duplicates)
        .detail("rejected", answer.rejected);
        let cause = CauseId(batch.uuid());
        audit::record(&mut tx, &event.cause(cause)).await?;
        if answer.accepted > 0 {
            let message = FeedBatchReceived {
                tenant_id: owner.map(|t| t.to_string()).unwrap_or_default(),
                batch_id: batch.to_string(),
                cause_id: cause.to_string(),
            };
            outbox::enqueue(&mut tx, Topic::FeedBatchReceived, owner, &message).await?;
        }
        tx.commit().await?;
        for (outcome, count) in
            [("accepted", answer.accepted), ("duplicate", answer.duplicates), ("rejected", answer.rejected)]
        {
            metrics::counter!("parapet_feed_records_total", "outcome" => outcome)
                .increment(u64::from(count.unsigned_abs()));
        }
        Ok(answer)
    }
}

fn owner(caller: &Caller, scope: i32) -> Result<Option<TenantId>, ApiError> {
    match v1::FeedScope::try_from(scope) {
        Ok(v1::FeedScope::Unspecified | v1::FeedScope::Tenant) => caller.tenant().map(Some),
        Ok(v1::FeedScope::Installation) if caller.has(Role::Operator) => Ok(None),
        Ok(v1::FeedScope::Installation) => Err(ApiError::Denied {
            reason: "ROLE_MISSING",
            message: format!(
                "a feed of the installation needs the role {} as well",
                role_name(Role::Operator)
            ),
        }),
        Err(_) => Err(ApiError::field("feed_scope", "give a known scope")),
    }
}

fn check(request: &v1::IngestFeedRecordsRequest) -> Result<(), ApiError> {
    let mut check = crate::error::Check::default();
    let id = &request.batch_id;
    check.require(
        (1..=128).contains(&id.len()) && !id.chars().any(char::is_control),
        "batch_id",
        "choose 1 to 128 characters, new for each batch and the same when you repeat it",
    );
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_' | b'.');
    check.require(
        (1..=64).contains(&request.feed.len()) && request.feed.bytes().all(plain),
        "feed",
        "give 1 to 64 of a-z 0-9 - _ .",
    );
    check.require((1..=MOST_RECORDS).contains(&request.records.len()), "records", "give 1 to 500 records");
    check.done()
}

// Secrets are left out: a digest of a password could be guessed from.
fn fingerprint(request: &v1::IngestFeedRecordsRequest) -> Vec<u8> {
    let mut shape = v1::IngestFeedRecordsRequest {
        batch_id: request.batch_id.clone(),
        feed: request.feed.clone(),
        feed_scope: request.feed_scope,
        records: Vec::with_capacity(request.records.len()),
    };
    for record in &request.records {
        shape.records.push(v1::FeedRecord {
            external_id: record.external_id.clone(),
            identity: record.identity.clone(),
            secret_form: record.secret_form,
            captured_before: record.captured_before,
            published_at: record.published_at,
            ..Default::default()
        });
    }
    idempotent::fingerprint(&shape)
}

enum Sorted {
    Rejected(Rejection),
    /// To be stored, or a repetition within the batch: the database or the first of them decides.
    Named(String, Option<uuid::Uuid>),
}

fn sort_out(prepared: Vec<Result<feeds::Record, Rejection>>) -> (Vec<Sorted>, Vec<feeds::Record>) {
    let mut seen = HashSet::new();
    let (mut outcomes, mut fresh) = (Vec::with_capacity(prepared.len()), Vec::with_capacity(prepared.len()));
    for record in prepared {
        match record {
            Err(rejection) => outcomes.push(Sorted::Rejected(rejection)),
            Ok(record) if seen.insert(record.external_id.clone()) => {
                outcomes.push(Sorted::Named(record.external_id.clone(), Some(record.id.uuid())));
                fresh.push(record);
            }
            Ok(record) => outcomes.push(Sorted::Named(record.external_id, None)),
        }
    }
    (outcomes, fresh)
}

fn answer(
    client_id: &str,
    batch: BatchId,
    sorted: Vec<Sorted>,
    made: &HashSet<uuid::Uuid>,
    stored: &HashMap<String, uuid::Uuid>,
) -> v1::IngestFeedRecordsResponse {
    let mut answer = v1::IngestFeedRecordsResponse {
        batch_id: client_id.to_owned(),
        stored_batch_id: batch.to_string(),
        ..Default::default()
    };
    for (index, record) in (0_i32..).zip(sorted) {
        let mut outcome = v1::RecordOutcome { index, ..Default::default() };
        match record {
            Sorted::Rejected(Rejection { reason, field, message }) => {
                answer.rejected += 1;
                outcome.set_kind(v1::RecordOutcomeKind::Rejected);
                (outcome.reason, outcome.field, outcome.message) =
                    (reason.into(), field.into(), message.into());
            }
            Sorted::Named(_, Some(id)) if made.contains(&id) => {
                answer.accepted += 1;
                outcome.set_kind(v1::RecordOutcomeKind::Accepted);
                outcome.record_id = id.to_string();
            }
            Sorted::Named(external_id, _) => {
                answer.duplicates += 1;
                outcome.set_kind(v1::RecordOutcomeKind::Duplicate);
                outcome.record_id = stored.get(&external_id).map(ToString::to_string).unwrap_or_default();
            }
        }
        answer.outcomes.push(outcome);
    }
    answer
}
