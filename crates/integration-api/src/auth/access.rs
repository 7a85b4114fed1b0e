//! What each RPC requires, read from the proto's own options: there is no second list to forget.

use std::collections::HashMap;

use anyhow::Context as _;
use prost_reflect::{DescriptorPool, DynamicMessage, Value};
use shared::wire::{self, v1::Role};

/// The requirement of one RPC.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Access {
    /// The caller needs one of these.
    pub any_of: Vec<Role>,
    /// Or one of these, where its organization grants it.
    pub if_granted: Vec<Role>,
    /// And this right beside it.
    pub with_right: Option<Role>,
    /// Works on the installation.
    pub installation: bool,
    /// The request decides whether it works on a tenant.
    pub tenant_optional: bool,
}

/// The requirements of every public RPC, by path.
#[derive(Clone, Debug)]
pub struct AccessTable(HashMap<String, Access>);

impl AccessTable {
    /// Reads the options of `parapet.v1`.
    pub fn from_descriptors() -> anyhow::Result<Self> {
        let pool = DescriptorPool::decode(wire::DESCRIPTORS)?;
        let extension =
            pool.get_extension_by_name("parapet.v1.access").context("option parapet.v1.access")?;
        let mut table = HashMap::new();
        for service in pool.services().filter(|s| s.parent_file().package_name() == "parapet.v1") {
            for method in service.methods() {
                let options = method.options();
                let value = options.get_extension(&extension);
                let Value::Message(access) = value.as_ref() else {
                    anyhow::bail!("{} has no access option", method.full_name());
                };
                table.insert(format!("/{}/{}", service.full_name(), method.name()), read(access)?);
            }
        }
        Ok(Self(table))
    }

    /// What the RPC at this path requires.
    pub fn of(&self, path: &str) -> Option<&Access> {
        self.0.get(path)
    }

    /// Every path with its requirement.
    #[cfg(test)]
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Access)> {
        self.0.iter().map(|(path, access)| (path.as_str(), access))
    }
}

fn read(access: &DynamicMessage) -> anyhow::Result<Access> {
    let flag = |name: &str| access.get_field_by_name(name).is_some_and(|v| v.as_bool() == Some(true));
    let any_of = roles(access, "any_of")?;
    anyhow::ensure!(!any_of.is_empty(), "an access option without roles");
    let right = access.get_field_by_name("with_right").and_then(|v| v.as_enum_number()).unwrap_or_default();
    Ok(Access {
        any_of,
        if_granted: roles(access, "if_granted")?,
        with_right: Some(Role::try_from(right)?).filter(|right| *right != Role::Unspecified),
        installation: flag("installation"),
        tenant_optional: flag("tenant_optional"),
    })
}

fn roles(access: &DynamicMessage, field: &str) -> anyhow::Result<Vec<Role>> {
    let value = access.get_field_by_name(field).with_context(|| format!("option {field}"))?;
    let numbers = value.as_list().context("a list of roles")?.iter().map(Value::as_enum_number);
    let roles =
        numbers.map(|n| Ok(Role::try_from(n.context("a role")?)?)).collect::<anyhow::Result<Vec<_>>>()?;
    anyhow::ensure!(!roles.contains(&Role::Unspecified), "an access option with an unspecified role");
    Ok(roles)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_public_rpc_has_roles_and_operators_see_no_tenant() {
        let table = AccessTable::from_descriptors().unwrap();
        assert!(table.iter().count() >= 31);
        for (path, access) in table.iter() {
            assert!(!access.any_of.is_empty(), "{path}");
            let operator = access.any_of.contains(&Role::Operator);
            assert!(!operator || access.installation || access.tenant_optional, "{path}");
        }
        let create = table.of("/parapet.v1.IntegrationService/CreateIntegration").unwrap();
        assert_eq!(
            (&create.any_of[..], &create.if_granted[..]),
            (&[Role::OrgAdmin][..], &[Role::TenantAdmin][..])
        );
        assert!(table.of("/parapet.v1.TenantService/CreateTenant").unwrap().installation);
        let approve = table.of("/parapet.v1.MitigationService/Approve").unwrap();
        assert_eq!(approve.with_right, Some(Role::Approver));
        assert!(table.of("/parapet.v1.ExposureService/IngestFeedRecords").unwrap().tenant_optional);
    }
}
