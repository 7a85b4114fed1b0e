//! Microsoft Entra ID. Permissions and their app-role ids: entra.md §17 and §18.

use shared::wire::v1::{Capability, ProviderKind};

use super::{Can, Entry, SCOPE, field, helpful, needed};

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
                needed("User.Read.All", "df021288-bdef-4463-88db-98f22de89214", "reads users"),
                helpful(
                    "GroupMember.Read.All",
                    "98830695-27a2-44f7-8c18-0c3ebc9698f6",
                    "needed when only the members of groups are covered",
                ),
                helpful(
                    "AuditLog.Read.All",
                    "b0afded3-3588-46d8-8b3d-9842eff778da",
                    "last sign-ins; without it an account's reserve comes back only with a new password",
                ),
                helpful(
                    "RoleManagement.Read.Directory",
                    "483bed4a-2ad3-4361-a73b-c83ccdbdc53c",
                    "recognises administrators; without it the protection of privileged accounts does not cover them",
                ),
                helpful(
                    "OnPremDirectorySynchronization.Read.All",
                    "bb70e231-92dc-4729-aff5-697b3f04be95",
                    "tells pass-through authentication; without it every synchronised account counts as checked in the cloud",
                ),
                helpful(
                    "Directory.Read.All",
                    "7ab1d382-f21e-4acd-a863-ba3e13f7da61",
                    "reads the lockout threshold; without it Microsoft's default is assumed (10; US government 3)",
                ),
                helpful(
                    "Application.Read.All",
                    "9a5d68dd-52b0-4cc2-bd40-abcf44ac3a30",
                    "reads when the client secret expires; without it nobody is warned",
                ),
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
            permissions: &[needed(
                "User.RevokeSessions.All",
                "77f3a031-c388-4f99-b373-dc68676a979e",
                "invalidates refresh tokens and session cookies",
            )],
            conditions: &[],
            warnings: &["access tokens already issued live on until they expire, about an hour"],
        },
        Can {
            capability: Capability::DisableAccount,
            description: "Sets accountEnabled to false",
            reversible: true,
            permissions: &[needed(
                "User.EnableDisableAccount.All",
                "3011c876-62b7-4ada-afa2-506cbbecc68c",
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
                needed(
                    "IdentityRiskyUser.ReadWrite.All",
                    "656f6061-f9fe-4807-9708-6a2e0934df76",
                    "confirms and dismisses risk",
                ),
                needed(
                    "IdentityRiskyUser.Read.All",
                    "dc5007c0-2d7d-4c42-879c-2dab87571379",
                    "verifies that it took effect",
                ),
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
