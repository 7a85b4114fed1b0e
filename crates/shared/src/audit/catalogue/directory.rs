//! Events of integrations and of what is read from directories.

use super::{CHANGES, Detail, REASON, personal, public};

/// A request for a higher daily maximum.
const DAILY_MAX: &[Detail] = &[
    public("daily_max", "attempts per account and day that were asked for"),
    personal("asked_by", "who asked, by id"),
    personal("reason", "why, in the words of who asked or decided"),
];
/// Each capability that was tested.
const CAPABILITIES: &[Detail] = &[public("capability.*", "what became of each capability, and why")];
/// A status that changed.
const STATUS: &[Detail] = &[
    public("before.status", "the status before"),
    public("after.status", "the status now"),
    personal("reason", "why"),
];
/// What went with accounts.
const REMOVED: &[Detail] = &[
    public("accounts", "accounts that were removed"),
    public("identities", "identities that went with them"),
    public("identifiers", "identifiers that went with them"),
];
/// What a person decided about held removals.
const DECIDED: &[Detail] = &[
    public("accounts_gone", "accounts that the directory did not show"),
    public("accounts_came_back", "of these, those that were seen again since"),
];

super::entries! {
    /// An integration was saved; it is disabled until a test passes.
    INTEGRATION_CREATED = "integration.created"
        by [Caller] ends [Success] about [Integration, Object("integration")]
        with [public("provider", "kind of provider"), public("credentials", "`given` or `none`")];
    /// Fields of an integration changed, each told before and after.
    INTEGRATION_UPDATED = "integration.updated"
        by [Caller] ends [Success] about [Integration, Object("integration")]
        with [
            secret("credentials", "there when new credentials were given"),
            public("test", "there when the change undid the test, which has to pass again"),
        ] and CHANGES;
    /// An integration was deleted, with its credentials.
    INTEGRATION_DELETED = "integration.deleted"
        by [Caller] ends [Success] about [Integration, Object("integration")]
        with [
            personal("name", "its name"),
            public("provider", "kind of provider"),
            public("directory_id", "its directory, if known"),
        ];
    /// A person switched an integration on again.
    INTEGRATION_ENABLED = "integration.enabled"
        by [Caller] ends [Success] about [Integration, Object("integration")]
        with [] and STATUS;
    /// A person switched an integration off.
    INTEGRATION_DISABLED = "integration.disabled"
        by [Caller] ends [Success] about [Integration, Object("integration")]
        with [] and STATUS;
    /// A saved integration was tested.
    INTEGRATION_TESTED = "integration.tested"
        by [Caller] ends [Success, Failure] about [Integration, Object("integration")]
        with [] and CAPABILITIES;
    /// A configuration that is not saved was tested.
    INTEGRATION_DRAFT_TESTED = "integration.draft_tested"
        by [Caller] ends [Success, Failure] about [Integration, Object("integration")]
        with [] and CAPABILITIES;
    /// The status of an integration changed by what a person did, or by what workers saw.
    INTEGRATION_STATUS_CHANGED = "integration.status_changed"
        by [Caller, Service] ends [Info] about [Integration, Object("integration")]
        with [] and STATUS;
    /// An integration does not work any more.
    INTEGRATION_ERROR = "integration.error"
        by [Service] ends [Failure] about [Integration, Object("integration")]
        with [] and STATUS;
    /// An integration works again by itself.
    INTEGRATION_RECOVERED = "integration.recovered"
        by [Service] ends [Success] about [Integration, Object("integration")]
        with [] and STATUS;
    /// One capability of an integration does not work any more; the others go on.
    INTEGRATION_CAPABILITY_LOST = "integration.capability_lost"
        by [Service] ends [Failure] about [Integration, Object("integration")]
        with [public("capability", "which"), public("reason", "why, as a stable word")];
    /// A capability of an integration works again.
    INTEGRATION_CAPABILITY_RECOVERED = "integration.capability_recovered"
        by [Service] ends [Success] about [Integration, Object("integration")]
        with [public("capability", "which"), public("reason", "why, as a stable word")];
    /// The credential of an integration ends within some days.
    INTEGRATION_CREDENTIAL_EXPIRES = "integration.credential_expires"
        by [Service] ends [Info] about [Integration, Object("sync_run")]
        with [
            public("days", "the mark that was reached: so many days or fewer"),
            public("expires_at", "when it ends"),
        ];
    /// Somebody asked for a higher daily maximum of attempts.
    INTEGRATION_DAILY_MAX_ASKED = "integration.daily_max_asked"
        by [Caller] ends [Success] about [Integration, Object("daily_max_request")]
        with [] and DAILY_MAX;
    /// A second person approved a higher daily maximum.
    INTEGRATION_DAILY_MAX_APPROVED = "integration.daily_max_approved"
        by [Caller] ends [Success] about [Integration, Object("daily_max_request")]
        with [] and DAILY_MAX;
    /// A second person refused a higher daily maximum.
    INTEGRATION_DAILY_MAX_REFUSED = "integration.daily_max_refused"
        by [Caller] ends [Success] about [Integration, Object("daily_max_request")]
        with [] and DAILY_MAX;
    /// Who asked for a higher daily maximum withdrew the request.
    INTEGRATION_DAILY_MAX_WITHDRAWN = "integration.daily_max_withdrawn"
        by [Caller] ends [Success] about [Integration, Object("daily_max_request")]
        with [] and DAILY_MAX;
    /// Nobody decided in time about a higher daily maximum.
    INTEGRATION_DAILY_MAX_EXPIRED = "integration.daily_max_expired"
        by [Service] ends [Success] about [Integration, Object("daily_max_request")]
        with [] and DAILY_MAX;
    /// A sync run was queued.
    SYNC_REQUESTED = "sync.requested"
        by [Caller] ends [Success] about [Integration, Object("sync_run")]
        with [public("full", "whether all is read, or only changes")];
    /// A sync run started.
    SYNC_STARTED = "sync.started"
        by [Service] ends [Info] about [Integration, Object("sync_run")]
        with [];
    /// A sync run ended; the accounts are up to date.
    SYNC_FINISHED = "sync.finished"
        by [Service] ends [Success] about [Integration, Object("sync_run")]
        with [
            public("accounts_seen", "accounts that it read"),
            public("full", "whether it read all, or only changes"),
        ];
    /// A sync run could not be ended.
    SYNC_FAILED = "sync.failed"
        by [Service] ends [Failure] about [Integration, Object("sync_run")]
        with [public("reason", "why, as a stable word")];
    /// A sync run ended, and what it did not find is held for a person.
    SYNC_HELD = "sync.held"
        by [Service] ends [Refused] about [Integration, Object("sync_run")]
        with [
            public("accounts_known", "accounts that were known"),
            public("accounts_gone", "of these, those not found"),
        ];
    /// Accounts went with their identities: two full runs did not find them, or their integration was
    /// deleted.
    ACCOUNTS_REMOVED = "accounts.removed"
        by [Service] ends [Success] about [Integration, Object("sync_run")]
        with [] and REMOVED;
    /// Identity profiles were created from synced accounts.
    IDENTITIES_CREATED = "identities.created"
        by [Service] ends [Success] about [Integration, Object("sync_run")]
        with [
            public("identities", "identities"),
            public("identifiers", "identifiers that were made with them"),
        ];
    /// The package's cap of identifiers is reached; further ones wait.
    IDENTIFIERS_CAP_REACHED = "identifiers.cap_reached"
        by [Service] ends [Refused] about [Integration, Object("sync_run")]
        with [];
    /// The removal of accounts that a full run did not find is held for a person.
    REMOVALS_HELD = "removals.held"
        by [Service] ends [Refused] about [Integration, Object("removal_plan")]
        with [
            public("reason", "why, as a stable word"),
            public("accounts_known", "accounts that were known"),
            public("accounts_gone", "of these, those not found"),
            public("sync_run", "the run"),
        ];
    /// A person let held removals be applied.
    REMOVALS_APPLIED = "removals.applied"
        by [Caller] ends [Success] about [Integration, Object("removal_plan")]
        with [] and DECIDED and REMOVED and REASON;
    /// A person dropped held removals.
    REMOVALS_DROPPED = "removals.dropped"
        by [Caller] ends [Success] about [Integration, Object("removal_plan")]
        with [] and DECIDED and REMOVED and REASON;
}
