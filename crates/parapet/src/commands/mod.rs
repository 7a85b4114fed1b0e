//! The commands of administrators and analysts: each is one call of the public API, or a few.

mod approval;
mod attempts;
mod audit;
mod broker;
mod budget;
mod exposure;
mod feed;
mod identity;
mod integration;
mod integration_keys;
mod integration_scope;
mod integration_update;
mod keys;
mod mitigation;
mod organization;
mod output;
mod overview;
mod plan;
mod policy;
mod progress;
mod providers;
mod removal;
mod selection;
mod sync;
mod tenant;
mod validation;
mod watch;
mod words;

pub use approval::Approval;
pub use attempts::Attempts;
pub use audit::Audit;
pub use broker::Broker;
pub use budget::Budget;
pub use exposure::Exposure;
pub use feed::Feed;
pub use identity::Identity;
pub use integration::Integration;
pub use keys::Keys;
pub use mitigation::{Mitigate, Mitigation};
pub use organization::Organization;
pub use output::table as table_of;
pub use overview::Overview;
pub use policy::Policy;
pub use removal::Removal;
pub use sync::Sync;
pub use tenant::Tenant;
pub use validation::{Validate, Validation};

use anyhow::{Context, bail};
use prost_types::Timestamp;
use serde_json::Value;
use shared::wire::v1::{self as api, integration_service_client::IntegrationServiceClient};

use crate::client::Api;

/// The most rows a list prints unless asked for more.
const ROWS: u32 = 100;

/// The most rows one page is asked for; the API allows more, but answers stay small this way.
const PAGE: u32 = 500;

/// Collects the rows of a list, page by page, until there are `limit` or no more.
async fn pages(
    limit: u32,
    mut page: impl AsyncFnMut(i32, String) -> anyhow::Result<(Vec<Value>, String)>,
) -> anyhow::Result<Vec<Value>> {
    let (mut rows, mut page_token) = (Vec::new(), String::new());
    loop {
        let left = limit.saturating_sub(u32::try_from(rows.len())?).min(PAGE);
        if left == 0 {
            return Ok(rows);
        }
        let (more, next) = page(i32::try_from(left)?, page_token).await?;
        rows.extend(more);
        if next.is_empty() {
            return Ok(rows);
        }
        page_token = next;
    }
}

/// A range of time, when one of its ends is given.
fn range(from: Option<Timestamp>, until: Option<Timestamp>) -> Option<api::DateRange> {
    (from.is_some() || until.is_some()).then_some(api::DateRange { from, until })
}

/// The id of the integration with this id or name, or nothing, which filters take as any.
async fn integration_id_or_any(api: &Api, named: Option<&str>) -> anyhow::Result<String> {
    match named {
        Some(named) => integration_id(api, named).await,
        None => Ok(String::new()),
    }
}

/// The id of the integration with this id or name.
async fn integration_id(api: &Api, named: &str) -> anyhow::Result<String> {
    if named.parse::<uuid::Uuid>().is_ok() {
        return Ok(named.to_owned());
    }
    let mut found = Vec::new();
    for integration in integrations(api, api::ListIntegrationsRequest::default()).await? {
        if integration.name == named {
            found.push(integration.id);
        }
    }
    match found.len() {
        0 => bail!("no integration is called {named}; `parapet integration list` shows them"),
        1 => found.pop().context("no integration"),
        _ => bail!("several integrations are called {named}; name one by its id"),
    }
}

/// Every integration of this provider and status.
async fn integrations(
    api: &Api,
    which: api::ListIntegrationsRequest,
) -> anyhow::Result<Vec<api::Integration>> {
    let mut client = IntegrationServiceClient::new(api.clone());
    let (mut all, mut page_token) = (Vec::new(), String::new());
    loop {
        let request = api::ListIntegrationsRequest { page_size: 100, page_token, ..which.clone() };
        let page = client.list_integrations(request).await?.into_inner();
        all.extend(page.integrations);
        if page.next_page_token.is_empty() {
            return Ok(all);
        }
        page_token = page.next_page_token;
    }
}

/// A key that makes a repeated call the same call; a fresh one for each command.
fn idempotency_key() -> String {
    uuid::Uuid::now_v7().to_string()
}

/// Parses an instant: RFC 3339, a date, or a distance back from now (`90m`, `12h`, `7d`).
fn instant(text: &str) -> Result<Timestamp, String> {
    use time::{
        Date, Duration, OffsetDateTime, format_description::well_known::Rfc3339, macros::format_description,
    };
    let back = |unit: char, of: fn(i64) -> Duration| {
        text.strip_suffix(unit).and_then(|n| n.parse().ok()).map(|n| OffsetDateTime::now_utc() - of(n))
    };
    let at = OffsetDateTime::parse(text, &Rfc3339)
        .ok()
        .or_else(|| {
            Some(Date::parse(text, format_description!("[year]-[month]-[day]")).ok()?.midnight().assume_utc())
        })
        .or_else(|| back('m', Duration::minutes))
        .or_else(|| back('h', Duration::hours))
        .or_else(|| back('d', Duration::days))
        .ok_or("give an instant as 2026-01-31T10:00:00Z, 2026-01-31, 90m, 12h or 7d")?;
    Ok(Timestamp { seconds: at.unix_timestamp(), nanos: 0 })
}

#[cfg(test)]
mod tests {
    #[tokio::test]
    async fn a_list_is_read_to_its_limit_or_its_end_in_pages() {
        let all: Vec<i32> = (0..1200).collect();
        let listed = async |limit| {
            let mut asked = Vec::new();
            let rows = super::pages(limit, async |size, token| {
                asked.push(size);
                let from: usize = token.parse().unwrap_or(0);
                let to = all.len().min(from + usize::try_from(size).unwrap());
                let next = if to < all.len() { to.to_string() } else { String::new() };
                Ok((all[from..to].iter().map(|row| (*row).into()).collect(), next))
            });
            (rows.await.unwrap().len(), asked)
        };
        assert_eq!(listed(0).await, (0, vec![]));
        assert_eq!(listed(700).await, (700, vec![500, 200]));
        assert_eq!(listed(5000).await, (1200, vec![500, 500, 500]));
    }

    #[test]
    fn instants_are_read_as_people_write_them() {
        assert_eq!(super::instant("1970-01-02").unwrap().seconds, 86_400);
        assert_eq!(super::instant("1970-01-01T00:01:00Z").unwrap().seconds, 60);
        let hour = time::OffsetDateTime::now_utc().unix_timestamp() - super::instant("1h").unwrap().seconds;
        assert!((3600..3605).contains(&hour));
        assert!(super::instant("yesterday").is_err());
    }
}
