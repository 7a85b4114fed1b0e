//! Events of organizations, tenants, keys, access and the audit log itself.

use super::{CHANGES, Detail, REASON, public};

/// Whose key it is.
const KEY: &[Detail] = &[public("purpose", "what the key is for")];
/// A call that was refused.
const REFUSED: &[Detail] = &[
    public("roles", "the roles of the caller's token"),
    public("tenant_named", "the tenant that the call named, if it was an id"),
];

super::entries! {
    /// An organization was created.
    ORGANIZATION_CREATED = "organization.created"
        by [Caller] ends [Success] about [Object("organization")]
        with [public("name", "its name")];
    /// What an organization allows its tenants changed.
    ORGANIZATION_SETTINGS_CHANGED = "organization.settings_changed"
        by [Caller] ends [Success] about [Object("organization")]
        with [] and CHANGES;
    /// A tenant was created, with its package.
    TENANT_CREATED = "tenant.created"
        by [Caller] ends [Success] about [Object("tenant")]
        with [
            public("organization", "its organization"),
            public("name", "its name"),
            public("time_zone", "its time zone"),
            public("providers", "kinds of provider it may connect"),
            public("identity_creation", "whether identities are made"),
            public("validation", "whether it may validate"),
            public("mitigation", "whether it may mitigate"),
            public("identifier_cap", "identifiers at most"),
            public("integration_cap", "integrations at most"),
            personal("contact", "whom to ask for more"),
        ];
    /// A tenant's package changed.
    TENANT_PACKAGE_CHANGED = "tenant.package_changed"
        by [Caller] ends [Success] about [Object("tenant")]
        with [] and CHANGES;
    /// A tenant's time zone changed.
    TENANT_TIME_ZONE_CHANGED = "tenant.time_zone_changed"
        by [Caller] ends [Success] about [Object("tenant")]
        with [] and CHANGES;
    /// A tenant was deleted; its audit chain stays.
    TENANT_DELETED = "tenant.deleted"
        by [Caller] ends [Success] about [Object("tenant")]
        with [public("name", "its name")] and REASON;
    /// A tenant's sealing key, or an integration's client key, was made.
    KEY_CREATED = "key.created"
        by [Service] ends [Success] about [Integration]
        with [public("version", "its version"), public("kid", "a client key's id")] and KEY;
    /// Somebody wants an integration's client key replaced.
    CLIENT_KEY_ROTATION_REQUESTED = "client_key.rotation_requested"
        by [Caller] ends [Success] about [Integration, Object("integration")]
        with [public("emergency", "whether the keys there are must sign no more, at once")];
    /// An integration's next client key is published and does not sign yet.
    CLIENT_KEY_PUBLISHED = "client_key.published"
        by [Service] ends [Success] about [Integration]
        with [public("kid", "the key's id"), public("cause", "`request` or `schedule`")];
    /// The directory has accepted an integration's new client key, which signs from now on.
    CLIENT_KEY_ACTIVATED = "client_key.activated"
        by [Service] ends [Success] about [Integration]
        with [public("kid", "the key's id")];
    /// The directory does not accept an integration's new client key (yet).
    CLIENT_KEY_UNPROVEN = "client_key.unproven"
        by [Service] ends [Failure] about [Integration]
        with [public("kid", "the key's id"), public("error", "why, in one sentence")];
    /// An integration's old client key was destroyed and is published no longer.
    CLIENT_KEY_RETIRED = "client_key.retired"
        by [Service] ends [Success] about [Integration]
        with [public("kid", "the key's id")];
    /// An integration's client keys were destroyed and replaced at once.
    CLIENT_KEY_EMERGENCY = "client_key.emergency"
        by [Service] ends [Success] about [Integration]
        with [public("kid", "the new key's id"), public("destroyed", "ids of the keys that were destroyed")];
    /// The client key of a deleted integration was destroyed.
    KEY_DESTROYED = "key.destroyed"
        by [Service] ends [Success] about [Integration]
        with [public("kid", "a client key's id")] and KEY;
    /// The rotation of a top key or of a sealing key pair was asked for.
    KEY_ROTATION_REQUESTED = "key.rotation_requested"
        by [Caller] ends [Success] about []
        with [public("top_key", "the top key that is to wrap all")] and KEY;
    /// A new sealing key pair was made; what the old one sealed is being sealed again.
    KEY_ROTATION_STARTED = "key.rotation_started"
        by [Service] ends [Success] about []
        with [public("version", "its version"), public("cause", "`request` or `schedule`")] and KEY;
    /// A sealing key pair was replaced and the old private half destroyed, or every private half is wrapped
    /// by a new top key.
    KEY_ROTATED = "key.rotated"
        by [Service] ends [Success] about []
        with [
            public("version", "the pair's new version"),
            public("rows", "rows that were sealed again"),
            public("destroyed", "private halves that were destroyed"),
            public("top_key", "the top key"),
            public("halves", "private halves that it wraps now"),
        ] and KEY;
    /// The private keys of a deleted tenant were destroyed; nothing sealed to them opens any more.
    KEY_SHREDDED = "key.shredded"
        by [Caller] ends [Success] about [Object("tenant")]
        with [public("halves", "private halves that were destroyed")] and KEY;
    /// A known caller lacks the role for a call.
    ROLE_REFUSED = "role.refused"
        by [Caller] ends [Refused] about [Object("method")]
        with [] and REFUSED;
    /// A known caller named a tenant that its token does not have.
    TENANT_REFUSED = "tenant.refused"
        by [Caller] ends [Refused] about [Object("method")]
        with [] and REFUSED;
    /// A call was refused after its caller was let in: by who may decide, or by what it concerns.
    CALL_REFUSED = "call.refused"
        by [Caller] ends [Refused] about [Object("method")]
        with [] and REFUSED;
    /// Events were exported from a chain: about to be (intent), all sent (success), or broken off
    /// (failure).
    AUDIT_EXPORTED = "audit.exported"
        by [Caller] ends [Intent, Success, Failure] about []
        with [
            public("format", "the format"),
            public("first", "the first event's place in the chain"),
            public("last", "the last event's place in the chain"),
            public("events", "events that were sent"),
        ];
    /// Somebody began to follow a chain as it grows.
    AUDIT_TAILED = "audit.tailed"
        by [Caller] ends [Success] about []
        with [public("after", "the place in the chain after which it begins")];
}
