//! Flare: credentials search, `leaked_credential` and `stealer_log` events, and the older stealer log.

use super::{Context, Found, cookies, kind_by_words, origin, severity_by_word, targets};
use crate::feed::{
    content::{is_hash, is_marked_hash, is_mask},
    date::Span,
    fields::Fields,
    record::{Feed, HashedSecret, OriginKind, Record, Reject, SecretForm},
};

/// An element of a credentials search, recognised by Flare's own name for whom it is about.
pub(super) fn is_credential(fields: &Fields<'_>) -> bool {
    fields.has("identity_name")
}

/// A credential of the search API.
pub(super) fn credential(fields: &Fields<'_>) -> Result<Record, Reject> {
    let identity = fields.text("identity_name").ok_or(Reject::NoIdentity)?;
    let source = fields.object("source");
    let mut record = about(fields, identity, source.as_ref());
    record.external_id = fields.first_text(&["id", "event_uid"]);
    record.targets = targets(
        fields.texts("urls").into_iter().chain(fields.texts("auth_domains")).chain(fields.text("url")),
    );
    Ok(secret_of_hash(record, fields, source.as_ref()))
}

/// An event: one leaked credential, or a stealer's log with many.
pub(super) fn event(fields: &Fields<'_>, found: &mut Found) {
    let kind = fields.text("event_type").unwrap_or_default();
    let metadata = fields.object("metadata");
    let Some(data) = fields.object("data") else {
        return found.push(Err(Reject::Unrecognised));
    };
    let severity =
        metadata.as_ref().and_then(|m| m.text("severity")).and_then(|word| severity_by_word(&word));
    let uid = metadata.as_ref().and_then(|m| m.text("uid"));
    match kind.as_str() {
        "leaked_credential" => found.push(leaked_credential(&data, metadata.as_ref(), severity, uid)),
        "stealer_log" => {
            let mut context = log(&data);
            context.is_log = true;
            context.severity = severity;
            context.id = uid.unwrap_or_default();
            if context.imported.is_none() {
                context.imported = metadata.as_ref().and_then(seen);
            }
            let credentials = data.objects("credentials");
            for credential in &credentials {
                found.push(log_credential(credential, &context));
            }
            if credentials.is_empty() {
                found.push(victim(&data, &context));
            }
            found.cookies_left_out += context.cookies_without_credential(&data);
        }
        _ => found.push(Err(Reject::OtherEvent)),
    }
}

fn seen(metadata: &Fields<'_>) -> Option<Span> {
    metadata.first_span(&["estimated_created_at", "matched_at"])
}

fn leaked_credential(
    data: &Fields<'_>,
    metadata: Option<&Fields<'_>>,
    severity: Option<u8>,
    uid: Option<String>,
) -> Result<Record, Reject> {
    let identity = data.text("identity_name").ok_or(Reject::NoIdentity)?;
    let source = data.object("source");
    let mut record = about(data, identity, source.as_ref());
    record.external_id = uid;
    record.severity = severity;
    if record.first_seen_at.is_none() {
        record.first_seen_at = metadata.and_then(seen).map(|span| span.from);
    }
    Ok(if data.has("password") {
        plain(record, data, "password")
    } else {
        secret_of_hash(record, data, source.as_ref())
    })
}

/// A log without credentials still marks its victim as exposed.
fn victim(data: &Fields<'_>, context: &Context) -> Result<Record, Reject> {
    let identity = data
        .object("victim_information")
        .or_else(|| data.object("user_information"))
        .and_then(|victim| victim.text("username"))
        .ok_or(Reject::NoIdentity)?;
    let mut record = of_log(identity, context);
    if !context.id.is_empty() {
        record.external_id = Some(context.id.clone());
    }
    record.cookies = cookies(data).into_iter().take(super::COOKIES_LIMIT).collect();
    Ok(record)
}

fn about(fields: &Fields<'_>, identity: String, source: Option<&Fields<'_>>) -> Record {
    let text = |key: &str| source.and_then(|s| s.text(key));
    let (id, name) = (text("id").or_else(|| fields.text("source_id")), text("name"));
    let words = format!("{} {}", id.as_deref().unwrap_or_default(), name.as_deref().unwrap_or_default());
    let kind = kind_by_words(&words).unwrap_or(OriginKind::Breach);
    let mut record = Record::new(Feed::Flare, identity, origin(id, name, kind));
    let imported = fields.span("imported_at");
    record.first_seen_at = imported.map(|span| span.until);
    record.published_at = source.and_then(|s| s.span("leaked_at")).or(imported).map(|span| span.until);
    let breached = fields.span("infected_at").or_else(|| source.and_then(|s| s.span("breached_at")));
    record.captured(breached)
}

/// The trap of this feed: `hash` may hold the plain password. The labels decide where they are clear and the content
/// does not contradict them; without a label the content decides.
fn secret_of_hash(mut record: Record, fields: &Fields<'_>, source: Option<&Fields<'_>>) -> Record {
    let Some(value) = fields.secret("hash") else { return record };
    let label = [
        fields.text("hash_type"),
        source.and_then(|s| s.text("hash_type")),
        source.and_then(|s| s.text("hash_description")),
    ]
    .into_iter()
    .flatten()
    .find(|label| !matches!(label.to_ascii_lowercase().as_str(), "unknown" | "none" | "null" | "n/a"));
    let said_plain = label.as_ref().is_some_and(|label| {
        let label = label.to_ascii_lowercase();
        label.contains("plain") || label.contains("clear")
    });
    if is_mask(value.expose()) {
        return record.with_secret(SecretForm::Masked, None);
    }
    if is_marked_hash(value.expose()) || (is_hash(value.expose()) && !said_plain) {
        record.hashes.push(HashedSecret::whole(label.unwrap_or_default(), value));
        return record.with_secret(SecretForm::Hash, None);
    }
    record.with_secret(SecretForm::Plaintext, Some(value))
}

fn plain(mut record: Record, fields: &Fields<'_>, key: &str) -> Record {
    let Some(value) = fields.secret(key) else { return record };
    if is_mask(value.expose()) {
        return record.with_secret(SecretForm::Masked, None);
    }
    if is_marked_hash(value.expose()) {
        record.hashes.push(HashedSecret::whole(String::new(), value));
        return record.with_secret(SecretForm::Hash, None);
    }
    record.with_secret(SecretForm::Plaintext, Some(value))
}

/// What a stealer's log says about all its credentials, in both shapes.
pub(super) fn log(fields: &Fields<'_>) -> Context {
    let malware = fields.object("malware_information");
    let text = |key: &str| malware.as_ref().and_then(|m| m.text(key));
    Context {
        is_log: malware.is_some() || fields.has_any(&["victim_information", "user_information"]),
        captured: malware.as_ref().and_then(|m| m.first_span(&["infected_at", "infection_date"])),
        imported: fields.span("imported_at"),
        id: fields.text("uid").unwrap_or_default(),
        malware: text("malware_family").unwrap_or_default(),
        severity: None,
        cookies: cookies(fields),
        continues: false,
    }
}

/// An element of `credentials[]` of a log.
pub(super) fn is_log_credential(fields: &Fields<'_>, context: &Context) -> bool {
    fields.has("username") && (context.is_log || fields.has("application"))
}

/// A credential of a stealer's log.
pub(super) fn log_credential(fields: &Fields<'_>, context: &Context) -> Result<Record, Reject> {
    let identity = fields.first_text(&["username", "login", "email"]).ok_or(Reject::NoIdentity)?;
    let mut record = of_log(identity, context);
    record.targets = targets(fields.text("url"));
    record.cookies = record.targets.first().map(|target| context.cookies_for(target)).unwrap_or_default();
    Ok(plain(record, fields, "password"))
}

fn of_log(identity: String, context: &Context) -> Record {
    let id = (!context.id.is_empty()).then(|| context.id.clone());
    let name = (!context.malware.is_empty()).then(|| context.malware.clone());
    let mut record = Record::new(Feed::Flare, identity, origin(id, name, OriginKind::Stealer));
    record.severity = context.severity;
    record.first_seen_at = context.imported.map(|span| span.until);
    record.published_at = record.first_seen_at;
    record.captured(context.captured)
}
