//! Ids in messages.

use std::str::FromStr;

use shared::queue::HandlerError;

/// An id that must be there.
pub fn required<T: FromStr>(field: &'static str, text: &str) -> Result<T, HandlerError> {
    text.parse().map_err(|_| HandlerError::Poison(format!("{field} is not an id")))
}

/// An id that may be empty.
pub fn optional<T: FromStr>(field: &'static str, text: &str) -> Result<Option<T>, HandlerError> {
    if text.is_empty() { Ok(None) } else { required(field, text).map(Some) }
}
