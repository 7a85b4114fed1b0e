//! How fast the org lets us call: one window per rate-limit bucket, fed from the headers of its answers (§7).

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use crate::provider::http::{Answer, http_date};

/// The longest pause hidden inside one call; longer ones are answered `Throttled` for the caller to plan.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// What a 429 without usable headers asks for; also the concurrency variant, whose reset is only a hint.
const UNTOLD: Duration = Duration::from_secs(10);
/// Smaller limits are not a bucket's: 0 is the concurrency limit, 1 to 4 the one per user name.
const SMALLEST_BUCKET: u32 = 10;
/// A window lasts a minute; anything longer is a mistake of a header.
const LONGEST_WINDOW: Duration = Duration::from_secs(90);

#[derive(Debug, Default)]
pub(super) struct Pace {
    windows: Mutex<HashMap<&'static str, Window>>,
}

#[derive(Clone, Copy, Debug)]
struct Window {
    limit: u32,
    remaining: u32,
    resets: Instant,
}

impl Pace {
    /// How long to pause before a call in this bucket; `Err`: used up for that long.
    pub(super) fn admit(&self, bucket: &'static str, now: Instant) -> Result<Duration, Duration> {
        let mut windows = self.windows.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(window) = windows.get_mut(bucket).filter(|w| w.resets > now) else {
            return Ok(Duration::ZERO);
        };
        let left = window.resets - now;
        if window.remaining == 0 {
            return Err(left);
        }
        // The last fifth of a window is spread over what is left of it: the org has other callers too.
        let pause = if window.remaining.saturating_mul(5) < window.limit {
            (left / window.remaining).min(LONGEST_PAUSE)
        } else {
            Duration::ZERO
        };
        window.remaining -= 1;
        Ok(pause)
    }

    /// Remembers what an answer says about its bucket.
    pub(super) fn learn(&self, bucket: &'static str, answer: &Answer, now: Instant) {
        let Some((limit, remaining, left)) = headers(answer) else { return };
        if limit < SMALLEST_BUCKET {
            return;
        }
        let window = Window { limit, remaining, resets: now + left };
        self.windows.lock().unwrap_or_else(PoisonError::into_inner).insert(bucket, window);
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

    fn answer(limit: &str, remaining: &str, reset: &str) -> Answer {
        let mut headers = http::HeaderMap::new();
        headers.insert("date", "Thu, 11 Sep 2025 16:21:50 GMT".parse().unwrap());
        for (name, value) in [
            ("x-rate-limit-limit", limit),
            ("x-rate-limit-remaining", remaining),
            ("x-rate-limit-reset", reset),
        ] {
            headers.append(name, value.parse().unwrap());
        }
        Answer { status: 200, headers, body: bytes::Bytes::new() }
    }

    #[test]
    fn the_wait_is_counted_by_the_servers_clock() {
        // Recorded: reset 1757607758 with Date 16:21:50 = 1757607710.
        assert_eq!(throttled_for(&answer("10", "0", "1757607758")), Duration::from_secs(49));
    }

    #[test]
    fn the_concurrency_variant_is_not_mistaken_for_a_window() {
        let answer = answer("0", "0", "1757607758");
        assert_eq!(throttled_for(&answer), UNTOLD);
        let (pace, now) = (Pace::default(), Instant::now());
        pace.learn("users", &answer, now);
        assert_eq!(pace.admit("users", now), Ok(Duration::ZERO));
    }

    #[test]
    fn a_used_up_window_admits_nobody_until_its_reset() {
        let (pace, now) = (Pace::default(), Instant::now());
        pace.learn("users", &answer("100", "0", "1757607758"), now);
        assert_eq!(pace.admit("users", now), Err(Duration::from_secs(49)));
        assert_eq!(pace.admit("user", now), Ok(Duration::ZERO));
        assert_eq!(pace.admit("users", now + Duration::from_secs(49)), Ok(Duration::ZERO));
    }

    #[test]
    fn the_last_fifth_of_a_window_is_spread_over_the_rest_of_it() {
        let (pace, now) = (Pace::default(), Instant::now());
        pace.learn("users", &answer("100", "50", "1757607758"), now);
        assert_eq!(pace.admit("users", now), Ok(Duration::ZERO));
        pace.learn("users", &answer("100", "16", "1757607741"), now);
        assert_eq!(pace.admit("users", now), Ok(Duration::from_secs(2)));
        pace.learn("users", &answer("100", "1", "1757607758"), now);
        assert_eq!(pace.admit("users", now), Ok(LONGEST_PAUSE));
        assert!(pace.admit("users", now).is_err());
    }
}
