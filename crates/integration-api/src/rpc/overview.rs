//! GetOverview: what the hub knows, summed.

use std::collections::BTreeMap;

use shared::{id::TenantId, wire::v1};

use super::integration::Integrations;
use crate::{
    auth::Caller,
    error::ApiError,
    store::{
        integrations,
        overview::{self, Day},
        registry::{self, Tenant},
    },
};

/// Tenants that one call sums.
const MOST_TENANTS: usize = 100;
/// Integrations read at once.
const PAGE: i64 = 500;

impl Integrations {
    pub(super) async fn overview(
        &self,
        caller: &Caller,
        request: v1::GetOverviewRequest,
    ) -> Result<v1::GetOverviewResponse, ApiError> {
        let tenants = match v1::OverviewScope::try_from(request.scope) {
            Ok(v1::OverviewScope::Organization) => self.tenants_of(caller).await?,
            Ok(v1::OverviewScope::Unspecified | v1::OverviewScope::Tenant) => vec![caller.tenant()?],
            Err(_) => return Err(ApiError::field("scope", "give a known scope")),
        };
        let mut seen = Vec::with_capacity(tenants.len());
        for tenant in tenants {
            // INVARIANT (I9): each in a transaction of its own tenant, which the token lists.
            seen.extend(self.overview_of(tenant).await?);
        }
        Ok(v1::GetOverviewResponse { total: Some(sum(&seen)), tenants: seen })
    }

    async fn tenants_of(&self, caller: &Caller) -> Result<Vec<TenantId>, ApiError> {
        let organization = caller.claims.organization.ok_or_else(|| ApiError::Denied {
            reason: "ORGANIZATION_MISSING",
            message: "an overview of an organization needs a token that names one".into(),
        })?;
        let mut tx = self.db.system().await?;
        let mut tenants = registry::tenants_of(&mut tx, organization).await?;
        tx.rollback().await?;
        tenants.retain(|tenant| caller.claims.tenants.contains(tenant));
        if tenants.len() > MOST_TENANTS {
            return Err(ApiError::Precondition {
                reason: "TOO_MANY_TENANTS",
                message: format!(
                    "one overview covers at most {MOST_TENANTS} tenants; ask for each by itself"
                ),
            });
        }
        Ok(tenants)
    }

    async fn overview_of(&self, tenant: TenantId) -> Result<Option<v1::Overview>, ApiError> {
        let mut tx = self.db.tenant(tenant).await?;
        // Deleted meanwhile.
        let Some(Tenant { name, time_zone, .. }) = registry::tenant(&mut tx, tenant).await? else {
            tx.rollback().await?;
            return Ok(None);
        };
        let mut of = v1::Overview { tenant_id: tenant.to_string(), name, ..v1::Overview::default() };
        let (mut counts, mut warnings) = (v1::IntegrationCounts::default(), BTreeMap::new());
        let mut after = None;
        loop {
            let rows = integrations::list(&mut tx, tenant, None, None, after, PAGE).await?;
            after = rows.last().map(|last| (last.created_at, last.id));
            let last = i64::try_from(rows.len()).unwrap_or(PAGE) < PAGE;
            for integration in self.shown_all(&mut tx, tenant, rows).await? {
                match integration.status() {
                    v1::IntegrationStatus::Active => of.active += 1,
                    v1::IntegrationStatus::Error => of.error += 1,
                    v1::IntegrationStatus::Disabled | v1::IntegrationStatus::Unspecified => of.disabled += 1,
                }
                add_counts(&mut counts, integration.counts.as_ref());
                for warning in integration.warnings {
                    *warnings.entry(warning.reason).or_default() += 1;
                }
            }
            if last {
                break;
            }
        }
        of.counts = Some(counts);
        of.warnings = told(warnings);
        of.days = overview::days(&mut tx, tenant, &time_zone).await?.into_iter().map(day).collect();
        of.time_zone = time_zone;
        tx.commit().await?;
        Ok(Some(of))
    }
}

fn told(warnings: BTreeMap<String, i64>) -> Vec<v1::OverviewWarning> {
    let mut told: Vec<_> = warnings
        .into_iter()
        .map(|(reason, integrations)| v1::OverviewWarning { reason, integrations })
        .collect();
    told.sort_by_key(|warning| std::cmp::Reverse(warning.integrations));
    told
}

fn add_counts(to: &mut v1::IntegrationCounts, more: Option<&v1::IntegrationCounts>) {
    let Some(more) = more else { return };
    to.accounts += more.accounts;
    to.identities += more.identities;
    to.identifiers += more.identifiers;
    to.identifiers_skipped += more.identifiers_skipped;
    to.attempts_today += more.attempts_today;
    to.deferred += more.deferred;
    to.approvals += more.approvals;
    // As old as the oldest of them.
    to.counted_at = match (to.counted_at, more.counted_at) {
        (Some(one), Some(other)) => {
            Some(if (one.seconds, one.nanos) < (other.seconds, other.nanos) { one } else { other })
        }
        (one, other) => one.or(other),
    };
}

fn day(from: Day) -> v1::OverviewDay {
    let Day { day, exposures, valid, invalid, undecided, mitigations, attempts, attempts_saved } = from;
    let date = day.to_string();
    v1::OverviewDay { date, exposures, valid, invalid, undecided, mitigations, attempts, attempts_saved }
}

fn sum(of: &[v1::Overview]) -> v1::Overview {
    if let [only] = of {
        return only.clone();
    }
    let (mut total, mut counts) = (v1::Overview::default(), v1::IntegrationCounts::default());
    let (mut warnings, mut days) = (BTreeMap::new(), BTreeMap::<String, v1::OverviewDay>::new());
    for one in of {
        total.active += one.active;
        total.disabled += one.disabled;
        total.error += one.error;
        add_counts(&mut counts, one.counts.as_ref());
        for warning in &one.warnings {
            *warnings.entry(warning.reason.clone()).or_default() += warning.integrations;
        }
        for day in &one.days {
            let date = day.date.clone();
            let of_all =
                days.entry(date.clone()).or_insert(v1::OverviewDay { date, ..v1::OverviewDay::default() });
            of_all.exposures += day.exposures;
            of_all.valid += day.valid;
            of_all.invalid += day.invalid;
            of_all.undecided += day.undecided;
            of_all.mitigations += day.mitigations;
            of_all.attempts += day.attempts;
            of_all.attempts_saved += day.attempts_saved;
        }
    }
    v1::Overview {
        counts: Some(counts),
        warnings: told(warnings),
        days: days.into_values().collect(),
        ..total
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sum_adds_tenants_by_date_and_is_as_old_as_its_oldest_count() {
        let one = |date: &str, exposures, seconds| v1::Overview {
            active: 1,
            counts: Some(v1::IntegrationCounts {
                accounts: 5,
                counted_at: Some(prost_types::Timestamp { seconds, nanos: 0 }),
                ..Default::default()
            }),
            warnings: vec![v1::OverviewWarning { reason: "hybrid_disable".into(), integrations: 1 }],
            days: vec![v1::OverviewDay { date: date.into(), exposures, ..Default::default() }],
            ..Default::default()
        };
        let total = sum(&[one("2026-11-23", 2, 9), one("2026-11-23", 3, 7), one("2026-11-24", 1, 8)]);
        assert_eq!((total.active, total.warnings[0].integrations), (3, 3));
        let counts = total.counts.unwrap();
        assert_eq!((counts.accounts, counts.counted_at.unwrap().seconds), (15, 7));
        let days: Vec<_> = total.days.iter().map(|d| (d.date.as_str(), d.exposures)).collect();
        assert_eq!(days, [("2026-11-23", 5), ("2026-11-24", 1)]);
    }
}
