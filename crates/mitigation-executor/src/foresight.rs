//! Whom a named group or role protects, as identity-sync-worker read it last: what a plan foresees of what is read afresh just
//! before an action, and what it cannot foresee.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use shared::{
    db::{StoreError, Tx},
    id::{IntegrationId, ProviderKind},
    policy::Protected,
    provider::group_kind,
};
use sqlx::Row;
use time::OffsetDateTime;
use uuid::Uuid;

use crate::store_requests::Target;

/// What is known of the groups and roles that a policy protects, at the integrations of a plan.
#[derive(Clone, Debug, Default)]
pub struct Foresight {
    /// When the members that were read longest ago were read.
    pub known_since: Option<OffsetDateTime>,
    /// Whose members are not known, or not as of the last sync, each with the reason.
    pub unforeseen: Vec<String>,
    /// What no directory of the plan knows.
    pub unknown: Vec<String>,
}

/// How Entra ID's object ids are stored; Okta's are case-sensitive.
fn key(target: &Target) -> String {
    match target.provider {
        ProviderKind::EntraId => target.object_id.to_ascii_lowercase(),
        ProviderKind::Okta => target.object_id.clone(),
    }
}

/// Notes which of the accounts a named group or role protects, as it was read last.
pub async fn protect(tx: &mut Tx, protected: &Protected, targets: &mut [Target]) -> Result<(), StoreError> {
    if protected.group_ids.is_empty() && protected.roles.is_empty() || targets.is_empty() {
        return Ok(());
    }
    let (groups, roles) = lists(protected);
    let integrations: Vec<Uuid> = targets.iter().map(|target| target.integration.uuid()).collect();
    let objects: Vec<String> = targets.iter().map(key).collect();
    let rows = sqlx::query(
        "SELECT m.integration_id, m.object_id, min(m.name) AS name
         FROM unnest($1::uuid[], $2::text[]) AS t (integration_id, object_id)
              JOIN sync.protected_members_v m USING (integration_id, object_id)
         WHERE (m.kind = 'group' AND m.name = ANY ($3)) OR (m.kind = 'role' AND m.name = ANY ($4))
         GROUP BY 1, 2",
    )
    .bind(integrations)
    .bind(objects)
    .bind(groups)
    .bind(roles)
    .fetch_all(&mut **tx)
    .await?;
    let mut by: HashMap<(IntegrationId, String), String> = HashMap::with_capacity(rows.len());
    for row in &rows {
        by.insert((row.try_get("integration_id")?, row.try_get("object_id")?), row.try_get("name")?);
    }
    for target in targets {
        target.protected_by = by.get(&(target.integration, key(target))).cloned();
    }
    Ok(())
}

fn lists(protected: &Protected) -> (Vec<String>, Vec<String>) {
    (protected.group_ids.iter().cloned().collect(), protected.roles.iter().cloned().collect())
}

/// One group or role at one integration, as stored.
struct Set {
    read_at: Option<OffsetDateTime>,
    known: bool,
    problem: Option<String>,
}

/// What of the policy's groups and roles is known at the integrations of these accounts.
pub async fn read<'a>(
    tx: &mut Tx,
    protected: &Protected,
    targets: impl Iterator<Item = &'a Target>,
) -> Result<Foresight, StoreError> {
    if protected.group_ids.is_empty() && protected.roles.is_empty() {
        return Ok(Foresight::default());
    }
    let at: BTreeMap<Uuid, ProviderKind> = targets.map(|t| (t.integration.uuid(), t.provider)).collect();
    let rows = sqlx::query(
        "SELECT integration_id, kind, name, read_at, coalesce(known, false) AS known, problem FROM sync.protected_sets_v
         WHERE integration_id = ANY ($1)",
    )
    .bind(at.keys().copied().collect::<Vec<_>>())
    .fetch_all(&mut **tx)
    .await?;
    let mut sets = HashMap::with_capacity(rows.len());
    for row in &rows {
        let of: (Uuid, String, String) =
            (row.try_get("integration_id")?, row.try_get("kind")?, row.try_get("name")?);
        let set = Set {
            read_at: row.try_get("read_at")?,
            known: row.try_get("known")?,
            problem: row.try_get("problem")?,
        };
        sets.insert(of, set);
    }
    Ok(judge(protected, &at, &sets))
}

fn judge(
    protected: &Protected,
    at: &BTreeMap<Uuid, ProviderKind>,
    sets: &HashMap<(Uuid, String, String), Set>,
) -> Foresight {
    let groups = protected.group_ids.iter().map(|name| ("group", name));
    let named = groups.chain(protected.roles.iter().map(|name| ("role", name)));
    let mut found = Foresight::default();
    let mut told = BTreeSet::new();
    for (kind, name) in named {
        let here =
            at.iter().filter(|(_, of)| kind == "role" || group_kind(name).is_none_or(|kind| kind == **of));
        let (mut asked, mut known) = (false, false);
        for (integration, _) in here {
            let set = sets.get(&(*integration, kind.to_owned(), name.clone()));
            let read_at = set.and_then(|set| set.read_at);
            let problem = set.and_then(|set| set.problem.as_deref());
            match (read_at, problem) {
                (Some(_), None) => {}
                (Some(at), Some(problem)) => {
                    let at = at.truncate_to_second();
                    told.insert(format!(
                        "{kind} {name}: as of {at}, since when it could not be read: {problem}"
                    ));
                }
                (None, problem) => {
                    let problem =
                        problem.unwrap_or("its members were not read yet; the next sync reads them");
                    told.insert(format!("{kind} {name}: {problem}"));
                }
            }
            found.known_since = match (found.known_since, read_at) {
                (Some(a), Some(b)) => Some(a.min(b)),
                (a, b) => a.or(b),
            };
            asked |= read_at.is_some();
            known |= read_at.is_none() || set.is_some_and(|set| set.known);
        }
        if asked && !known {
            found
                .unknown
                .push(format!("{kind} {name}: the directory knows none of that name; it protects nobody"));
        }
    }
    found.unforeseen = told.into_iter().collect();
    found
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;

    const GROUP: &str = "6d1f8f6e-1f0a-4a53-9d2e-000000000001";
    const READ: OffsetDateTime = datetime!(2026-11-23 12:00 UTC);

    type Row<'a> = (&'a str, &'a str, Option<OffsetDateTime>, bool, Option<&'a str>);

    fn of(sets: &[Row<'_>]) -> Foresight {
        let integration = Uuid::from_u128(1);
        let mut protected = Protected::default();
        protected.group_ids.extend([GROUP.to_owned(), "00gpilot000000000001".to_owned()]);
        protected.roles.insert("Tier 0".to_owned());
        let sets = sets.iter().map(|(kind, name, read_at, known, problem)| {
            let problem = problem.map(str::to_owned);
            let of = (integration, (*kind).to_owned(), (*name).to_owned());
            (of, Set { read_at: *read_at, known: *known, problem })
        });
        judge(&protected, &[(integration, ProviderKind::EntraId)].into(), &sets.collect())
    }

    #[test]
    fn only_what_is_not_known_is_called_unforeseen_and_a_group_of_another_provider_is_nobodys() {
        let known =
            of(&[("group", GROUP, Some(READ), true, None), ("role", "Tier 0", Some(READ), true, None)]);
        assert_eq!((known.unforeseen.len(), known.unknown.len()), (0, 0), "{known:?}");
        assert_eq!(known.known_since, Some(READ));
        let nothing = of(&[]);
        assert_eq!(nothing.unforeseen.len(), 2, "{nothing:?}");
        assert_eq!(nothing.known_since, None);
    }

    #[test]
    fn a_failure_keeps_what_was_read_and_says_its_age_and_a_name_that_is_none_is_told() {
        let earlier = READ - time::Duration::HOUR;
        let old = of(&[
            ("group", GROUP, Some(earlier), true, Some("it is hidden")),
            ("role", "Tier 0", Some(READ), false, None),
        ]);
        assert_eq!(old.known_since, Some(earlier));
        assert!(
            old.unforeseen[0].contains("2026-11-23 11:00") && old.unforeseen[0].ends_with("it is hidden")
        );
        assert!(old.unknown[0].starts_with("role Tier 0: the directory knows none"), "{old:?}");
    }
}
