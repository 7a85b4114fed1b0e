//! The words of mitigations: what holds one and why one is not done, as mitigation-executor stores it and integration-api
//! tells it.

macro_rules! words {
    ($(#[$meta:meta])* $name:ident { $($(#[doc = $doc:literal])* $variant:ident = $text:literal : $sentence:literal,)* }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum $name { $($(#[doc = $doc])* $variant,)* }
        impl $name {
            /// Every value.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];
            /// The stable name, as stored.
            pub const fn as_str(self) -> &'static str { match self { $(Self::$variant => $text,)* } }
            /// The value with this stable name.
            pub fn parse(text: &str) -> Option<Self> { match text { $($text => Some(Self::$variant),)* _ => None } }
            /// One sentence for a person: what is the matter and what helps.
            pub const fn sentence(self) -> &'static str { match self { $(Self::$variant => $sentence,)* } }
        }
    };
}

words! {
    /// Why an action is not done, for good.
    Refusal {
        /// Mitigation is not in the tenant's package.
        NotEntitled = "not_entitled": "mitigation is not in the tenant's package",
        /// The action's switch is off.
        SwitchedOff = "switched_off": "the action is switched off for this integration",
        /// A person switched the integration off, or it is gone.
        IntegrationDisabled = "integration_disabled": "the integration is disabled or deleted",
        /// The account is mastered in an on-premises Active Directory.
        AdMastered = "ad_mastered": "the account is mastered in Active Directory, whose next sync would enable it again: disable it there, and here revoke its sessions or mark it compromised",
        /// The account is not there any more.
        AccountGone = "account_gone": "the account is not in the directory any more",
        /// The account's state does not allow it.
        WrongState = "wrong_state": "the account's state does not allow the action; revoke its sessions instead",
        /// The target is an administrator whom our application may not act on.
        AdminTarget = "admin_target": "the account is an administrator: our application needs a higher role to act on it",
        /// The directory lacks the licence.
        LicenceMissing = "licence_missing": "the directory is not licensed for the action",
        /// An undo: nothing can take it back.
        Irreversible = "irreversible": "ended sessions stay ended: their owner signs in again",
        /// An undo: it was not carried out, or is over already.
        NotInEffect = "not_in_effect": "the mitigation is not in effect: it was not carried out, or was taken back already",
        /// An undo: the account was so before.
        NotOurs = "not_ours": "the account was in that state before, by somebody else's hand: undo it in the directory if that is meant",
        /// An undo: the account was changed since.
        ChangedSince = "changed_since": "somebody has changed the account since, so that taking the mitigation back would not give back what was: decide in the directory",
        /// An undo: dismissing a risk wipes all of it.
        Unconfirmed = "unconfirmed": "dismissing the risk wipes the directory's own detections about the account too: ask again and confirm that",
        /// Automatic, and the account is the way back in.
        BreakGlass = "break_glass": "the account is kept as the way back in and never acted on automatically: look at it now",
        /// Automatic, and its verdict does not hold any more, or is not of a kind that the policy follows.
        VerdictChanged = "verdict_changed": "the verdict it followed does not hold any more, or the policy does not follow it",
        /// Automatic, and the password is another one now.
        PasswordChanged = "password_changed": "the password was changed after it was found to be leaked: if its owner did not do that, contain the account by hand",
        /// A person cancelled the request before it was its turn.
        Cancelled = "cancelled": "a person cancelled the request before this was begun",
        /// A second person dropped it.
        Rejected = "rejected": "a second person decided against it",
        /// A second person let others of the same approval run.
        Trimmed = "trimmed": "a second person let a part of what was held run, and dropped this",
        /// Nobody decided in time.
        ApprovalExpired = "approval_expired": "nobody approved it in time: ask again if it is still wanted",
        /// The provider refuses for a reason this version does not know.
        RefusedByProvider = "refused_by_provider": "the provider refuses the action",
    }
}
words! {
    /// What holds a mitigation until a second person approves it.
    Hold {
        /// Kept as the way back in, and a person asks.
        BreakGlass = "break_glass": "the account is kept as the way back in",
        /// Protected by the policy: by name, by group or by role.
        Protected = "protected_account": "the policy protects the account",
        /// An administrator of the directory.
        Privileged = "privileged_account": "the account is an administrator of the directory and protected",
        /// A person's request about many.
        ManyAccounts = "many_accounts": "the request is about more accounts than one person may contain alone",
        /// First automated run after a change.
        FirstRun = "first_run": "nobody has let automated mitigations run yet since the policy or the integration was last changed",
        /// An unusual volume of leaks.
        FeedVolume = "brake_feed_volume": "the feed brought far more leaks today than it usually does",
        /// Too many accounts within an hour.
        Hourly = "brake_hourly": "too many accounts were contained automatically within an hour",
        /// Too many administrators within an hour.
        Administrators = "brake_administrators": "too many administrators were contained automatically within an hour",
        /// Too large a share of the accounts.
        Share = "brake_share": "too large a share of the tenant's accounts was contained automatically within a day",
    }
}
