//! What clients ask the login host before they ask for a token: which host speaks for a cloud, a tenant's metadata, and who
//! checks a user's password (entra.md §1, §4.2).

use bytes::Bytes;
use http::{Response, StatusCode};
use serde_json::{Value, json};

use super::login::{find_tenant, unknown_tenant};
use super::settings::Cloud;
use super::{errors, is_login_host};
use crate::model::{Authority, Settings as AnySettings};
use crate::wire::{self, Request};
use crate::world::World;

/// Names that stand for any tenant.
const SHARED: [&str; 3] = ["common", "organizations", "consumers"];

/// `GET /common/discovery/instance`: the names of each cloud's login host. MSAL asks it for aliases before it looks into its
/// cache, and to check an authority it does not know.
pub fn instance(world: &World, request: &Request) -> Response<Bytes> {
    let asked = request.param("authorization_endpoint").and_then(|url| url::Url::parse(&url).ok());
    let Some(asked) = asked.filter(|url| url.host_str().is_some_and(is_login_host)) else {
        return errors::oauth(request, world.now(), 50049, "");
    };
    let tenant = asked.path_segments().and_then(|mut path| path.next()).unwrap_or("common");
    let host = asked.host_str().unwrap_or_default();
    let group = |network: &str, cache: &str, aliases: &[&str]| json!({"preferred_network": network, "preferred_cache": cache, "aliases": aliases});
    let global = ["login.microsoftonline.com", "login.windows.net", "login.microsoft.com", "sts.windows.net"];
    let china = ["login.partner.microsoftonline.cn", "login.chinacloudapi.cn"];
    let government = ["login.microsoftonline.us", "login.usgovcloudapi.net"];
    let body = json!({
        "tenant_discovery_endpoint": format!("https://{host}/{tenant}/v2.0/.well-known/openid-configuration"),
        "api-version": request.param("api-version").unwrap_or_else(|| "1.1".to_owned()),
        "metadata": [
            group(global[0], "login.windows.net", &global),
            group(china[0], china[0], &china),
            group(government[0], government[0], &government),
        ],
    });
    wire::json(StatusCode::OK, &body)
}

/// `GET /{tenant}/v2.0/.well-known/openid-configuration`
pub fn metadata(world: &World, request: &Request, key: &str) -> Response<Bytes> {
    let (id, issuer, cloud) = if SHARED.contains(&key) {
        (key.to_owned(), "{tenantid}".to_owned(), Cloud::Global)
    } else {
        let Some(tenant) = find_tenant(world, request, key) else {
            return unknown_tenant(world, request, key);
        };
        let id = tenant.settings.tenant_id;
        (id.clone(), id, tenant.settings.cloud)
    };
    let at = |path: &str| request.link(&format!("/{id}{path}"));
    let graph = cloud.graph_host();
    wire::json(
        StatusCode::OK,
        &json!({
            "issuer": request.link(&format!("/{issuer}/v2.0")),
            "authorization_endpoint": at("/oauth2/v2.0/authorize"),
            "token_endpoint": at("/oauth2/v2.0/token"),
            "device_authorization_endpoint": at("/oauth2/v2.0/devicecode"),
            "end_session_endpoint": at("/oauth2/v2.0/logout"),
            "jwks_uri": at("/discovery/v2.0/keys"),
            "userinfo_endpoint": format!("https://{graph}/oidc/userinfo"),
            "token_endpoint_auth_methods_supported": ["client_secret_post", "private_key_jwt", "client_secret_basic"],
            "response_modes_supported": ["query", "fragment", "form_post"],
            "response_types_supported": ["code", "id_token", "code id_token", "id_token token"],
            "subject_types_supported": ["pairwise"],
            "id_token_signing_alg_values_supported": ["RS256"],
            "scopes_supported": ["openid", "profile", "email", "offline_access"],
            "claims_supported": ["sub", "iss", "aud", "exp", "iat", "nonce", "preferred_username", "name", "tid", "ver"],
            "request_uri_parameter_supported": false,
            "http_logout_supported": true,
            "frontchannel_logout_supported": true,
            "tenant_region_scope": "EU",
            "cloud_instance_name": instance_name(cloud),
            "cloud_graph_host_name": "graph.windows.net",
            "msgraph_host": graph,
            "rbac_url": "https://pas.windows.net",
        }),
    )
}

/// `GET /common/userrealm/{user}`: home realm discovery.
pub fn realm(world: &World, request: &Request, user: &str) -> Response<Bytes> {
    let domain = user.rsplit_once('@').map_or("", |(_, domain)| domain);
    let found = find_tenant(world, request, domain);
    let cloud = instance_name(found.as_ref().map_or(Cloud::Global, |tenant| tenant.settings.cloud));
    let authority = found.and_then(|tenant| match &*tenant.directory.settings() {
        AnySettings::EntraId(entra) => Some(entra.authority_of(user)),
        AnySettings::Okta(_) => None,
    });
    let body: Value = match authority {
        None => json!({"ver": "1.0", "account_type": "Unknown", "cloud_instance_name": cloud}),
        Some(Authority::Federated) => {
            json!({"ver": "1.0", "account_type": "Federated", "domain_name": domain,
            "federation_protocol": "WSTrust", "federation_metadata_url": format!("https://sts.{domain}/adfs/services/trust/mex"),
            "federation_active_auth_url": format!("https://sts.{domain}/adfs/services/trust/2005/usernamemixed"),
            "cloud_instance_name": cloud, "cloud_audience_urn": "urn:federation:MicrosoftOnline"})
        }
        Some(_) => json!({"ver": "1.0", "account_type": "Managed", "domain_name": domain,
            "cloud_instance_name": cloud, "cloud_audience_urn": "urn:federation:MicrosoftOnline"}),
    };
    wire::json(StatusCode::OK, &body)
}

/// What the login host calls its cloud: the name without `login.`.
fn instance_name(cloud: Cloud) -> &'static str {
    let host = cloud.login_hosts().first().copied().unwrap_or_default();
    host.strip_prefix("login.").unwrap_or(host)
}
