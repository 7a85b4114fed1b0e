//! Hands a file's records to the API in batches, several on their way at once, and accounts for every one.
//!
//! Ids are derived from the file's content, so that importing the same file again changes nothing and an interrupted
//! import goes on where it was: the API remembers what it answered. A fast digest of a short file would let anyone who
//! sees an id guess the passwords in it, so the digest is keyed with a key that never leaves this machine.

use std::{
    collections::{BTreeMap, VecDeque},
    fs::File,
    io::{self, Read as _},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, bail};
use aws_lc_rs::hmac;
use shared::wire::v1 as wire;
use time::OffsetDateTime;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;
use wire::exposure_service_client::ExposureServiceClient;

use super::{Feed, Format, Position, Record, Records, Stats, wire::to_wire};
use crate::client::Api;

/// The API's bounds: 500 records and 4 MiB, the latter with room for the encoding.
const BATCH_RECORDS: usize = 500;
const BATCH_BYTES: usize = 3 * 1024 * 1024;
/// Batches on their way at once.
const WINDOW: usize = 4;
/// Connections that may fail in a row without a single answer.
const PATIENCE: u32 = 8;

/// The key of this machine's import ids.
pub struct ImportKey(hmac::Key);

impl ImportKey {
    /// Reads the key, or makes it on first use, readable by its owner only.
    pub fn load_or_create(file: &Path) -> anyhow::Result<Self> {
        let mut bytes = [0; 32];
        match std::fs::read(file) {
            Ok(read) if read.len() == bytes.len() => bytes.copy_from_slice(&read),
            Ok(_) => bail!("{} is damaged; remove it to get a new import key", file.display()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                aws_lc_rs::rand::fill(&mut bytes).map_err(|_| anyhow::anyhow!("no randomness"))?;
                if let Some(dir) = file.parent() {
                    crate::servers::private_dir(dir)?;
                }
                crate::servers::write_private(file, &bytes)?;
            }
            Err(error) => return Err(error).with_context(|| format!("cannot read {}", file.display())),
        }
        Ok(Self(hmac::Key::new(hmac::HMAC_SHA256, &bytes)))
    }

    fn tag(&self, parts: &[&[u8]]) -> hmac::Tag {
        let mut context = hmac::Context::with_key(&self.0);
        for part in parts {
            context.update(&(part.len() as u64).to_be_bytes());
            context.update(part);
        }
        context.sign()
    }

    fn file(&self, file: &mut File) -> io::Result<hmac::Tag> {
        let mut context = hmac::Context::with_key(&self.0);
        let mut buffer = zeroize::Zeroizing::new(vec![0; 256 * 1024]);
        loop {
            let read = file.read(&mut buffer)?;
            let Some(bytes) = buffer.get(..read).filter(|bytes| !bytes.is_empty()) else { break };
            context.update(bytes);
        }
        Ok(context.sign())
    }
}

/// What became of one entry of a file.
#[derive(Clone, Debug, serde::Serialize)]
pub struct EntryOutcome {
    /// Line.
    pub line: u64,
    /// Byte offset.
    pub offset: u64,
    /// The feed, when it was recognised.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub feed: Option<&'static str>,
    /// The id under which the record is stored, when it was sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub external_id: Option<String>,
    /// `accepted`, `duplicate` or `rejected`.
    pub outcome: &'static str,
    /// Stable reason of a rejection.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// One sentence; never quotes the record.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub message: String,
}

/// What became of a file. The counts add up.
#[derive(Clone, Debug, Default, serde::Serialize)]
pub struct Summary {
    /// The file.
    pub file: PathBuf,
    /// How it is laid out.
    pub format: &'static str,
    /// Entries found: the sum of the next three.
    pub records: u64,
    /// Stored now.
    pub accepted: u64,
    /// Stored before, by this import or another.
    pub duplicates: u64,
    /// Not stored.
    pub rejected: u64,
    /// Rejected entries by reason.
    pub rejected_by_reason: BTreeMap<String, u64>,
    /// Records handed in, by feed.
    pub by_feed: BTreeMap<&'static str, u64>,
    /// Batches whose answer the API remembered from an earlier run.
    pub repeated_batches: u64,
    /// Cookies of stealer logs that belong to no credential of their log.
    pub cookies_left_out: u64,
    /// The export names a further page: it is not complete.
    pub incomplete_export: bool,
}

impl Summary {
    fn count(&mut self, entry: &EntryOutcome) {
        self.records += 1;
        match entry.outcome {
            "accepted" => self.accepted += 1,
            "duplicate" => self.duplicates += 1,
            _ => {
                self.rejected += 1;
                *self.rejected_by_reason.entry(entry.reason.clone()).or_default() += 1;
            }
        }
    }
}

/// Tells how an import goes.
pub trait Observer {
    /// So many bytes were read.
    fn read(&mut self, bytes: u64);
    /// One entry is settled.
    fn settled(&mut self, entry: &EntryOutcome) -> io::Result<()>;
}

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
    let mut file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    let modified =
        file.metadata()?.modified().map_or_else(|_| OffsetDateTime::now_utc(), OffsetDateTime::from);
    let digest = key.file(&mut file).with_context(|| format!("cannot read {}", path.display()))?;
    let content = File::open(path)?;
    let records =
        Records::open(content, options.domain.as_deref()).with_context(|| path.display().to_string())?;
    let mut summary =
        Summary { file: path.to_owned(), format: Format::as_str(records.format()), ..Summary::default() };

    let scope = if options.installation { wire::FeedScope::Installation } else { wire::FeedScope::Tenant };
    let cutter = Cutter {
        ids: Ids {
            // The same file with another date or another domain makes other records: other batches.
            batch: key.tag(&[
                digest.as_ref(),
                &modified.unix_timestamp_nanos().to_be_bytes(),
                options.domain.as_deref().unwrap_or_default().as_bytes(),
                scope.as_str_name().as_bytes(),
            ]),
            key: ImportKey(key.0.clone()),
            file: digest,
        },
        scope,
        modified,
        open: BTreeMap::new(),
        numbers: BTreeMap::new(),
    };
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

/// Something the reader hands to the uploader.
enum Piece {
    Batch(Box<Batch>),
    Rejected(EntryOutcome),
    Read(u64),
}

struct Batch {
    id: String,
    feed: Feed,
    scope: wire::FeedScope,
    modified: OffsetDateTime,
    records: Vec<(Position, String, Record)>,
    bytes: usize,
}

struct Ids {
    key: ImportKey,
    file: hmac::Tag,
    batch: hmac::Tag,
}

impl Ids {
    fn batch(&self, feed: Feed, number: u64) -> String {
        let tag =
            self.key.tag(&[b"batch", self.batch.as_ref(), feed.as_str().as_bytes(), &number.to_be_bytes()]);
        hex::encode(tag.as_ref().get(..20).unwrap_or_default())
    }

    /// For records without an id of their own: where they are and whom they concern, never what their secret is.
    fn record(&self, ordinal: u64, record: &Record) -> String {
        let place = record.targets.first().map(String::as_bytes).unwrap_or_default();
        let tag = self.key.tag(&[
            b"record",
            self.file.as_ref(),
            record.feed.as_str().as_bytes(),
            &ordinal.to_be_bytes(),
            record.identity.as_bytes(),
            place,
        ]);
        format!("file:{}", hex::encode(tag.as_ref().get(..20).unwrap_or_default()))
    }
}

/// Cuts a file into batches, one open batch per feed.
struct Cutter {
    ids: Ids,
    scope: wire::FeedScope,
    modified: OffsetDateTime,
    open: BTreeMap<Feed, Batch>,
    numbers: BTreeMap<Feed, u64>,
}

impl Cutter {
    fn run(mut self, mut records: Records<File>, out: &mpsc::Sender<Piece>) -> io::Result<Stats> {
        // A closed channel means that the upload failed, which is reported there.
        while let Some(entry) = records.next_entry()? {
            let sent = match entry.record {
                Ok(record) => self.add(entry.ordinal, entry.at, record, out),
                Err(reject) => out
                    .blocking_send(Piece::Rejected(EntryOutcome {
                        line: entry.at.line,
                        offset: entry.at.offset,
                        feed: None,
                        external_id: None,
                        outcome: "rejected",
                        reason: reject.as_str().to_owned(),
                        message: reject.to_string(),
                    }))
                    .is_ok(),
            };
            let told =
                entry.ordinal % 256 != 0 || out.blocking_send(Piece::Read(records.position().offset)).is_ok();
            if !sent || !told {
                return Ok(records.stats());
            }
        }
        for (_, batch) in std::mem::take(&mut self.open) {
            if out.blocking_send(Piece::Batch(Box::new(batch))).is_err() {
                break;
            }
        }
        Ok(records.stats())
    }

    fn add(&mut self, ordinal: u64, at: Position, record: Record, out: &mpsc::Sender<Piece>) -> bool {
        let feed = record.feed;
        let bytes = size(&record);
        let full = |b: &Batch| b.records.len() >= BATCH_RECORDS || b.bytes + bytes > BATCH_BYTES;
        let sent = match self.open.remove(&feed) {
            Some(batch) if full(&batch) => out.blocking_send(Piece::Batch(Box::new(batch))).is_ok(),
            Some(batch) => {
                self.open.insert(feed, batch);
                true
            }
            None => true,
        };
        let (ids, numbers, scope, modified) = (&self.ids, &mut self.numbers, self.scope, self.modified);
        let batch = self.open.entry(feed).or_insert_with(|| {
            let number = numbers.entry(feed).or_default();
            *number += 1;
            Batch { id: ids.batch(feed, *number), feed, scope, modified, records: Vec::new(), bytes: 0 }
        });
        let external_id = record.external_id.clone().unwrap_or_else(|| ids.record(ordinal, &record));
        batch.bytes += bytes;
        batch.records.push((at, external_id, record));
        sent
    }
}

fn size(record: &Record) -> usize {
    let secret = |s: &Option<shared::secret::SecretBytes>| s.as_ref().map_or(0, |s| s.expose().len());
    let cookies: usize = record
        .cookies
        .iter()
        .map(|c| c.domain.len() + c.path.len() + c.name.len() + secret(&c.value) + 40)
        .sum();
    let hashes: usize = record.hashes.iter().map(|h| secret(&h.value) + secret(&h.salt) + 40).sum();
    256 + record.identity.len()
        + secret(&record.secret)
        + cookies
        + hashes
        + record.targets.iter().map(|t| t.len() + 4).sum::<usize>()
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
        while !(self.ended && self.unanswered.is_empty()) {
            let settled = self.summary.records;
            let Some(status) = self.stream(connect().await?).await? else { continue };
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

impl Batch {
    /// The request; it and its encoding are the only copies of the secrets that are not wiped by us.
    fn to_wire(&self) -> wire::IngestFeedRecordsRequest {
        wire::IngestFeedRecordsRequest {
            batch_id: self.id.clone(),
            feed: self.feed.as_str().to_owned(),
            feed_scope: self.scope.into(),
            records: self.records.iter().map(|(_, id, record)| to_wire(id, record, self.modified)).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn key(byte: u8) -> ImportKey {
        ImportKey(hmac::Key::new(hmac::HMAC_SHA256, &[byte; 32]))
    }

    fn batches(key: &ImportKey, text: &str) -> Vec<(String, Vec<String>)> {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        let digest = key.file(&mut File::open(file.path()).unwrap()).unwrap();
        let ids = Ids { key: ImportKey(key.0.clone()), batch: key.tag(&[digest.as_ref()]), file: digest };
        let records = Records::open(File::open(file.path()).unwrap(), None).unwrap();
        let cutter = Cutter {
            ids,
            scope: wire::FeedScope::Tenant,
            modified: OffsetDateTime::UNIX_EPOCH,
            open: BTreeMap::new(),
            numbers: BTreeMap::new(),
        };
        let (sender, mut pieces) = mpsc::channel(100_000);
        cutter.run(records, &sender).unwrap();
        drop(sender);
        let mut all = Vec::new();
        while let Ok(piece) = pieces.try_recv() {
            if let Piece::Batch(batch) = piece {
                assert!(batch.records.len() <= BATCH_RECORDS && batch.bytes <= BATCH_BYTES);
                all.push((batch.id.clone(), batch.records.iter().map(|(_, id, _)| id.clone()).collect()));
            }
        }
        all
    }

    #[test]
    fn the_same_file_makes_the_same_batches_and_another_key_other_ones() {
        let lines: Vec<_> = (0..1200).map(|n| format!("u{n}@example.com:Sample-{n}")).collect();
        let text = lines.join("\n");
        let first = batches(&key(1), &text);
        assert_eq!(first.len(), 3);
        assert_eq!(first, batches(&key(1), &text));
        assert_ne!(first, batches(&key(2), &text), "an id tells nothing without the key");
        let ids: std::collections::BTreeSet<_> = first.iter().flat_map(|(_, ids)| ids).collect();
        assert_eq!(ids.len(), 1200);
    }

    #[test]
    fn a_password_that_changed_makes_other_ids_though_nothing_else_did() {
        let key = key(1);
        let (a, b) =
            (batches(&key, "ann@example.com:Sample-1\n"), batches(&key, "ann@example.com:Sample-2\n"));
        assert_ne!(a.first().unwrap().0, b.first().unwrap().0);
        assert_ne!(a.first().unwrap().1, b.first().unwrap().1);
    }

    #[test]
    fn the_key_is_made_once_and_is_private() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("secrets").join("import.key");
        let first = ImportKey::load_or_create(&file).unwrap();
        let again = ImportKey::load_or_create(&file).unwrap();
        assert_eq!(first.tag(&[b"x"]).as_ref(), again.tag(&[b"x"]).as_ref());
        assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    }
}
