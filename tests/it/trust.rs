//! Who may call what between services, asked of the running services of a local stack.

use std::{collections::BTreeSet, error::Error as _, path::Path, time::Duration};

use parapet::{certs::service_name, servers::process::Program, stack::SERVICES};
use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, date_time_ymd};
use shared::wire::CALLERS;
use tonic::{
    Code, Request, Status,
    transport::{Certificate, ClientTlsConfig, Endpoint, Identity},
};
use tonic_prost::ProstCodec;

use crate::{
    service::free_address,
    stack::{Stack, all_ready},
};

/// What became of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Outcome {
    /// The handler had it, whatever it answered.
    Admitted,
    /// The list refused it.
    NotListed,
    /// There was no connection.
    NoConnection,
}

/// A service that answers, and how it is known.
struct Callee<'a> {
    service: &'a str,
    port: u16,
    ca: &'a str,
}

/// How long a method may take to begin its answer to an empty message.
const ANSWERS: Duration = Duration::from_mins(1);

/// Calls a method with an empty message.
async fn call(callee: &Callee<'_>, identity: Option<&Identity>, method: &str) -> Outcome {
    let mut tls = ClientTlsConfig::new()
        .ca_certificate(Certificate::from_pem(callee.ca))
        .domain_name(service_name(callee.service));
    if let Some(identity) = identity {
        tls = tls.identity(identity.clone());
    }
    let endpoint = Endpoint::from_shared(format!("https://127.0.0.1:{}", callee.port)).unwrap();
    let Ok(channel) = endpoint.tls_config(tls).unwrap().connect().await else { return Outcome::NoConnection };
    let mut client = tonic::client::Grpc::new(channel);
    if client.ready().await.is_err() {
        return Outcome::NoConnection;
    }
    let path = format!("/{method}").parse().unwrap();
    // As a stream, whatever it is: its beginning tells whether the caller is admitted, and some never end.
    let call = client.server_streaming(Request::new(()), path, ProstCodec::<(), ()>::default());
    let answer: Result<tonic::Response<tonic::Streaming<()>>, Status> = tokio::time::timeout(ANSWERS, call)
        .await
        .unwrap_or_else(|_| panic!("{method} did not begin to answer within {ANSWERS:?}"));
    match answer {
        Err(status) if status.source().is_some() => Outcome::NoConnection,
        Err(status)
            if status.code() == Code::PermissionDenied
                && status.message() == "this service may not call that method" =>
        {
            Outcome::NotListed
        }
        _ => Outcome::Admitted,
    }
}

fn identity(dir: &Path, name: &str) -> Identity {
    let read = |file: String| std::fs::read(dir.join(file)).unwrap();
    Identity::from_pem(read(format!("{name}.pem")), read(format!("{name}-key.pem")))
}

/// A certificate of this authority, as the caller wants it.
fn made(
    authority: &Issuer<'_, KeyPair>,
    names: &[String],
    change: impl FnOnce(&mut CertificateParams),
) -> Identity {
    let mut params = CertificateParams::new(names.to_vec()).unwrap();
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    change(&mut params);
    let key = KeyPair::generate().unwrap();
    Identity::from_pem(params.signed_by(&key, authority).unwrap().pem(), key.serialize_pem())
}

/// The configuration of a service, as the stack wrote it.
fn configuration(stack: &Stack, service: &str) -> toml::Table {
    let file = stack.data().join("config").join(format!("{service}.toml"));
    std::fs::read_to_string(file).unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn each_method_between_services_admits_exactly_the_services_that_it_names() {
    let stack = Stack::new();
    let supervisor = stack.up();
    stack.until("the stack comes up", all_ready).await;
    let dir = stack.data().join("tls");
    let ca = std::fs::read_to_string(dir.join("ca.pem")).unwrap();
    let key = KeyPair::from_pem(&std::fs::read_to_string(dir.join("ca-key.pem")).unwrap()).unwrap();
    let authority = Issuer::from_ca_cert_pem(&ca, key).unwrap();
    let mut other = CertificateParams::default();
    other.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let other = Issuer::new(other, KeyPair::generate().unwrap());

    let api = [service_name("integration-api")];
    let mut callers: Vec<(&str, Option<Identity>)> =
        SERVICES.iter().map(|service| (service.name, Some(identity(&dir, service.name)))).collect();
    callers.push(("without a certificate", None));
    callers.push(("of another authority", Some(made(&other, &api, |_| ()))));
    let expired = made(&authority, &api, |params| {
        (params.not_before, params.not_after) = (date_time_ymd(2020, 1, 1), date_time_ymd(2020, 2, 1));
    });
    callers.push(("expired", Some(expired)));
    let common_name =
        made(&authority, &[], |params| params.distinguished_name.push(DnType::CommonName, &api[0]));
    callers.push(("by its common name only", Some(common_name)));
    // The same certificate with its name where it belongs is admitted: nothing else is wrong with those above.
    callers.push(("integration-api", Some(made(&authority, &api, |_| ()))));

    let mut seen = BTreeSet::new();
    for service in &SERVICES {
        let port = port_of(&configuration(&stack, service.name));
        let callee = Callee { service: service.name, port, ca: &ca };
        for (method, named) in
            CALLERS.iter().filter(|(method, _)| service.serves.contains(&method.split('/').next().unwrap()))
        {
            seen.insert(*method);
            for (caller, identity) in &callers {
                let expected = match *caller {
                    caller if named.contains(&caller) => Outcome::Admitted,
                    "without a certificate" | "of another authority" | "expired" => Outcome::NoConnection,
                    _ => Outcome::NotListed,
                };
                assert_eq!(
                    call(&callee, identity.as_ref(), method).await,
                    expected,
                    "{caller} calls {method}"
                );
            }
        }
    }
    assert_eq!(seen.len(), CALLERS.len(), "a method is served by none of the services");

    // Negative control: one with a wider list admits what the others do not, in that method only.
    let (verify, search) =
        ("parapet.internal.v1.AuditQueryService/Verify", "parapet.internal.v1.AuditQueryService/Search");
    let (grpc, http) = (free_address(), free_address());
    let mut wider = configuration(&stack, "audit-writer");
    let common = wider["common"].as_table_mut().unwrap();
    common["http"]["listen"] = http.to_string().into();
    common["grpc"]["listen"] = grpc.to_string().into();
    let listed = common["grpc"]["allow"][verify].as_array_mut().unwrap();
    listed.push(service_name("credential-validator").into());
    let file = stack.data().join("wider.toml");
    std::fs::write(&file, wider.to_string()).unwrap();
    let replica = Program::new("audit-writer", e2e::program("audit-writer"), stack.data().join("wider.log"))
        .args(["--config".into(), file.into_os_string()])
        .spawn()
        .unwrap();
    let callee = Callee { service: "audit-writer", port: grpc.port(), ca: &ca };
    let validator = identity(&dir, "credential-validator");
    e2e::until("it answers", || async { call(&callee, Some(&validator), verify).await == Outcome::Admitted })
        .await;
    assert_eq!(call(&callee, Some(&validator), search).await, Outcome::NotListed);
    replica.signal(rustix::process::Signal::TERM);
    replica.wait().await;

    assert!(stack.parapet(&["down"]).status.success());
    supervisor.wait().await;
    assert!(stack.parapet(&["clean"]).status.success());
}

fn port_of(configuration: &toml::Table) -> u16 {
    let listen = configuration["common"]["grpc"]["listen"].as_str().unwrap();
    listen.rsplit(':').next().unwrap().parse().unwrap()
}
