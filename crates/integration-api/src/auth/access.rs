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
    let roles = access.get_field_by_name("any_of").context("any_of")?;
    let any_of = roles
        .as_list()
        .context("any_of is a list")?
        .iter()
        .map(|v| v.as_enum_number().and_then(|n| Role::try_from(n).ok()).context("an unknown role"))
        .collect::<anyhow::Result<Vec<_>>>()?;
    anyhow::ensure!(
        !any_of.is_empty() && !any_of.contains(&Role::Unspecified),
        "an access option without roles"
    );
    Ok(Access { any_of, installation: flag("installation"), tenant_optional: flag("tenant_optional") })
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
        assert_eq!(create.any_of, [Role::OrgAdmin]);
        assert!(table.of("/parapet.v1.InstallationService/CreateTenant").unwrap().installation);
        assert!(table.of("/parapet.v1.ExposureService/IngestFeedRecords").unwrap().tenant_optional);
    }
}
