//! What Microsoft Entra ID asks of a password. The rule is Microsoft's and nobody can change it, but it does not hold for
//! everybody: whom it is about stands here and in [`account`](super::account), what it excludes is the validator's to say.
//!
//! Sources (Microsoft Learn, read 2026-11): "Password policies and account restrictions" (`concept-sspr-policy`) and
//! "Combined password policy and check for weak passwords" (`concept-password-ban-bad-combined-policy`): 8 to 256
//! characters and three of lower case, upper case, digits and symbols, for accounts that are created and managed in Entra
//! ID itself, whenever a password is created, changed or reset. Not for accounts synchronised from AD. "Password complexity
//! check isn't required for Education tenants." That characters outside ASCII are refused is said too and not relied on.

use serde::Deserialize;

use super::{Entra, optional};
use crate::provider::{PasswordRules, ProviderError};

/// What products for schools are called (`skuPartNumber`, `servicePlanName`), upper case. Taking another product for one
/// of them costs attempts, no more.
const SCHOOL: &[&str] = &["EDU", "FACULTY", "STUDENT", "STUUSE", "ALUMNI", "SCHOOL"];
/// The same at the end of a name.
const SCHOOL_ENDINGS: &[&str] = &["_FAC", "_STU"];

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Plan {
    service_plan_name: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Sku {
    sku_part_number: Option<String>,
    #[serde(default)]
    service_plans: Vec<Plan>,
}

impl Entra {
    /// The rule for accounts of the tenant's own. That it asks for kinds of characters is said only of tenants whose
    /// licences may be read and show a product, and none for schools: no property of a tenant tells.
    pub(super) async fn rules(&self) -> Result<PasswordRules, ProviderError> {
        let licences = optional(self.graph.list::<Sku>("/subscribedSkus").await)?.unwrap_or_default();
        let complex = !licences.is_empty() && !licences.iter().any(is_of_schools);
        Ok(PasswordRules {
            min_length: 8,
            min_lower: 0,
            min_upper: 0,
            min_digits: 0,
            min_classes: if complex { 3 } else { 0 },
            state: if complex { "length and complexity" } else { "length" }.into(),
        })
    }
}

fn is_of_schools(sku: &Sku) -> bool {
    let plans = sku.service_plans.iter().map(|plan| &plan.service_plan_name);
    [&sku.sku_part_number].into_iter().chain(plans).flatten().any(|name| {
        let name = name.to_ascii_uppercase();
        SCHOOL.iter().any(|word| name.contains(word)) || SCHOOL_ENDINGS.iter().any(|end| name.ends_with(end))
    })
}

/// Whether the rule holds for an account with these `passwordPolicies` (Graph, resource type user): a list of names, of
/// which `DisableStrongPassword` allows weaker passwords. A name that is not known may do so as well.
pub(super) fn is_strong(password_policies: Option<&str>) -> bool {
    password_policies.unwrap_or_default().split(',').map(str::trim).all(|name| {
        ["", "None", "DisablePasswordExpiration"].iter().any(|harmless| name.eq_ignore_ascii_case(harmless))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_for_schools_are_recognised_by_name_or_plan() {
        let sku = |name: &str, plan: &str| {
            is_of_schools(&Sku {
                sku_part_number: Some(name.into()),
                service_plans: vec![Plan { service_plan_name: Some(plan.into()) }],
            })
        };
        for name in [
            "STANDARDWOFFPACK_FACULTY",
            "M365EDU_A3_STUUSEBNFT",
            "Office_365_Education_for_Jio_for_students",
            "MICROSOFT_365_A1_FOR_DEVICES_STU",
            "EXCHANGE_STANDARD_ALUMNI",
        ] {
            assert!(sku(name, "EXCHANGE_S_STANDARD"), "{name}");
        }
        assert!(sku("A_NEW_NAME", "AAD_EDU"));
        for name in ["ENTERPRISEPREMIUM", "SPE_F1", "AAD_PREMIUM_P2", "VIRTUAL_STUDIO"] {
            assert!(!sku(name, "EXCHANGE_S_ENTERPRISE"), "{name}");
        }
    }

    #[test]
    fn only_what_is_known_to_weaken_nothing_leaves_the_rule_in_force() {
        for strong in [None, Some(""), Some("None"), Some("DisablePasswordExpiration"), Some("none")] {
            assert!(is_strong(strong), "{strong:?}");
        }
        for weak in
            ["DisableStrongPassword", "DisablePasswordExpiration, DisableStrongPassword", "SomethingNew"]
        {
            assert!(!is_strong(Some(weak)), "{weak}");
        }
    }
}
