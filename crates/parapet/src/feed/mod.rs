//! Leaked-credential files of many feeds, read as a stream of canonical records and handed to the API.
//!
//! Belongs here: recognising a feed by what a file contains, the shapes of each vendor, and the upload. Does not:
//! matching, digests and verdicts, which are the validator's. The shapes are those of `reference/feeds.md`, gathered
//! from the vendors' published API descriptions.
//!
//! Passwords stay in memory that is wiped: the file's bytes, each record's text and each secret. No error, outcome or
//! id made here contains a password or an unkeyed digest of one.

mod content;
mod date;
mod fields;
mod lines;
mod record;
mod records;
mod scan;
mod shapes;
mod source;
#[cfg(test)]
mod tests;
pub mod upload;
mod wire;

pub use date::{Precision, Span};
pub use record::{Cookie, Feed, HashedSecret, Origin, OriginKind, Record, Reject, SecretForm};
pub use records::{Entry, Format, OpenError, Records, Stats};
pub use source::Position;
