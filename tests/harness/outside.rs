//! Every reader of bytes that come from outside, as functions of bytes: for `tests/it/garbage.rs` and `make fuzz`. Each panics
//! when its reader does, or when what it read breaks a promise.

use parapet::feed::Records;
use prost::Message;
use shared::{id::MessageId, wire::events};

pub use integration_api::fuzz::{feed_record, token};
pub use shared::provider::fuzz::answer;

/// Reads bytes, and panics when it must.
pub type Reader = fn(&[u8]);

/// All of them, by name.
pub const READERS: [(&str, Reader); 5] = [
    ("answer", answer),
    ("token", token),
    ("message", message),
    ("feed_file", feed_file),
    ("feed_record", feed_record),
];

/// A message from the broker, of every topic.
pub fn message(bytes: &[u8]) {
    fn read<M: Message + Default + PartialEq>(bytes: &[u8]) {
        if let Ok(message) = M::decode(bytes) {
            let again = M::decode(message.encode_to_vec().as_slice());
            assert!(again.is_ok_and(|again| again == message), "a message that does not survive a copy");
        }
    }
    read::<events::IntegrationObserved>(bytes);
    read::<events::SyncEnded>(bytes);
    read::<events::SyncRequested>(bytes);
    read::<events::FeedBatchReceived>(bytes);
    read::<events::IdentifiersChanged>(bytes);
    read::<events::AccountsChanged>(bytes);
    read::<events::ValidationRequested>(bytes);
    read::<events::ValidationDue>(bytes);
    read::<events::MitigationRequested>(bytes);
    read::<events::MitigationDue>(bytes);
    read::<events::AuditRecorded>(bytes);
    if let Ok(text) = std::str::from_utf8(bytes) {
        text.parse::<MessageId>().ok();
    }
}

/// A file of leaked credentials.
pub fn feed_file(bytes: &[u8]) {
    for domain in [None, Some("contoso.example")] {
        let Ok(mut records) = Records::open(bytes, domain) else { return };
        let mut entries = 0;
        while let Ok(Some(entry)) = records.next_entry() {
            assert_eq!(entry.ordinal, entries, "an entry is skipped or told twice");
            entries += 1;
        }
        assert!(entries <= bytes.len() as u64 + 1, "more entries than bytes");
    }
}
