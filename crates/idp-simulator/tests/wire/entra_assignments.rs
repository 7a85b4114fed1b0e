//! App roles and directory roles: listing, assigning, assigning twice, removing.

use reqwest::Method;
use serde_json::{Value, json};

use crate::stage::{ANN, APP, PERMISSIONS, ROOT, Stage, TENANT, spec, stage_with};

const SHOP: &str = "33333333-4444-4555-8666-777777777777";
const BUYER: &str = "cccccccc-0000-4000-8000-000000000001";
const INNER: &str = "99999999-0000-4000-8000-000000000002";
const GLOBAL_ADMINISTRATOR: &str = "62e90394-69f5-4237-9190-012177145e10";
const HELPDESK: &str = "729827e3-9c14-49f7-bb1b-9608f156bbb8";
const ZERO: &str = "00000000-0000-0000-0000-000000000000";
const ROLES: &str = "/roleManagement/directory/roleAssignments";

async fn stage() -> Stage {
    let mut spec = spec();
    let writes = ["AppRoleAssignment.ReadWrite.All", "RoleManagement.ReadWrite.Directory"];
    let all: Vec<&str> = PERMISSIONS.iter().copied().chain(writes).collect();
    let entra = &mut spec["provider"]["entra_id"];
    entra["apps"][0]["permissions"] = json!(all);
    let apps = entra["apps"].as_array_mut().unwrap();
    apps.push(json!({"client_id": SHOP, "name": "Shop", "app_roles": [{"id": BUYER, "value": "Buyer"}]}));
    apps.push(json!({"client_id": "managed", "name": "Machine", "kind": "ManagedIdentity"}));
    spec["groups"][1]["role_assignable"] = json!(true);
    stage_with(spec).await
}

async fn principal(stage: &Stage, app_id: &str) -> String {
    let (_, found) = stage.get(&format!("/servicePrincipals(appId='{app_id}')")).await;
    found["id"].as_str().unwrap().to_owned()
}

async fn grant(stage: &Stage, resource: &str, holder: &str, role: &str) -> (u16, Value) {
    let body = json!({"principalId": holder, "resourceId": resource, "appRoleId": role});
    let path = format!("/servicePrincipals/{resource}/appRoleAssignedTo");
    stage.graph(Method::POST, &path, Some(body)).await
}

async fn assign(stage: &Stage, holder: &str, role: &str) -> (u16, Value) {
    let body = json!({"@odata.type": "#microsoft.graph.unifiedRoleAssignment", "roleDefinitionId": role,
        "principalId": holder, "directoryScopeId": "/"});
    stage.graph(Method::POST, ROLES, Some(body)).await
}

#[tokio::test]
async fn service_principals_are_listed_and_filtered_by_type() {
    let stage = stage().await;
    let (_, all) = stage.get("/servicePrincipals?$top=2").await;
    assert_eq!(all["value"].as_array().unwrap().len(), 2);
    let next = all["@odata.nextLink"].as_str().unwrap();
    let rest = stage.http.get(next).bearer_auth(stage.token().await).send().await.unwrap();
    assert_eq!(rest.json::<Value>().await.unwrap()["value"].as_array().unwrap().len(), 2);
    let (_, managed) =
        stage.get("/servicePrincipals?$filter=servicePrincipalType eq 'ManagedIdentity'").await;
    assert_eq!(managed["value"][0]["displayName"], "Machine");
    assert_eq!(managed["value"].as_array().unwrap().len(), 1);
    let shop = principal(&stage, SHOP).await;
    let (_, shown) = stage.get(&format!("/servicePrincipals/{shop}")).await;
    assert_eq!(shown["appRoles"][0]["id"], BUYER);
}

#[tokio::test]
async fn an_app_role_is_granted_once_and_revoked() {
    let stage = stage().await;
    let shop = principal(&stage, SHOP).await;
    let (status, made) = grant(&stage, &shop, ANN, BUYER).await;
    assert_eq!((status, made["principalType"].as_str()), (201, Some("User")));
    assert_eq!(grant(&stage, &shop, INNER, BUYER).await.1["principalType"], "Group");
    let (status, body) = grant(&stage, &shop, ANN, BUYER).await;
    assert_eq!(status, 400);
    assert_eq!(body["error"]["message"], "Permission being assigned already exists on the object");
    assert_eq!(grant(&stage, &shop, ANN, ZERO).await.0, 400, "it defines roles, so there is no default one");
    assert_eq!(grant(&stage, &shop, "nobody", BUYER).await.0, 404);
    let path = format!("/servicePrincipals/{shop}/appRoleAssignedTo");
    let (_, listed) = stage.get(&path).await;
    assert_eq!(listed["value"].as_array().unwrap().len(), 2);
    let (_, of_ann) = stage.get(&format!("/users/{ANN}/appRoleAssignments")).await;
    assert_eq!(of_ann["value"][0]["resourceDisplayName"], "Shop");
    let id = made["id"].as_str().unwrap();
    assert_eq!(stage.graph(Method::DELETE, &format!("{path}/{id}"), None).await.0, 204);
    assert_eq!(stage.graph(Method::DELETE, &format!("{path}/{id}"), None).await.0, 404);
    let log = stage.log("change").await;
    let actions: Vec<&Value> = log.iter().map(|entry| &entry["action"]).collect();
    assert_eq!(actions, ["app_role_granted", "app_role_granted", "app_role_revoked"]);
}

#[tokio::test]
async fn who_may_write_app_roles_can_give_permissions_of_graph() {
    let stage = stage().await;
    let (ours, graph) =
        (principal(&stage, APP).await, principal(&stage, "00000003-0000-0000-c000-000000000000").await);
    let write_all = "741f803b-c850-494e-b5df-cde7c675a1ca";
    assert_eq!(stage.graph(Method::DELETE, &format!("/users/{ANN}"), None).await.0, 403);
    assert_eq!(grant(&stage, &graph, &ours, write_all).await.0, 201);
    assert_eq!(grant(&stage, &graph, &ours, write_all).await.0, 400);
    assert_eq!(stage.graph(Method::DELETE, &format!("/users/{ANN}"), None).await.0, 204, "with a new token");
}

#[tokio::test]
async fn a_directory_role_is_assigned_once_and_the_conflict_comes_in_two_forms() {
    let stage = stage().await;
    let (status, made) = assign(&stage, ANN, HELPDESK).await;
    assert_eq!((status, made["roleDefinitionId"].as_str()), (201, Some(HELPDESK)));
    assert_eq!(stage.account(ANN).await["roles"], json!(["Helpdesk Administrator"]));
    let (status, body) = assign(&stage, ANN, HELPDESK).await;
    assert_eq!((status, body["error"]["code"].as_str()), (400, Some("Request_BadRequest")));
    stage.configure(json!({"role_conflict_status": 409})).await;
    let (status, body) = assign(&stage, ANN, HELPDESK).await;
    assert_eq!(status, 409);
    assert!(body["error"]["message"].as_str().unwrap().starts_with("A conflicting object"));
    let (_, of_ann) = stage.get(&format!("{ROLES}?$filter=principalId eq '{ANN}'&$expand=principal")).await;
    assert_eq!(of_ann["value"][0]["principal"]["@odata.type"], "#microsoft.graph.user");
    let (_, holders) = stage.get(&format!("{ROLES}?$filter=roleDefinitionId eq '{HELPDESK}'")).await;
    assert_eq!(holders["value"].as_array().unwrap().len(), 1);
    let id = made["id"].as_str().unwrap();
    assert_eq!(stage.graph(Method::DELETE, &format!("{ROLES}/{id}"), None).await.0, 204);
    assert_eq!(stage.graph(Method::DELETE, &format!("{ROLES}/{id}"), None).await.0, 404);
    assert_eq!(stage.account(ANN).await["roles"], json!([]));
}

#[tokio::test]
async fn an_assignment_is_read_later_than_it_is_written() {
    let stage = stage().await;
    stage.configure(json!({"read_lag_s": 20})).await;
    let shop = principal(&stage, SHOP).await;
    assign(&stage, ANN, HELPDESK).await;
    grant(&stage, &shop, ANN, BUYER).await;
    let assigned = format!("/servicePrincipals/{shop}/appRoleAssignedTo");
    let filter = format!("{ROLES}?$filter=principalId eq '{ANN}'");
    for path in [&assigned, &filter] {
        assert_eq!(stage.get(path).await.1["value"], json!([]));
    }
    stage.control(Method::POST, "/clock", &json!({"advance_s": 20})).await;
    for path in [&assigned, &filter] {
        assert_eq!(stage.get(path).await.1["value"].as_array().unwrap().len(), 1);
    }
}

#[tokio::test]
async fn a_role_held_through_a_group_protects_its_members() {
    let stage = stage().await;
    let disable = async || {
        let body = json!({"accountEnabled": false});
        stage.graph(Method::PATCH, &format!("/users/{ANN}"), Some(body)).await.0
    };
    assert_eq!(assign(&stage, "99999999-0000-4000-8000-000000000001", HELPDESK).await.0, 400);
    assert_eq!(assign(&stage, INNER, GLOBAL_ADMINISTRATOR).await.0, 201);
    assert_eq!(disable().await, 403, "Ann is in the group");
    let (_, made) = stage.get(&format!("{ROLES}?$filter=principalId eq '{INNER}'")).await;
    let id = made["value"][0]["id"].as_str().unwrap();
    stage.graph(Method::DELETE, &format!("{ROLES}/{id}"), None).await;
    assert_eq!(disable().await, 204);
}

#[tokio::test]
async fn definitions_are_named_and_writing_takes_its_own_permission() {
    let stage = stage().await;
    let (_, found) = stage
        .get("/roleManagement/directory/roleDefinitions?$filter=displayName eq 'Helpdesk Administrator'")
        .await;
    assert_eq!(found["value"][0]["id"], HELPDESK);
    let shop = principal(&stage, SHOP).await;
    stage
        .configure(json!({"apps": [{"client_id": APP, "name": "Parapet",
        "secrets": [{"value": crate::stage::SECRET}], "permissions": PERMISSIONS}, {"client_id": SHOP}]}))
        .await;
    assert_eq!(assign(&stage, ROOT, HELPDESK).await.0, 403);
    assert_eq!(grant(&stage, &shop, ANN, BUYER).await.0, 403);
    assert_eq!(
        stage.control(Method::GET, &format!("/directories/{TENANT}/links"), &Value::Null).await["links"],
        json!([])
    );
}
