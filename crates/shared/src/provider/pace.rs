//! How fast a directory lets us call, and how much of that we take: one window per bucket of its quota, fed by its answers.
//!
//! A bucket is shared with the customer's other tools (asks.md A10), so a process takes a share of it only.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use super::ProviderError;

/// The longest pause hidden inside one call; longer ones are answered [`ProviderError::Paced`] for the caller to plan.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// Answers of one window do not agree to the second on when it ends.
const SAME_WINDOW: Duration = Duration::from_secs(2);

/// The part of a customer's quota that is ours, in percent, 1 to 100.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share(u32);

impl Share {
    /// All of it.
    pub const WHOLE: Self = Self(100);

    /// A share; numbers outside 1 to 100 are clamped.
    pub const fn percent(percent: u32) -> Self {
        Self(match percent {
            0 => 1,
            1..=100 => percent,
            _ => 100,
        })
    }

    /// Never nothing: a call in each window is the least that still gets on.
    fn of(self, limit: u32) -> u32 {
        u32::try_from(u64::from(limit) * u64::from(self.0) / 100).unwrap_or(limit).max(1)
    }
}

/// A quota that the provider documents and does not tell in its answers.
#[derive(Clone, Copy, Debug)]
pub(super) struct Quota {
    pub limit: u32,
    pub period: Duration,
}

/// The pace of one directory, shared by all adapters of the process that lead to it.
#[derive(Debug, Default)]
pub struct Pace {
    buckets: Mutex<HashMap<&'static str, Bucket>>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Bucket {
    window: Option<Window>,
    /// The directory said to leave it alone until then.
    held: Option<Instant>,
}

#[derive(Clone, Copy, Debug)]
struct Window {
    limit: u32,
    /// What the directory says is left of it, to us and everybody else.
    remaining: u32,
    /// What this process took of it.
    taken: u32,
    resets: Instant,
}

impl Pace {
    /// Takes a place in a bucket, after a short pause if it is nearly used up. Without a known window there is no
    /// limit yet: the first answer tells.
    pub(super) async fn admit(
        &self,
        bucket: &'static str,
        quota: Option<Quota>,
        share: Share,
    ) -> Result<(), ProviderError> {
        let pause =
            self.place(bucket, quota, share, Instant::now()).map_err(|wait| ProviderError::Paced { wait })?;
        tokio::time::sleep(pause).await;
        Ok(())
    }

    /// How long to pause before a call in this bucket; `Err`: nothing goes for that long.
    fn place(
        &self,
        bucket: &'static str,
        quota: Option<Quota>,
        share: Share,
        now: Instant,
    ) -> Result<Duration, Duration> {
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        let bucket = buckets.entry(bucket).or_default();
        let held = bucket.held.map_or(Duration::ZERO, |until| until.saturating_duration_since(now));
        if held > LONGEST_PAUSE {
            return Err(held);
        }
        bucket.window = bucket.window.filter(|window| window.resets > now).or_else(|| {
            let Quota { limit, period } = quota?;
            Some(Window { limit, remaining: limit, taken: 0, resets: now + period })
        });
        let Some(window) = &mut bucket.window else { return Ok(held) };
        let ours = share.of(window.limit);
        let left = ours.saturating_sub(window.taken).min(window.remaining);
        let reset = window.resets - now;
        if left == 0 {
            return Err(reset.max(held));
        }
        // The last fifth is spread over the rest of the window.
        let pause =
            if left.saturating_mul(5) < ours { (reset / left).min(LONGEST_PAUSE) } else { Duration::ZERO };
        window.remaining -= 1;
        window.taken += 1;
        Ok(pause.max(held))
    }

    /// What an answer says about its bucket: the limit, what is left of it, and the time to its reset.
    pub(super) fn learn(
        &self,
        bucket: &'static str,
        limit: u32,
        remaining: u32,
        left: Duration,
        now: Instant,
    ) {
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        let bucket = buckets.entry(bucket).or_default();
        let resets = now + left;
        let same = bucket.window.filter(|known| known.resets + SAME_WINDOW > resets);
        // The call that was answered is the first of a window that is new to us.
        let taken = same.map_or(1, |known| known.taken);
        bucket.window = Some(Window { limit, remaining, taken, resets });
    }

    /// A call cost this much more than the one its place was taken for.
    pub(super) fn spend(&self, bucket: &'static str, more: u32) {
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(window) = buckets.get_mut(bucket).and_then(|bucket| bucket.window.as_mut()) {
            window.remaining = window.remaining.saturating_sub(more);
            window.taken = window.taken.saturating_add(more);
        }
    }

    /// The directory said to leave a bucket alone for so long. Calls that fail for it would cost the quota as well.
    pub(super) fn hold(&self, bucket: &'static str, length: Duration, now: Instant) {
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        let bucket = buckets.entry(bucket).or_default();
        bucket.held = bucket.held.max(Some(now + length));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHOLE: Share = Share::WHOLE;
    const MINUTE: Duration = Duration::from_mins(1);

    fn place(pace: &Pace, share: Share, now: Instant) -> Result<Duration, Duration> {
        pace.place("users", None, share, now)
    }

    #[test]
    fn a_used_up_window_admits_nobody_until_its_reset() {
        let (pace, now) = (Pace::default(), Instant::now());
        pace.learn("users", 100, 0, MINUTE, now);
        assert_eq!(place(&pace, WHOLE, now), Err(MINUTE));
        assert_eq!(pace.place("user", None, WHOLE, now), Ok(Duration::ZERO), "another bucket");
        assert_eq!(place(&pace, WHOLE, now + MINUTE), Ok(Duration::ZERO));
    }

    #[test]
    fn the_last_fifth_of_a_window_is_spread_over_the_rest_of_it() {
        let (pace, now) = (Pace::default(), Instant::now());
        pace.learn("users", 100, 50, MINUTE, now);
        assert_eq!(place(&pace, WHOLE, now), Ok(Duration::ZERO));
        pace.learn("users", 100, 16, Duration::from_secs(32), now);
        assert_eq!(place(&pace, WHOLE, now), Ok(Duration::from_secs(2)));
        pace.learn("users", 100, 1, MINUTE, now);
        assert_eq!(place(&pace, WHOLE, now), Ok(LONGEST_PAUSE));
        assert!(place(&pace, WHOLE, now).is_err());
    }

    #[test]
    fn we_take_our_share_of_a_window_and_leave_the_rest_to_the_customers_other_tools() {
        let (pace, now, share) = (Pace::default(), Instant::now(), Share::percent(25));
        pace.learn("users", 100, 99, MINUTE, now);
        let mut taken = 1;
        while place(&pace, share, now).is_ok() {
            taken += 1;
            // What others take in between changes what is left, not what is ours.
            pace.learn("users", 100, 98 - 2 * taken, Duration::from_secs(59), now);
        }
        assert_eq!(taken, 25);
        assert_eq!(place(&pace, WHOLE, now), Ok(Duration::ZERO), "the directory has more");
        pace.learn("users", 100, 99, MINUTE, now + MINUTE);
        assert!(place(&pace, share, now + MINUTE).is_ok(), "a new window");
    }

    #[test]
    fn the_smallest_share_of_the_smallest_quota_is_a_call() {
        let (pace, now) = (Pace::default(), Instant::now());
        let quota = Some(Quota { limit: 10, period: MINUTE });
        assert!(pace.place("users", quota, Share::percent(0), now).is_ok());
        assert_eq!(pace.place("users", quota, Share::percent(1), now), Err(MINUTE));
    }

    #[test]
    fn what_a_call_costs_beyond_its_place_counts_too() {
        let (pace, now) = (Pace::default(), Instant::now());
        let quota = Some(Quota { limit: 100, period: MINUTE });
        assert_eq!(pace.place("users", quota, WHOLE, now), Ok(Duration::ZERO));
        pace.spend("users", 99);
        assert_eq!(pace.place("users", quota, WHOLE, now), Err(MINUTE));
    }

    #[test]
    fn nothing_goes_while_a_bucket_is_held_and_a_short_hold_is_a_pause() {
        let (pace, now) = (Pace::default(), Instant::now());
        pace.hold("users", MINUTE, now);
        pace.hold("users", Duration::from_secs(1), now);
        assert_eq!(place(&pace, WHOLE, now), Err(MINUTE));
        assert_eq!(place(&pace, WHOLE, now + Duration::from_secs(57)), Ok(Duration::from_secs(3)));
        assert_eq!(place(&pace, WHOLE, now + MINUTE), Ok(Duration::ZERO));
    }
}
