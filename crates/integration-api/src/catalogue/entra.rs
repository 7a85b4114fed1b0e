//! Microsoft Entra ID.

use shared::{
    provider::entra::permission::{
        self as entra, ADMINISTRATORS, APPLICATION_READ, GROUP_MEMBER_READ, LICENCES, LOCKOUT,
        MEMBER_READ_HIDDEN, Optional, PASSWORD_AUTHORITY, RISKY_USER_READ, RISKY_USER_READ_WRITE, SIGN_INS,
        USER_ENABLE_DISABLE, USER_READ, USER_REVOKE_SESSIONS,
    },
    wire::v1::{Capability, ProviderKind},
};

use super::{Can, Entry, Permission, Purpose, SCOPE, field};

const fn needed(permission: entra::Permission, purpose: &'static str) -> Permission {
    super::needed(permission.name, permission.id, purpose)
}

const fn without(optional: Optional) -> Permission {
    let Optional { permission: entra::Permission { name, id }, cost, .. } = optional;
    Permission { name, id, optional: true, purpose: Purpose::Without(cost) }
}

pub(super) const ENTRY: Entry = Entry {
    kind: ProviderKind::EntraId,
    name: "Microsoft Entra ID",
    hosts: "the cloud's login and Graph hosts (worldwide: login.microsoftonline.com and graph.microsoft.com)",
    fields: &[
        field("entra.cloud", "Cloud", "the national cloud the tenant lives in"),
        field("entra.tenant", "Tenant", "Entra admin center, Overview: tenant ID or primary domain"),
        field("entra.client_id", "Application (client) ID", "App registrations, Overview"),
        field(
            "entra.ropc_client_id",
            "Application ID for the password check",
            "a second app registration that allows public client flows; left out, the first one is used",
        )
        .optional(),
        field(
            "entra.client_secret",
            "Client secret",
            "App registrations, Certificates & secrets: the value, not the ID; or a certificate instead",
        )
        .optional()
        .secret(),
        field(
            "entra.certificate_pem",
            "Certificate with private key",
            "RSA, 2048 bits or more, PEM; upload the certificate alone under Certificates & secrets",
        )
        .optional()
        .secret(),
        SCOPE,
    ],
    capabilities: &[
        Can {
            capability: Capability::Read,
            description: "Reads users page by page, and what changed since",
            reversible: false,
            permissions: &[
                needed(USER_READ, "reads users"),
                needed(
                    GROUP_MEMBER_READ,
                    "needed when only the members of groups are covered, or when the mitigation policy protects \
                     groups, or roles that groups hold",
                )
                .optional(),
                needed(MEMBER_READ_HIDDEN, "needed when a protected group hides its members").optional(),
                without(SIGN_INS),
                without(ADMINISTRATORS),
                without(PASSWORD_AUTHORITY),
                without(LOCKOUT),
                without(LICENCES),
                needed(APPLICATION_READ, "reads when the client secret expires; without it nobody is warned")
                    .optional(),
            ],
            conditions: &["last sign-ins need the licence Entra ID P1"],
            warnings: &[],
        },
        Can {
            capability: Capability::Validate,
            description: "Submits a leaked password once, within the attempt budget",
            reversible: false,
            permissions: &[],
            conditions: &[
                "the application for the password check allows public client flows, and has a mobile or desktop redirect URI",
                "admin consent for the delegated permission openid",
                "its enterprise application does not require assignment",
            ],
            warnings: &[
                "a wrong password counts towards smart lockout; the budget keeps at least three tries for the owner",
                "federated, pass-through, guest and passwordless accounts cannot be tested",
                "Conditional Access and Identity Protection see these sign-ins: name our addresses as a trusted location",
            ],
        },
        Can {
            capability: Capability::RevokeSessions,
            description: "Ends sign-in sessions and refresh tokens",
            reversible: false,
            permissions: &[needed(USER_REVOKE_SESSIONS, "invalidates refresh tokens and session cookies")],
            conditions: &[],
            warnings: &["access tokens already issued live on until they expire, about an hour"],
        },
        Can {
            capability: Capability::DisableAccount,
            description: "Sets accountEnabled to false",
            reversible: true,
            permissions: &[needed(
                USER_ENABLE_DISABLE,
                "changes accountEnabled, together with User.Read.All",
            )],
            conditions: &[
                "targets that hold a directory role: a role such as User Administrator for the application",
            ],
            warnings: &[
                "accounts synchronised from Active Directory are enabled again by the next synchronisation",
            ],
        },
        Can {
            capability: Capability::MarkCompromised,
            description: "Confirms the user compromised, for the tenant's own risk policies",
            reversible: true,
            permissions: &[
                needed(RISKY_USER_READ_WRITE, "confirms and dismisses risk"),
                needed(RISKY_USER_READ, "verifies that it took effect"),
            ],
            conditions: &["the licence Entra ID P2", "not in the China cloud"],
            warnings: &[
                "it changes nothing by itself: a Conditional Access policy on user risk has to act on it",
                "taking it back dismisses every risk of the user, genuine detections included",
            ],
        },
    ],
    setup: &[
        "register an application in the tenant",
        "add the application permissions of the capabilities you want, and grant admin consent",
        "create a client secret and note its value, or upload a certificate",
        "for validation, register a second application that allows public client flows, and consent to openid",
        "make a pilot group and note its object id",
    ],
};
