//! When absence is believed: one full run marks what it did not find, a second one removes it, and neither may take
//! away more than is plausible. Pure.

use crate::store_accounts::Absent;

/// What is believed without a person.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limits {
    /// Largest share of the known accounts, in per cent.
    pub percent: i64,
    /// Most accounts.
    pub accounts: i64,
}

/// Why removals are held back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HoldReason {
    /// The directory answered with nothing.
    Empty,
    /// More is absent than is plausible.
    Shrunk,
}

impl HoldReason {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Empty => "empty",
            Self::Shrunk => "shrunk",
        }
    }
}

/// Whether what a full run did not find is held back.
///
/// INVARIANT (I6): nothing empty deletes. An empty answer is never believed, a sudden shrink not without a person.
pub(crate) fn brake(absent: Absent, seen: i64, limits: Limits) -> Option<HoldReason> {
    let Absent { known, newly, confirmed } = absent;
    if known > 0 && seen == 0 {
        return Some(HoldReason::Empty);
    }
    let too_many =
        |gone: i64| gone > limits.accounts || gone.saturating_mul(100) > known.saturating_mul(limits.percent);
    (too_many(newly) || too_many(confirmed)).then_some(HoldReason::Shrunk)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LIMITS: Limits = Limits { percent: 10, accounts: 500 };

    fn absent(known: i64, newly: i64, confirmed: i64) -> Absent {
        Absent { known, newly, confirmed }
    }

    #[test]
    fn a_tenth_and_five_hundred_accounts_pass_and_one_more_is_held() {
        assert_eq!(brake(absent(100, 10, 0), 90, LIMITS), None);
        assert_eq!(brake(absent(100, 11, 0), 89, LIMITS), Some(HoldReason::Shrunk));
        assert_eq!(brake(absent(100_000, 500, 0), 99_500, LIMITS), None);
        assert_eq!(brake(absent(100_000, 501, 0), 99_499, LIMITS), Some(HoldReason::Shrunk));
        assert_eq!(brake(absent(100, 0, 11), 89, LIMITS), Some(HoldReason::Shrunk));
    }

    #[test]
    fn nobody_missing_of_nobody_known_is_nothing_to_hold() {
        assert_eq!(brake(absent(0, 0, 0), 0, LIMITS), None);
    }

    proptest! {
        #[test]
        fn an_empty_answer_is_never_believed(known in 1i64..1_000_000, percent in 0i64..=100, accounts in 0i64..10_000_000) {
            prop_assert_eq!(brake(absent(known, known, 0), 0, Limits { percent, accounts }), Some(HoldReason::Empty));
        }
        #[test]
        fn what_passes_stays_within_both_limits(known in 0i64..100_000, newly in 0i64..100_000, confirmed in 0i64..100_000) {
            if brake(absent(known, newly, confirmed), 1, LIMITS).is_none() {
                prop_assert!(newly <= 500 && confirmed <= 500 && newly * 10 <= known && confirmed * 10 <= known);
            }
        }
    }
}
