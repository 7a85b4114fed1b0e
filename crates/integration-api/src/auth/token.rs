//! Reading a caller's access token.

use std::{collections::BTreeSet, sync::Arc};

use jsonwebtoken::{Algorithm, Validation, errors::ErrorKind};
use serde_json::{Map, Value};
use shared::wire::v1::Role;

use super::{Claims, IssuerKeys, algorithm, role_name};
use crate::{
    config::{ClaimNames, OidcConfig},
    error::ApiError,
};

const LEEWAY_SECONDS: u64 = 30;
const LONGEST_TOKEN: usize = 16 * 1024;
const MOST_TENANTS: usize = 1000;

const INVALID: ApiError =
    ApiError::Unauthenticated { reason: "TOKEN_INVALID", message: "the access token is not valid here" };

/// Checks tokens against the pinned issuer, audience and algorithms.
#[derive(Clone, Debug)]
pub struct Verifier {
    issuer: String,
    audience: String,
    algorithms: Vec<Algorithm>,
    claims: ClaimNames,
    keys: Arc<IssuerKeys>,
}

impl Verifier {
    /// With the issuer's keys.
    pub fn new(config: &OidcConfig, keys: Arc<IssuerKeys>) -> Self {
        Self {
            issuer: config.issuer.clone(),
            audience: config.audience.clone(),
            algorithms: config.algorithms.iter().filter_map(|name| algorithm(name)).collect(),
            claims: config.claims.clone(),
            keys,
        }
    }

    /// What a token says, if it is valid.
    pub async fn verify(&self, token: &str) -> Result<Claims, ApiError> {
        if token.len() > LONGEST_TOKEN {
            return Err(INVALID);
        }
        let header = jsonwebtoken::decode_header(token).map_err(|_| INVALID)?;
        // RFC 9068 access tokens say at+jwt; issuers that predate it say JWT or nothing. An ID token or another kind
        // of object is no access token.
        let kind = header.typ.as_deref().map(str::to_ascii_lowercase);
        if !matches!(kind.as_deref(), None | Some("jwt" | "at+jwt" | "application/at+jwt")) {
            return Err(INVALID);
        }
        // INVARIANT: the algorithm is one of ours before a key is looked at.
        if !self.algorithms.contains(&header.alg) {
            return Err(INVALID);
        }
        let Some(key) = self.keys.find(&header.kid.ok_or(INVALID)?).await else {
            return Err(if self.keys.fetched() {
                INVALID
            } else {
                ApiError::Unavailable("the token issuer's keys are not there yet")
            });
        };
        if key.algorithm.is_some_and(|only| only != header.alg) {
            return Err(INVALID);
        }
        let mut validation = Validation::new(header.alg);
        validation.set_issuer(&[&self.issuer]);
        validation.set_audience(&[&self.audience]);
        validation.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
        validation.validate_nbf = true;
        validation.leeway = LEEWAY_SECONDS;
        let token = jsonwebtoken::decode::<Map<String, Value>>(token, &key.decoding, &validation).map_err(
            |e| match e.kind() {
                ErrorKind::ExpiredSignature => ApiError::Unauthenticated {
                    reason: "TOKEN_EXPIRED",
                    message: "the access token has expired",
                },
                _ => INVALID,
            },
        )?;
        read(&token.claims, &self.claims)
    }
}

// A claim that is there and cannot be read makes the token invalid: guessing would grant something.
pub(super) fn read(claims: &Map<String, Value>, names: &ClaimNames) -> Result<Claims, ApiError> {
    let text = |name: &str| match claims.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.as_str())),
        Some(_) => Err(INVALID),
    };
    let list = |name: &str| match claims.get(name) {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(Value::Array(items)) if items.len() <= MOST_TENANTS => {
            items.iter().map(|v| v.as_str().ok_or(INVALID)).collect()
        }
        Some(_) => Err(INVALID),
    };
    let subject = text("sub")?.filter(|s| !s.is_empty() && s.len() <= 256).ok_or(INVALID)?;
    let organization = text(&names.organization)?.map(str::parse).transpose().map_err(|_| INVALID)?;
    let tenants = list(&names.tenants)?
        .into_iter()
        .map(str::parse)
        .collect::<Result<BTreeSet<_>, _>>()
        .map_err(|_| INVALID)?;
    // Roles of other products may stand beside ours.
    let granted = list(&names.roles)?;
    let roles = ROLES.into_iter().filter(|role| granted.contains(&role_name(*role).as_str())).collect();
    let name = text(&names.name)?.unwrap_or_default().chars().take(200).collect();
    Ok(Claims { subject: subject.to_owned(), name, organization, tenants, roles })
}

const ROLES: [Role; 7] = [
    Role::OrgAdmin,
    Role::TenantAdmin,
    Role::Analyst,
    Role::Viewer,
    Role::Auditor,
    Role::FeedWriter,
    Role::Operator,
];

#[cfg(test)]
mod tests {
    use serde_json::json;
    use shared::id::TenantId;

    use super::*;

    fn claims(value: Value) -> Result<Claims, ApiError> {
        let Value::Object(map) = value else { panic!() };
        read(&map, &ClaimNames::default())
    }

    #[test]
    fn tenant_and_roles_come_from_the_token() {
        let tenant = TenantId::new();
        let read = claims(
            json!({"sub": "ann", "tenants": [tenant.to_string()], "roles": ["analyst", "somebody_elses"]}),
        )
        .unwrap();
        assert_eq!(read.tenants.into_iter().collect::<Vec<_>>(), [tenant]);
        assert_eq!(read.roles.into_iter().collect::<Vec<_>>(), [Role::Analyst]);
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
        assert!(
            claims(json!({"sub": "ann", "roles": ["unspecified", "ROLE_OPERATOR"]}))
                .unwrap()
                .roles
                .is_empty()
        );
    }
}
