//! Rate limits: windows of a minute that start at their first call, half a bucket per application, and the sign-ins per
//! user name (okta.md §7).

use std::collections::HashMap;
use std::sync::Mutex;

use bytes::Bytes;
use http::Response;
use time::{Duration, OffsetDateTime};

use super::settings::Buckets;
use super::{Org, errors};
use crate::sync::lock;
use crate::wire;

/// Which bucket a request falls into.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Bucket {
    /// Listing users.
    Users,
    /// Reading one user.
    User,
    /// Changing one user.
    UserWrite,
    /// Sign-ins.
    Authn,
    /// Tokens.
    Token,
    /// System Log.
    Logs,
    /// The rest.
    Other,
}

impl Bucket {
    fn size(self, buckets: &Buckets) -> u32 {
        match self {
            Self::Users => buckets.users,
            Self::User => buckets.user,
            Self::UserWrite => buckets.user_write,
            Self::Authn => buckets.authn,
            Self::Token => buckets.token,
            Self::Logs => buckets.logs,
            Self::Other => buckets.other,
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct Window {
    ends: OffsetDateTime,
    used: u32,
}

/// Org, bucket, and the application, if the caller is one.
type Key = (String, Bucket, Option<String>);

/// All windows in use.
#[derive(Debug, Default)]
pub struct Rates {
    windows: Mutex<HashMap<Key, Window>>,
    names: Mutex<HashMap<String, Window>>,
}

/// Where a caller stands in its bucket.
#[derive(Clone, Copy, Debug)]
pub struct Standing {
    limit: u32,
    remaining: u32,
    resets: i64,
    /// The call is beyond the limit.
    pub exceeded: bool,
}

impl Rates {
    /// Counts a call; `None` when the org has no limits. The well-known documents are not counted.
    pub fn count(
        &self,
        org: &Org,
        bucket: Bucket,
        principal: Option<String>,
        now: OffsetDateTime,
    ) -> Option<Standing> {
        let size = bucket.size(org.settings.buckets.as_ref()?);
        let app = |client: &String| org.settings.app(client).map_or(50, |app| app.share_percent);
        let share = principal.as_ref().map_or(100, app).min(100);
        let limit = (size.saturating_mul(share) / 100).max(1);
        let mut windows = lock(&self.windows);
        let key = (org.directory.id.clone(), bucket, principal);
        let used =
            count(windows.entry(key).or_insert(Window { ends: now, used: 0 }), now, Duration::minutes(1));
        Some(Standing {
            limit,
            remaining: limit.saturating_sub(used.0),
            resets: used.1.unix_timestamp(),
            exceeded: used.0 > limit,
        })
    }

    /// Counts a sign-in under a name; true when there were too many this second.
    pub fn too_fast(&self, org: &Org, name: &str, now: OffsetDateTime) -> bool {
        let mut names = lock(&self.names);
        names.retain(|_, window| window.ends > now);
        let key = format!("{}/{}", org.directory.id, name.to_lowercase());
        let window = names.entry(key).or_insert(Window { ends: now, used: 0 });
        count(window, now, Duration::seconds(1)).0 > org.settings.sign_ins_per_second
    }

    /// Forgets all windows.
    pub fn clear(&self) {
        lock(&self.windows).clear();
        lock(&self.names).clear();
    }
}

fn count(window: &mut Window, now: OffsetDateTime, length: Duration) -> (u32, OffsetDateTime) {
    if window.ends <= now {
        *window = Window { ends: now + length, used: 0 };
    }
    window.used = window.used.saturating_add(1);
    (window.used, window.ends)
}

impl Standing {
    /// Writes the three headers.
    pub fn write(self, response: &mut Response<Bytes>) {
        wire::set_header(response, "x-rate-limit-limit", &self.limit.to_string());
        wire::set_header(response, "x-rate-limit-remaining", &self.remaining.to_string());
        wire::set_header(response, "x-rate-limit-reset", &self.resets.to_string());
    }
}

/// 429 of the limit per user name.
pub fn name_throttled(now: OffsetDateTime) -> Response<Bytes> {
    let mut response = errors::error("E0000047");
    Standing { limit: 1, remaining: 0, resets: now.unix_timestamp() + 1, exceeded: true }
        .write(&mut response);
    response
}
