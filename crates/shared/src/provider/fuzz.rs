//! What a directory could answer, for the fuzz targets: every reader of an answer, without a network.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};

use super::{entra, http::Answer, okta};

/// Reads bytes as an answer, in every way an adapter would.
///
/// The bytes are spelled as HTTP is, loosely: a line with the status, lines of headers, an empty line, the body.
///
/// # Panics
///
/// When a reader does, or an answer proves what it must not (I3).
pub fn answer(bytes: &[u8]) {
    let answer = spelled(bytes);
    assert!(answer.request_id().is_none_or(|id| id.len() <= 64 && id.is_ascii()), "free text as an id");
    entra::fuzz::answer(&answer);
    okta::fuzz::answer(&answer);
}

fn spelled(bytes: &[u8]) -> Answer {
    let end = bytes.windows(2).position(|pair| pair == b"\n\n");
    let (head, body) = match end {
        Some(end) => (bytes.get(..end).unwrap_or_default(), bytes.get(end + 2..).unwrap_or_default()),
        None => (bytes, &[][..]),
    };
    let mut lines = head.split(|b| *b == b'\n');
    let status = lines.next().and_then(|line| std::str::from_utf8(line).ok()?.trim().parse().ok());
    let mut headers = HeaderMap::new();
    for line in lines {
        let Some(colon) = line.iter().position(|b| *b == b':') else { continue };
        let (name, value) = line.split_at(colon);
        let value = value.get(1..).unwrap_or_default().trim_ascii();
        if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name), HeaderValue::from_bytes(value)) {
            headers.append(name, value);
        }
    }
    Answer { status: status.unwrap_or(200), headers, body: Bytes::copy_from_slice(body) }
}

/// Whether a body is a JSON object: nothing else can prove anything about a password.
#[expect(clippy::zero_sized_map_values, reason = "the names have to be there; what they hold is not read")]
pub(super) fn is_object(body: &[u8]) -> bool {
    type Members = std::collections::HashMap<String, serde::de::IgnoredAny>;
    std::str::from_utf8(body).is_ok_and(|text| serde_json::from_str::<Members>(text).is_ok())
}
