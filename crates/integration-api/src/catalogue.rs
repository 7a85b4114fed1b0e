//! The catalogue: each kind of provider with its fields, capabilities and the permissions they need.
//! Sources of the permissions: the providers' own API descriptions (entra.md §6, §8; okta.md §3, §6).

use shared::{id::ProviderKind, wire::v1};

struct Field(&'static str, &'static str, &'static str, bool, bool);
struct Can(v1::Capability, &'static str, &'static [&'static str], bool);

const ENTRA_FIELDS: [Field; 5] = [
    Field("entra.cloud", "Cloud", "the national cloud the tenant lives in", true, false),
    Field("entra.tenant", "Tenant", "Entra admin center, Overview: tenant ID or primary domain", true, false),
    Field("entra.client_id", "Application (client) ID", "App registrations, Overview", true, false),
    Field(
        "entra.ropc_client_id",
        "Application ID for the password check",
        "a second app registration that allows public client flows; left out, the first one is used",
        false,
        false,
    ),
    Field(
        "entra.client_secret",
        "Client secret",
        "App registrations, Certificates & secrets: the value, not the ID",
        true,
        true,
    ),
];

const ENTRA_CAPABILITIES: [Can; 5] = [
    Can(
        v1::Capability::Read,
        "Reads users page by page, and what changed since",
        &[
            "User.Read.All (application)",
            "Organization.Read.All (application)",
            "AuditLog.Read.All (application) and Entra ID P1, for last sign-ins",
        ],
        false,
    ),
    Can(
        v1::Capability::Validate,
        "Submits a leaked password once, within the attempt budget",
        &["public client flows allowed", "admin consent for openid (delegated)", "assignment not required"],
        false,
    ),
    Can(
        v1::Capability::RevokeSessions,
        "Ends sign-in sessions and refresh tokens",
        &["User.RevokeSessions.All (application)"],
        false,
    ),
    Can(
        v1::Capability::DisableAccount,
        "Sets accountEnabled to false",
        &[
            "User.EnableDisableAccount.All (application)",
            "a directory role such as User Administrator, for targets that hold roles",
        ],
        true,
    ),
    Can(
        v1::Capability::MarkCompromised,
        "Confirms the user compromised, for the tenant's own risk policies",
        &["IdentityRiskyUser.ReadWrite.All (application)", "Entra ID P2"],
        true,
    ),
];

const ENTRA_SETUP: [&str; 4] = [
    "register an application in the tenant",
    "add the application permissions of the capabilities you want, and grant admin consent",
    "create a client secret and note its value",
    "for validation, allow public client flows and grant admin consent to the delegated permission openid",
];

const OKTA_FIELDS: [Field; 2] = [
    Field("okta.host", "Okta domain", "the org's own name, like acme.okta.com", true, false),
    Field("okta.client_id", "Client ID", "the API Services app, General: Client ID", true, false),
];

const OKTA_CAPABILITIES: [Can; 4] = [
    Can(
        v1::Capability::Read,
        "Reads users page by page, and what changed since",
        &[
            "okta.users.read",
            "okta.policies.read, for the lockout policy",
            "okta.roles.read and an admin role with okta.iam.read, to recognise administrators and hold what is done to them",
        ],
        false,
    ),
    Can(
        v1::Capability::Validate,
        "Submits a leaked password once, within the attempt budget",
        &["none: the org's sign-in API answers without a scope; our address must not be blocked"],
        false,
    ),
    Can(
        v1::Capability::RevokeSessions,
        "Clears sessions and OAuth tokens",
        &["okta.users.manage", "an admin role that covers the users"],
        false,
    ),
    Can(
        v1::Capability::DisableAccount,
        "Suspends the user; assignments stay",
        &["okta.users.manage", "an admin role that covers the users"],
        true,
    ),
];

const OKTA_SETUP: [&str; 4] = [
    "create the integration here without a client ID, and note its JWKS URL",
    "create an API Services app in Okta: client authentication by public key, keys from that URL, DPoP on",
    "grant the scopes of the capabilities you want, and an admin role that covers the users",
    "give its client ID with UpdateIntegration, then test",
];

/// The catalogue, with what the package includes.
pub fn providers(entitled: &[ProviderKind]) -> Vec<v1::Provider> {
    ProviderKind::ALL
        .into_iter()
        .map(|kind| {
            let included = entitled.contains(&kind);
            match kind {
                ProviderKind::EntraId => entry(
                    v1::ProviderKind::EntraId,
                    "Microsoft Entra ID",
                    included,
                    &ENTRA_FIELDS,
                    &ENTRA_CAPABILITIES,
                    &ENTRA_SETUP,
                ),
                ProviderKind::Okta => entry(
                    v1::ProviderKind::Okta,
                    "Okta",
                    included,
                    &OKTA_FIELDS,
                    &OKTA_CAPABILITIES,
                    &OKTA_SETUP,
                ),
            }
        })
        .collect()
}

fn entry(
    kind: v1::ProviderKind,
    name: &str,
    entitled: bool,
    fields: &[Field],
    capabilities: &[Can],
    setup: &[&str],
) -> v1::Provider {
    let field = |&Field(path, label, help, required, secret): &Field| v1::ProviderField {
        path: path.into(),
        label: label.into(),
        help: help.into(),
        required,
        secret,
    };
    let capability = |&Can(capability, description, permissions, reversible): &Can| v1::ProviderCapability {
        capability: capability.into(),
        description: description.into(),
        permissions: permissions.iter().map(|&p| p.to_owned()).collect(),
        reversible,
    };
    v1::Provider {
        kind: kind.into(),
        name: name.into(),
        entitled,
        fields: fields.iter().map(field).collect(),
        capabilities: capabilities.iter().map(capability).collect(),
        setup: setup.iter().map(|&s| s.to_owned()).collect(),
    }
}
