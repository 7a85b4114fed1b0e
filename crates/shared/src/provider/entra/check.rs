//! The connection test: what works with the granted permissions, capability by capability (entra.md §15, §17).

use std::{collections::BTreeSet, time::Duration};

use serde::Deserialize;
use time::OffsetDateTime;
use uuid::Uuid;

use super::{
    Entra,
    graph::Graph,
    permission::{self, ACTING, GROUP_READERS, OPTIONAL, Optional, Permission, needs},
    ropc, token, verdict,
};
use crate::{
    integration::EntraCloud,
    provider::{
        Capability, CapabilityTest, EXPIRY_WARNINGS, Missing, ProviderError, TestReport, Warning, http,
    },
    secret::SecretBytes,
};

/// Waits between tries with a secret that may be too new to be known everywhere.
const FRESH_SECRET: [Duration; 2] = [Duration::from_secs(3), Duration::from_secs(7)];

fn expires_soon(end: OffsetDateTime, now: OffsetDateTime) -> Option<Warning> {
    let days = (end - now).whole_days();
    (days <= EXPIRY_WARNINGS[0]).then(|| Warning {
        reason: "secret_expires",
        message: format!(
            "the application's secret or certificate ends on {}, in {days} days; give a new one with `integration update`",
            end.date()
        ),
    })
}

/// What works less well than it could.
fn warnings(granted: &BTreeSet<String>) -> Vec<Warning> {
    let lacking = OPTIONAL.iter().filter(|optional| {
        let mut any = std::iter::once(optional.permission.name).chain(optional.or.iter().copied());
        !any.any(|name| granted.contains(name))
    });
    let warning = |optional: &Optional| Warning {
        reason: optional.reason,
        message: match optional.condition {
            Some(condition) => {
                format!("{}; grant {} ({condition})", optional.cost, optional.permission.name)
            }
            None => format!("{}; grant {}", optional.cost, optional.permission.name),
        },
    };
    lacking.map(warning).collect()
}

/// What was granted for a capability that is switched off, by the permission that nothing else needs.
fn unused(wanted: &BTreeSet<Capability>, granted: &BTreeSet<String>) -> Vec<Warning> {
    let idle = ACTING
        .into_iter()
        .filter(|(capability, permission)| !wanted.contains(capability) && granted.contains(permission.name));
    idle.map(|(capability, permission)| Warning {
        reason: "permission_unused",
        message: format!(
            "{} is granted and nothing that is switched on needs it; take it back, or switch {} on",
            permission.name,
            capability.as_str()
        ),
    })
    .collect()
}

/// The service plan of Entra ID P2. A plan id, not a SKU id: confusing them is a common fault (entra.md §15).
const P2_PLAN: &str = "eec0eb4f-6444-4f95-aba0-50c24d67f998";

/// The tenant as it describes itself.
pub(super) struct Organization {
    /// Tenant GUID, lower case.
    pub id: String,
    pub name: Option<String>,
    /// A domain whose passwords the tenant itself checks.
    managed_domain: Option<String>,
}

impl Entra {
    pub(super) async fn organization(&self) -> Result<Organization, ProviderError> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Domain {
            name: String,
            #[serde(rename = "type")]
            kind: Option<String>,
            is_initial: Option<bool>,
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Wire {
            id: String,
            display_name: Option<String>,
            #[serde(default)]
            verified_domains: Vec<Domain>,
        }
        let path = "/organization?$select=id,displayName,verifiedDomains";
        let all: Vec<Wire> = self.graph.list(path).await?;
        let Wire { id, display_name, verified_domains } =
            all.into_iter().next().ok_or(ProviderError::Protocol("the tenant does not describe itself"))?;
        let id = Uuid::try_parse(&id).map_err(|_| ProviderError::Protocol("the tenant id is not a GUID"))?;
        let managed = || verified_domains.iter().filter(|d| d.kind.as_deref() != Some("Federated"));
        let domain = managed().find(|d| d.is_initial == Some(true)).or_else(|| managed().next());
        Ok(Organization {
            id: id.to_string(),
            name: display_name,
            managed_domain: domain.map(|d| d.name.clone()),
        })
    }

    pub(super) async fn check(&self, wanted: &BTreeSet<Capability>) -> TestReport {
        let organization = match self.organization_with_patience().await {
            Ok(organization) => organization,
            Err(error) => {
                let missing = error.into_missing();
                let all =
                    wanted.iter().map(|c| CapabilityTest { capability: *c, result: Err(missing.clone()) });
                return TestReport { capabilities: all.collect(), ..TestReport::default() };
            }
        };
        let granted = match self.granted().await {
            Ok(granted) => granted,
            Err(error) => {
                let missing = error.into_missing();
                let all =
                    wanted.iter().map(|c| CapabilityTest { capability: *c, result: Err(missing.clone()) });
                return TestReport { capabilities: all.collect(), ..TestReport::default() };
            }
        };
        let mut capabilities = Vec::with_capacity(wanted.len());
        for capability in wanted.iter().copied() {
            let scoped = capability == Capability::Read && !self.scope.is_whole();
            let unscoped = || scoped.then(|| lacking_any(GROUP_READERS, &granted)).flatten();
            let result = match lacking(capability, &granted).or_else(unscoped) {
                Some(missing) => Err(missing),
                None => self.probe(capability, &organization).await,
            };
            capabilities.push(CapabilityTest { capability, result });
        }
        let mut warnings = warnings(&granted);
        warnings.extend(unused(wanted, &granted));
        // What cannot be known is no reason to fail a test.
        let end = self.expiry().await.ok().flatten();
        warnings.extend(end.and_then(|end| expires_soon(end, OffsetDateTime::now_utc())));
        TestReport {
            capabilities,
            directory_id: Some(organization.id),
            directory_name: organization.name,
            edition: None,
            warnings,
        }
    }

    /// A secret that was just made is refused for some seconds (entra.md §2.4): its refusal is believed the third time.
    async fn organization_with_patience(&self) -> Result<Organization, ProviderError> {
        for wait in FRESH_SECRET {
            match self.organization().await {
                Err(ProviderError::Refused(missing)) if missing.reason == "secret_invalid" => {
                    if self.credential.is_secret_id() {
                        return Err(ProviderError::Refused(Missing {
                            reason: "secret_id_given",
                            message: "This is the id of a client secret. Give the secret's value; Entra ID shows it only \
                                      once, so make a new secret if it was not kept."
                                .into(),
                            not_granted: false,
                        }));
                    }
                    tokio::time::sleep(wait).await;
                }
                other => return other,
            }
        }
        self.organization().await
    }

    /// The granted application permissions: from the token, or else from the tenant's list of grants.
    async fn granted(&self) -> Result<BTreeSet<String>, ProviderError> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Assignment {
            app_role_id: String,
        }
        if let Some(permissions) = self.graph.permissions().await? {
            return Ok(permissions);
        }
        let path = format!("/servicePrincipals(appId='{}')/appRoleAssignments", self.connection.client_id);
        let assigned: Vec<Assignment> = self.graph.list(&path).await?;
        let named =
            |a: &Assignment| permission::ALL.iter().find(|p| p.id.eq_ignore_ascii_case(&a.app_role_id));
        Ok(assigned.iter().filter_map(named).map(|permission| permission.name.to_owned()).collect())
    }

    /// The cheapest call that shows whether a capability really works. Changes nothing.
    async fn probe(&self, capability: Capability, organization: &Organization) -> Result<(), Missing> {
        match capability {
            Capability::Read => {
                self.graph.get("/users?$top=1&$select=id").await.map_err(ProviderError::into_missing)?;
                self.check_scope().await.map_err(ProviderError::into_missing)
            }
            Capability::RevokeSessions | Capability::DisableAccount => Ok(()),
            Capability::Validate => self.probe_password_grant(organization).await,
            Capability::MarkCompromised => {
                if self.connection.cloud == EntraCloud::China {
                    return Err(Missing {
                        reason: "not_offered",
                        message: "Identity Protection is not offered in the China cloud.".into(),
                        not_granted: true,
                    });
                }
                unlicensed(&self.graph).await?;
                self.risk.turn().await.map_err(ProviderError::into_missing)?;
                self.graph
                    .get("/identityProtection/riskyUsers?$top=1")
                    .await
                    .map_err(ProviderError::into_missing)?;
                Ok(())
            }
        }
    }

    /// Asks for the password of a user that cannot exist: the answer shows whether the application, its client type and
    /// the tenant are right, and touches nobody (entra.md §15).
    async fn probe_password_grant(&self, organization: &Organization) -> Result<(), Missing> {
        let Some(domain) = &organization.managed_domain else {
            return Err(Missing {
                reason: "federated",
                message:
                    "Every domain of the tenant is federated: it holds no password that could be checked."
                        .into(),
                not_granted: false,
            });
        };
        let nobody = format!("parapet-connection-test-{}@{domain}", Uuid::new_v4().simple());
        let password = SecretBytes::new(Uuid::new_v4().to_string().into_bytes());
        let (client_id, proof) = self.ropc_client().map_err(ProviderError::into_missing)?;
        let body = ropc::form(client_id, &proof, &nobody, &password);
        let url = format!("https://{}{}", self.connection.cloud.hosts().login, self.token_path());
        let request = self
            .egress
            .request(::http::Method::POST, &url)
            .header(::http::header::CONTENT_TYPE, "application/x-www-form-urlencoded")
            .body(bytes::Bytes::from_owner(body));
        let answer = http::send(request).await.map_err(ProviderError::into_missing)?;
        let codes = verdict::codes(&answer.body).unwrap_or_default();
        // 50126 is what a tenant answers that does not tell wrong names from wrong passwords.
        if codes.iter().any(|code| matches!(code, 50_034 | 50_126)) {
            return Ok(());
        }
        match codes.first() {
            Some(50_053) => Err(Missing {
                reason: "address_blocked",
                message:
                    "Microsoft refuses sign-ins from our address. Add it as a trusted location. (AADSTS50053)"
                        .into(),
                not_granted: false,
            }),
            Some(code) => Err(token::explain(*code)),
            None => Err(token::refusal(&answer).into_missing()),
        }
    }
}

/// What a capability lacks among the granted permissions.
fn lacking(capability: Capability, granted: &BTreeSet<String>) -> Option<Missing> {
    lacking_any(needs(capability), granted)
}

/// What is missing of the least of some sets, when none of them is granted.
pub(super) fn lacking_any(sets: &[&[Permission]], granted: &BTreeSet<String>) -> Option<Missing> {
    if sets.iter().any(|set| set.iter().all(|permission| granted.contains(permission.name))) {
        return None;
    }
    let least = sets.first().copied().unwrap_or_default();
    let missing: Vec<&str> = least.iter().map(|p| p.name).filter(|name| !granted.contains(*name)).collect();
    Some(Missing {
        reason: "consent_missing",
        message: format!(
            "Add the application permission{} {} to the application and grant admin consent.",
            if missing.len() == 1 { "" } else { "s" },
            missing.join(" and ")
        ),
        not_granted: true,
    })
}

/// Identity Protection needs P2. Where licences may not be read, the probe that follows decides.
async fn unlicensed(graph: &Graph) -> Result<(), Missing> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Plan {
        service_plan_id: String,
        provisioning_status: Option<String>,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Sku {
        capability_status: Option<String>,
        #[serde(default)]
        service_plans: Vec<Plan>,
    }
    let Some(skus) =
        super::optional(graph.list::<Sku>("/subscribedSkus").await).map_err(ProviderError::into_missing)?
    else {
        return Ok(());
    };
    let owned = skus.iter().any(|sku| {
        matches!(sku.capability_status.as_deref(), Some("Enabled" | "Warning"))
            && sku.service_plans.iter().any(|plan| {
                plan.service_plan_id.eq_ignore_ascii_case(P2_PLAN)
                    && plan.provisioning_status.as_deref() == Some("Success")
            })
    });
    if owned {
        return Ok(());
    }
    Err(Missing {
        reason: "licence_missing",
        message: "Marking users as compromised needs the Entra ID P2 licence.".into(),
        not_granted: true,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_permission_is_named_and_a_wider_one_suffices() {
        let granted = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect::<BTreeSet<_>>();
        let missing = lacking(Capability::DisableAccount, &granted(&["User.Read.All"])).unwrap();
        assert_eq!(missing.reason, "consent_missing");
        assert!(missing.message.contains("permission User.EnableDisableAccount.All to"));
        assert!(lacking(Capability::DisableAccount, &granted(&["User.ReadWrite.All"])).is_none());
        assert!(lacking(Capability::Validate, &granted(&[])).is_none());
    }
}
