//! Okta. Scopes: okta.md §10; roles and resource sets: §1.1 and §3.7.

use shared::wire::v1::{Capability, ProviderKind};

use super::{Can, Entry, SCOPE, field, needed};

pub(super) const ENTRY: Entry = Entry {
    kind: ProviderKind::Okta,
    name: "Okta",
    hosts: "the org's own host",
    fields: &[
        field(
            "okta.host",
            "Okta domain",
            "the org's own name, like acme.okta.com, or a custom domain that this deployment has approved; not the -admin host",
        ),
        field(
            "okta.client_id",
            "Client ID",
            "the API Services app, General: Client ID; may follow, since the app needs our JWKS URL first",
        )
        .optional(),
        SCOPE,
    ],
    capabilities: &[
        Can {
            capability: Capability::Read,
            description: "Reads users page by page, and what changed since",
            reversible: false,
            permissions: &[
                needed("okta.users.read", "", "reads users"),
                needed(
                    "okta.groups.read",
                    "",
                    "needed when only the members of groups are covered, or when the mitigation policy protects groups",
                )
                .optional(),
                needed(
                    "okta.policies.read",
                    "",
                    "reads the password policies; without it Okta's default of 10 is assumed as the lockout threshold, and leaked \
                     passwords that no policy would have taken cost an attempt",
                )
                .optional(),
                needed(
                    "okta.logs.read",
                    "",
                    "reads the System Log: deletions, locks, administrators and who joins or leaves a group within minutes, wrong \
                     tries of an account's owner, and why an attempt was refused; without it the former show in full runs \
                     only (nightly, hourly for a scope of groups), and the latter not at all",
                )
                .optional(),
                needed(
                    "okta.roles.read",
                    "",
                    "recognises administrators; without it the protection of privileged accounts does not cover them, and \
                     accounts cannot be protected by role",
                )
                .optional(),
            ],
            conditions: &[
                "an admin role for the app that covers the users: Read-only Administrator, or a custom role with a resource set",
                "a resource set has to hold the users of a group, not the group",
            ],
            warnings: &[
                "without an admin role Okta shows no user at all; that is never taken for an empty directory",
            ],
        },
        Can {
            capability: Capability::Validate,
            description: "Submits a leaked password once, within the attempt budget",
            reversible: false,
            permissions: &[],
            conditions: &["our addresses are not blocked by a network zone or by ThreatInsight"],
            warnings: &[
                "a wrong password counts towards the lockout, without any time limit; the budget keeps at least three tries \
                 for the owner, counted since the last sign-in",
                "breached-credential protection may expire the password or end sessions when it sees a leaked one",
                "users may get mails about a sign-in from a new device",
            ],
        },
        Can {
            capability: Capability::RevokeSessions,
            description: "Clears sessions and OAuth tokens",
            reversible: false,
            permissions: &[needed("okta.users.manage", "", "clears sessions and tokens")],
            conditions: &["an admin role that covers the users; administrators need Super Administrator"],
            warnings: &[],
        },
        Can {
            capability: Capability::DisableAccount,
            description: "Suspends the user; assignments stay",
            reversible: true,
            permissions: &[needed("okta.users.manage", "", "suspends and unsuspends")],
            conditions: &[
                "an admin role that covers the users; administrators need Super Administrator; a custom role needs both \
                 Suspend users and Unsuspend users",
            ],
            warnings: &["only active users can be suspended"],
        },
        Can {
            capability: Capability::MarkCompromised,
            description: "Sets the user's risk to high, for the org's own entity risk policy",
            reversible: true,
            permissions: &[
                needed("okta.userRisk.manage", "", "sets the risk"),
                needed("okta.userRisk.read", "", "verifies that it took effect"),
            ],
            conditions: &[
                "Identity Threat Protection with Okta AI, on Okta Identity Engine",
                "an admin role that may manage user risk: Super Administrator",
            ],
            warnings: &[
                "it changes nothing by itself: an entity risk policy of the org has to act on it",
                "taking it back sets the risk to low: Okta has no call that takes a risk away",
            ],
        },
    ],
    setup: &[
        "create the integration here without a client ID, and note its JWKS URL",
        "create an API Services app in Okta: client authentication by public key, keys from that URL, DPoP on",
        "grant the scopes of the capabilities you want, and an admin role that covers the users",
        "give its client ID with UpdateIntegration, then test",
        "make a pilot group and note its id (00g…)",
    ],
};
