//! The catalogue: each kind of provider with its fields, capabilities and what they need at the provider. Data; what an
//! integration really may do is found out by its test.

mod entra;
mod okta;

use shared::{id::ProviderKind, provider::http::USER_AGENT, wire::v1};

/// A kind of provider.
struct Entry {
    kind: v1::ProviderKind,
    name: &'static str,
    fields: &'static [Field],
    capabilities: &'static [Can],
    setup: &'static [&'static str],
    hosts: &'static str,
}

/// Path, label, where to find it.
struct Field {
    path: &'static str,
    label: &'static str,
    help: &'static str,
    required: bool,
    secret: bool,
}

/// A capability.
struct Can {
    capability: v1::Capability,
    description: &'static str,
    reversible: bool,
    permissions: &'static [Permission],
    conditions: &'static [&'static str],
    warnings: &'static [&'static str],
}

/// What is granted at the provider.
struct Permission {
    name: &'static str,
    id: &'static str,
    optional: bool,
    purpose: Purpose,
}

/// Why a permission is granted.
enum Purpose {
    /// What is done with it.
    For(&'static str),
    /// What its absence costs.
    Without(&'static str),
}

impl Purpose {
    fn shown(&self) -> String {
        match self {
            Self::For(what) => (*what).to_owned(),
            Self::Without(cost) => format!("without it {cost}"),
        }
    }
}

const fn field(path: &'static str, label: &'static str, help: &'static str) -> Field {
    Field { path, label, help, required: true, secret: false }
}

impl Field {
    const fn optional(self) -> Self {
        Self { required: false, ..self }
    }
    const fn secret(self) -> Self {
        Self { secret: true, ..self }
    }
}

/// Both kinds have it.
const SCOPE: Field = field(
    "settings.scope.group_ids",
    "Groups",
    "object ids of the groups whose members are covered; begin with a pilot group; left out, the whole directory",
)
.optional();

const fn needed(name: &'static str, id: &'static str, purpose: &'static str) -> Permission {
    Permission { name, id, optional: false, purpose: Purpose::For(purpose) }
}

impl Permission {
    const fn optional(self) -> Self {
        Self { optional: true, ..self }
    }
}

/// The catalogue, with what the package includes.
pub fn providers(entitled: &[ProviderKind]) -> Vec<v1::Provider> {
    ProviderKind::ALL
        .into_iter()
        .map(|kind| {
            let entry = match kind {
                ProviderKind::EntraId => &entra::ENTRY,
                ProviderKind::Okta => &okta::ENTRY,
            };
            entry.shown(entitled.contains(&kind))
        })
        .collect()
}

impl Entry {
    fn shown(&self, entitled: bool) -> v1::Provider {
        let texts = |texts: &[&str]| texts.iter().map(|&text| text.to_owned()).collect();
        let field = |&Field { path, label, help, required, secret }: &Field| v1::ProviderField {
            path: path.into(),
            label: label.into(),
            help: help.into(),
            required,
            secret,
        };
        let permission = |permission: &Permission| v1::ProviderPermission {
            name: permission.name.into(),
            id: permission.id.into(),
            optional: permission.optional,
            purpose: permission.purpose.shown(),
        };
        let capability = |can: &Can| v1::ProviderCapability {
            capability: can.capability.into(),
            description: can.description.into(),
            reversible: can.reversible,
            permissions: can.permissions.iter().map(permission).collect(),
            conditions: texts(can.conditions),
            warnings: texts(can.warnings),
        };
        v1::Provider {
            kind: self.kind.into(),
            name: self.name.into(),
            entitled,
            fields: self.fields.iter().map(field).collect(),
            capabilities: self.capabilities.iter().map(capability).collect(),
            setup: texts(self.setup),
            allow: vec![
                format!("requests of the user agent {USER_AGENT}, which sign-in logs show"),
                format!("HTTPS from the identity-sync-worker, credential-validator and mitigation-executor to {}", self.hosts),
                "the addresses these requests come from: ask your operator; exempt them from rules that block unknown sign-ins"
                    .to_owned(),
            ],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_entry_is_complete_and_reading_needs_one_permission_only() {
        for provider in providers(&[ProviderKind::Okta]) {
            assert_eq!(provider.entitled, provider.kind() == v1::ProviderKind::Okta);
            let reads = |c: &&v1::ProviderCapability| c.capability() == v1::Capability::Read;
            let read = provider.capabilities.iter().find(reads).unwrap();
            assert_eq!(read.permissions.iter().filter(|p| !p.optional).count(), 1, "{}", provider.name);
            for permission in provider.capabilities.iter().flat_map(|c| &c.permissions) {
                let id = permission.id.is_empty() || uuid::Uuid::try_parse(&permission.id).is_ok();
                assert!(id && !permission.purpose.is_empty(), "{permission:?}");
            }
            assert!(!provider.setup.is_empty() && provider.allow.len() == 3);
        }
    }
}
