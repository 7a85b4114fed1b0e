//! What triage has decided for an integration, rule by rule.

use shared::{db::Db, id::IntegrationId, triage::Rule, wire::v1};

use super::{convert, id};
use crate::{
    auth::Caller,
    error::ApiError,
    store::{exposures, integrations},
};

/// Counts the exposures of an integration by what decided them.
pub(super) async fn statistics(
    db: &Db,
    caller: &Caller,
    request: v1::GetTriageStatisticsRequest,
) -> Result<v1::GetTriageStatisticsResponse, ApiError> {
    let tenant = caller.tenant()?;
    let of: IntegrationId = id("integration_id", &request.integration_id)?;
    let mut tx = db.tenant(tenant).await?;
    let integration =
        integrations::get(&mut tx, tenant, of).await?.ok_or(ApiError::NotFound("integration"))?;
    let counts = exposures::decided_by(&mut tx, tenant, of).await?;
    tx.rollback().await?;
    let count = |what: &str| counts.get(what).copied().unwrap_or_default();
    let off = &integration.settings.validation.rules_off;
    let rules = Rule::ALL.iter().map(|rule| {
        let always_on_because = rule.always_on_because();
        let switch = match always_on_because {
            Some(_) => v1::TriageRuleSwitch::AlwaysOn,
            None if off.contains(rule) => v1::TriageRuleSwitch::Off,
            None => v1::TriageRuleSwitch::On,
        };
        v1::TriageRuleStatistics {
            rule: convert::rule(*rule).into(),
            meaning: rule.meaning().into(),
            switch: switch.into(),
            always_on_because: always_on_because.unwrap_or_default().into(),
            decided: count(rule.as_str()),
        }
    });
    Ok(v1::GetTriageStatisticsResponse {
        rules: rules.collect(),
        attempted: count("attempt"),
        waiting: count("waiting"),
        excluded_by_budget: count("budget"),
        expired: count("retention"),
        idle: count("idle"),
    })
}
