//! A part of a chain as a stream of lines for other programs.

mod csv;
pub mod lines;
mod ocsf;

use futures::{Stream, stream};
use shared::{
    db::{Db, StoreError},
    wire::internal::ExportResponse,
};
use tonic::Status;

use crate::{
    chain::{Chain, Hash, Link},
    checkpoint::Checkpoint,
    store,
};

/// Events read at once.
const PAGE: i64 = 500;
/// A message is sent when it has grown to this: a page of the largest events would not fit one.
const ENOUGH_BYTES: usize = 256 * 1024;

/// How events are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// One JSON object a line, with checkpoints: see [`lines`].
    Ndjson,
    /// RFC 4180.
    Csv,
    /// OCSF 1.6.0, one event a line.
    Ocsf,
}

impl Format {
    /// By its name.
    pub fn parse(name: &str) -> Option<Self> {
        [("ndjson", Self::Ndjson), ("csv", Self::Csv), ("ocsf", Self::Ocsf)]
            .into_iter()
            .find_map(|(known, format)| (known == name).then_some(format))
    }
    /// What stands before the first event.
    pub fn head(self, chain: Chain, first: i64) -> String {
        match self {
            Self::Ndjson => lines::head(chain, first),
            Self::Csv => csv::HEAD.to_owned(),
            Self::Ocsf => String::new(),
        }
    }
    /// An event's line.
    pub fn event(self, chain: Chain, link: &Link) -> String {
        match self {
            Self::Ndjson => lines::event(link),
            Self::Csv => csv::event(link),
            Self::Ocsf => ocsf::event(chain, link),
        }
    }
    /// A checkpoint's line, which follows the last event it covers.
    pub fn checkpoint(self, checkpoint: &Checkpoint) -> String {
        if self == Self::Ndjson { lines::checkpoint(checkpoint) } else { String::new() }
    }
    /// What stands after the last event.
    pub fn end(self, events: i64, last: i64, hash: Hash) -> String {
        if self == Self::Ndjson { lines::end(events, last, hash) } else { String::new() }
    }
}

/// A part of a chain that is being exported.
#[derive(Debug)]
pub(crate) struct Export {
    pub db: Db,
    pub chain: Chain,
    pub format: Format,
    /// The place before the first event.
    pub after: i64,
    /// The place of the last event.
    pub last: i64,
}

/// How far it has come.
struct Progress {
    export: Export,
    at: i64,
    events: i64,
    hash: Hash,
    /// Lines that wait to be sent, one message at a time.
    ready: std::collections::VecDeque<ExportResponse>,
    ended: bool,
}

impl Export {
    /// The messages. What comes next is read when it is asked for, so a slow reader costs no memory.
    pub(crate) fn stream(self) -> impl Stream<Item = Result<ExportResponse, Status>> + Send {
        let head = self.format.head(self.chain, self.after + 1);
        let first = ExportResponse { data: head.into_bytes(), ..ExportResponse::default() };
        let progress = Progress {
            at: self.after,
            events: 0,
            hash: Hash::ZERO,
            ready: [first].into(),
            ended: false,
            export: self,
        };
        stream::try_unfold(progress, |mut progress| async move {
            while progress.ready.is_empty() && !progress.ended {
                progress.read().await?;
            }
            Ok::<_, Status>(progress.ready.pop_front().map(|next| (next, progress)))
        })
    }
}

impl Progress {
    async fn read(&mut self) -> Result<(), Status> {
        let Export { db, chain, format, last, .. } = &self.export;
        let (chain, format, last) = (*chain, *format, *last);
        if self.at >= last {
            let data = format.end(self.events, self.at, self.hash).into_bytes();
            self.ready.push_back(ExportResponse { data, ..ExportResponse::default() });
            self.ended = true;
            return Ok(());
        }
        let start = self.at;
        let links = store::links_after(db, chain, start, PAGE.min(last - start)).await?;
        let up_to = links.last().map_or(start, |link| link.sequence);
        let mut checkpoints =
            store::checkpoints_between(db, chain, start, up_to).await?.into_iter().peekable();
        let mut message = ExportResponse::default();
        for link in &links {
            // A gap is the verification's to name; what is there is exported.
            self.at = link.sequence;
            self.hash = link.hash;
            self.events += 1;
            message.data.extend(format.event(chain, link).into_bytes());
            while let Some(checkpoint) = checkpoints.next_if(|c| c.sequence <= link.sequence) {
                message.data.extend(format.checkpoint(&checkpoint).into_bytes());
            }
            message.events += 1;
            message.last = link.sequence;
            if message.data.len() >= ENOUGH_BYTES {
                self.ready.push_back(std::mem::take(&mut message));
            }
        }
        if message.events > 0 {
            self.ready.push_back(message);
        }
        if links.is_empty() {
            return Err(
                StoreError::Corrupt(format!("event {} of the audit log is missing", start + 1)).into()
            );
        }
        Ok(())
    }
}
