//! SpyCloud breach and malware records.

use super::{cookie, kind_by_words, origin, targets};
use crate::feed::{
    content::{is_marked_hash, is_spycloud_mask},
    fields::Fields,
    record::{Feed, HashedSecret, OriginKind, Record, Reject, SecretForm},
};

/// Every record has a document id and the id of its catalogue entry or its publish date.
pub(super) fn is_record(fields: &Fields<'_>) -> bool {
    fields.has("document_id") && fields.has_any(&["source_id", "spycloud_publish_date"])
}

/// One record.
pub(super) fn record(fields: &Fields<'_>) -> Result<Record, Reject> {
    let identity = fields.first_text(&["email", "username", "email_username"]).ok_or(Reject::NoIdentity)?;
    let severity = fields.text("severity");
    let infected = matches!(severity.as_deref(), Some("25" | "26"))
        || fields.has_any(&["infected_time", "infected_path", "infected_machine_id"]);
    let kind = if infected {
        OriginKind::Stealer
    } else {
        fields
            .first_text(&["breach_category", "breach_main_category", "title"])
            .and_then(|words| kind_by_words(&words))
            .unwrap_or(OriginKind::Breach)
    };
    let mut record = Record::new(
        Feed::SpyCloud,
        identity,
        origin(fields.text("source_id"), fields.first_text(&["title", "site"]), kind),
    );
    record.external_id = fields.text("document_id");
    record.severity = severity.and_then(|code| match code.as_str() {
        "2" => Some(10),
        "5" => Some(20),
        "20" => Some(60),
        "25" => Some(85),
        "26" => Some(95),
        _ => None,
    });
    record.published_at = fields.span("spycloud_publish_date").map(|span| span.until);
    record.first_seen_at =
        fields.first_span(&["record_addition_date", "spycloud_publish_date"]).map(|span| span.until);
    record.targets = targets(fields.first_text(&["target_url", "target_subdomain", "target_domain"]));
    if fields.has("cookie_value") {
        record.cookies.extend(cookie(fields));
    }
    let record = record.captured(fields.first_span(&["infected_time", "breach_date"]));
    Ok(secret(record, fields))
}

fn secret(mut record: Record, fields: &Fields<'_>) -> Record {
    let label = fields.text("password_type").unwrap_or_default();
    let said_plain = label.eq_ignore_ascii_case("plaintext");
    if let Some(clear) = fields.secret("password_plaintext") {
        if is_spycloud_mask(clear.expose()) {
            return record.with_secret(SecretForm::Masked, None);
        }
        let form = if said_plain || label.is_empty() { SecretForm::Plaintext } else { SecretForm::Cracked };
        return record.with_secret(form, Some(clear));
    }
    let Some(value) = fields.secret("password") else { return record };
    if is_spycloud_mask(value.expose()) {
        return record.with_secret(SecretForm::Masked, None);
    }
    if said_plain && !is_marked_hash(value.expose()) {
        return record.with_secret(SecretForm::Plaintext, Some(value));
    }
    let salt = fields.secret("salt");
    record.hashes.push(HashedSecret { salt, ..HashedSecret::whole(label, value) });
    record.with_secret(SecretForm::Hash, None)
}
