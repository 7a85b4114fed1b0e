//! What the org's answers say about its rate limits (§7).

use std::time::{Duration, Instant};

use super::authn;
use crate::provider::{
    http::{Answer, http_date},
    pace::Pace,
};

/// What a 429 without usable headers asks for; also the concurrency variant, whose reset is only a hint.
const UNTOLD: Duration = Duration::from_secs(10);
/// Smaller limits are not a bucket's: 0 is the concurrency limit, 1 to 4 the one per user name.
const SMALLEST_BUCKET: u32 = 10;
/// A window lasts a minute; anything longer is a mistake of a header.
const LONGEST_WINDOW: Duration = Duration::from_secs(90);

/// Remembers what an answer says about its bucket.
pub(super) fn learn(pace: &Pace, bucket: &'static str, answer: &Answer, now: Instant) {
    let told = headers(answer);
    if let Some((limit, remaining, left)) = told.filter(|told| told.0 >= SMALLEST_BUCKET) {
        pace.learn(bucket, limit, remaining, left, now);
    }
    // A sign-in may be refused for the limit of its user name, which says nothing about other users.
    let of_one_name =
        bucket == authn::BUCKET && told.is_some_and(|told| (1..SMALLEST_BUCKET).contains(&told.0));
    let asked = if answer.status == 429 { Some(throttled_for(answer)) } else { answer.asks_for_patience() };
    if let Some(length) = asked.filter(|_| !of_one_name) {
        pace.hold(bucket, length, now);
    }
}

/// How long a 429 asks to wait.
pub(super) fn throttled_for(answer: &Answer) -> Duration {
    match headers(answer) {
        Some((limit, _, left)) if limit > 0 => left,
        _ => UNTOLD,
    }
}

/// Limit, remaining and the time to the reset by the server's own clock. Headers may be repeated: the smallest counts.
fn headers(answer: &Answer) -> Option<(u32, u32, Duration)> {
    let least = |name: &str| {
        let values = answer.headers.get_all(name).iter();
        values
            .filter_map(|v| v.to_str().ok()?.split(',').filter_map(|n| n.trim().parse::<i64>().ok()).min())
            .min()
    };
    let count = |name| u32::try_from(least(name)?).ok();
    let date = http_date(answer.header("date")?)?.unix_timestamp();
    let left = least("x-rate-limit-reset")?.saturating_sub(date).saturating_add(1);
    let left = Duration::from_secs(u64::try_from(left).unwrap_or(0).max(1)).min(LONGEST_WINDOW);
    Some((count("x-rate-limit-limit")?, count("x-rate-limit-remaining")?, left))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::provider::pace::Share;

    fn answer(status: u16, limit: &str, remaining: &str, reset: &str) -> Answer {
        let mut headers = http::HeaderMap::new();
        headers.insert("date", "Thu, 11 Sep 2025 16:21:50 GMT".parse().unwrap());
        for (name, value) in [
            ("x-rate-limit-limit", limit),
            ("x-rate-limit-remaining", remaining),
            ("x-rate-limit-reset", reset),
        ] {
            headers.append(name, value.parse().unwrap());
        }
        Answer { status, headers, body: bytes::Bytes::new() }
    }

    async fn admitted(bucket: &'static str, answer: &Answer) -> bool {
        let pace = Pace::default();
        learn(&pace, bucket, answer, Instant::now());
        pace.admit(bucket, None, Share::WHOLE).await.is_ok()
    }

    #[tokio::test]
    async fn the_wait_is_counted_by_the_servers_clock() {
        // Recorded: reset 1757607758 with Date 16:21:50 = 1757607710.
        let used_up = answer(429, "10", "0", "1757607758");
        assert_eq!(throttled_for(&used_up), Duration::from_secs(49));
        assert!(!admitted("users", &used_up).await);
    }

    #[tokio::test]
    async fn the_concurrency_variant_is_no_window_but_holds_its_bucket_for_a_moment() {
        assert_eq!(throttled_for(&answer(429, "0", "0", "1757607758")), UNTOLD);
        assert!(!admitted("users", &answer(429, "0", "0", "1757607758")).await);
        assert!(admitted("users", &answer(200, "0", "0", "1757607758")).await);
    }

    #[tokio::test]
    async fn the_limit_of_one_user_name_holds_nobody_else() {
        let per_name = answer(429, "4", "0", "1757607758");
        assert!(admitted(authn::BUCKET, &per_name).await);
        assert!(!admitted("users", &per_name).await, "no name is signed in here");
    }
}
