//! Hands a file's records to the API in batches, several on their way at once, and accounts for every one.
//!
//! Ids are derived from the file's content, so that importing the same file again changes nothing and an interrupted
//! import goes on where it was: the API remembers what it answered. A fast digest of a short file would let anyone who
//! sees an id guess the passwords in it, so the digest is keyed with a key that never leaves this machine.

mod cut;
mod key;
mod outcome;

use std::{collections::VecDeque, fs::File, path::Path, time::Duration};

use anyhow::{Context as _, bail};
use shared::wire::v1 as wire;
use time::OffsetDateTime;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, transport};
use tonic_types::StatusExt as _;
use wire::exposure_service_client::ExposureServiceClient;

pub use key::ImportKey;
pub use outcome::{EntryOutcome, Observer, Summary};

use cut::{Batch, Cutter, Ids, Piece};

use super::{Format, Records};
use crate::client::Api;

/// Batches on their way at once.
const WINDOW: usize = 4;
/// Connections that may fail in a row without a single answer.
const PATIENCE: u32 = 8;

/// What the caller decides about an import.
pub struct Options {
    /// The domain of HIBP's aliases.
    pub domain: Option<String>,
    /// The installation's feed instead of the tenant's.
    pub installation: bool,
}

/// Imports one file. `connect` is asked for a connection at the start and whenever one broke.
pub async fn import<F, C>(
    path: &Path,
    options: &Options,
    key: &ImportKey,
    connect: C,
    observer: &mut (dyn Observer + Send),
) -> anyhow::Result<Summary>
where
    C: Fn() -> F + Send,
    F: Future<Output = anyhow::Result<Api>> + Send,
{
    let mut file = File::open(path).context("cannot open the file")?;
    let modified =
        file.metadata()?.modified().map_or_else(|_| OffsetDateTime::now_utc(), OffsetDateTime::from);
    let digest = key.file(&mut file).context("cannot read the file")?;
    let content = File::open(path)?;
    let records = Records::open(content, options.domain.as_deref())?;
    let mut summary =
        Summary { file: path.to_owned(), format: Format::as_str(records.format()), ..Summary::default() };

    let scope = if options.installation { wire::FeedScope::Installation } else { wire::FeedScope::Tenant };
    // The same file with another date or another domain makes other records: other batches.
    let batch = key.tag(&[
        digest.as_ref(),
        &modified.unix_timestamp_nanos().to_be_bytes(),
        options.domain.as_deref().unwrap_or_default().as_bytes(),
        scope.as_str_name().as_bytes(),
    ]);
    let cutter = Cutter::new(Ids::new(key, digest, batch), scope, modified);
    let (sender, pieces) = mpsc::channel(WINDOW);
    let reader = tokio::task::spawn_blocking(move || cutter.run(records, &sender));
    let mut upload =
        Upload { pieces, unanswered: VecDeque::new(), ended: false, summary: &mut summary, observer };
    let uploaded = upload.run(connect).await;
    drop(upload);
    uploaded?;
    let stats =
        reader.await.context("reading ended abnormally")?.context("the file could not be read to its end")?;
    summary.cookies_left_out = stats.cookies_left_out;
    summary.incomplete_export = stats.continues;
    Ok(summary)
}

struct Upload<'a> {
    pieces: mpsc::Receiver<Piece>,
    unanswered: VecDeque<Box<Batch>>,
    ended: bool,
    summary: &'a mut Summary,
    observer: &'a mut (dyn Observer + Send),
}

impl Upload<'_> {
    async fn run<F, C>(&mut self, connect: C) -> anyhow::Result<()>
    where
        C: Fn() -> F + Send,
        F: Future<Output = anyhow::Result<Api>> + Send,
    {
        let mut failures = 0;
        let mut reached = false;
        while !(self.ended && self.unanswered.is_empty()) {
            let settled = self.summary.records;
            let status = match connect().await {
                Ok(api) => {
                    reached = true;
                    let Some(status) = self.stream(api).await? else { continue };
                    status
                }
                // An API that was there comes back: it is being replaced. One that never was is better told at once.
                Err(error)
                    if reached && error.chain().any(<dyn std::error::Error>::is::<transport::Error>) =>
                {
                    Status::unavailable(format!("{error:#}"))
                }
                Err(error) => return Err(error),
            };
            failures = if self.summary.records > settled { 1 } else { failures + 1 };
            let worth_another = matches!(
                status.code(),
                Code::Unavailable
                    | Code::ResourceExhausted
                    | Code::Cancelled
                    | Code::Aborted
                    | Code::Unauthenticated
            ) || is_broken_connection(&status);
            if !worth_another
                || failures > PATIENCE
                || (status.code() == Code::Unauthenticated && failures > 1)
            {
                return Err(status).with_context(|| {
                    format!(
                        "the import stopped; {} of the records read so far are settled. Run it again to go on",
                        self.summary.records
                    )
                });
            }
            let asked = status.get_error_details().retry_info().and_then(|info| info.retry_delay);
            let pause = asked.unwrap_or_else(|| Duration::from_millis(250 << failures.min(5)));
            tokio::time::sleep(pause.min(Duration::from_mins(1))).await;
        }
        Ok(())
    }

    /// One connection, until everything is answered (`None`) or it breaks.
    async fn stream(&mut self, api: Api) -> anyhow::Result<Option<Status>> {
        let (requests, outgoing) = mpsc::channel(WINDOW);
        for batch in &self.unanswered {
            // There are at most WINDOW of them: they all fit.
            if requests.try_send(batch.to_wire()).is_err() {
                break;
            }
        }
        if self.unanswered.is_empty() && !self.next_piece(&requests).await? {
            return Ok(None);
        }
        let mut client = ExposureServiceClient::new(api).max_encoding_message_size(8 * 1024 * 1024);
        let mut answers = match client.ingest_feed_records(ReceiverStream::new(outgoing)).await {
            Ok(answers) => answers.into_inner(),
            Err(status) => return Ok(Some(status)),
        };
        loop {
            if self.ended && self.unanswered.is_empty() {
                return Ok(None);
            }
            let wants_more = !self.ended && self.unanswered.len() < WINDOW;
            tokio::select! {
                answer = answers.message() => match answer {
                    Ok(Some(answer)) => self.answered(&answer)?,
                    Ok(None) => return Ok(Some(Status::unavailable("the API ended the stream"))),
                    Err(status) => return Ok(Some(status)),
                },
                piece = self.pieces.recv(), if wants_more => self.take(piece, &requests)?,
            }
        }
    }

    /// Waits for a batch; `false` when there is none any more.
    async fn next_piece(
        &mut self,
        requests: &mpsc::Sender<wire::IngestFeedRecordsRequest>,
    ) -> anyhow::Result<bool> {
        while self.unanswered.is_empty() && !self.ended {
            let piece = self.pieces.recv().await;
            self.take(piece, requests)?;
        }
        Ok(!self.unanswered.is_empty())
    }

    fn take(
        &mut self,
        piece: Option<Piece>,
        requests: &mpsc::Sender<wire::IngestFeedRecordsRequest>,
    ) -> anyhow::Result<()> {
        match piece {
            None => self.ended = true,
            Some(Piece::Read(bytes)) => self.observer.read(bytes),
            Some(Piece::Rejected(entry)) => self.settle(&entry)?,
            Some(Piece::Batch(batch)) => {
                // A stream that broke is noticed by its answers; the batch is sent again on the next one.
                if requests.try_send(batch.to_wire()).is_err() {
                    tracing::debug!("the stream takes no more");
                }
                self.unanswered.push_back(batch);
            }
        }
        Ok(())
    }

    fn answered(&mut self, answer: &wire::IngestFeedRecordsResponse) -> anyhow::Result<()> {
        let Some(batch) = self.unanswered.pop_front().filter(|batch| batch.id == answer.batch_id) else {
            bail!("the API answered a batch that was not next");
        };
        if answer.outcomes.len() != batch.records.len() {
            bail!("the API answered {} of {} records", answer.outcomes.len(), batch.records.len());
        }
        self.summary.repeated_batches += u64::from(answer.repeated_batch);
        *self.summary.by_feed.entry(batch.feed.as_str()).or_default() += batch.records.len() as u64;
        for ((at, external_id, _), outcome) in batch.records.iter().zip(&answer.outcomes) {
            let kind = match outcome.kind() {
                wire::RecordOutcomeKind::Accepted => "accepted",
                wire::RecordOutcomeKind::Duplicate => "duplicate",
                wire::RecordOutcomeKind::Rejected => "rejected",
                wire::RecordOutcomeKind::Unspecified => bail!("the API gave a record no outcome"),
            };
            self.settle(&EntryOutcome {
                line: at.line,
                offset: at.offset,
                feed: Some(batch.feed.as_str()),
                external_id: Some(external_id.clone()),
                outcome: kind,
                reason: outcome.reason.clone(),
                message: outcome.message.clone(),
            })?;
        }
        Ok(())
    }

    fn settle(&mut self, entry: &EntryOutcome) -> anyhow::Result<()> {
        self.summary.count(entry);
        self.observer.settled(entry).context("cannot write the outcomes")
    }
}

/// A transport that broke is reported with code unknown or internal, and with its cause.
fn is_broken_connection(status: &Status) -> bool {
    matches!(status.code(), Code::Unknown | Code::Internal) && std::error::Error::source(status).is_some()
}
