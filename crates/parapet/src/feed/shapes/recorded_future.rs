//! Recorded Future Identity: detections, credential lookups and playbook alerts. Often only a hint and a part of a
//! hash, which serve triage, never an attempt.

use super::{cookies, kind_by_words, origin, severity_by_word, targets};
use crate::feed::{
    content::is_mask,
    fields::Fields,
    record::{Feed, HashedSecret, OriginKind, Record, Reject, SecretForm},
};

/// All three shapes name a subject and carry one of Recorded Future's own objects.
pub(super) fn is_record(fields: &Fields<'_>) -> bool {
    fields.has("subject")
        && fields.has_any(&[
            "password",
            "exposed_secret",
            "dump",
            "dumps",
            "authorization_service",
            "assessments",
            "compromised_host",
            "novel",
        ])
}

/// One record of any of the three shapes.
pub(super) fn record(fields: &Fields<'_>) -> Result<Record, Reject> {
    let identity = fields.text("subject").ok_or(Reject::NoIdentity)?;
    let dump = fields.object("dump").or_else(|| fields.objects("dumps").into_iter().next());
    let family = fields.object("malware_family");
    let host = fields.object("compromised_host");
    let name = dump.as_ref().and_then(|d| d.text("name"));
    let kind = if family.is_some() || host.is_some() {
        OriginKind::Stealer
    } else {
        name.as_deref().and_then(kind_by_words).unwrap_or(OriginKind::Breach)
    };
    let name = name.or_else(|| family.as_ref().and_then(|f| f.text("name")));
    let mut record = Record::new(
        Feed::RecordedFuture,
        identity,
        origin(family.as_ref().and_then(|f| f.text("id")), name, kind),
    );
    record.external_id = fields.text("id");
    record.cookies = cookies(fields).into_iter().take(super::COOKIES_LIMIT).collect();

    let service = fields.object("authorization_service");
    let place = |key: &str| service.as_ref().and_then(|s| s.text(key));
    record.targets = targets(
        fields
            .text("authorization_url")
            .or_else(|| place("url"))
            .or_else(|| place("fqdn"))
            .or_else(|| place("domain")),
    );
    record.severity =
        fields.objects("assessments").iter().filter_map(|a| severity_by_word(&a.text("criticality")?)).max();

    let breach = dump.as_ref().and_then(|d| d.objects("breaches").into_iter().next());
    let known = fields
        .first_span(&["first_downloaded", "created"])
        .or_else(|| dump.as_ref().and_then(|d| d.span("downloaded")));
    record.first_seen_at = known.map(|span| span.until);
    record.published_at = record.first_seen_at;
    let exfiltrated = [fields.object("compromise"), host, dump.as_ref().and_then(|d| d.object("compromise"))]
        .into_iter()
        .flatten()
        .find_map(|c| c.span("exfiltration_date"));
    let breached = breach.as_ref().and_then(|b| {
        let stated = b.text("precision");
        // A breach that went on captured until it stopped.
        b.first_span(&["stop", "breached"]).map(|span| span.widened(stated.as_deref()))
    });
    let record = record.captured(exfiltrated.or(breached));

    Ok(match (fields.object("password"), fields.object("exposed_secret")) {
        (Some(password), _) => secret(record, &password, &password, "cleartext", "cleartext_hint"),
        (None, Some(exposed)) => match exposed.object("details") {
            Some(details) => secret(record, &exposed, &details, "clear_text_value", "clear_text_hint"),
            None => secret(record, &exposed, &exposed, "clear_text_value", "clear_text_hint"),
        },
        (None, None) => record,
    })
}

fn secret(mut record: Record, about: &Fields<'_>, details: &Fields<'_>, clear: &str, hint: &str) -> Record {
    record.properties = details.texts("properties").into_iter().filter(|p| p.len() <= 64).take(32).collect();
    if let Some(value) = details.secret(clear) {
        if is_mask(value.expose()) {
            return record.with_secret(SecretForm::Masked, None);
        }
        let was_clear = about.text("type").is_none_or(|t| t.eq_ignore_ascii_case("clear"));
        let form = if was_clear { SecretForm::Plaintext } else { SecretForm::Cracked };
        return record.with_secret(form, Some(value));
    }
    for hash in about.objects("hashes").into_iter().take(8) {
        record.hashes.push(HashedSecret {
            algorithm: hash.text("algorithm").unwrap_or_default(),
            value: hash.secret("hash"),
            prefix: hash.secret("hash_prefix"),
            salt: None,
        });
    }
    record.hint = details.secret(hint).filter(|hint| hint.expose().len() <= 256);
    let form = if record.hint.is_some() {
        SecretForm::Hint
    } else if record.hashes.is_empty() {
        SecretForm::None
    } else {
        SecretForm::Hash
    };
    record.with_secret(form, None)
}
