//! An integration as callers see it.

use shared::{
    id::IntegrationId,
    integration::{
        ActionSwitch, Connection, EntraCloud, EntraConnection, MitigationSettings, OktaConnection, Settings,
        SyncScope, ValidationSettings,
    },
    provider::Capability,
    wire::v1,
};
use time::{Duration, OffsetDateTime};

use super::convert;
use crate::{
    integration::{CapabilityState, Health, Integration, Status},
    store::syncs::{Reading, Run},
};

/// What would take longer than this is not foretold.
const LONGEST_EXPECTATION: Duration = Duration::days(30);

/// Where an integration's public keys are served.
pub(super) fn jwks_url(public_url: &str, id: IntegrationId) -> String {
    format!("{}/.well-known/{id}/jwks.json", public_url.trim_end_matches('/'))
}

pub(super) fn integration(
    from: Integration,
    public_url: &str,
    run: Option<&Run>,
    reading: Option<&Reading>,
    accounts: i64,
) -> v1::Integration {
    let capabilities = health(&from);
    let Integration {
        id,
        name,
        provider,
        connection,
        settings: allowed,
        status,
        status_reason,
        status_message,
        status_since,
        disabled_by: _,
        disabled_reason: _,
        tested_at,
        test_passed,
        proven_at: _,
        connection_since: _,
        directory_id,
        directory_name,
        version,
        created_at,
        updated_at,
        updated_by,
        secret_version,
        health: _,
    } = from;
    let status = match status {
        Status::Active => v1::IntegrationStatus::Active,
        Status::Disabled => v1::IntegrationStatus::Disabled,
        Status::Error => v1::IntegrationStatus::Error,
    };
    let tested = match test_passed {
        None => v1::ConnectionResult::Untested,
        Some(true) => v1::ConnectionResult::Passed,
        Some(false) => v1::ConnectionResult::Failed,
    };
    let is_okta = matches!(connection, Connection::Okta(_));
    v1::Integration {
        id: id.to_string(),
        name,
        provider: convert::provider(provider).into(),
        config: Some(config(connection)),
        settings: Some(settings(allowed)),
        status: status.into(),
        status_reason,
        status_message,
        status_since: Some(convert::timestamp(status_since)),
        connection: tested.into(),
        tested_at: tested_at.map(convert::timestamp),
        capabilities,
        directory_id: directory_id.unwrap_or_default(),
        directory_name: directory_name.unwrap_or_default(),
        jwks_url: if is_okta { jwks_url(public_url, id) } else { String::new() },
        has_credentials: secret_version.is_some() || is_okta,
        last_sync: run.map(progress),
        accounts,
        created_at: Some(convert::timestamp(created_at)),
        updated_at: Some(convert::timestamp(updated_at)),
        updated_by,
        etag: version.to_string(),
        sync_health: reading.map(sync_health),
        // What other tables tell is added by the caller.
        ..v1::Integration::default()
    }
}

fn sync_health(from: &Reading) -> v1::SyncHealth {
    v1::SyncHealth {
        last_success_at: from.last_success_at.map(convert::timestamp),
        last_full_at: from.last_full_at.map(convert::timestamp),
        next_due_at: Some(convert::timestamp(from.next_changes_at.min(from.next_full_at))),
        next_full_at: Some(convert::timestamp(from.next_full_at)),
        failing_since: from.failing_since.map(convert::timestamp),
        last_error: from.lost_message.clone().unwrap_or_default(),
        credential_expires_at: from.credential_expires_at.map(convert::timestamp),
    }
}

fn config(connection: Connection) -> v1::integration::Config {
    match connection {
        Connection::EntraId(EntraConnection { cloud, tenant, client_id, ropc_client_id }) => {
            let cloud = match cloud {
                EntraCloud::Global => v1::EntraCloud::Global,
                EntraCloud::UsGov => v1::EntraCloud::UsGov,
                EntraCloud::UsGovDod => v1::EntraCloud::UsGovDod,
                EntraCloud::China => v1::EntraCloud::China,
            };
            v1::integration::Config::Entra(v1::EntraConfig {
                cloud: cloud.into(),
                tenant,
                client_id,
                ropc_client_id: ropc_client_id.unwrap_or_default(),
            })
        }
        Connection::Okta(OktaConnection { host, client_id }) => {
            v1::integration::Config::Okta(v1::OktaConfig { host, client_id })
        }
    }
}

fn settings(from: Settings) -> v1::IntegrationSettings {
    let Settings { identity_creation, validation, mitigation, scope, quota_percent } = from;
    let SyncScope { group_ids } = scope;
    let ValidationSettings { automated, manual, daily_max, allow_ad_backed, low_threshold_opt_in, rules_off } =
        validation;
    let MitigationSettings { revoke_sessions, disable_account, mark_compromised } = mitigation;
    let switch = |ActionSwitch { automated, manual }| Some(v1::ActionSwitch { automated, manual });
    v1::IntegrationSettings {
        identity_creation,
        validation: Some(v1::ValidationSettings {
            automated,
            manual,
            daily_max: i32::try_from(daily_max).unwrap_or(i32::MAX),
            allow_ad_backed,
            low_threshold_opt_in,
            rules_off: rules_off.into_iter().map(|rule| convert::rule(rule).into()).collect(),
        }),
        mitigation: Some(v1::MitigationSettings {
            revoke_sessions: switch(revoke_sessions),
            disable_account: switch(disable_account),
            mark_compromised: switch(mark_compromised),
        }),
        scope: Some(v1::SyncScope { group_ids }),
        quota_percent: i32::try_from(quota_percent).unwrap_or(i32::MAX),
    }
}

/// The health of every capability that is known or switched on.
pub(super) fn health(of: &Integration) -> Vec<v1::CapabilityHealth> {
    let required = of.required();
    let mut shown = Vec::new();
    for capability in Capability::ALL {
        let (known, switched_on) = (of.health_of(capability), required.contains(&capability));
        if known.is_none() && !switched_on {
            continue;
        }
        let state = match known.map(|h| h.state) {
            None => v1::CapabilityState::Untested,
            Some(CapabilityState::Working) => v1::CapabilityState::Working,
            Some(CapabilityState::Failed) => v1::CapabilityState::Failed,
            Some(CapabilityState::NotGranted) => v1::CapabilityState::NotGranted,
        };
        let text = |field: fn(&Health) -> &String| known.map(|h| field(h).clone()).unwrap_or_default();
        shown.push(v1::CapabilityHealth {
            capability: convert::capability(capability).into(),
            state: state.into(),
            reason: text(|h| &h.reason),
            message: text(|h| &h.message),
            since: known.map(|h| convert::timestamp(h.since)),
            switched_on,
        });
    }
    shown
}

/// When a run that goes on will have read everything, if it goes on as it did.
fn expected_end(run: &Run, rate: f64) -> Option<OffsetDateTime> {
    let left = run.accounts_expected?.checked_sub(run.accounts_seen).filter(|left| *left > 0)?;
    let reading = run.finished_at.is_none() && run.phase == "reading";
    #[expect(clippy::cast_precision_loss, reason = "an expectation for people")]
    let seconds = left as f64 / rate;
    let within = reading && rate > 0.0 && seconds < LONGEST_EXPECTATION.as_seconds_f64();
    within.then(|| run.updated_at + Duration::seconds_f64(seconds))
}

/// A run as callers see it.
pub(super) fn progress(run: &Run) -> v1::SyncProgress {
    let phase = match (run.state.as_str(), run.phase.as_str()) {
        ("finished", _) => v1::SyncPhase::Done,
        ("failed", _) => v1::SyncPhase::Failed,
        ("held", _) => v1::SyncPhase::Held,
        (_, "preparing") => v1::SyncPhase::Queued,
        (_, "reconciling") => v1::SyncPhase::Reconciling,
        _ => v1::SyncPhase::Reading,
    };
    let until = run.finished_at.unwrap_or(run.updated_at);
    let seconds = (until - run.started_at).as_seconds_f64();
    #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
    let rate = if seconds > 0.0 { run.accounts_seen as f64 / seconds } else { 0.0 };
    v1::SyncProgress {
        run_id: run.run_id.to_string(),
        phase: phase.into(),
        full: run.is_full,
        accounts_read: run.accounts_seen,
        accounts_created: run.created,
        accounts_updated: run.changed,
        accounts_removed: run.accounts_removed,
        identities_created: run.identities_created,
        identifiers_created: run.identifiers_created,
        identifiers_skipped: run.skipped_by_cap,
        accounts_per_second: rate,
        started_at: Some(convert::timestamp(run.started_at)),
        ended_at: run.finished_at.map(convert::timestamp),
        message: run.message.clone(),
        accounts_expected: run.accounts_expected,
        expected_end_at: expected_end(run, rate).map(convert::timestamp),
    }
}

#[cfg(test)]
mod tests {
    use shared::id::SyncRunId;
    use time::macros::datetime;

    use super::*;

    fn run(seen: i64, expected: Option<i64>) -> Run {
        Run {
            run_id: SyncRunId::new(),
            integration_id: IntegrationId::new(),
            is_full: true,
            phase: "reading".into(),
            state: "running".into(),
            joined_run_id: None,
            accounts_seen: seen,
            accounts_expected: expected,
            created: 0,
            changed: 0,
            accounts_removed: 0,
            identities_created: 0,
            identifiers_created: 0,
            skipped_by_cap: 0,
            message: String::new(),
            started_at: datetime!(2026-11-22 12:00 UTC),
            updated_at: datetime!(2026-11-22 12:01 UTC),
            finished_at: None,
        }
    }

    #[test]
    fn a_run_ends_when_the_rest_is_read_as_fast_as_what_was_read() {
        let end = progress(&run(6_000, Some(24_000))).expected_end_at;
        assert_eq!(end, Some(convert::timestamp(datetime!(2026-11-22 12:04 UTC))));
    }

    #[test]
    fn an_end_that_nobody_knows_is_not_told() {
        let reconciling = Run { phase: "reconciling".into(), ..run(6_000, Some(24_000)) };
        let ended = Run { finished_at: Some(datetime!(2026-11-22 12:02 UTC)), ..run(6_000, Some(24_000)) };
        let more_than_expected = run(6_001, Some(6_000));
        let never = run(1, Some(i64::MAX));
        for run in [run(6_000, None), run(0, Some(24_000)), reconciling, ended, more_than_expected, never] {
            assert_eq!(progress(&run).expected_end_at, None, "{run:?}");
        }
    }
}
