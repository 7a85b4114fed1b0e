//! What became of a file, entry by entry and in all.

use std::{collections::BTreeMap, io, path::PathBuf};

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
    pub(super) fn count(&mut self, entry: &EntryOutcome) {
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
