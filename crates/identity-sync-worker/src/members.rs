//! Who is in the groups and holds the roles that the mitigation policy protects: read after a run, so that a plan foresees
//! whom execution, which reads afresh, will hold.

use std::{collections::BTreeSet, time::Duration};

use shared::{
    db::StoreError,
    policy,
    provider::{GroupsAndRoles, MembersRead, Membership, ProviderError, group_kind},
};
use time::OffsetDateTime;

use crate::{
    drive::{Job, Sync},
    store_members::{self as store, Set},
};

/// Most members of a group or role that are kept (I11); of a larger one nobody is foreseen.
const MOST: usize = 200_000;
/// Longest time for one group, or for all roles together.
const PATIENCE: Duration = Duration::from_mins(1);
/// Runs come every few minutes, and groups may be large: after one that was not a full one, members of the same groups are
/// read no more often.
const EVERY: time::Duration = time::Duration::HOUR;

impl Sync {
    /// Reads the members again, if it is time. What cannot be read keeps what was read before, and says why.
    pub(crate) async fn refresh_members(&self, job: &Job, full: bool) -> Result<(), StoreError> {
        let (tenant, integration) = (job.integration.tenant, job.integration.id);
        let mut tx = self.db.tenant(tenant).await?;
        let protected = policy::current(&mut tx).await?.policy.protected;
        let kept = store::sets(&mut tx, tenant, integration).await?;
        let now = tx.clock().await?;
        tx.rollback().await?;

        let kind = job.integration.provider;
        let groups: Vec<String> = protected
            .group_ids
            .into_iter()
            .filter(|group| group_kind(group).is_none_or(|of| of == kind))
            .collect();
        let roles: Vec<String> = protected.roles.into_iter().collect();
        let named: BTreeSet<Membership> = groups
            .iter()
            .cloned()
            .map(Membership::Group)
            .chain(roles.iter().cloned().map(Membership::Role))
            .collect();
        if !is_due(full, &named, &kept, now) {
            return Ok(());
        }
        // INVARIANT (I11): the members of one group at a time, or of all roles, are in memory.
        for group in &groups {
            let one = GroupsAndRoles { groups: std::slice::from_ref(group), roles: &[] };
            self.store_members(job, in_time(job, one).await).await?;
        }
        if !roles.is_empty() {
            let all = GroupsAndRoles { groups: &[], roles: &roles };
            self.store_members(job, in_time(job, all).await).await?;
        }
        let mut tx = self.db.tenant(tenant).await?;
        for set in kept.iter().filter(|set| !named.contains(&set.of)) {
            store::forget(&mut tx, tenant, integration, &set.of).await?;
        }
        tx.commit().await
    }

    async fn store_members(&self, job: &Job, read: MembersRead) -> Result<(), StoreError> {
        let (tenant, integration) = (job.integration.tenant, job.integration.id);
        let mut tx = self.db.tenant(tenant).await?;
        for (of, members) in read {
            match members {
                Ok(members) => store::replace(&mut tx, tenant, integration, &of, members).await?,
                Err(error) => {
                    tracing::info!(%integration, ?of, %error, "protected members are as they were read before");
                    store::failed(&mut tx, tenant, integration, &of, &told(&error)).await?;
                }
            }
        }
        tx.commit().await
    }
}

async fn in_time(job: &Job, of: GroupsAndRoles<'_>) -> MembersRead {
    tokio::time::timeout(PATIENCE, job.provider.members(of, MOST)).await.unwrap_or_else(|_| {
        let groups = of.groups.iter().cloned().map(Membership::Group);
        let all = groups.chain(of.roles.iter().cloned().map(Membership::Role));
        all.map(|of| (of, Err(ProviderError::Lost("they did not arrive in time")))).collect()
    })
}

fn told(error: &ProviderError) -> String {
    match error {
        ProviderError::Refused(missing) => missing.message.clone(),
        error => error.to_string(),
    }
}

fn is_due(full: bool, named: &BTreeSet<Membership>, kept: &[Set], now: OffsetDateTime) -> bool {
    let stale = kept.iter().any(|set| set.tried_at <= now - EVERY);
    let other = kept.len() != named.len() || kept.iter().any(|set| !named.contains(&set.of));
    // Without anything named there is nothing to read, and what was kept has been forgotten.
    other || !named.is_empty() && (full || stale)
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;

    #[test]
    fn members_are_read_after_full_runs_every_hour_and_when_others_are_named() {
        let now = datetime!(2026-11-23 12:00 UTC);
        let group = |name: &str| Membership::Group(name.to_owned());
        let set =
            |name: &str, minutes| Set { of: group(name), tried_at: now - time::Duration::minutes(minutes) };
        let named = |names: &[&str]| names.iter().map(|name| group(name)).collect::<BTreeSet<_>>();
        assert!(!is_due(true, &named(&[]), &[], now), "a tenant that names none costs no call");
        assert!(is_due(false, &named(&["a"]), &[], now));
        assert!(!is_due(false, &named(&["a"]), &[set("a", 59)], now));
        assert!(is_due(false, &named(&["a"]), &[set("a", 60)], now));
        assert!(is_due(true, &named(&["a"]), &[set("a", 1)], now));
        assert!(is_due(false, &named(&["b"]), &[set("a", 1)], now));
        assert!(is_due(false, &named(&[]), &[set("a", 1)], now), "what is named no more is forgotten");
    }
}
