//! What callers send, for the fuzz targets.

use prost::Message as _;
use shared::wire::v1::FeedRecord;

pub use crate::auth::fuzz::token;

/// Reads bytes as one record of a feed, as a call would bring it.
///
/// # Panics
///
/// When a reader does, or an accepted record breaks what the tables rely on.
pub fn feed_record(bytes: &[u8]) {
    if let Ok(record) = FeedRecord::decode(bytes) {
        crate::rpc::record_fuzzed(record);
    }
}
