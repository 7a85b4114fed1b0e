//! The API's words as they are typed: with hyphens, or with underscores as the tables print them.

use shared::wire::v1 as api;

macro_rules! typed {
    ($(#[$meta:meta])* $name:ident as $wire:ident { $($(#[$of:meta])* $variant:ident,)* }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
        pub enum $name { $($(#[$of])* $variant,)* }

        impl From<$name> for api::$wire {
            fn from(typed: $name) -> Self {
                match typed { $($name::$variant => Self::$variant,)* }
            }
        }

        impl $name {
            /// As a field of a message.
            pub fn wire(self) -> i32 {
                api::$wire::from(self).into()
            }
        }
    };
}

typed! {
    /// An action, as typed.
    Action as MitigationAction {
        /// End sessions and refresh tokens
        #[value(alias = "revoke_sessions")]
        RevokeSessions,
        /// Disable (Entra ID) or suspend (Okta)
        #[value(alias = "disable_account")]
        DisableAccount,
        /// Mark as compromised (Entra ID)
        #[value(alias = "mark_compromised")]
        MarkCompromised,
    }
}

typed! {
    /// A kind of provider, as typed.
    Provider as ProviderKind {
        /// Microsoft Entra ID
        #[value(aliases = ["entra_id", "entra"])]
        EntraId,
        /// Okta
        Okta,
    }
}

typed! {
    /// A verdict, as typed.
    Verdict as VerdictKind {
        /// Nothing is decided yet
        Pending,
        /// The password works
        Valid,
        /// The password is right; a second factor or a policy stopped the sign-in
        #[value(alias = "valid_second_factor")]
        ValidSecondFactor,
        /// The password is right and must be changed
        #[value(alias = "valid_expired")]
        ValidExpired,
        /// The password is wrong
        Invalid,
        /// The answer proves nothing
        Inconclusive,
        /// It cannot or must not be tried
        #[value(alias = "not_testable")]
        NotTestable,
        /// The password changed since the leak, or another one is proven
        Stale,
        /// It waits for its turn
        Deferred,
    }
}

typed! {
    /// How a credential got out, as typed.
    SourceKind as LeakSourceKind {
        /// Malware on a device
        Stealer,
        /// A service's database
        Breach,
        /// A list collected from other leaks
        Combolist,
        /// A false page
        Phish,
        /// Posted publicly
        Paste,
    }
}

typed! {
    /// A rule of triage, as typed.
    Rule as TriageRule {
        /// There is nothing to submit (always on)
        #[value(alias = "no_usable_secret")]
        NoUsableSecret,
        /// The account cannot sign in (always on)
        #[value(alias = "account_state")]
        AccountState,
        /// Somebody else checks the password (always on)
        #[value(alias = "authority_elsewhere")]
        AuthorityElsewhere,
        /// The password was tried since the account's last changed
        #[value(alias = "already_tried")]
        AlreadyTried,
        /// Another password was proven right since the account's last changed
        #[value(alias = "other_password_proven")]
        OtherPasswordProven,
        /// The account's password changed after the leak
        #[value(alias = "changed_since_capture")]
        ChangedSinceCapture,
        /// The password cannot satisfy the policy under which the account's was set
        #[value(alias = "policy_excludes")]
        PolicyExcludes,
    }
}

typed! {
    /// What exposures are sorted by.
    Sort as ExposureSort {
        /// When the record arrived
        Received,
        /// Verdict, then its reason
        Verdict,
        /// When the verdict was given
        Decided,
        /// Kind of provider, then sign-in name
        Provider,
        /// The account's sign-in name
        Login,
        /// The source's name
        Source,
        /// The latest moment the credential can have been captured
        Captured,
        /// The reason of the verdict
        Reason,
    }
}

typed! {
    /// Status of an integration, as typed.
    Status as IntegrationStatus {
        /// Works
        Active,
        /// Does nothing: disabled by a person, or its test has not passed yet
        Disabled,
        /// Reading the directory does not work
        Error,
    }
}

typed! {
    /// Where a plan of removals is in its life, as typed.
    RemovalState as RemovalPlanState {
        /// Waits for a person
        Held,
        /// A person had its accounts removed
        Applied,
        /// A person decided that nothing is removed
        Dropped,
        /// A newer full sync has looked again
        Superseded,
    }
}

typed! {
    /// Where an approval is in its life, as typed.
    ApprovalState as ApprovalState {
        /// Waits for a second person
        Open,
        /// A second person let it run, or a part of it
        Approved,
        /// A person dropped it
        Rejected,
        /// Nobody decided in time
        Expired,
    }
}

typed! {
    /// A national cloud, as typed.
    Cloud as EntraCloud {
        /// The global cloud
        Global,
        /// US government
        #[value(alias = "us_gov")]
        UsGov,
        /// US government, Department of Defense
        #[value(alias = "us_gov_dod")]
        UsGovDod,
        /// China
        China,
    }
}

typed! {
    /// How exported events are written, as typed.
    ExportFormat as AuditExportFormat {
        /// JSON, a line each, with checkpoints
        Ndjson,
        /// For spreadsheets
        Csv,
        /// The Open Cybersecurity Schema Framework
        Ocsf,
    }
}

typed! {
    /// The outcome of an audited event, as typed.
    Outcome as AuditOutcome {
        /// About to happen
        Intent,
        /// Done
        Success,
        /// Failed
        Failure,
        /// Not allowed
        Refused,
        /// May or may not have happened
        Unknown,
        /// An observation
        Info,
    }
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum as _;

    use super::*;

    #[test]
    fn a_word_is_understood_with_hyphens_and_as_the_tables_print_it() {
        for (typed, wire) in Verdict::value_variants().iter().map(|v| (*v, api::VerdictKind::from(*v))) {
            let printed = wire.as_str_name().trim_start_matches("VERDICT_KIND_").to_lowercase();
            assert_eq!(Verdict::from_str(&printed, false), Ok(typed));
            assert_eq!(Verdict::from_str(&printed.replace('_', "-"), false), Ok(typed));
        }
        assert_eq!(Action::from_str("disable_account", false), Ok(Action::DisableAccount));
        assert_eq!(Provider::from_str("entra_id", false), Ok(Provider::EntraId));
    }
}
