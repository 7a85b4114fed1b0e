//! What the build demands of the access option of public RPCs. Compiled into the build script, and into `tests/access.rs`,
//! which shows it protos that must not build.

use anyhow::{Context, bail, ensure};
use prost_reflect::{DescriptorPool, DynamicMessage, Value};

/// Refuses a set of protos with a public RPC that does not say who may call it.
///
/// INVARIANT: a public RPC without roles in `(parapet.v1.access)` does not build (design §8), nor one that shows an
/// operator a tenant's data.
pub fn every_public_rpc_says_who_may_call_it(encoded: &[u8]) -> anyhow::Result<()> {
    let pool = DescriptorPool::decode(encoded)?;
    let access = pool
        .get_extension_by_name("parapet.v1.access")
        .context("proto option parapet.v1.access is missing")?;
    for service in pool.services().filter(|s| s.parent_file().package_name() == "parapet.v1") {
        for method in service.methods() {
            let options = method.options();
            if !options.has_extension(&access) {
                bail!("{}: declare who may call it with option (parapet.v1.access)", method.full_name());
            }
            if let Value::Message(access) = options.get_extension(&access).as_ref() {
                check(access)
                    .with_context(|| format!("option (parapet.v1.access) of {}", method.full_name()))?;
            }
        }
    }
    Ok(())
}

fn check(access: &DynamicMessage) -> anyhow::Result<()> {
    let roles = |field: &str| -> Vec<i32> {
        let value = access.get_field_by_name(field);
        let list = value.iter().filter_map(|v| v.as_list()).flatten();
        list.filter_map(Value::as_enum_number).collect()
    };
    let flag = |field: &str| access.get_field_by_name(field).is_some_and(|v| v.as_bool() == Some(true));
    let any_of = roles("any_of");
    ensure!(!any_of.is_empty(), "any_of lists no role");
    ensure!(
        !any_of.iter().chain(&roles("if_granted")).any(|role| *role == UNSPECIFIED),
        "names no real role"
    );
    ensure!(
        !any_of.contains(&OPERATOR) || flag("installation") || flag("tenant_optional"),
        "an operator sees no tenant's data: say installation or tenant_optional"
    );
    Ok(())
}

// parapet.v1.Role
const UNSPECIFIED: i32 = 0;
const OPERATOR: i32 = 7;
