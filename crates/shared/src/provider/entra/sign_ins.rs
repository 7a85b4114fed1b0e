//! The log of sign-ins (entra.md §7.4, §17). `signInActivity` shows the latest sign-in of each kind; the log shows them all,
//! and the failures between them.

use serde::Deserialize;
use time::{OffsetDateTime, UtcOffset, format_description::well_known::Rfc3339};

use super::{
    Entra,
    account::{date, object_id_segment},
    optional, verdict,
};
use crate::provider::{
    OwnSignIn, ProviderError, SignIn, SignIns,
    sign_ins::{MOST_PAGES, TOO_MANY, patiently},
};

/// Entries of the one page that is read, the newest: enough for a week of somebody who signs in all day.
const PAGE: u16 = 200;
/// Entries of a page of our own. At most 1000 are given (entra.md §7.4); a row can be long.
const OWN_PAGE: u16 = 500;
const LOG: &str = "/auditLogs/signIns";

/// A sign-in, as far as it is read. v1.0 lists interactive ones only.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Row {
    id: Option<String>,
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
        let since = written(since)?;
        let path = format!("{LOG}?$filter=userId eq '{id}' and createdDateTime ge {since}&$top={PAGE}");
        let Some(answer) = optional(self.graph.report(&self.graph.url(&path)).await)? else {
            return Ok(None);
        };
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

    /// What was submitted under the client id that attempts are made with.
    ///
    /// v1.0 lists interactive sign-ins only, so that it may have fewer of ours than there were, and never more: who compares
    /// it with our own count can learn of an excess, and cannot learn that there was none.
    pub(super) async fn read_own_sign_ins(
        &self,
        from: OffsetDateTime,
        until: OffsetDateTime,
    ) -> Result<Option<Vec<OwnSignIn>>, ProviderError> {
        #[derive(Deserialize)]
        struct Page {
            #[serde(rename = "@odata.nextLink")]
            next: Option<String>,
            value: Vec<Row>,
        }
        if !self.facts().await?.sign_in_activity {
            return Ok(None);
        }
        let app = self.connection.ropc_client_id.as_ref().unwrap_or(&self.connection.client_id);
        let app =
            uuid::Uuid::try_parse(app).map_err(|_| ProviderError::Protocol("the client id is not a GUID"))?;
        let (from, until) = (written(from)?, written(until)?);
        let filter = format!("appId eq '{app}' and createdDateTime ge {from} and createdDateTime le {until}");
        let mut url = self.graph.url(&format!("{LOG}?$filter={filter}&$top={OWN_PAGE}"));
        let mut found = Vec::new();
        for _ in 0..MOST_PAGES {
            let Some(answer) = optional(patiently(|| self.graph.report(&url)).await)? else {
                return Ok(None);
            };
            let Page { next, value } = answer.json()?;
            for row in value {
                found.extend(row.submitted_under(app)?);
            }
            match next {
                None => return Ok(Some(found)),
                Some(link) => url = self.graph.own_link(&link, LOG)?.to_owned(),
            }
        }
        Err(TOO_MANY)
    }
}

pub(super) fn written(at: OffsetDateTime) -> Result<String, ProviderError> {
    let at = at.to_offset(UtcOffset::UTC).truncate_to_second().format(&Rfc3339);
    at.map_err(|_| ProviderError::Protocol("the instant cannot be written"))
}

impl Row {
    /// The submission it is, if it was made under this client id and on somebody: the connection test asks for nobody.
    fn submitted_under(self, app: uuid::Uuid) -> Result<Option<OwnSignIn>, ProviderError> {
        let is = |text: Option<&str>| text.and_then(|text| uuid::Uuid::try_parse(text).ok());
        let user = is(self.user_id.as_deref()).filter(|user| !user.is_nil());
        let (Some(user), true) = (user, is(self.app_id.as_deref()) == Some(app)) else { return Ok(None) };
        match (self.id, date(self.created_date_time.as_deref())) {
            (Some(entry), Some(at)) => {
                Ok(Some(OwnSignIn { entry, object_id: user.hyphenated().to_string(), at }))
            }
            _ => Err(ProviderError::Protocol("a sign-in without an id or a date")),
        }
    }

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

#[cfg(feature = "fuzzing")]
pub(super) fn fuzzed(answer: &crate::provider::http::Answer) {
    #[derive(Deserialize)]
    struct Page {
        value: Vec<Row>,
    }
    for row in answer.json::<Page>().map(|page| page.value).unwrap_or_default() {
        assert!(row.says(true) != Some(SignIn::Success), "an attempt of ours counts as the owner's");
        row.submitted_under(uuid::Uuid::max()).ok();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn says(code: u32, ours: bool, interactive: Option<bool>) -> Option<SignIn> {
        let status = Some(Status { error_code: Some(code) });
        let is_interactive = interactive;
        Row { id: None, created_date_time: None, user_id: None, app_id: None, is_interactive, status }
            .says(ours)
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

    #[test]
    fn a_submission_of_ours_has_our_client_id_and_an_account() {
        let app = uuid::Uuid::from_u128(1);
        let row = |app: &str, user: &str| Row {
            id: Some("entry".into()),
            created_date_time: Some("2026-11-22T10:00:00Z".into()),
            user_id: Some(user.into()),
            app_id: Some(app.into()),
            is_interactive: None,
            status: None,
        };
        let (ours, ann) = (app.to_string().to_uppercase(), "AAAAAAAA-0000-4000-8000-000000000001");
        let own = row(&ours, ann).submitted_under(app).unwrap().unwrap();
        assert_eq!((own.entry.as_str(), own.object_id), ("entry", ann.to_lowercase()));
        assert_eq!(row(ann, ann).submitted_under(app).unwrap(), None, "another application");
        for nobody in ["", "00000000-0000-0000-0000-000000000000"] {
            assert_eq!(row(&ours, nobody).submitted_under(app).unwrap(), None);
        }
        let undated = Row { created_date_time: None, ..row(&ours, ann) };
        assert!(undated.submitted_under(app).is_err(), "nothing is lost without a word");
    }
}
