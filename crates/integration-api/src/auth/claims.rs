//! What a valid token's claims mean here: which of them name the organization, the tenants and the roles, and what the
//! issuer's own groups stand for.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde_json::{Map, Value};
use shared::{
    audit::SERVICE_PREFIX,
    id::{OrganizationId, TenantId},
    wire::v1::Role,
};

use super::{Claims, role, token::INVALID};
use crate::{
    config::{ClaimNames, OidcConfig},
    error::ApiError,
};

const MOST_VALUES: usize = 1000;
/// Where issuers put the client's own id: RFC 9068 and Keycloak, OIDC, Entra ID before its v2 tokens, Okta.
const CLIENT_IDS: [&str; 4] = ["client_id", "azp", "appid", "cid"];

/// How claims are read.
#[derive(Clone, Debug)]
pub struct Mapping {
    names: ClaimNames,
    roles: HashMap<String, Vec<Role>>,
    tenants: HashMap<String, TenantId>,
    organization: Option<OrganizationId>,
    services: BTreeMap<String, String>,
}

impl Mapping {
    /// As configured; the configuration was checked.
    pub fn new(config: &OidcConfig) -> Self {
        let mut roles: HashMap<String, Vec<Role>> = HashMap::new();
        for mapping in &config.roles {
            let ours = mapping.ours.iter().filter_map(|name| role(name));
            roles.entry(mapping.theirs.clone()).or_default().extend(ours);
        }
        Self {
            names: config.claims.clone(),
            roles,
            tenants: config.tenants.iter().map(|m| (m.theirs.clone(), m.tenant)).collect(),
            organization: config.organization,
            services: config.services.clone(),
        }
    }

    /// What the claims say. One that is there and cannot be read makes the token invalid: guessing would grant something.
    pub fn read(&self, claims: &Map<String, Value>) -> Result<Claims, ApiError> {
        let Self { names, .. } = self;
        let subject = text(claims, "sub")?.filter(|s| !s.is_empty() && s.len() <= 256).ok_or(INVALID)?;
        // INVARIANT: nobody who signs in at the issuer can have the id of a program.
        if subject.starts_with(SERVICE_PREFIX) {
            return Err(INVALID);
        }
        let organization =
            text(claims, &names.organization)?.map(str::parse).transpose().map_err(|_| INVALID)?;
        let tenants = self.tenants(&list(claims, &names.tenants)?)?;
        let mut roles = self.roles(&list(claims, &names.roles)?);
        let mut name: String = text(claims, &names.name)?.unwrap_or_default().chars().take(200).collect();
        let mut subject = subject.to_owned();
        if self.is_service(claims, &subject) {
            // INVARIANT: a second person is a person.
            roles.remove(&Role::Approver);
            if name.is_empty() {
                name.clone_from(&subject);
            }
            subject.insert_str(0, SERVICE_PREFIX);
        }
        Ok(Claims { subject, name, organization: organization.or(self.organization), tenants, roles })
    }

    fn tenants(&self, values: &[&str]) -> Result<BTreeSet<TenantId>, ApiError> {
        if self.tenants.is_empty() {
            return values.iter().map(|id| id.parse()).collect::<Result<_, _>>().map_err(|_| INVALID);
        }
        // Groups of other things may stand beside those that are tenants.
        Ok(values.iter().filter_map(|&value| self.tenants.get(value).copied()).collect())
    }

    fn roles(&self, values: &[&str]) -> BTreeSet<Role> {
        // Roles of other products may stand beside ours.
        if self.roles.is_empty() {
            return values.iter().filter_map(|name| role(name)).collect();
        }
        values.iter().filter_map(|&value| self.roles.get(value)).flatten().copied().collect()
    }

    fn is_service(&self, claims: &Map<String, Value>, subject: &str) -> bool {
        let is = |name: &str, value: &str| at(claims, name).and_then(Value::as_str) == Some(value);
        // RFC 9068 §2.2: the subject of a token without a resource owner is the client's own id.
        CLIENT_IDS.into_iter().any(|name| is(name, subject))
            || self.services.iter().any(|(name, value)| is(name, value))
    }
}

/// The claim of this name, or at this path.
fn at<'a>(claims: &'a Map<String, Value>, name: &str) -> Option<&'a Value> {
    claims.get(name).or_else(|| {
        name.match_indices('.').find_map(|(dot, _)| {
            let (outer, rest) = name.split_at_checked(dot)?;
            at(claims.get(outer)?.as_object()?, rest.strip_prefix('.')?)
        })
    })
}

fn text<'a>(claims: &'a Map<String, Value>, name: &str) -> Result<Option<&'a str>, ApiError> {
    match at(claims, name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(INVALID),
    }
}

fn list<'a>(claims: &'a Map<String, Value>, name: &str) -> Result<Vec<&'a str>, ApiError> {
    match at(claims, name) {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(Value::Array(items)) if items.len() <= MOST_VALUES => {
            items.iter().map(|value| value.as_str().ok_or(INVALID)).collect()
        }
        Some(_) => Err(INVALID),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::config::{RoleMapping, TenantMapping};

    fn read(config: &OidcConfig, value: Value) -> Result<Claims, ApiError> {
        let Value::Object(map) = value else { panic!() };
        Mapping::new(config).read(&map)
    }

    fn claims(value: Value) -> Result<Claims, ApiError> {
        read(&OidcConfig::default(), value)
    }

    fn roles(claims: Claims) -> Vec<Role> {
        claims.roles.into_iter().collect()
    }

    #[test]
    fn tenant_and_roles_come_from_the_token() {
        let tenant = TenantId::new();
        let read = claims(
            json!({"sub": "ann", "tenants": [tenant.to_string()], "roles": ["analyst", "somebody_elses"]}),
        )
        .unwrap();
        assert_eq!(read.tenants.iter().copied().collect::<Vec<_>>(), [tenant]);
        assert_eq!(roles(read), [Role::Analyst]);
    }

    #[test]
    fn a_claim_that_cannot_be_read_makes_the_token_invalid() {
        for bad in [
            json!({"tenants": []}),
            json!({"sub": "ann", "tenants": "all"}),
            json!({"sub": "ann", "tenants": ["*"]}),
            json!({"sub": "ann", "roles": {"analyst": true}}),
            json!({"sub": "ann", "org": 7}),
        ] {
            assert!(claims(bad.clone()).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_unspecified_role_is_never_granted() {
        let named = json!({"sub": "ann", "roles": ["unspecified", "ROLE_OPERATOR"]});
        assert_eq!(roles(claims(named).unwrap()), []);
    }

    #[test]
    fn a_claim_may_lie_inside_others_and_one_with_dots_in_its_name_is_found_first() {
        let keycloak = json!({
            "sub": "ann",
            "realm_access": {"roles": ["viewer"]},
            "resource_access": {"parapet.api": {"roles": ["analyst"]}},
            "https://acme.example/roles": ["auditor"],
            "realm_access.odd": ["operator"],
        });
        for (path, expected) in [
            ("realm_access.roles", vec![Role::Viewer]),
            ("resource_access.parapet.api.roles", vec![Role::Analyst]),
            ("https://acme.example/roles", vec![Role::Auditor]),
            ("realm_access.odd", vec![Role::Operator]),
            ("realm_access.missing", vec![]),
            ("sub.roles", vec![]),
        ] {
            let mut config = OidcConfig::default();
            config.claims.roles = path.into();
            assert_eq!(roles(read(&config, keycloak.clone()).unwrap()), expected, "{path}");
        }
    }

    #[test]
    fn with_a_map_only_what_it_names_counts() {
        let (emea, other) = (TenantId::new(), TenantId::new());
        let organization = OrganizationId::new();
        let mut config = OidcConfig {
            organization: Some(organization),
            roles: vec![
                RoleMapping { theirs: "Parapet Analysts".into(), ours: vec!["analyst".into()] },
                RoleMapping {
                    theirs: "Parapet Leads".into(),
                    ours: vec!["viewer".into(), "approver".into()],
                },
            ],
            tenants: vec![TenantMapping { theirs: "Parapet EMEA".into(), tenant: emea }],
            ..OidcConfig::default()
        };
        for name in [&mut config.claims.roles, &mut config.claims.tenants] {
            "groups".clone_into(name);
        }
        let groups = json!(["Parapet Leads", "Parapet EMEA", "org_admin", other.to_string(), "Everyone"]);
        let token = json!({"sub": "ann", "groups": groups});
        let read_as = read(&config, token.clone()).unwrap();
        assert_eq!(read_as.organization, Some(organization));
        assert_eq!(read_as.tenants.iter().copied().collect::<Vec<_>>(), [emea]);
        assert_eq!(roles(read_as), [Role::Viewer, Role::Approver], "a group called org_admin grants nothing");
        config.roles.clear();
        assert_eq!(
            roles(read(&config, token).unwrap()),
            [Role::OrgAdmin],
            "control: without a map names count"
        );
    }

    #[test]
    fn a_token_without_a_person_is_a_service_that_approves_nothing() {
        let of = |mut extra: Value| {
            extra["roles"] = json!(["viewer", "approver"]);
            let read = claims(extra).unwrap();
            (read.subject.clone(), roles(read))
        };
        let both = vec![Role::Viewer, Role::Approver];
        assert_eq!(
            of(json!({"sub": "ann", "client_id": "console"})),
            ("ann".into(), both),
            "control: a person"
        );
        for extra in [
            json!({"sub": "feeds", "client_id": "feeds"}),
            json!({"sub": "feeds", "azp": "feeds"}),
            json!({"sub": "feeds", "cid": "feeds"}),
            json!({"sub": "feeds", "azp": "7d4f", "idtyp": "app"}),
        ] {
            assert_eq!(of(extra.clone()), ("service:feeds".into(), vec![Role::Viewer]), "{extra}");
        }
        assert!(
            claims(json!({"sub": "service:feeds"})).is_err(),
            "a person called like a program is refused"
        );
    }
}
