//! What a validation can find out, and the words for why.

use time::OffsetDateTime;

macro_rules! names {
    ($(#[$meta:meta])* $name:ident { $($(#[doc = $doc:literal])* $variant:ident = $text:literal,)* }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum $name { $($(#[doc = $doc])* $variant,)* }
        impl $name {
            /// Every value.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];
            /// The stable name used in the database, the API and the audit log.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)* }
            }
            /// The value with this stable name.
            pub fn parse(text: &str) -> Option<Self> {
                match text { $($text => Some(Self::$variant),)* _ => None }
            }
        }
    };
}

pub(crate) use names;

names! {
    /// Why a verdict is not a plain yes or no. One vocabulary for all kinds of verdict, so that counts add up.
    Reason {
        // not testable: no usable secret
        /// The record carries no secret.
        NoSecret = "no_secret",
        /// The secret is masked by its source.
        SecretMasked = "secret_masked",
        /// The secret is a hash.
        SecretHashed = "secret_hashed",
        /// The secret is only a hint.
        SecretHint = "secret_hint",
        /// The secret cannot be submitted faithfully (leading or trailing white space, control characters, not UTF-8).
        SecretUnusable = "secret_unusable",
        /// The sealed secret reached the tenant's retention and was destroyed.
        SecretExpired = "secret_expired",
        // not testable: the account
        /// The account is disabled or suspended.
        AccountDisabled = "account_disabled",
        /// The account is locked.
        AccountLocked = "account_locked",
        /// The account no longer exists in the directory, or its sign-in name is unknown there.
        AccountGone = "account_gone",
        /// The account is a guest; its password lives elsewhere.
        Guest = "guest",
        /// The account has no password.
        Passwordless = "passwordless",
        /// The account is not yet or no longer able to sign in (staged, provisioned, in recovery).
        AccountState = "account_state",
        /// The password is checked by a federated identity provider.
        Federated = "federated",
        /// The password lives in Active Directory and no administrator opted in.
        AdBacked = "ad_backed",
        /// The directory's lockout threshold is too low to try safely.
        ThresholdTooLow = "threshold_too_low",
        /// The attempts since the owner's last seen sign-in are used up; the rest is the owner's reserve.
        Reserve = "reserve",
        /// The exposure is history: known before the identifier existed, and nobody asked for it.
        History = "history",
        /// Validation is switched off for the integration or not in the tenant's package.
        SwitchedOff = "switched_off",
        // stale
        /// The password changed after the latest moment the secret can have been captured.
        ChangedSinceCapture = "changed_since_capture",
        /// Another password of the account was proven valid since it last changed.
        OtherPasswordProven = "other_password_proven",
        /// The same password was already tried since the account's password last changed.
        AlreadyTried = "already_tried",
        /// The password cannot satisfy the policy under which the current one was set.
        PolicyExcludes = "policy_excludes",
        // deferred
        /// The rolling window is used up.
        Window = "window",
        /// Attempts on one account are kept apart.
        Spacing = "spacing",
        /// Another attempt on the account is under way.
        InFlight = "in_flight",
        /// The directory asked us to slow down.
        Throttled = "throttled",
        /// Validation is paused for the tenant, the directory or the integration.
        Paused = "paused",
        /// The directory cannot be reached or does not answer properly; nothing was submitted.
        Unavailable = "unavailable",
        // inconclusive
        /// The process or the connection died after the password may have been sent.
        Unknown = "unknown",
        /// The directory gave a code this version does not know.
        UnknownCode = "unknown_code",
        /// The answer could not be read.
        UnreadableAnswer = "unreadable_answer",
        /// The directory said the account is locked or our address is blocked; that proves nothing.
        LockedOrBlocked = "locked_or_blocked",
        /// Policy or network rules refused before or without checking the password.
        Refused = "refused",
        /// Our own configuration at the provider is wrong.
        Configuration = "configuration",
        /// The account is external to the directory that answered.
        External = "external",
        /// The account's state could not be read before and after, so a refusal proves nothing.
        StateUnread = "state_unread",
    }
}

/// The outcome of a validation (design §6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The password works, and no second factor stood in the way.
    Valid,
    /// The password is right; a second factor or a policy stopped the sign-in.
    ValidSecondFactor,
    /// The password is right and must be changed.
    ValidExpired,
    /// The password is wrong, proven.
    Invalid,
    /// The answer proves nothing.
    Inconclusive(Reason),
    /// It cannot or must not be tried.
    NotTestable(Reason),
    /// Decided without an attempt: it changed since the leak.
    Stale(Reason),
    /// Waits until the given instant.
    Deferred(OffsetDateTime, Reason),
}

impl Verdict {
    /// The stable name, without the reason.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Valid => "valid",
            Self::ValidSecondFactor => "valid_second_factor",
            Self::ValidExpired => "valid_expired",
            Self::Invalid => "invalid",
            Self::Inconclusive(_) => "inconclusive",
            Self::NotTestable(_) => "not_testable",
            Self::Stale(_) => "stale",
            Self::Deferred(..) => "deferred",
        }
    }
    /// Why, where the verdict has a reason.
    pub const fn reason(self) -> Option<Reason> {
        match self {
            Self::Valid | Self::ValidSecondFactor | Self::ValidExpired | Self::Invalid => None,
            Self::Inconclusive(r) | Self::NotTestable(r) | Self::Stale(r) | Self::Deferred(_, r) => Some(r),
        }
    }
    /// True for all three kinds of valid: they count alike for containment (design §6).
    pub const fn is_valid(self) -> bool {
        matches!(self, Self::Valid | Self::ValidSecondFactor | Self::ValidExpired)
    }
    /// True when an attempt proved it, right or wrong: only then is the leaked password destroyed (design §8).
    pub const fn is_proven(self) -> bool {
        self.is_valid() || matches!(self, Self::Invalid)
    }
}
