//! Ten lines that know what must hold (design §4, I1 and I2) and nothing of how it is made to.

use std::collections::HashMap;

use time::{Duration, OffsetDateTime};
use uuid::Uuid;

/// One password submission that may have reached the directory, and what allowed it.
#[derive(Clone, Debug)]
pub struct Sent {
    pub attempt: Uuid,
    pub account: String,
    pub at: OffsetDateTime,
    /// Attempts allowed in a day.
    pub daily: i64,
    /// Attempts allowed since the owner's last sign-in.
    pub reserve: i64,
    /// The owner's last sign-in, password change or unlock before it, as it really was.
    pub owner: OffsetDateTime,
}

/// Everything that must not have happened.
pub fn violations(sent: &[Sent]) -> Vec<String> {
    let mut found = Vec::new();
    let mut seen: HashMap<Uuid, usize> = HashMap::new();
    for s in sent {
        let mine = || sent.iter().filter(|o| o.account == s.account && o.at <= s.at);
        let day = mine().filter(|o| o.at > s.at - Duration::hours(25)).fold(0_i64, |n, _| n + 1);
        if day > s.daily.min(5) {
            found.push(format!("{day} in a day where {} are allowed: {s:?}", s.daily));
        }
        let since = mine().filter(|o| o.at > s.owner).fold(0_i64, |n, _| n + 1);
        if since > s.reserve {
            found.push(format!("{since} since the owner's sign-in where {} are allowed: {s:?}", s.reserve));
        }
        if mine().any(|o| o.attempt != s.attempt && s.at - o.at < Duration::minutes(5)) {
            found.push(format!("less than five minutes after another: {s:?}"));
        }
        *seen.entry(s.attempt).or_default() += 1;
    }
    found.extend(seen.iter().filter(|(_, n)| **n > 1).map(|(id, n)| format!("attempt {id} sent {n} times")));
    found
}

/// What I1 and I2 allow for a lockout threshold, said once more: per day, and since the owner's last sign-in, of whose own
/// wrong tries so many are known.
pub fn allowed(
    daily: u32,
    threshold: Option<u32>,
    ad: bool,
    gov: bool,
    opt_in: bool,
    tries: u32,
) -> (i64, i64) {
    let known = threshold.filter(|t| *t > 0).unwrap_or(if gov { 3 } else { 10 });
    let t = i64::from(if ad { known.min(5) } else { known });
    let reserve = if t <= 4 { i64::from(opt_in && t >= 2) } else { (t / 2).min(t - 4) };
    let daily = i64::from(daily).min(t / 2).min(reserve).min(5);
    // Three wrong tries are left before the one that locks.
    (daily, if tries > 0 { reserve.min(t - i64::from(tries) - 4) } else { reserve })
}
