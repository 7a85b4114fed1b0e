//! Ids in messages, and how a message ends.

use std::str::FromStr;

use shared::{
    db::{StoreError, Tx},
    queue::{Delivery, HandlerError},
};

/// An id that must be there.
pub fn required<T: FromStr>(field: &'static str, text: &str) -> Result<T, HandlerError> {
    text.parse().map_err(|_| HandlerError::Poison(format!("{field} is not an id")))
}

/// An id that may be empty.
pub fn optional<T: FromStr>(field: &'static str, text: &str) -> Result<Option<T>, HandlerError> {
    if text.is_empty() { Ok(None) } else { required(field, text).map(Some) }
}

/// Marks the message done and commits what the transaction holds; if another replica was first, undoes it.
pub async fn finish(delivery: &Delivery, mut tx: Tx) -> Result<(), StoreError> {
    if delivery.done(&mut tx).await? { tx.commit().await } else { tx.rollback().await }
}
