//! Wire types from and to the domain.

use std::collections::HashMap;

use prost_types::Timestamp;
use shared::{
    id::{ExposureId, ProviderKind},
    mitigation::Hold,
    provider::{Action, Capability},
    triage::{Cause, Likelihood, Rule},
    wire::v1,
};
use time::OffsetDateTime;

use crate::{
    error::ApiError,
    store::{
        accounts,
        exposures::{Exposure, Source, Standing},
        mitigations::Mitigation,
    },
};

pub(super) fn timestamp(at: OffsetDateTime) -> Timestamp {
    Timestamp { seconds: at.unix_timestamp(), nanos: i32::try_from(at.nanosecond()).unwrap_or_default() }
}

/// An instant of the wire. PostgreSQL keeps microseconds.
pub(super) fn instant(field: &str, at: Option<Timestamp>) -> Result<Option<OffsetDateTime>, ApiError> {
    let wrong = || ApiError::field(field, "give an instant between the years 1 and 9999");
    let Some(Timestamp { seconds, nanos }) = at else { return Ok(None) };
    let nanos = u32::try_from(nanos).ok().filter(|n| *n < 1_000_000_000).ok_or_else(wrong)?;
    let whole = OffsetDateTime::from_unix_timestamp(seconds).map_err(|_| wrong())?;
    if whole.year() < 1 {
        return Err(wrong());
    }
    whole.replace_nanosecond(nanos / 1000 * 1000).map(Some).map_err(|_| wrong())
}

type Bounds = (Option<OffsetDateTime>, Option<OffsetDateTime>);

pub(super) fn range(field: &str, range: Option<v1::DateRange>) -> Result<Bounds, ApiError> {
    let Some(v1::DateRange { from, until }) = range else { return Ok((None, None)) };
    Ok((instant(&format!("{field}.from"), from)?, instant(&format!("{field}.until"), until)?))
}

pub(super) fn provider(kind: ProviderKind) -> v1::ProviderKind {
    match kind {
        ProviderKind::EntraId => v1::ProviderKind::EntraId,
        ProviderKind::Okta => v1::ProviderKind::Okta,
    }
}

pub(super) fn provider_named(name: &str) -> i32 {
    name.parse().map_or(v1::ProviderKind::Unspecified, provider).into()
}

pub(super) fn provider_in(field: &str, value: i32) -> Result<Option<ProviderKind>, ApiError> {
    match v1::ProviderKind::try_from(value) {
        Ok(v1::ProviderKind::Unspecified) => Ok(None),
        Ok(v1::ProviderKind::EntraId) => Ok(Some(ProviderKind::EntraId)),
        Ok(v1::ProviderKind::Okta) => Ok(Some(ProviderKind::Okta)),
        Err(_) => Err(ApiError::field(field, "give a known kind of provider")),
    }
}

pub(super) fn capability(capability: Capability) -> v1::Capability {
    match capability {
        Capability::Read => v1::Capability::Read,
        Capability::Validate => v1::Capability::Validate,
        Capability::RevokeSessions => v1::Capability::RevokeSessions,
        Capability::DisableAccount => v1::Capability::DisableAccount,
        Capability::MarkCompromised => v1::Capability::MarkCompromised,
    }
}

pub(super) fn action_in(field: &str, value: i32) -> Result<Action, ApiError> {
    match v1::MitigationAction::try_from(value) {
        Ok(v1::MitigationAction::RevokeSessions) => Ok(Action::RevokeSessions),
        Ok(v1::MitigationAction::DisableAccount) => Ok(Action::DisableAccount),
        Ok(v1::MitigationAction::MarkCompromised) => Ok(Action::MarkCompromised),
        Ok(v1::MitigationAction::Unspecified) | Err(_) => Err(ApiError::field(field, "give a known action")),
    }
}

pub(super) fn action(name: &str) -> v1::MitigationAction {
    match Action::parse(name) {
        Some(Action::RevokeSessions) => v1::MitigationAction::RevokeSessions,
        Some(Action::DisableAccount) => v1::MitigationAction::DisableAccount,
        Some(Action::MarkCompromised) => v1::MitigationAction::MarkCompromised,
        None => v1::MitigationAction::Unspecified,
    }
}

pub(super) fn rule(rule: Rule) -> v1::TriageRule {
    match rule {
        Rule::NoUsableSecret => v1::TriageRule::NoUsableSecret,
        Rule::AccountState => v1::TriageRule::AccountState,
        Rule::AuthorityElsewhere => v1::TriageRule::AuthorityElsewhere,
        Rule::AlreadyTried => v1::TriageRule::AlreadyTried,
        Rule::OtherPasswordProven => v1::TriageRule::OtherPasswordProven,
        Rule::ChangedSinceCapture => v1::TriageRule::ChangedSinceCapture,
        Rule::PolicyExcludes => v1::TriageRule::PolicyExcludes,
    }
}

pub(super) fn rule_in(field: &str, value: i32) -> Result<Rule, ApiError> {
    let known = v1::TriageRule::try_from(value).ok();
    let rule = known.and_then(|known| Rule::ALL.iter().copied().find(|one| rule(*one) == known));
    rule.ok_or_else(|| ApiError::field(field, "give known rules of triage"))
}

pub(super) fn verdict_kind(name: Option<&str>) -> v1::VerdictKind {
    use v1::VerdictKind as Kind;
    match name {
        None | Some("pending") => Kind::Pending,
        Some("valid") => Kind::Valid,
        Some("valid_second_factor") => Kind::ValidSecondFactor,
        Some("valid_expired") => Kind::ValidExpired,
        Some("invalid") => Kind::Invalid,
        Some("inconclusive") => Kind::Inconclusive,
        Some("not_testable") => Kind::NotTestable,
        Some("stale") => Kind::Stale,
        Some("deferred") => Kind::Deferred,
        Some(_) => Kind::Unspecified,
    }
}

pub(super) fn verdict_name(field: &str, value: i32) -> Result<&'static str, ApiError> {
    use v1::VerdictKind as Kind;
    match Kind::try_from(value) {
        Ok(Kind::Pending) => Ok("pending"),
        Ok(Kind::Valid) => Ok("valid"),
        Ok(Kind::ValidSecondFactor) => Ok("valid_second_factor"),
        Ok(Kind::ValidExpired) => Ok("valid_expired"),
        Ok(Kind::Invalid) => Ok("invalid"),
        Ok(Kind::Inconclusive) => Ok("inconclusive"),
        Ok(Kind::NotTestable) => Ok("not_testable"),
        Ok(Kind::Stale) => Ok("stale"),
        Ok(Kind::Deferred) => Ok("deferred"),
        Ok(Kind::Unspecified) | Err(_) => Err(ApiError::field(field, "give a known verdict")),
    }
}

pub(super) fn source_kind_name(value: i32) -> Option<&'static str> {
    use v1::LeakSourceKind as Kind;
    match Kind::try_from(value).ok()? {
        Kind::Unspecified => Some(""),
        Kind::Stealer => Some("stealer"),
        Kind::Breach => Some("breach"),
        Kind::Combolist => Some("combolist"),
        Kind::Phish => Some("phish"),
        Kind::Paste => Some("paste"),
    }
}

fn source(source: &Source) -> v1::LeakSource {
    use v1::LeakSourceKind as Kind;
    let kind = match source.kind.as_str() {
        "stealer" => Kind::Stealer,
        "breach" => Kind::Breach,
        "combolist" => Kind::Combolist,
        "phish" => Kind::Phish,
        "paste" => Kind::Paste,
        _ => Kind::Unspecified,
    };
    v1::LeakSource { id: source.id.clone(), name: source.name.clone(), kind: kind.into() }
}

pub(super) fn secret_form(name: &str) -> v1::SecretForm {
    use v1::SecretForm as Form;
    match name {
        "plaintext" => Form::Plaintext,
        "cracked" => Form::Cracked,
        "hash" => Form::Hash,
        "hint" => Form::Hint,
        "masked" => Form::Masked,
        "none" => Form::None,
        _ => Form::Unspecified,
    }
}

/// A JSON object as facts by name.
pub(super) fn facts(value: &serde_json::Value) -> HashMap<String, String> {
    let Some(object) = value.as_object() else { return HashMap::new() };
    let text = |value: &serde_json::Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    object.iter().filter(|(_, v)| !v.is_null()).map(|(name, value)| (name.clone(), text(value))).collect()
}

pub(super) fn exposure(row: Exposure, standing: Option<&Standing>, with_evidence: bool) -> v1::Exposure {
    let Exposure {
        exposure_id,
        record_id,
        feed,
        account_id,
        identity_id,
        identifier_id,
        integration_id,
        provider,
        object_id,
        login_at_match,
        source: leak,
        secret_form: form,
        has_cookies,
        captured_after,
        captured_before,
        received_at,
        history,
        verdict,
        verdict_reason,
        verdict_at,
        decided_without_attempt,
        attempts,
        evidence,
        deferred_until,
        state,
        created_at,
        likelihood,
        privileged,
    } = row;
    let place = (state == "waiting").then(|| place(standing, likelihood.as_deref(), privileged));
    v1::Exposure {
        id: exposure_id.to_string(),
        record_id: record_id.to_string(),
        feed,
        source: Some(source(&leak)),
        account_id: account_id.to_string(),
        identity_id: identity_id.map(|i| i.to_string()).unwrap_or_default(),
        identifier_id: identifier_id.to_string(),
        integration_id: integration_id.to_string(),
        provider: provider_named(&provider),
        object_id,
        login: login_at_match,
        secret_form: secret_form(&form).into(),
        has_cookies,
        captured_after: captured_after.map(timestamp),
        captured_before: captured_before.map(timestamp),
        received_at: Some(timestamp(received_at)),
        created_at: Some(timestamp(created_at)),
        history,
        verdict: Some(v1::Verdict {
            kind: verdict_kind(verdict.as_deref()).into(),
            reason: verdict_reason.unwrap_or_default(),
            decided_at: verdict_at.map(timestamp),
            deferred_until: deferred_until.map(timestamp),
        }),
        decided_without_attempt,
        attempts,
        state,
        evidence: if with_evidence { facts(&evidence) } else { HashMap::new() },
        place,
    }
}

/// A list of exposures, each with the key it was sorted by, and where those that wait stand.
pub(super) fn exposures(
    rows: Vec<(Exposure, String)>,
    standings: &HashMap<ExposureId, Standing>,
) -> Vec<v1::Exposure> {
    let standing = |row: &Exposure| standings.get(&row.exposure_id);
    rows.into_iter().map(|(row, _)| (standing(&row), row)).map(|(at, row)| exposure(row, at, false)).collect()
}

/// Why an exposure that waits stands where it stands.
fn place(standing: Option<&Standing>, likelihood: Option<&str>, privileged: bool) -> v1::Place {
    let Some(Standing { exposure_id: _, rank, due_at, state }) = standing else {
        return v1::Place {
            reasons: vec!["withheld".into()],
            message: "it gets no turn: the request that asks for it is paused".into(),
            ..v1::Place::default()
        };
    };
    let cause = Cause::of_rank(*rank);
    let mut why = vec![(cause.as_str(), cause.meaning())];
    if let Some(likelihood) = likelihood.and_then(Likelihood::parse) {
        why.push((likelihood.as_str(), likelihood.meaning()));
    }
    if privileged {
        why.push(("administrator", "an administrator's account, so one ahead"));
    }
    match state.as_str() {
        "in_flight" => why.push(("in_turn", "it has its turn now")),
        "parked" => {
            why.push(("parked", "its turns ended without an answer, so it gets no more until somebody asks"));
        }
        _ => {}
    }
    v1::Place {
        rank: i32::from(*rank),
        reasons: why.iter().map(|(word, _)| (*word).to_owned()).collect(),
        message: why.iter().map(|(_, meaning)| *meaning).collect::<Vec<_>>().join("; "),
        due_at: (state == "waiting").then(|| timestamp(*due_at)),
    }
}

pub(super) fn mitigation(row: Mitigation, with_details: bool) -> v1::Mitigation {
    let Mitigation {
        mitigation_id,
        exposure_id,
        request_id,
        account_id,
        login,
        integration_id,
        action: name,
        state,
        reason,
        automatic,
        requested_by,
        released_by,
        created_at,
        finished_at,
        verified_at,
        undone_at,
        reverted_at,
        held_by,
        details,
        undoes,
        approval_id,
    } = row;
    v1::Mitigation {
        id: mitigation_id.to_string(),
        account_id: account_id.to_string(),
        integration_id: integration_id.to_string(),
        exposure_id: exposure_id.map(|i| i.to_string()).unwrap_or_default(),
        request_id: request_id.map(|i| i.to_string()).unwrap_or_default(),
        action: action(&name).into(),
        state,
        reason: reason.unwrap_or_default(),
        held_by: held_by.unwrap_or_default(),
        undoes: undoes.map(|i| i.to_string()).unwrap_or_default(),
        approval_id: approval_id.map(|i| i.to_string()).unwrap_or_default(),
        automatic,
        login: login.unwrap_or_default(),
        requested_by: requested_by.unwrap_or_default(),
        released_by: released_by.unwrap_or_default(),
        created_at: Some(timestamp(created_at)),
        finished_at: finished_at.map(timestamp),
        verified_at: verified_at.map(timestamp),
        undone_at: undone_at.map(timestamp),
        reverted_at: reverted_at.map(timestamp),
        details: if with_details { facts(&details) } else { HashMap::new() },
    }
}

/// What holds mitigations, as a sentence.
pub(super) fn hold(word: &str) -> &'static str {
    Hold::parse(word).map_or("it waits for a second person", Hold::sentence)
}

pub(super) fn account(row: accounts::Account) -> v1::Account {
    let accounts::Account {
        account_id,
        integration_id,
        provider,
        directory_id,
        object_id,
        login,
        display_name,
        state,
        kind,
        authority,
        is_admin,
        hybrid,
        password_changed_at,
        last_sign_in_at,
        created_at_directory,
        first_seen_at,
        last_seen_at,
        missing_since,
        removed_at,
        identity_id,
    } = row;
    let state = match state.as_str() {
        "active" => v1::AccountState::Active,
        "disabled" => v1::AccountState::Disabled,
        "locked" => v1::AccountState::Locked,
        "password_expired" => v1::AccountState::PasswordExpired,
        "pending" => v1::AccountState::Pending,
        "deprovisioned" => v1::AccountState::Deprovisioned,
        _ => v1::AccountState::Unspecified,
    };
    let kind = match kind.as_str() {
        "member" => v1::AccountKind::Member,
        "guest" => v1::AccountKind::Guest,
        _ => v1::AccountKind::Unspecified,
    };
    let authority = match authority.as_str() {
        "cloud" => v1::PasswordAuthority::Cloud,
        "ad" => v1::PasswordAuthority::Ad,
        "federated" => v1::PasswordAuthority::Federated,
        "none" => v1::PasswordAuthority::None,
        _ => v1::PasswordAuthority::Unspecified,
    };
    v1::Account {
        id: account_id.to_string(),
        integration_id: integration_id.to_string(),
        provider: provider_named(&provider),
        object_id,
        login,
        display_name,
        state: state.into(),
        kind: kind.into(),
        authority: authority.into(),
        is_admin,
        hybrid,
        password_changed_at: password_changed_at.map(timestamp),
        last_sign_in_at: last_sign_in_at.map(timestamp),
        first_seen_at: Some(timestamp(first_seen_at)),
        last_seen_at: last_seen_at.map(timestamp),
        removed_at: removed_at.map(timestamp),
        identity_id: identity_id.map(|i| i.to_string()).unwrap_or_default(),
        directory_id,
        created_at: created_at_directory.map(timestamp),
        missing_since: missing_since.map(timestamp),
    }
}

pub(super) fn identifier(row: accounts::Identifier) -> v1::Identifier {
    let accounts::Identifier { identifier_id, account_id, value, kind, source, created_at } = row;
    let kind = match kind.as_str() {
        "login" => v1::IdentifierKind::Login,
        "email" => v1::IdentifierKind::Email,
        "alias" => v1::IdentifierKind::Alias,
        _ => v1::IdentifierKind::Unspecified,
    };
    v1::Identifier {
        id: identifier_id.to_string(),
        value,
        kind: kind.into(),
        account_id: account_id.to_string(),
        source,
        created_at: Some(timestamp(created_at)),
    }
}
