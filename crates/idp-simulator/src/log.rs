//! The judge's book: every password submission and every change, in order, whatever became of the answer.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Mutex;

use anyhow::Context as _;
use aws_lc_rs::digest;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use time::OffsetDateTime;

use crate::model::By;
use crate::sync::lock;

/// One line of the log.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Entry {
    /// Grows by one with every entry since the last reset.
    pub seq: u64,
    /// When the request was read, by the simulator's clock.
    #[serde(with = "time::serde::rfc3339")]
    pub time: OffsetDateTime,
    /// Immutable directory id.
    pub directory: String,
    /// `entra_id` or `okta`.
    pub provider: String,
    /// What happened.
    #[serde(flatten)]
    pub event: Event,
}

/// What happened.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Event {
    /// A password was submitted. Logged once the request was read and before any fault is applied.
    Submission(Submission),
    /// Something changed at an account.
    Change(Change),
}

/// One password submission.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Submission {
    /// Object id, when the submitted name belongs to an account.
    pub account: Option<String>,
    /// The name as submitted.
    pub username: String,
    /// Whether it is the account's password, whatever the answer says; `None` without account or password.
    pub correct: Option<bool>,
    /// The directory's own answer: HTTP status and code, as `400 AADSTS50126` or `200 MFA_REQUIRED`.
    pub answer: String,
    /// The injected fault that took the answer's place, if any.
    pub fault: Option<String>,
    /// SHA-256 of the submitted password.
    pub password_sha256: String,
    /// Client id of the application that asked, where the protocol has one.
    pub client_id: Option<String>,
    /// Address and port it came from.
    pub source: String,
    /// Wire or owner.
    pub by: By,
    /// Whether this submission is the one that locked the account.
    pub locked: bool,
}

/// One change of an account.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Change {
    /// Object id.
    pub account: String,
    /// `revoke_sessions`, `disable`, `enable`, `suspend`, `confirm_compromised`, `lock`, `unlock`, `patched`, …
    pub action: String,
    /// Client id of the application that did it, `control`, `owner`, or `directory` for what happens by itself.
    pub actor: String,
    /// Particulars; never a password.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub detail: Value,
}

/// The log, in memory and optionally in a file of JSON lines.
#[derive(Debug, Default)]
pub struct Log {
    book: Mutex<Book>,
}

#[derive(Debug, Default)]
struct Book {
    entries: Vec<Entry>,
    file: Option<File>,
}

impl Log {
    /// A log that also appends to a file, if one is named.
    pub fn open(path: Option<&Path>) -> anyhow::Result<Self> {
        let open = |path: &Path| {
            let file = OpenOptions::new().create(true).append(true).open(path);
            file.with_context(|| format!("log file {}", path.display()))
        };
        let file = path.map(open).transpose()?;
        Ok(Self { book: Mutex::new(Book { entries: Vec::new(), file }) })
    }

    /// Appends one event.
    pub fn append(&self, time: OffsetDateTime, directory: &str, provider: &str, event: Event) {
        let mut book = lock(&self.book);
        let entry = Entry {
            seq: book.entries.len() as u64 + 1,
            time,
            directory: directory.to_owned(),
            provider: provider.to_owned(),
            event,
        };
        if let Some(file) = &mut book.file
            && let Ok(mut line) = serde_json::to_vec(&entry)
        {
            line.push(b'\n');
            if let Err(error) = file.write_all(&line) {
                tracing::error!(%error, "log file cannot be written");
            }
        }
        book.entries.push(entry);
    }

    /// Entries after a sequence, at most `limit`, those that pass `keep`.
    pub fn after(&self, seq: u64, limit: usize, keep: impl Fn(&Entry) -> bool) -> Vec<Entry> {
        let book = lock(&self.book);
        let from = usize::try_from(seq).unwrap_or(usize::MAX);
        book.entries.iter().skip(from).filter(|e| keep(e)).take(limit).cloned().collect()
    }

    /// Sequence of the latest entry.
    pub fn last(&self) -> u64 {
        lock(&self.book).entries.len() as u64
    }

    /// Forgets all entries; the file keeps its lines.
    pub fn clear(&self) {
        lock(&self.book).entries.clear();
    }
}

/// SHA-256 in hexadecimal, the form in which the log knows passwords.
pub fn sha256_hex(text: &str) -> String {
    hex::encode(digest::digest(&digest::SHA256, text.as_bytes()))
}

/// Source as the log writes it.
pub fn source(peer: SocketAddr) -> String {
    peer.to_string()
}
