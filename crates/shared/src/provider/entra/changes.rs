//! Who else enabled an account, by the directory's audit log: `GET /auditLogs/directoryAudits` takes AuditLog.Read.All and
//! Directory.Read.All, filters by `activityDateTime` (ge) and `activityDisplayName` (eq), and shares the quota of reports
//! (<https://learn.microsoft.com/graph/api/directoryaudit-list>, entra.md §7.4). Setting `accountEnabled` is logged as
//! "Enable account" and "Disable account", and an application as `initiatedBy.app` with its service principal's id, often
//! without its application id (seen in Splunk's recorded `azure_ad` attack data).
//!
//! After a disabling of ours, whatever comes next to change the account enables it: that one activity is all that has to be
//! read, however many accounts we disabled.

use serde::Deserialize;

use super::{Entra, account::date, optional, sign_ins::written};
use crate::provider::{
    Action, Asked, Change, Others, ProviderError,
    changes::{Page, Place},
};

const LOG: &str = "/auditLogs/directoryAudits";
/// Entries of a page: the most there is.
const PAGE: u16 = 1000;
/// How far back a tenant with a licence keeps it, less a day; one without shows a week (entra.md §7.4).
const KEPT: time::Duration = time::Duration::days(29);

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Entry {
    activity_date_time: Option<String>,
    #[serde(default)]
    initiated_by: Initiator,
    #[serde(default)]
    target_resources: Vec<Target>,
    result: Option<String>,
}

#[derive(Default, Deserialize)]
struct Initiator {
    user: Option<Who>,
    app: Option<Who>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Who {
    app_id: Option<String>,
    service_principal_id: Option<String>,
    user_principal_name: Option<String>,
    display_name: Option<String>,
    id: Option<String>,
}

#[derive(Deserialize)]
struct Target {
    id: Option<String>,
}

impl Entra {
    pub(super) async fn enabled_by_others(
        &self,
        object_id: &str,
        asked: Asked,
    ) -> Result<Others, ProviderError> {
        let account = object_id.to_ascii_lowercase();
        self.changes.tells((Action::DisableAccount, &account), asked, KEPT, |place| self.audits(place)).await
    }

    async fn audits(&self, place: Place) -> Result<Option<Page>, ProviderError> {
        #[derive(Deserialize)]
        struct Body {
            #[serde(rename = "@odata.nextLink")]
            next: Option<String>,
            value: Vec<Entry>,
        }
        let granted = self.graph.permissions().await?;
        if granted.is_some_and(|granted| !granted.contains("AuditLog.Read.All")) {
            return Ok(None);
        }
        let url = match place {
            Place::Link(link) => self.graph.own_link(&link, LOG)?.to_owned(),
            Place::Since(since) => {
                let filter = format!(
                    "activityDateTime ge {} and activityDisplayName eq 'Enable account'",
                    written(since)?
                );
                self.graph.url(&format!("{LOG}?$filter={filter}&$top={PAGE}"))
            }
        };
        let Some(answer) = optional(self.graph.report(&url).await)? else { return Ok(None) };
        let Body { next, value } = answer.json()?;
        let ourselves = self.graph.principal().await?;
        let mut changes = Vec::new();
        for entry in value {
            if entry.is_of(&self.connection.client_id, ourselves.as_deref())
                || entry.result.as_deref().is_some_and(|result| result != "success")
            {
                continue;
            }
            let at = date(entry.activity_date_time.as_deref())
                .ok_or(ProviderError::Protocol("an entry without a date"))?;
            let by = entry.initiated_by.name();
            let targets = entry.target_resources.into_iter().filter_map(|target| target.id);
            changes.extend(
                targets.map(|id| {
                    (Action::DisableAccount, id.to_ascii_lowercase(), Change { at, by: by.clone() })
                }),
            );
        }
        Ok(Some(Page { changes, next }))
    }
}

impl Entry {
    /// Whether our application did it.
    fn is_of(&self, client_id: &str, principal: Option<&str>) -> bool {
        let Some(app) = &self.initiated_by.app else { return false };
        let is = |id: &Option<String>, own: &str| id.as_ref().is_some_and(|id| id.eq_ignore_ascii_case(own));
        is(&app.app_id, client_id) || principal.is_some_and(|own| is(&app.service_principal_id, own))
    }
}

impl Initiator {
    fn name(&self) -> String {
        let names = |who: &Who| {
            let name = who.user_principal_name.as_ref().or(who.display_name.as_ref());
            name.or(who.id.as_ref()).or(who.service_principal_id.as_ref()).cloned()
        };
        let named = self.user.as_ref().and_then(names).or_else(|| self.app.as_ref().and_then(names));
        named.unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_enabling_is_told_by_either_id_and_others_by_name() {
        let entry = |text: &str| serde_json::from_str::<Entry>(text).unwrap();
        let (client, principal) =
            ("11111111-aaaa-4000-8000-000000000001", "22222222-bbbb-4000-8000-000000000002");
        let by_principal = format!(
            r#"{{"initiatedBy": {{"user": null, "app": {{"appId": null, "displayName": "Parapet",
                "servicePrincipalId": "{principal}"}}}}}}"#
        );
        let ours = entry(&by_principal);
        assert!(ours.is_of(client, Some(principal)));
        assert!(!ours.is_of(client, None), "an unknown application is somebody else");
        let by_app =
            entry(&format!(r#"{{"initiatedBy": {{"app": {{"appId": "{}"}}}}}}"#, client.to_uppercase()));
        assert!(by_app.is_of(client, Some(principal)));
        let by_person = entry(
            r#"{"initiatedBy": {"user": {"id": "x", "userPrincipalName": "help@acme.example"}, "app": null}}"#,
        );
        assert!(!by_person.is_of(client, Some(principal)));
        assert_eq!(by_person.initiated_by.name(), "help@acme.example");
        assert_eq!(entry("{}").initiated_by.name(), "", "nobody is named, and it counts all the same");
    }
}
