//! Cuts a file into batches under the API's bounds, with ids that another import of the same file makes again.

use std::{collections::BTreeMap, fs::File, io};

use aws_lc_rs::hmac;
use shared::wire::v1 as wire;
use time::OffsetDateTime;
use tokio::sync::mpsc;

use super::{key::ImportKey, outcome::EntryOutcome};
use crate::feed::{Feed, Position, Record, Records, Stats, wire::to_wire};

/// The API's bounds: 500 records and 4 MiB, the latter with room for the encoding.
const BATCH_RECORDS: usize = 500;
const BATCH_BYTES: usize = 3 * 1024 * 1024;

/// Something the reader hands to the uploader.
pub(super) enum Piece {
    Batch(Box<Batch>),
    Rejected(EntryOutcome),
    Read(u64),
}

/// Records on their way together.
pub(super) struct Batch {
    pub(super) id: String,
    pub(super) feed: Feed,
    scope: wire::FeedScope,
    modified: OffsetDateTime,
    pub(super) records: Vec<(Position, String, Record)>,
    bytes: usize,
}

/// Derives ids from a file's content.
pub(super) struct Ids {
    key: ImportKey,
    file: hmac::Tag,
    batch: hmac::Tag,
}

impl Ids {
    /// Of a file with this digest; `batch` tells apart what makes other batches of the same content.
    pub(super) fn new(key: &ImportKey, file: hmac::Tag, batch: hmac::Tag) -> Self {
        Self { key: key.clone(), file, batch }
    }

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
pub(super) struct Cutter {
    ids: Ids,
    scope: wire::FeedScope,
    modified: OffsetDateTime,
    open: BTreeMap<Feed, Batch>,
    numbers: BTreeMap<Feed, u64>,
}

impl Cutter {
    pub(super) fn new(ids: Ids, scope: wire::FeedScope, modified: OffsetDateTime) -> Self {
        Self { ids, scope, modified, open: BTreeMap::new(), numbers: BTreeMap::new() }
    }

    /// Reads to the end, or until nobody takes the pieces any more.
    pub(super) fn run(mut self, mut records: Records<File>, out: &mpsc::Sender<Piece>) -> io::Result<Stats> {
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

impl Batch {
    /// The request; it and its encoding are the only copies of the secrets that are not wiped by us.
    pub(super) fn to_wire(&self) -> wire::IngestFeedRecordsRequest {
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
        ImportKey::of(&[byte; 32])
    }

    fn batches(key: &ImportKey, text: &str) -> Vec<(String, Vec<String>)> {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        let digest = key.file(&mut File::open(file.path()).unwrap()).unwrap();
        let ids = Ids::new(key, digest, key.tag(&[digest.as_ref()]));
        let records = Records::open(File::open(file.path()).unwrap(), None).unwrap();
        let cutter = Cutter::new(ids, wire::FeedScope::Tenant, OffsetDateTime::UNIX_EPOCH);
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
}
