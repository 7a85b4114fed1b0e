//! Events of feeds, exposures, attempts and the limits on them.

use super::{Detail, personal, public};

/// A verdict and the facts it rests on.
const VERDICT: &[Detail] = &[
    public("verdict", "the verdict"),
    public("reason", "why, as a stable word"),
    public("attempt_id", "the attempt"),
    public("status", "the provider's HTTP status"),
    public("code", "the provider's own code"),
    public("request_id", "the provider's id of the request"),
];
/// What decided without an attempt.
const TRIAGE: &[Detail] = &[
    public("rule", "the rule of triage that decided"),
    public("secret", "why the secret could not be used"),
    public("account_state", "the account's state"),
    public("password_authority", "who keeps the account's password"),
    public("tried_verdict", "the verdict of the same password before"),
    public("tried_at", "when it was tried"),
    public("proven_at", "when another password was proven to be the account's"),
    personal("password_changed_at", "when the account's password was changed"),
    public("captured_until", "when the password was captured at the latest"),
    public("policy_since", "since when the password policy applies to the account"),
];
/// How the exposures of a request ended.
const RESULTS: &[Detail] = &[
    public("exposures", "exposures in the request"),
    public("decided", "of these, those with a verdict"),
    public("cancelled", "of these, those that were cancelled"),
    public("verdict.*", "how many got this verdict, with its reason"),
];
/// What a stop covers.
const STOP: &[Detail] = &[
    public("scope", "`account`, `directory`, `tenant` or `installation`"),
    public("directory", "the directory, if it covers one"),
    personal("object", "the account's object id, if it covers one"),
    personal("reason", "why, in the words of who decided"),
];
/// What the limit auditor found.
const FINDING: &[Detail] = &[
    public("rule", "the rule that does not hold"),
    public("provider", "kind of provider"),
    public("directory", "the directory"),
];
/// The gate of all attempts.
const GATE: &[Detail] =
    &[personal("reason", "why"), public("closed_until", "until when no password is submitted")];

super::entries! {
    /// A batch of feed records was taken in; the batch is the cause.
    FEED_BATCH_RECEIVED = "feed.batch_received"
        by [Caller] ends [Success] about [Object("feed_batch")]
        with [
            public("feed", "the feed"),
            public("accepted", "records taken in"),
            public("duplicates", "records known before"),
            public("rejected", "records that were refused"),
        ];
    /// Sealed secrets of feed records were destroyed at the end of their retention.
    FEED_SECRETS_EXPIRED = "feed.secrets_expired"
        by [Rule] ends [Success] about []
        with [public("records", "how many")];
    /// A feed record matched an account; the exposure is the cause of what follows.
    EXPOSURE_RECEIVED = "exposure.received"
        by [Service] ends [Info] about [Integration, User, Object("exposure")]
        with [
            public("feed", "the feed"),
            public("record_id", "the feed record"),
            cause("batch_id", "the batch that brought the record"),
            public("history", "whether the leak is older than what Parapet knows of the account"),
            public("verdict", "the verdict, if triage decided at once"),
            public("reason", "why, as a stable word"),
        ];
    /// An exposure got its verdict, with the evidence for it.
    EXPOSURE_VERDICT = "exposure.verdict"
        by [Service, Rule] ends [Info] about [Integration, User, Object("exposure")]
        with [] and VERDICT and TRIAGE;
    /// A leaked password is about to be submitted once (intent), was answered (success), or nobody knows
    /// (unknown).
    VALIDATION_ATTEMPT = "validation.attempt"
        by [Service] ends [Intent, Success, Unknown] about [Integration, User, Object("exposure")]
        with [] and VERDICT;
    /// Somebody asked for the validation of exposures.
    VALIDATION_REQUESTED = "validation.requested"
        by [Caller] ends [Success] about [Object("validation")]
        with [
            public("selected_by", "how the exposures were selected"),
            public("exposures", "how many"),
            public("force", "whether triage is passed over where it may be"),
        ];
    /// Every exposure of a request has had its verdict.
    VALIDATION_REQUEST_COMPLETED = "validation.request_completed"
        by [Service] ends [Success] about [Object("validation")]
        with [] and RESULTS;
    /// A request for validation was paused.
    VALIDATION_REQUEST_PAUSED = "validation.request_paused"
        by [Caller] ends [Success] about [Object("validation")]
        with [];
    /// A request for validation goes on.
    VALIDATION_REQUEST_RESUMED = "validation.request_resumed"
        by [Caller] ends [Success] about [Object("validation")]
        with [];
    /// A request for validation was cancelled.
    VALIDATION_REQUEST_CANCELLED = "validation.request_cancelled"
        by [Caller] ends [Success] about [Object("validation")]
        with [] and RESULTS;
    /// The directory's answers pause validation there for a while.
    VALIDATION_PAUSED = "validation.paused"
        by [Service] ends [Info] about [Integration, Object("directory")]
        with [public("reason", "why, as a stable word"), public("seconds", "for how long")];
    /// Password attempts are stopped, for an account, a directory, a tenant or the installation.
    VALIDATION_STOPPED = "validation.stopped"
        by [Caller, Rule] ends [Success] about [Object("attempt_stop")]
        with [] and STOP;
    /// Password attempts that were stopped may go on.
    VALIDATION_RESUMED = "validation.resumed"
        by [Caller] ends [Success] about [Object("attempt_stop")]
        with [] and STOP;
    /// Reservations may have been lost: no password is submitted for a window.
    VALIDATION_GATE_CLOSED = "validation.gate_closed"
        by [Caller, Service] ends [Success, Refused] about []
        with [] and GATE;
    /// A replica was promoted that, as the deployment declares, lacks no reservation; attempts go on.
    VALIDATION_GATE_KEPT = "validation.gate_kept"
        by [Service] ends [Info] about []
        with [] and GATE;
    /// A window has passed; attempts go on.
    VALIDATION_GATE_OPENED = "validation.gate_opened"
        by [Service] ends [Success] about []
        with [] and GATE;
    /// The database's clock went back; nothing becomes free by it.
    VALIDATION_CLOCK_BACK = "validation.clock_back"
        by [Service] ends [Info] about []
        with [] and GATE;
    /// The limit auditor found more attempts in the ledger than were allowed.
    LIMIT_EXCEEDED = "limit.exceeded"
        by [Rule] ends [Failure] about [Object("account")]
        with [public("reserved_at", "the attempt's time")] and FINDING;
    /// A directory's log shows submissions under our name that the ledger does not explain.
    LIMIT_DOUBTED = "limit.doubted"
        by [Rule] ends [Failure] about [Object("account")]
        with [public("submitted_at", "the submission's time")] and FINDING;
}
