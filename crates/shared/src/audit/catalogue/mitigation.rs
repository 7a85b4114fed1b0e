//! Events of containment: what is planned, held, decided, done, checked and taken back.

use super::{CHANGES, Detail, REASON, cause, personal, public};

/// What every event of a mitigation carries.
const MITIGATION: &[Detail] = &[
    public("mitigation_action", "the action"),
    public("account_id", "the account"),
    public("state", "the mitigation's state after it"),
    public("exposure_id", "the exposure that led to it"),
    public("undoes", "the mitigation that it takes back"),
    public("approval_id", "the approval it waits or waited for"),
    cause("mitigation_request_id", "the request that it belongs to"),
    personal("released_by", "who let it run, by id"),
];
/// An approval that is needed or was given.
const APPROVAL: &[Detail] = &[
    public("held_by", "what holds it, as a stable word"),
    public("released", "mitigations that may run"),
    public("dropped", "mitigations that were dropped"),
];

super::entries! {
    /// Somebody asked for actions on accounts; the request is the cause.
    MITIGATION_REQUESTED = "mitigation.requested"
        by [Caller] ends [Success] about [Object("mitigation_request")]
        with [
            public("accounts", "accounts to act on"),
            public("unreachable_accounts", "accounts that cannot be reached"),
            public("selected_by", "how the accounts were selected"),
            public("actions", "the actions"),
        ] and REASON;
    /// A request for actions was cancelled: what was not begun is dropped.
    MITIGATION_REQUEST_CANCELLED = "mitigation.request_cancelled"
        by [Caller] ends [Success] about [Object("mitigation_request")]
        with [public("dropped", "mitigations that were dropped")] and REASON;
    /// An action, or its undo, is planned.
    MITIGATION_PLANNED = "mitigation.planned"
        by [Caller, Rule] ends [Info] about [Integration, User, Object("mitigation")]
        with [] and MITIGATION;
    /// An action waits for a second person.
    MITIGATION_HELD = "mitigation.held"
        by [Caller, Rule] ends [Info] about [Integration, User, Object("mitigation")]
        with [public("held_by", "what holds it, as a stable word")] and MITIGATION;
    /// A second person lets one held action run.
    MITIGATION_RELEASED = "mitigation.released"
        by [Caller] ends [Success] about [Integration, User, Object("mitigation")]
        with [] and MITIGATION;
    /// A second person lets the actions of an approval run.
    MITIGATION_APPROVED = "mitigation.approved"
        by [Caller] ends [Success] about [Object("approval")]
        with [] and APPROVAL and REASON;
    /// A person drops the actions of an approval.
    MITIGATION_REJECTED = "mitigation.rejected"
        by [Caller] ends [Success] about [Object("approval")]
        with [] and APPROVAL and REASON;
    /// An action is not carried out.
    MITIGATION_REFUSED = "mitigation.refused"
        by [Caller, Service, Rule] ends [Refused] about [Integration, User, Object("mitigation")]
        with [
            public("reason", "why, as a stable word"),
            personal("changed_by", "who changed the account since, as the directory names them"),
            public("changed_at", "when the directory saw that change"),
        ] and MITIGATION;
    /// The directory is about to be asked (intent), did it (success), did not, or nobody knows.
    MITIGATION_PERFORMED = "mitigation.performed"
        by [Caller, Rule] ends [Intent, Success, Failure, Refused, Unknown] about [Integration, User, Object("mitigation")]
        with [
            public("attempt", "which try it is"),
            public("reason", "why not, as a stable word"),
            public("changes_unseen", "why the directory could not be asked who changed the account since"),
        ] and MITIGATION;
    /// The directory shows the action's effect, or (failure) does not.
    MITIGATION_VERIFIED = "mitigation.verified"
        by [Caller, Rule] ends [Success, Failure] about [Integration, User, Object("mitigation")]
        with [] and MITIGATION;
    /// The action's effect is gone: somebody or a directory's sync took it back.
    MITIGATION_REVERTED = "mitigation.reverted"
        by [Caller, Rule] ends [Info] about [Integration, User, Object("mitigation")]
        with [] and MITIGATION;
    /// Somebody asked to take actions back.
    MITIGATION_UNDO_REQUESTED = "mitigation.undo_requested"
        by [Caller] ends [Success] about [Object("mitigation_request")]
        with [
            public("mitigations", "mitigations that were named"),
            public("automated_since", "or: all automated ones since this instant"),
            public("dismiss_risk", "whether a risk that the provider sees is dismissed with it"),
        ] and REASON;
    /// What is to be taken back is planned.
    MITIGATION_UNDO_PLANNED = "mitigation.undo_planned"
        by [Caller] ends [Success] about [Object("mitigation_request")]
        with [public("undos", "undos"), public("to_carry_out", "of these, those that will be carried out")];
    /// The mitigation policy was changed, with what differs.
    MITIGATION_POLICY_UPDATED = "mitigation_policy.updated"
        by [Caller] ends [Success] about [Object("mitigation_policy")]
        with [public("version", "its new version")] and CHANGES and REASON;
    /// Alert: actions wait for a second person.
    ALERT_MITIGATION_HELD = "alert.mitigation_held"
        by [Service] ends [Info] about [Integration, User, Object("mitigation"), Object("approval")]
        with [
            public("held_by", "what holds them, as a stable word"),
            public("accounts", "accounts concerned so far"),
            public("policy_version", "the policy that was in force"),
        ] and MITIGATION;
    /// Alert: an account whose owner must never be shut out was to be acted on.
    ALERT_MITIGATION_REFUSED = "alert.mitigation_refused"
        by [Service] ends [Info] about [Integration, User, Object("mitigation")]
        with [] and MITIGATION;
    /// Alert: an action's effect is gone.
    ALERT_MITIGATION_REVERTED = "alert.mitigation_reverted"
        by [Service] ends [Info] about [Integration, User, Object("mitigation")]
        with [] and MITIGATION;
    /// Alert: the provider confirmed an action that the directory does not show.
    ALERT_MITIGATION_UNVERIFIED = "alert.mitigation_unverified"
        by [Service] ends [Info] about [Integration, User, Object("mitigation")]
        with [] and MITIGATION;
    /// Alert: nobody decided in time about held actions, which are dropped.
    ALERT_APPROVAL_EXPIRED = "alert.approval_expired"
        by [Service] ends [Info] about [Object("approval")]
        with [] and APPROVAL;
}
