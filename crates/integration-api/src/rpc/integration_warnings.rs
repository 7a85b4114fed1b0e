//! What a person should look at of an integration although it works.

use shared::{
    id::ProviderKind,
    provider::{Capability, EXPIRY_WARNINGS},
    wire::v1::ConnectionWarning,
};
use time::OffsetDateTime;

use crate::{
    integration::{CapabilityState, Integration, Status},
    store::syncs::Reading,
};

/// Of the connection and the settings; the first is the most urgent.
pub(super) fn warnings(
    of: &Integration,
    reading: Option<&Reading>,
    threshold: Option<i32>,
    now: OffsetDateTime,
) -> Vec<ConnectionWarning> {
    let mut all = lost(of);
    if let Some(reading) = reading {
        all.extend(reading.credential_expires_at.and_then(|end| expires(end, now)));
        all.extend(hybrid(of, reading.hybrid_accounts.unwrap_or_default()));
        // The end of the credential is told above, as it is now.
        let noticed = reading.notices.0.iter().filter(|notice| notice.reason != "secret_expires");
        all.extend(noticed.map(|notice| warning(&notice.reason, notice.message.clone())));
    }
    all.extend(near(of, threshold));
    all
}

fn warning(reason: &str, message: String) -> ConnectionWarning {
    ConnectionWarning { reason: reason.to_owned(), message }
}

/// What is switched on and does not work, reading apart: without that the integration is `error`.
fn lost(of: &Integration) -> Vec<ConnectionWarning> {
    if of.status == Status::Disabled {
        return Vec::new(); // its test tells
    }
    let required = of.required();
    let lost = of.health.iter().filter(|health| {
        health.capability != Capability::Read
            && health.state != CapabilityState::Working
            && required.contains(&health.capability)
    });
    lost.map(|health| {
        let reason = if health.state == CapabilityState::NotGranted {
            "permission_missing"
        } else {
            "capability_lost"
        };
        let name = health.capability.as_str();
        let message = if health.message.is_empty() { &health.reason } else { &health.message };
        warning(reason, format!("{name} is switched on and does not work; the rest goes on. {message}"))
    })
    .collect()
}

fn expires(end: OffsetDateTime, now: OffsetDateTime) -> Option<ConnectionWarning> {
    let days = (end - now).whole_days();
    let [first, ..] = EXPIRY_WARNINGS;
    (days <= first).then(|| {
        let when = if end <= now { "ended".to_owned() } else { format!("ends in {days} days") };
        let message =
            format!("the credential {when} ({}); give a new one with `integration update`", end.date());
        warning("secret_expires", message)
    })
}

fn hybrid(of: &Integration, accounts: i64) -> Option<ConnectionWarning> {
    let disable = of.settings.mitigation.disable_account;
    let on = disable.automated || disable.manual;
    (of.provider == ProviderKind::EntraId && on && accounts > 0).then(|| {
        let message = format!(
            "{accounts} accounts are mastered in Active Directory: disabling one here lasts until the directory's next sync \
             from there turns it on again; disable it in Active Directory too, or use revoke_sessions"
        );
        warning("hybrid_disable", message)
    })
}

/// One more attempt a day would be above what the threshold allows.
fn near(of: &Integration, threshold: Option<i32>) -> Option<ConnectionWarning> {
    let threshold = u32::try_from(threshold?).ok()?;
    let most = (threshold / 2).min(threshold.saturating_sub(4));
    (of.settings.validation.daily_max == most).then(|| {
        let message = format!(
            "daily_max is {most}, the most that a lockout threshold of {threshold} allows: a lower threshold at the \
             directory limits it at once"
        );
        warning("daily_max_near_threshold", message)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_credential_is_told_from_sixty_days_before() {
        let now = OffsetDateTime::UNIX_EPOCH;
        assert_eq!(expires(now + time::Duration::days(61), now), None);
        let message = |days| expires(now + time::Duration::days(days), now).unwrap().message;
        assert!(message(60).contains("ends in 60 days"));
        assert!(message(-1).contains("ended"));
    }
}
