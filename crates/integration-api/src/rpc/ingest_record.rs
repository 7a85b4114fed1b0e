//! One feed record: checked, normalised, and taken apart into what is stored in clear and what is sealed.

use serde_json::{Value, json};
use shared::{
    id::{FeedRecordId, TenantId},
    identifier::{self, Shape},
    sealing::{DataKey, Owner, SealError, column},
    wire::v1,
};
use time::{Duration, OffsetDateTime};
use zeroize::{Zeroize, Zeroizing};

use super::convert;
use crate::store::feeds::Record;

/// What feeds put in a password's place (feeds.md §2).
const MASK: &[u8] = b"********";
const LARGEST: usize = 64 * 1024;

/// Why a record is not stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Rejection {
    /// Stable reason.
    pub reason: &'static str,
    /// Field at fault.
    pub field: &'static str,
    /// What to change; never quotes the record.
    pub message: &'static str,
}

const fn no(reason: &'static str, field: &'static str, message: &'static str) -> Rejection {
    Rejection { reason, field, message }
}

/// Checks a record and seals its secrets. `now` is the database's clock.
pub(super) fn prepare(
    owner: Option<TenantId>,
    key: &DataKey,
    mut record: v1::FeedRecord,
    now: OffsetDateTime,
) -> Result<Result<Record, Rejection>, SealError> {
    let secret = Zeroizing::new(std::mem::take(&mut record.secret));
    let prepared = match check(&record, &secret, now) {
        Ok(checked) => seal(owner, key, &mut record, &secret, checked).map(Ok),
        Err(rejection) => Ok(Err(rejection)),
    };
    wipe(&mut record);
    prepared
}

// What the message held is not left behind in freed memory.
fn wipe(record: &mut v1::FeedRecord) {
    record.secret_hint.zeroize();
    record.secret_hashes.iter_mut().for_each(|h| h.value.zeroize());
    record.cookies.iter_mut().for_each(|c| c.value.zeroize());
    record.raw_json.zeroize();
}

struct Checked {
    identity: String,
    kind: &'static str,
    form: &'static str,
    dates: [Option<OffsetDateTime>; 4],
    precision: &'static str,
    source: Value,
}

fn check(record: &v1::FeedRecord, secret: &[u8], now: OffsetDateTime) -> Result<Checked, Rejection> {
    if prost::Message::encoded_len(record) + secret.len() > LARGEST {
        return Err(no("record_too_large", "", "a record may have 64 KiB in all"));
    }
    let plain = |text: &str, most: usize| text.len() <= most && !text.contains('\0');
    if record.external_id.is_empty() || !plain(&record.external_id, 256) {
        return Err(no(
            "external_id_malformed",
            "external_id",
            "give 1 to 256 bytes that name the record in its feed",
        ));
    }
    if record.identity.len() > identifier::MAX_BYTES || record.identity.contains('\0') {
        return Err(no(
            "identity_malformed",
            "identity",
            "give an e-mail address or a user name of at most 320 bytes",
        ));
    }
    let identity = identifier::normalise(&record.identity).ok_or(no(
        "identity_malformed",
        "identity",
        "give an e-mail address or a user name of at most 320 bytes",
    ))?;
    let shape = identifier::shape(&identity);
    let kind = match v1::IdentityKind::try_from(record.identity_kind) {
        Ok(v1::IdentityKind::Unspecified) => {
            if shape == Shape::Email {
                "email"
            } else {
                "username"
            }
        }
        Ok(v1::IdentityKind::Username) => "username",
        Ok(v1::IdentityKind::Email) if shape == Shape::Email => "email",
        Ok(v1::IdentityKind::Email) => {
            return Err(no(
                "identity_malformed",
                "identity",
                "this is not an e-mail address; say username if it is one",
            ));
        }
        Err(_) => return Err(no("identity_kind_unknown", "identity_kind", "give a known kind")),
    };
    let form = form(record, secret)?;
    check_bounds(record, plain)?;
    let (dates, precision) = dates(record, now)?;
    let leak = record.source.clone().unwrap_or_default();
    if !plain(&leak.id, 256) || !plain(&leak.name, 256) {
        return Err(no("source_malformed", "source", "id and name may have 256 bytes each"));
    }
    let source_kind = convert::source_kind_name(leak.kind).ok_or(no(
        "source_malformed",
        "source.kind",
        "give a known kind of source",
    ))?;
    let source = json!({ "id": leak.id, "name": leak.name, "kind": source_kind });
    Ok(Checked { identity, kind, form, dates, precision, source })
}

// INVARIANT: only plaintext and cracked carry a secret; masks are recognised here whatever the feed's client said.
fn form(record: &v1::FeedRecord, secret: &[u8]) -> Result<&'static str, Rejection> {
    use v1::SecretForm as Form;
    let form = match Form::try_from(record.secret_form) {
        Ok(Form::Unspecified) | Err(_) => {
            return Err(no(
                "secret_form_missing",
                "secret_form",
                "say what the record carries as its secret",
            ));
        }
        Ok(form @ (Form::Plaintext | Form::Cracked)) => {
            if secret == MASK {
                return Ok("masked");
            }
            if secret.is_empty() {
                return Err(no("secret_missing", "secret", "give the password, or say that there is none"));
            }
            if secret.len() > 1024 {
                return Err(no("secret_too_long", "secret", "a password may have 1024 bytes"));
            }
            if form == Form::Plaintext { "plaintext" } else { "cracked" }
        }
        Ok(_) if !secret.is_empty() => {
            return Err(no(
                "secret_form_mismatch",
                "secret",
                "a secret belongs to plaintext or cracked only",
            ));
        }
        Ok(Form::Hash) => "hash",
        Ok(Form::Hint) => "hint",
        Ok(Form::Masked) => "masked",
        Ok(Form::None) => "none",
    };
    if form != "hint" && !record.secret_hint.is_empty() && form != "hash" {
        return Err(no(
            "secret_form_mismatch",
            "secret_hint",
            "a hint belongs to the forms hint and hash only",
        ));
    }
    Ok(form)
}

fn check_bounds(record: &v1::FeedRecord, plain: impl Fn(&str, usize) -> bool) -> Result<(), Rejection> {
    let bounds = [
        (record.secret_hint.len() <= 256, no("hint_too_long", "secret_hint", "a hint may have 256 bytes")),
        (
            record.secret_hashes.len() <= 8
                && record.secret_hashes.iter().all(|h| {
                    plain(&h.algorithm, 64)
                        && plain(&h.value, 512)
                        && plain(&h.prefix, 64)
                        && plain(&h.salt, 256)
                }),
            no("hashes_malformed", "secret_hashes", "at most 8, each within the sizes of SecretHash"),
        ),
        (
            record.secret_properties.len() <= 32 && record.secret_properties.iter().all(|p| plain(p, 64)),
            no("properties_malformed", "secret_properties", "at most 32 of 64 bytes"),
        ),
        (
            record.targets.len() <= 32 && record.targets.iter().all(|t| plain(t, 2048)),
            no("targets_malformed", "targets", "at most 32 of 2048 bytes"),
        ),
        (
            record.device.len() <= 32 && record.device.iter().all(|(k, v)| plain(k, 1024) && plain(v, 1024)),
            no("device_malformed", "device", "at most 32 entries of 1024 bytes"),
        ),
        (
            record.cookies.len() <= 50
                && record.cookies.iter().all(|c| {
                    plain(&c.domain, 253)
                        && plain(&c.path, 1024)
                        && plain(&c.name, 256)
                        && c.value.len() <= 4096
                }),
            no("cookies_malformed", "cookies", "at most 50, each within the sizes of Cookie"),
        ),
        ((0..=100).contains(&record.severity), no("severity_out_of_range", "severity", "give 0 to 100")),
        (plain(&record.severity_raw, 64), no("severity_malformed", "severity_raw", "at most 64 bytes")),
        (
            plain(&record.feed_credential_hash, 256),
            no("feed_hash_malformed", "feed_credential_hash", "at most 256 bytes"),
        ),
        (
            record.raw_json.len() <= 16 * 1024
                && (record.raw_json.is_empty()
                    || serde_json::from_str::<serde::de::IgnoredAny>(&record.raw_json).is_ok()),
            no("raw_malformed", "raw_json", "give JSON of at most 16 KiB"),
        ),
    ];
    bounds.into_iter().find(|(holds, _)| !holds).map_or(Ok(()), |(_, rejection)| Err(rejection))
}

type Dates = ([Option<OffsetDateTime>; 4], &'static str);

fn dates(record: &v1::FeedRecord, now: OffsetDateTime) -> Result<Dates, Rejection> {
    let latest = now + Duration::days(1);
    let read = |field: &'static str, at| match convert::instant(field, at) {
        Err(_) => Err(no("date_malformed", field, "give an instant")),
        Ok(Some(at)) if at > latest => Err(no("date_in_future", field, "the date lies in the future")),
        Ok(Some(at)) if at.year() < 1990 => {
            Err(no("date_too_old", field, "the date lies before 1990; leave it out"))
        }
        Ok(at) => Ok(at),
    };
    let after = read("captured_after", record.captured_after)?;
    let before = read("captured_before", record.captured_before)?;
    if let (Some(after), Some(before)) = (after, before)
        && after > before
    {
        return Err(no("dates_contradict", "captured_after", "captured_after lies behind captured_before"));
    }
    let published = read("published_at", record.published_at)?;
    let first_seen = read("first_seen_at", record.first_seen_at)?;
    let precision = match v1::DatePrecision::try_from(record.date_precision) {
        Ok(v1::DatePrecision::Unspecified) => "unknown",
        Ok(v1::DatePrecision::Instant) => "instant",
        Ok(v1::DatePrecision::Day) => "day",
        Ok(v1::DatePrecision::Month) => "month",
        Ok(v1::DatePrecision::Year) => "year",
        Err(_) => return Err(no("date_precision_unknown", "date_precision", "give a known precision")),
    };
    Ok(([after, before, published, first_seen], precision))
}

fn seal(
    owner: Option<TenantId>,
    key: &DataKey,
    record: &mut v1::FeedRecord,
    secret: &[u8],
    checked: Checked,
) -> Result<Record, SealError> {
    let id = FeedRecordId::new();
    let seal = |table: &'static str, plain: &[u8]| {
        key.seal(&Owner { tenant: owner, table, row: id.uuid(), version: 1 }, plain)
    };
    let Checked { identity, kind, form, dates, precision, source } = checked;
    let secret_sealed = match form {
        "plaintext" | "cracked" => Some(seal(column::FEED_SECRET, secret)?),
        _ => None,
    };
    let cookies_sealed = match cookies(record)? {
        Some(plain) => Some(seal(column::FEED_COOKIES, &plain)?),
        None => None,
    };
    let extra_sealed = match extra(record)? {
        Some(plain) => Some(seal(column::FEED_EXTRA, &plain)?),
        None => None,
    };
    let hashes = record.secret_hashes.iter().map(|h| json!({ "algorithm": h.algorithm })).collect();
    let [captured_after, captured_before, published_at, first_seen_at] = dates;
    Ok(Record {
        id,
        external_id: std::mem::take(&mut record.external_id),
        identity,
        identity_original: std::mem::take(&mut record.identity),
        identity_kind: kind,
        secret_form: form,
        secret_sealed,
        cookies_sealed,
        extra_sealed,
        hashes: Value::Array(hashes),
        captured_after,
        captured_before,
        published_at,
        first_seen_at,
        date_precision: precision,
        source,
        targets: json!(record.targets),
        severity: record.severity,
        severity_raw: std::mem::take(&mut record.severity_raw),
        feed_credential_hash: std::mem::take(&mut record.feed_credential_hash),
    })
}

fn cookies(record: &v1::FeedRecord) -> Result<Option<Zeroizing<Vec<u8>>>, SealError> {
    if record.cookies.is_empty() {
        return Ok(None);
    }
    let list: Vec<_> = record
        .cookies
        .iter()
        .map(|c| {
            json!({
                "domain": c.domain,
                "path": c.path,
                "name": c.name,
                "value": String::from_utf8_lossy(&c.value),
                "expires_at": c.expires_at.map(|t| t.seconds),
            })
        })
        .collect();
    serde_json::to_vec(&list).map(|json| Some(Zeroizing::new(json))).map_err(|_| SealError::Malformed)
}

fn extra(record: &v1::FeedRecord) -> Result<Option<Zeroizing<Vec<u8>>>, SealError> {
    let nothing = record.secret_hashes.is_empty()
        && record.secret_hint.is_empty()
        && record.secret_properties.is_empty()
        && record.device.is_empty()
        && record.raw_json.is_empty();
    if nothing {
        return Ok(None);
    }
    let hashes: Vec<_> = record
        .secret_hashes
        .iter()
        .map(|h| json!({ "algorithm": h.algorithm, "value": h.value, "prefix": h.prefix, "salt": h.salt }))
        .collect();
    let raw: Value = serde_json::from_str(&record.raw_json).unwrap_or_default();
    let extra = json!({
        "hashes": hashes,
        "hint": String::from_utf8_lossy(&record.secret_hint),
        "properties": record.secret_properties,
        "device": record.device,
        "raw": raw,
    });
    serde_json::to_vec(&extra).map(|json| Some(Zeroizing::new(json))).map_err(|_| SealError::Malformed)
}

/// Prepares a record as it would be stored.
///
/// # Panics
///
/// When an accepted record breaks what the tables rely on.
#[cfg(feature = "fuzzing")]
pub fn fuzzed(record: v1::FeedRecord) {
    let Ok(key) = DataKey::generate() else { return };
    if let Ok(Ok(stored)) = prepare(None, &key, record, OffsetDateTime::UNIX_EPOCH + Duration::days(20_000)) {
        assert!((1..=identifier::MAX_BYTES).contains(&stored.identity.len()), "an identity of no length");
        assert!(!stored.identity.contains('\0'), "PostgreSQL has no text with NUL");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> OffsetDateTime {
        OffsetDateTime::from_unix_timestamp(1_700_000_000).unwrap()
    }

    fn record() -> v1::FeedRecord {
        v1::FeedRecord {
            external_id: "1".into(),
            identity: "CORP\\Ann@Example.com".into(),
            secret_form: v1::SecretForm::Plaintext.into(),
            secret: b" hunter2\xff ".to_vec(),
            ..Default::default()
        }
    }

    fn prepared(record: v1::FeedRecord) -> Result<Record, Rejection> {
        prepare(None, &DataKey::generate().unwrap(), record, now()).unwrap()
    }

    #[test]
    fn a_good_record_is_normalised_and_its_password_sealed_byte_for_byte() {
        let key = DataKey::generate().unwrap();
        let stored = prepare(None, &key, record(), now()).unwrap().unwrap();
        assert_eq!((stored.identity.as_str(), stored.identity_kind), ("ann@example.com", "email"));
        assert_eq!(stored.identity_original, "CORP\\Ann@Example.com");
        let owner = Owner { tenant: None, table: column::FEED_SECRET, row: stored.id.uuid(), version: 1 };
        assert_eq!(key.unseal(&owner, &stored.secret_sealed.unwrap()).unwrap().as_slice(), b" hunter2\xff ");
    }

    #[test]
    fn eight_asterisks_are_a_mask_whatever_the_feed_says() {
        let stored = prepared(v1::FeedRecord { secret: MASK.to_vec(), ..record() }).unwrap();
        assert_eq!((stored.secret_form, stored.secret_sealed), ("masked", None));
        let nine = prepared(v1::FeedRecord { secret: b"*********".to_vec(), ..record() }).unwrap();
        assert_eq!(nine.secret_form, "plaintext");
    }

    #[test]
    fn what_is_no_password_is_never_sealed_as_one() {
        use v1::SecretForm as Form;
        for form in [Form::Hash, Form::Hint, Form::Masked, Form::None] {
            let smuggled = v1::FeedRecord { secret_form: form.into(), ..record() };
            assert_eq!(prepared(smuggled).unwrap_err().reason, "secret_form_mismatch", "{form:?}");
            let honest = v1::FeedRecord { secret_form: form.into(), secret: Vec::new(), ..record() };
            assert_eq!(prepared(honest).unwrap().secret_sealed, None, "{form:?}");
        }
    }

    #[test]
    fn hashes_hints_and_raw_data_are_sealed_and_only_the_algorithm_is_in_clear() {
        let stored = prepared(v1::FeedRecord {
            secret_form: v1::SecretForm::Hash.into(),
            secret: Vec::new(),
            secret_hashes: vec![v1::SecretHash {
                algorithm: "sha1".into(),
                value: "f3bbbd66".into(),
                ..Default::default()
            }],
            raw_json: r#"{"x":"f3bbbd66"}"#.into(),
            ..record()
        })
        .unwrap();
        assert!(stored.extra_sealed.is_some());
        assert_eq!(stored.hashes, json!([{ "algorithm": "sha1" }]));
    }

    #[test]
    fn every_bad_record_is_refused_with_its_reason() {
        let at = |second: i64| Some(prost_types::Timestamp { seconds: second, nanos: 0 });
        let day = 86_400;
        for (reason, bad) in [
            ("external_id_malformed", v1::FeedRecord { external_id: String::new(), ..record() }),
            ("identity_malformed", v1::FeedRecord { identity: "CORP\\".into(), ..record() }),
            ("identity_malformed", v1::FeedRecord { identity: "a\0b".into(), ..record() }),
            (
                "identity_malformed",
                v1::FeedRecord {
                    identity: "ann".into(),
                    identity_kind: v1::IdentityKind::Email.into(),
                    ..record()
                },
            ),
            ("secret_form_missing", v1::FeedRecord { secret_form: 0, ..record() }),
            ("secret_missing", v1::FeedRecord { secret: Vec::new(), ..record() }),
            ("secret_too_long", v1::FeedRecord { secret: vec![b'x'; 1025], ..record() }),
            ("date_in_future", v1::FeedRecord { captured_before: at(1_700_000_000 + 2 * day), ..record() }),
            ("date_too_old", v1::FeedRecord { published_at: at(0), ..record() }),
            (
                "dates_contradict",
                v1::FeedRecord {
                    captured_after: at(1_600_000_000),
                    captured_before: at(1_500_000_000),
                    ..record()
                },
            ),
            ("date_malformed", v1::FeedRecord { captured_after: at(i64::MAX), ..record() }),
            ("severity_out_of_range", v1::FeedRecord { severity: 101, ..record() }),
            ("raw_malformed", v1::FeedRecord { raw_json: "{".into(), ..record() }),
            ("targets_malformed", v1::FeedRecord { targets: vec!["x".into(); 33], ..record() }),
            ("record_too_large", v1::FeedRecord { targets: vec!["x".repeat(3000); 32], ..record() }),
        ] {
            assert_eq!(prepared(bad).unwrap_err().reason, reason);
        }
    }
}
