//! Okta over the wire.

use std::sync::Arc;

use http::StatusCode;
use serde::{Deserialize, Serialize};
use time::{Duration, OffsetDateTime};

use crate::model::{Account, By};
use crate::wire::{self, Answer, Request};
use crate::world::World;

/// An Okta org.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Org id, `00o…`.
    pub org_id: String,
    /// `{subdomain}.okta.com`.
    pub subdomain: String,
    /// Domain of generated logins.
    pub mail_domain: String,
    /// Wrong tries that lock an account; 0 = never.
    #[serde(default = "ten")]
    pub max_attempts: u32,
    /// Minutes after which a lock ends by itself; 0 = never.
    #[serde(default)]
    pub auto_unlock_minutes: u32,
}

fn ten() -> u32 {
    10
}

/// Answers one request to an org's host.
pub async fn answer(world: &Arc<World>, request: &Request) -> Answer {
    std::future::ready((world, request)).await;
    wire::empty(StatusCode::NOT_FOUND).into()
}

/// Counts a wrong password; true when this one locked the account.
pub fn wrong_password(settings: &Settings, account: &mut Account, by: By, now: OffsetDateTime) -> bool {
    if account.lock.holds(now) {
        return false;
    }
    account.count_failure(by);
    if settings.max_attempts == 0 || account.lock.failures < settings.max_attempts {
        return false;
    }
    account.lock.locked = true;
    account.lock.locks += 1;
    let minutes = i64::from(settings.auto_unlock_minutes);
    account.lock.until = (minutes > 0).then(|| now + Duration::minutes(minutes));
    true
}
