//! Canonical records as the API takes them.

use shared::{secret::SecretBytes, wire::v1 as wire};
use time::OffsetDateTime;

use super::{Cookie, HashedSecret, OriginKind, Precision, Record, SecretForm, content::is_address};

/// A record under its id. The message and its encoding are the only copies of its secrets that are not wiped by us.
/// `modified` is the date of the file.
pub(super) fn to_wire(external_id: &str, r: &Record, modified: OffsetDateTime) -> wire::FeedRecord {
    let bytes = |s: &Option<SecretBytes>| s.as_ref().map(|s| s.expose().to_vec()).unwrap_or_default();
    let at = |t: Option<OffsetDateTime>| t.map(|t| timestamp(not_after(t, modified)));
    let is_address = is_address(&r.identity);
    wire::FeedRecord {
        external_id: external_id.to_owned(),
        identity: r.identity.clone(),
        identity_kind: if is_address { wire::IdentityKind::Email } else { wire::IdentityKind::Username }
            .into(),
        secret_form: match r.form {
            SecretForm::Plaintext => wire::SecretForm::Plaintext,
            SecretForm::Cracked => wire::SecretForm::Cracked,
            SecretForm::Hash => wire::SecretForm::Hash,
            SecretForm::Hint => wire::SecretForm::Hint,
            SecretForm::Masked => wire::SecretForm::Masked,
            SecretForm::None => wire::SecretForm::None,
        }
        .into(),
        secret: bytes(&r.secret),
        secret_hint: bytes(&r.hint),
        secret_hashes: r.hashes.iter().map(hash).collect(),
        secret_properties: r.properties.clone(),
        captured_after: r.captured_after.map(timestamp),
        captured_before: at(r.captured_before),
        published_at: at(r.published_at),
        first_seen_at: at(r.first_seen_at),
        date_precision: match r.precision {
            None => wire::DatePrecision::Unspecified,
            Some(Precision::Second) => wire::DatePrecision::Instant,
            Some(Precision::Day) => wire::DatePrecision::Day,
            Some(Precision::Month) => wire::DatePrecision::Month,
            Some(Precision::Year) => wire::DatePrecision::Year,
        }
        .into(),
        source: Some(wire::LeakSource {
            id: shortened(&r.origin.id),
            name: shortened(&r.origin.name),
            kind: match r.origin.kind {
                OriginKind::Stealer => wire::LeakSourceKind::Stealer,
                OriginKind::Breach => wire::LeakSourceKind::Breach,
                OriginKind::Combolist => wire::LeakSourceKind::Combolist,
                OriginKind::Phish => wire::LeakSourceKind::Phish,
                OriginKind::Paste => wire::LeakSourceKind::Paste,
            }
            .into(),
        }),
        targets: r.targets.clone(),
        cookies: r.cookies.iter().map(cookie).collect(),
        severity: i32::from(r.severity.unwrap_or_default()),
        ..wire::FeedRecord::default()
    }
}

fn hash(h: &HashedSecret) -> wire::SecretHash {
    let text = |s: &Option<SecretBytes>, limit: usize| {
        let text = s.as_ref().and_then(|s| s.expose_str());
        text.filter(|text| text.len() <= limit).unwrap_or_default().to_owned()
    };
    wire::SecretHash {
        algorithm: Some(h.algorithm.to_lowercase()).filter(|a| a.len() <= 64).unwrap_or_default(),
        value: text(&h.value, 512),
        prefix: text(&h.prefix, 64),
        salt: text(&h.salt, 256),
    }
}

fn cookie(c: &Cookie) -> wire::Cookie {
    wire::Cookie {
        domain: c.domain.clone(),
        path: c.path.clone(),
        name: c.name.clone(),
        value: c.value.as_ref().map(|v| v.expose().to_vec()).unwrap_or_default(),
        expires_at: c.expires_at.map(timestamp),
    }
}

fn shortened(text: &str) -> String {
    text.get(..text.floor_char_boundary(256)).unwrap_or_default().to_owned()
}

/// A day names a moment up to 36 hours later than its digits; nothing in a file is later than the file.
fn not_after(at: OffsetDateTime, modified: OffsetDateTime) -> OffsetDateTime {
    let late = at - modified;
    if late.is_positive() && late < time::Duration::days(2) { modified } else { at }
}

fn timestamp(at: OffsetDateTime) -> prost_types::Timestamp {
    prost_types::Timestamp {
        seconds: at.unix_timestamp(),
        nanos: i32::try_from(at.nanosecond()).unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_slack_of_a_date_is_cut_at_the_files_own_date() {
        let modified = OffsetDateTime::UNIX_EPOCH;
        assert_eq!(not_after(modified + time::Duration::hours(30), modified), modified);
        assert_eq!(
            not_after(modified + time::Duration::days(9), modified),
            modified + time::Duration::days(9)
        );
    }
}
