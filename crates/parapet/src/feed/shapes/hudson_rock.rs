//! Hudson Rock: credentials of infected machines.

use super::{origin, targets};
use crate::feed::{
    content::is_mask,
    fields::Fields,
    record::{Feed, OriginKind, Record, Reject, SecretForm},
};

/// Recognised by the type Hudson Rock gives each credential.
pub(super) fn is_credential(fields: &Fields<'_>) -> bool {
    matches!(fields.text("type").as_deref(), Some("employee" | "user" | "third_party"))
        && fields.has_any(&["username", "password"])
        && fields.has_any(&["url", "domain"])
}

/// One credential. It has no id and no date.
pub(super) fn credential(fields: &Fields<'_>) -> Result<Record, Reject> {
    let identity = fields.text("username").ok_or(Reject::NoIdentity)?;
    let mut record = Record::new(Feed::HudsonRock, identity, origin(None, None, OriginKind::Stealer));
    record.targets = targets(fields.first_text(&["url", "domain"]));
    record.severity = match fields.text("type").as_deref() {
        Some("employee") => Some(85),
        Some("third_party") => Some(60),
        _ => Some(50),
    };
    record.properties = fields.text("password_strength").filter(|s| s.len() <= 64).into_iter().collect();
    Ok(match fields.secret("password") {
        None => record,
        Some(value) if is_mask(value.expose()) => record.with_secret(SecretForm::Masked, None),
        value => record.with_secret(SecretForm::Plaintext, value),
    })
}
