//! The directories whose syncs are interrupted.

use serde_json::{Value, json};

use super::{ENTRA, ENTRA_APP, OKTA, OKTA_APP, SECRET, TOKEN_LIFE};

pub fn entra(people: &Value) -> Value {
    let permissions =
        ["User.Read.All", "User.RevokeSessions.All", "User.EnableDisableAccount.All", "AuditLog.Read.All"];
    let app = json!({ "client_id": ENTRA_APP, "secrets": [{ "value": SECRET }], "permissions": permissions });
    let tenant = json!({
        "tenant_id": ENTRA, "domains": [{ "name": "contoso.example" }], "apps": [app], "licences": ["P1"],
        "token_life_s": TOKEN_LIFE, "page_token_life_s": 20_000,
    });
    let mut spec = json!({ "name": "Contoso", "provider": { "entra_id": tenant } });
    idp_simulator::model::merge(&mut spec, people);
    spec
}

pub fn okta(people: &Value, jwks: &Value) -> Value {
    let scopes =
        ["okta.users.read", "okta.users.manage", "okta.logs.read", "okta.policies.read", "okta.roles.read"];
    let app = json!({ "client_id": OKTA_APP, "scopes": scopes, "roles": ["SUPER_ADMIN"], "jwks": jwks });
    let org = json!({
        "org_id": OKTA, "subdomain": "acme", "mail_domain": "acme.example", "buckets": null, "apps": [app],
        "token_life_s": TOKEN_LIFE,
    });
    let mut spec = json!({ "name": "Acme", "provider": { "okta": org } });
    idp_simulator::model::merge(&mut spec, people);
    spec
}
