//! The commands of administrators and analysts: each is one call of the public API, or a few.

mod audit;
mod exposure;
mod feed;
mod identity;
mod integration;
mod output;
mod sync;
mod tenant;

pub use audit::Audit;
pub use exposure::{Budget, Exposure, Mitigate, Validate};
pub use feed::Feed;
pub use identity::Identity;
pub use integration::Integration;
pub use sync::Sync;
pub use tenant::Tenant;

use anyhow::{Context, bail};
use shared::wire::v1::{self as api, integration_service_client::IntegrationServiceClient};

use crate::client::Api;

/// The most rows a list prints unless asked for more.
const ROWS: u32 = 100;

/// The id of the integration with this id or name.
async fn integration_id(api: &Api, named: &str) -> anyhow::Result<String> {
    if named.parse::<uuid::Uuid>().is_ok() {
        return Ok(named.to_owned());
    }
    let mut found = Vec::new();
    for integration in integrations(api).await? {
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

async fn integrations(api: &Api) -> anyhow::Result<Vec<api::Integration>> {
    let mut client = IntegrationServiceClient::new(api.clone());
    let (mut all, mut page_token) = (Vec::new(), String::new());
    loop {
        let request = api::ListIntegrationsRequest { page_size: 100, page_token, ..Default::default() };
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
fn instant(text: &str) -> Result<prost_types::Timestamp, String> {
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
    Ok(prost_types::Timestamp { seconds: at.unix_timestamp(), nanos: 0 })
}

#[cfg(test)]
mod tests {
    #[test]
    fn instants_are_read_as_people_write_them() {
        assert_eq!(super::instant("1970-01-02").unwrap().seconds, 86_400);
        assert_eq!(super::instant("1970-01-01T00:01:00Z").unwrap().seconds, 60);
        let hour = time::OffsetDateTime::now_utc().unix_timestamp() - super::instant("1h").unwrap().seconds;
        assert!((3600..3605).contains(&hour));
        assert!(super::instant("yesterday").is_err());
    }
}
