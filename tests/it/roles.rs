//! Which role may call what: every RPC of the public API, asked with every role, against a table written by hand.

use std::collections::{BTreeMap, BTreeSet};

use prost_reflect::{DescriptorPool, DynamicMessage, ExtensionDescriptor, MethodDescriptor, Value};
use shared::wire::{self, v1};
use tonic::{Code, Request, Status, client::Grpc};
use tonic_prost::ProstCodec;

use crate::{
    api::reason,
    api_stage::{Api, Stage},
};

const ROLES: [&str; 8] =
    ["org_admin", "tenant_admin", "analyst", "viewer", "auditor", "feed_writer", "operator", "approver"];

const READERS: &str = "viewer analyst tenant_admin org_admin";
const ANALYSTS: &str = "analyst tenant_admin org_admin";
const ADMINS: &str = "tenant_admin org_admin";
const OPERATOR: &str = "operator";

/// Who may call what, by hand: service, RPCs, and the roles each of which is enough. A role in brackets is enough only
/// together with the right of an approver.
///
/// An RPC that is not here fails the test: whoever adds one decides here, a second time, who may call it.
const MATRIX: &[(&str, &str, &str)] = &[
    (
        "IntegrationService",
        "ListProviders GetIntegration ListIntegrations GetOverview ListDailyMaxRequests WatchSync",
        READERS,
    ),
    ("IntegrationService", "CreateIntegration PrepareDeletion DeleteIntegration", "org_admin"),
    (
        "IntegrationService",
        "UpdateIntegration TestIntegration PreviewScope EnableIntegration DisableIntegration RequestDailyMax RotateClientKey StartSync",
        ADMINS,
    ),
    ("IntegrationService", "ApproveDailyMax", "(tenant_admin) (org_admin)"),
    ("IntegrationService", "DeclineDailyMax", "tenant_admin org_admin approver"),
    ("IdentityService", "ListIdentities GetIdentity", READERS),
    ("ExposureService", "ListExposures GetExposure", READERS),
    ("ExposureService", "IngestFeedRecords", "feed_writer"),
    (
        "ValidationService",
        "GetValidation ListValidations GetTriageStatistics GetAttemptBudget ListAttemptStops",
        READERS,
    ),
    (
        "ValidationService",
        "Validate BulkValidate PauseValidation ResumeValidation CancelValidation StopAttempts",
        ANALYSTS,
    ),
    ("ValidationService", "ResumeAttempts", ADMINS),
    (
        "MitigationService",
        "PlanMitigation GetMitigationProgress ListPendingApprovals GetPolicy SimulatePolicy GetMitigation ListMitigations",
        READERS,
    ),
    ("MitigationService", "RequestMitigation BulkMitigate CancelMitigation Undo", ANALYSTS),
    ("MitigationService", "Approve", "(viewer) (analyst) (tenant_admin) (org_admin)"),
    ("MitigationService", "Reject", "analyst tenant_admin org_admin approver"),
    ("MitigationService", "UpdatePolicy", ADMINS),
    ("RemovalService", "ListRemovalPlans GetRemovalPlan", READERS),
    ("RemovalService", "ApplyRemovalPlan DropRemovalPlan", ADMINS),
    (
        "AuditService",
        "SearchAuditEvents ListAuditEventTypes ExportAuditEvents TailAuditEvents VerifyAuditChain",
        "auditor operator",
    ),
    (
        "TenantService",
        "CreateOrganization CreateTenant UpdateTenantPackage UpdateTenantTimeZone ListOrganizations ListTenants \
         GetTenantUsage DeleteTenant",
        OPERATOR,
    ),
    ("TenantService", "GetOrganizationSettings UpdateOrganizationSettings", "org_admin operator"),
    ("KeyService", "RotateTopKey RotateKeyPair GetKeyStatus", OPERATOR),
    (
        "InstallationService",
        "StopAllAttempts ResumeAllAttempts GetAttemptGate CloseAttemptGate AuditAttempts",
        OPERATOR,
    ),
];

/// By path: what a token must carry, `analyst` or `analyst+approver`, any of these.
type Table = BTreeMap<String, BTreeSet<String>>;

fn by_hand() -> Table {
    let mut table = Table::new();
    for (service, methods, roles) in MATRIX {
        for method in methods.split_whitespace() {
            let roles = roles.split_whitespace().map(|role| match role.strip_prefix('(') {
                Some(role) => format!("{}+approver", role.trim_end_matches(')')),
                None => role.to_owned(),
            });
            let path = format!("/parapet.v1.{service}/{method}");
            assert!(table.insert(path, roles.collect()).is_none(), "{service}.{method} is there twice");
        }
    }
    table
}

fn by_option(methods: &[MethodDescriptor], option: &ExtensionDescriptor) -> Table {
    let name = |value: &Value| {
        v1::Role::try_from(value.as_enum_number().unwrap()).unwrap().as_str_name()[5..].to_lowercase()
    };
    let table = methods.iter().map(|method| {
        let options = method.options();
        let Value::Message(access) = options.get_extension(option).into_owned() else { panic!() };
        let any_of = access.get_field_by_name("any_of").unwrap();
        let right = name(&access.get_field_by_name("with_right").unwrap());
        let listed = any_of.as_list().unwrap().iter().map(name);
        (
            path(method),
            listed.map(|r| if right == "unspecified" { r } else { format!("{r}+{right}") }).collect(),
        )
    });
    table.collect()
}

/// What differs, in words.
fn differences(one: &Table, other: &Table) -> Vec<String> {
    let none = BTreeSet::new();
    let paths: BTreeSet<_> = one.keys().chain(other.keys()).collect();
    let pairs = paths.into_iter().map(|p| (p, one.get(p).unwrap_or(&none), other.get(p).unwrap_or(&none)));
    pairs
        .filter(|(_, one, other)| one != other)
        .map(|(p, one, other)| format!("{p}: {one:?}, {other:?}"))
        .collect()
}

fn public() -> (Vec<MethodDescriptor>, ExtensionDescriptor) {
    let pool = DescriptorPool::decode(wire::DESCRIPTORS).unwrap();
    let services = pool.services().filter(|s| s.full_name().starts_with("parapet.v1."));
    let methods = services.flat_map(|s| s.methods().collect::<Vec<_>>()).collect();
    (methods, pool.get_extension_by_name("parapet.v1.access").unwrap())
}

fn path(method: &MethodDescriptor) -> String {
    format!("/{}/{}", method.parent_service().full_name(), method.name())
}

/// Calls with an empty request; where a request decides which chain it is about, an operator means the installation's.
async fn call(api: Api, method: &MethodDescriptor, operator: bool) -> Status {
    let mut message = DynamicMessage::new(method.input());
    if operator && method.input().get_field_by_name("installation").is_some() {
        message.set_field_by_name("installation", Value::Bool(true));
    }
    let mut grpc = Grpc::new(api);
    grpc.ready().await.unwrap();
    let path = path(method).parse().unwrap();
    match grpc.unary(Request::new(message), path, ProstCodec::<DynamicMessage, ()>::default()).await {
        Ok(_) => Status::ok(""),
        Err(status) => status,
    }
}

/// Whether the call got past its role.
async fn passes(stage: &Stage, method: &MethodDescriptor, roles: &[&str]) -> bool {
    let status = call(stage.by("mallory", roles), method, roles.contains(&"operator")).await;
    let missing = reason(&status) == "ROLE_MISSING";
    assert!(!missing || status.code() == Code::PermissionDenied, "{}: {status}", path(method));
    assert!(missing || status.code() != Code::Unauthenticated, "{}: {status}", path(method));
    !missing
}

#[tokio::test(flavor = "multi_thread")]
async fn every_rpc_is_open_to_the_roles_of_the_table_and_to_nobody_else() {
    let stage = Stage::new().await;
    let (methods, option) = public();
    assert_eq!(differences(&by_hand(), &by_option(&methods, &option)), Vec::<String>::new());
    let mut seen = Table::new();
    for method in &methods {
        let status = call(stage.nobody(), method, false).await;
        assert_eq!((status.code(), reason(&status)), (Code::Unauthenticated, "TOKEN_MISSING".into()));
        assert!(!passes(&stage, method, &[]).await, "{} without a role", path(method));
        let mut open = BTreeSet::new();
        for role in ROLES {
            if passes(&stage, method, &[role]).await {
                open.insert(role.to_owned());
            } else if role != "approver" && !open.contains("approver") {
                // Only where the right beside the role is what was missing.
                let alone = passes(&stage, method, &["approver"]).await;
                if !alone && passes(&stage, method, &[role, "approver"]).await {
                    open.insert(format!("{role}+approver"));
                }
            }
        }
        seen.insert(path(method), open);
    }
    assert_eq!(differences(&by_hand(), &seen), Vec::<String>::new());
    assert!(seen.len() >= 60, "only {} RPCs", seen.len());
    stage.stop().await;
}

/// Negative control: a role too many, a role too few, a right forgotten, an RPC that nobody decided about.
#[test]
fn a_wrong_option_differs_from_the_table() {
    let right = by_hand();
    for (method, roles) in [
        ("IntegrationService/DeleteIntegration", "org_admin tenant_admin"),
        ("MitigationService/Undo", "analyst org_admin"),
        ("MitigationService/Approve", "viewer analyst tenant_admin org_admin"),
        ("ExposureService/NewRpc", "viewer"),
    ] {
        let mut wrong = right.clone();
        let path = format!("/parapet.v1.{method}");
        wrong.insert(path.clone(), roles.split_whitespace().map(str::to_owned).collect());
        let found = differences(&right, &wrong);
        assert!(found.len() == 1 && found[0].starts_with(&path), "{found:?}");
    }
}

/// The messages that a message leads to, itself among them.
fn reachable(message: &prost_reflect::MessageDescriptor, found: &mut BTreeSet<String>) {
    if found.insert(message.full_name().to_owned()) {
        for field in message.fields() {
            if let prost_reflect::Kind::Message(inner) = field.kind() {
                reachable(&inner, found);
            }
        }
    }
}

#[test]
fn no_answer_has_a_place_for_a_secret() {
    const SECRETS: [&str; 4] = ["IntegrationCredentials", "EntraCredentials", "FeedRecord", "SecretHash"];
    let (mut asked, mut answered) = (BTreeSet::new(), BTreeSet::new());
    for method in public().0 {
        reachable(&method.input(), &mut asked);
        reachable(&method.output(), &mut answered);
    }
    for secret in SECRETS.map(|name| format!("parapet.v1.{name}")) {
        assert!(asked.contains(&secret), "{secret}: control");
        assert!(!answered.contains(&secret), "{secret} can be read");
    }
}

#[test]
fn no_request_that_works_on_a_tenant_has_a_place_to_name_one() {
    let (methods, option) = public();
    let mut on_installation = 0;
    for method in methods {
        let options = method.options();
        let Value::Message(access) = options.get_extension(&option).into_owned() else { panic!() };
        let names = method.input().fields().any(|f| matches!(f.name(), "tenant_id" | "organization_id"));
        if access.get_field_by_name("installation").unwrap().as_bool() == Some(true) {
            on_installation += usize::from(names);
        } else {
            assert!(!names, "{}: the tenant comes from the token", path(&method));
        }
    }
    assert!(on_installation > 0, "control");
}
