//! The log of sign-ins (entra.md §7.4, §17). `signInActivity` shows the latest sign-in of each kind; the log shows them all,
//! and the failures between them.

use serde::Deserialize;
use time::{OffsetDateTime, UtcOffset, format_description::well_known::Rfc3339};

use super::{
    Entra,
    account::{date, object_id_segment},
    optional, verdict,
};
use crate::provider::{ProviderError, SignIn, SignIns};

/// Entries of the one page that is read, the newest: enough for a week of somebody who signs in all day.
const PAGE: u16 = 200;

/// A sign-in, as far as it is read. v1.0 lists interactive ones only.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Row {
    created_date_time: Option<String>,
    user_id: Option<String>,
    app_id: Option<String>,
    is_interactive: Option<bool>,
    status: Option<Status>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Status {
    error_code: Option<u32>,
}

impl Entra {
    pub(super) async fn read_sign_ins(
        &self,
        object_id: &str,
        since: OffsetDateTime,
    ) -> Result<Option<SignIns>, ProviderError> {
        #[derive(Deserialize)]
        struct Page {
            value: Vec<Row>,
        }
        if !self.facts().await?.sign_in_activity {
            return Ok(None);
        }
        let id = object_id_segment(object_id)?;
        let since = since.to_offset(UtcOffset::UTC).truncate_to_second().format(&Rfc3339);
        let since = since.map_err(|_| ProviderError::Protocol("the instant cannot be written"))?;
        let path =
            format!("/auditLogs/signIns?$filter=userId eq '{id}' and createdDateTime ge {since}&$top={PAGE}");
        let Some(answer) = optional(self.graph.report(&path).await)? else { return Ok(None) };
        let page: Page = answer.json()?;
        let ours = [Some(&self.connection.client_id), self.connection.ropc_client_id.as_ref()];
        let ours = |app: &str| ours.iter().flatten().any(|own| own.eq_ignore_ascii_case(app));
        let mut entries = Vec::new();
        for row in page.value {
            // Filtered here as well: what a filter misses must not free anything.
            if !row.user_id.as_ref().is_some_and(|user| user.eq_ignore_ascii_case(&id)) {
                continue;
            }
            let ours = row.app_id.as_deref().is_none_or(ours);
            let Some(entry) = row.says(ours) else { continue };
            let at = date(row.created_date_time.as_deref())
                .ok_or(ProviderError::Protocol("a sign-in without a date"))?;
            entries.push((at, entry));
        }
        Ok(Some(SignIns::of(&entries)))
    }
}

impl Row {
    /// What it says of the owner. Everything behind a right password (a second factor, a policy) is neither a success nor a
    /// failure: whether it ends a count of failures is not known.
    fn says(&self, ours: bool) -> Option<SignIn> {
        match self.status.as_ref()?.error_code? {
            0 if ours || self.is_interactive == Some(false) => None,
            0 => Some(SignIn::Success),
            code if verdict::is_lock(code) => Some(SignIn::Lock),
            code if verdict::is_wrong_password(code) && !ours => Some(SignIn::Failure),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn says(code: u32, ours: bool, interactive: Option<bool>) -> Option<SignIn> {
        let status = Some(Status { error_code: Some(code) });
        let is_interactive = interactive;
        Row { created_date_time: None, user_id: None, app_id: None, is_interactive, status }.says(ours)
    }

    #[test]
    fn our_own_attempts_are_nobodys_and_a_lock_is_a_lock_whoever_met_it() {
        assert_eq!(says(0, false, Some(true)), Some(SignIn::Success));
        assert_eq!(says(0, false, None), Some(SignIn::Success));
        assert_eq!(says(0, true, Some(true)), None);
        assert_eq!(says(50126, false, Some(true)), Some(SignIn::Failure));
        assert_eq!(says(50126, true, Some(true)), None);
        assert_eq!(says(50053, true, Some(true)), Some(SignIn::Lock));
        assert_eq!(says(50053, false, Some(true)), Some(SignIn::Lock));
    }

    #[test]
    fn what_is_not_known_to_be_a_success_frees_nothing() {
        assert_eq!(says(0, false, Some(false)), None, "a token that renewed itself");
        assert_eq!(says(50076, false, Some(true)), None, "a second factor was asked for");
        assert_eq!(says(999_999, false, Some(true)), None);
    }
}
