//! The services of the local stack and the configuration file each is given.

use anyhow::Context as _;
use serde_json::{Value, json};
use shared::outbox::OUTBOUND_EXCHANGE;
use shared::queue::declare_topology;
use shared::sealing::Purpose;
use shared::wire::CALLERS;

use super::{DATABASE, Options, VHOST};
use crate::certs::{Certificates, service_name};
use crate::data::DataDir;
use crate::servers::{Permissions, RabbitMq, write_private};
use crate::{issuer, keys};

/// How long a service may drain; the supervisor waits a little longer.
const SERVICE_GRACE_SECONDS: u64 = 20;

/// One of the five services, as the stack sees it.
#[derive(Debug)]
pub struct Service {
    /// Its name: binary, certificate, broker user.
    pub name: &'static str,
    /// Its database role.
    pub role: &'static str,
    /// The queues it consumes.
    pub consumes: &'static [&'static str],
    /// Whether it writes outbound events.
    pub outbound: bool,
    /// The sealing purposes whose top key it is given (design §2: may open secrets).
    pub opens: &'static [Purpose],
    /// Whether it talks to the directories.
    pub egress: bool,
    /// The gRPC services that others may call on it, with their certificate.
    pub serves: &'static [&'static str],
    /// The services it calls.
    pub calls: &'static [&'static str],
}

/// The five services, the ones that others call first.
pub const SERVICES: [Service; 5] = [
    Service {
        name: "audit-writer",
        role: "parapet_audit",
        consumes: &["audit.recorded"],
        outbound: false,
        opens: &[],
        egress: false,
        serves: &["parapet.internal.v1.AuditQueryService"],
        calls: &[],
    },
    Service {
        name: "identity-sync-worker",
        role: "parapet_sync",
        consumes: &["sync.requested"],
        outbound: false,
        opens: &[Purpose::Integration],
        egress: true,
        serves: &["parapet.internal.v1.DirectoryService", "parapet.internal.v1.RemovalService"],
        calls: &[],
    },
    Service {
        name: "mitigation-executor",
        role: "parapet_mitigation",
        consumes: &["mitigation.requested", "mitigation.due"],
        outbound: true,
        opens: &[Purpose::Integration],
        egress: true,
        serves: &["parapet.internal.v1.ContainmentService"],
        calls: &[],
    },
    Service {
        name: "credential-validator",
        role: "parapet_validator",
        consumes: &[
            "feed.batch_received",
            "validation.requested",
            "validation.due",
            "identifiers.changed",
            "accounts.changed",
        ],
        outbound: true,
        opens: &[Purpose::Integration, Purpose::Leak],
        egress: true,
        serves: &[],
        calls: &[],
    },
    Service {
        name: "integration-api",
        role: "parapet_api",
        consumes: &["integration.observed"],
        outbound: false,
        opens: &[],
        egress: false,
        serves: &[],
        calls: &["identity-sync-worker", "mitigation-executor", "audit-writer"],
    },
];

impl Service {
    /// What its broker user may do: read its queues, publish to any, and to the exchange for outbound events if it writes
    /// these; declare nothing (reliability §2.13).
    pub fn permissions(&self) -> Permissions {
        let exact = |names: &[&str]| format!("^({})$", names.join("|").replace('.', r"\."));
        let exchanges: &[_] =
            if self.outbound { &["amq.default", OUTBOUND_EXCHANGE] } else { &["amq.default"] };
        Permissions { configure: "^$".into(), write: exact(exchanges), read: exact(self.consumes) }
    }

    /// The file with its database password.
    pub fn database_password(&self, data: &DataDir) -> std::path::PathBuf {
        data.secret(&format!("{}-database", self.name))
    }

    /// The file with its broker password.
    pub fn broker_password(&self, data: &DataDir) -> std::path::PathBuf {
        data.secret(&format!("{}-broker", self.name))
    }
}

/// Where everything of one stack listens.
#[derive(Debug, Clone, Copy)]
pub struct Ports([u16; Self::COUNT]);

impl Ports {
    /// How many ports a stack needs, without its servers: three of its helpers, two of each service.
    pub const COUNT: usize = 3 + 2 * SERVICES.len();

    /// Deals them out.
    pub fn new(ports: [u16; Self::COUNT]) -> Self {
        Self(ports)
    }

    /// The token issuer.
    pub fn issuer(&self) -> u16 {
        self.0[0]
    }

    /// The simulator, HTTPS.
    pub fn simulator(&self) -> u16 {
        self.0[1]
    }

    /// The simulator's control port.
    pub fn control(&self) -> u16 {
        self.0[2]
    }

    /// The gRPC port of a service.
    pub fn grpc(&self, service: &str) -> u16 {
        self.of(service, 0)
    }

    /// The plain HTTP port of a service: health and metrics.
    pub fn http(&self, service: &str) -> u16 {
        self.of(service, 1)
    }

    fn of(&self, service: &str, which: usize) -> u16 {
        let place = SERVICES.iter().position(|known| known.name == service).unwrap_or_default();
        self.0.get(3 + 2 * place + which).copied().unwrap_or_default()
    }
}

/// Everything a configuration is made of.
#[derive(Debug)]
pub struct Installation<'a> {
    /// The directory.
    pub data: &'a DataDir,
    /// The ports.
    pub ports: Ports,
    /// The certificates.
    pub certificates: &'a Certificates,
    /// The database server's port.
    pub postgres: u16,
    /// The broker's port.
    pub rabbitmq: u16,
    /// Where spans go; None: nowhere.
    pub spans: Option<u16>,
    /// What differs from what everybody gets.
    pub options: &'a Options,
}

impl Installation<'_> {
    /// Writes each service's configuration file.
    pub fn write_all(&self) -> anyhow::Result<()> {
        for service in &SERVICES {
            let text =
                toml::to_string(&self.configuration(service)).context("cannot write a configuration")?;
            let head = "# Written by `parapet up` at each start; changes go into the environment, PARAPET__SECTION__FIELD.\n";
            write_private(&self.data.config(service.name), format!("{head}{text}").as_bytes())?;
        }
        Ok(())
    }

    fn configuration(&self, service: &Service) -> Value {
        let mut all = serde_json::Map::from_iter([("common".to_owned(), self.common(service))]);
        let mut keys: serde_json::Map<String, Value> = service
            .opens
            .iter()
            .map(|purpose| (purpose.as_str().to_owned(), json!(keys::top_key(self.data, *purpose))))
            .collect();
        match service.name {
            "credential-validator" => {
                keys.insert("digest".into(), json!(keys::digest_key(self.data)));
            }
            "mitigation-executor" if !self.options.check_after_seconds.is_empty() => {
                let checks = json!({ "check_after_seconds": self.options.check_after_seconds });
                all.insert("executor".into(), checks);
            }
            "audit-writer" => {
                all.insert("checkpoint".into(), json!({ "key_file": keys::checkpoint_key(self.data) }));
            }
            "integration-api" => {
                let files = self.certificates.of(service.name);
                keys.insert(
                    "integration_verifier".into(),
                    json!(keys::verifier(self.data, Purpose::Integration)),
                );
                keys.insert("leak_verifier".into(), json!(keys::verifier(self.data, Purpose::Leak)));
                all.insert(
                    "api".into(),
                    json!({
                        "public_url": format!("http://{}", local(self.ports.http(service.name))),
                        "tls": { "cert_file": files.cert, "key_file": files.key },
                    }),
                );
                let issuer = issuer::url(self.ports.issuer());
                all.insert("oidc".into(), json!({ "issuer": issuer, "audience": issuer::AUDIENCE }));
            }
            _ => {}
        }
        if !keys.is_empty() {
            all.insert("keys".into(), Value::Object(keys));
        }
        if service.egress && !self.options.real_providers {
            all.insert("idp".into(), self.egress());
        }
        Value::Object(all)
    }

    /// The providers' real names, answered by the simulator (design §9).
    fn egress(&self) -> Value {
        let address = local(self.ports.simulator());
        let resolve: Vec<Value> = ["login.microsoftonline.com", "graph.microsoft.com", "okta.com"]
            .into_iter()
            .map(|suffix| json!({ "suffix": suffix, "address": address }))
            .collect();
        json!({ "extra_ca": self.certificates.ca(), "resolve": resolve })
    }

    fn common(&self, service: &Service) -> Value {
        let files = self.certificates.of(service.name);
        let peers: serde_json::Map<String, Value> = service
            .calls
            .iter()
            .map(|peer| {
                let address = format!("https://127.0.0.1:{}", self.ports.grpc(peer));
                ((*peer).to_owned(), json!({ "address": address, "server_name": service_name(peer) }))
            })
            .collect();
        // Exactly what the product needs: each method, and who calls it.
        let allow: serde_json::Map<String, Value> = CALLERS
            .iter()
            .filter(|(method, _)| {
                service.serves.iter().any(|served| method.split('/').next() == Some(served))
            })
            .map(|(method, callers)| {
                let callers: Vec<String> = callers.iter().map(|caller| service_name(caller)).collect();
                ((*method).to_owned(), json!(callers))
            })
            .collect();
        let telemetry = match self.spans {
            Some(port) => {
                json!({ "log": "info", "format": "text", "otlp_endpoint": format!("http://{}", local(port)) })
            }
            None => json!({ "log": "info", "format": "text" }),
        };
        json!({
            "database": {
                "host": "127.0.0.1",
                "port": self.postgres,
                "database": DATABASE,
                "user": service.role,
                "password_file": service.database_password(self.data),
                "tls": "verify-full",
                "ca_file": self.certificates.ca(),
            },
            "broker": {
                "host": "127.0.0.1",
                "port": self.rabbitmq,
                "vhost": VHOST,
                "user": service.name,
                "password_file": service.broker_password(self.data),
                "tls": true,
                "ca_file": self.certificates.ca(),
            },
            "telemetry": telemetry,
            "http": { "listen": local(self.ports.http(service.name)) },
            "grpc": { "listen": local(self.ports.grpc(service.name)), "allow": allow, "reflection": true },
            "tls": { "cert_file": files.cert, "key_file": files.key, "ca_file": self.certificates.ca() },
            "peers": peers,
            "lifecycle": { "grace_seconds": SERVICE_GRACE_SECONDS },
        })
    }
}

fn local(port: u16) -> String {
    format!("127.0.0.1:{port}")
}

/// Declares queues and exchange, as the administrator: services may declare nothing.
pub async fn declare_queues(rabbitmq: &RabbitMq, vhost: &str) -> anyhow::Result<()> {
    declare_topology(&rabbitmq.administrator(vhost)).await.context("cannot declare the queues")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn configurations(mut check: impl FnMut(&Service, &Value)) {
        let dir = tempfile::tempdir().unwrap();
        let data = DataDir::find(Some(dir.path())).unwrap();
        let certificates = Certificates::prepare(dir.path(), &SERVICES.map(|service| service.name)).unwrap();
        let ports = Ports::new(std::array::from_fn(|place| 1000 + u16::try_from(place).unwrap()));
        let installation = Installation {
            data: &data,
            ports,
            certificates: &certificates,
            postgres: 1,
            rabbitmq: 2,
            spans: None,
            options: &Options { check_after_seconds: vec![0, 20], ..Options::default() },
        };
        for service in &SERVICES {
            check(service, &installation.configuration(service));
        }
    }

    #[test]
    fn only_services_that_may_open_a_purpose_are_given_its_top_key() {
        configurations(|service, configuration| {
            let text = configuration.to_string();
            for purpose in [Purpose::Integration, Purpose::Leak] {
                let given = text.contains(&format!("/{}.key\"", purpose.as_str()));
                assert_eq!(given, service.opens.contains(&purpose), "{} {}", service.name, purpose.as_str());
            }
        });
    }

    #[test]
    fn the_executor_alone_is_told_when_to_look_again() {
        configurations(|service, configuration| {
            let told = configuration.get("executor").map(|executor| &executor["check_after_seconds"]);
            let expected = json!([0, 20]);
            assert_eq!(
                told,
                (service.name == "mitigation-executor").then_some(&expected),
                "{}",
                service.name
            );
        });
    }

    #[test]
    fn a_service_admits_to_each_method_exactly_those_that_call_it() {
        let mut listed = 0;
        configurations(|service, configuration| {
            let allow = configuration["common"]["grpc"]["allow"].as_object().unwrap();
            for (method, callers) in allow {
                let names: Vec<String> = SERVICES
                    .iter()
                    .filter(|caller| caller.calls.contains(&service.name))
                    .map(|caller| service_name(caller.name))
                    .collect();
                assert_eq!(callers, &json!(names), "{method}");
                assert!(service.serves.contains(&method.split('/').next().unwrap()), "{method}");
            }
            listed += allow.len();
        });
        assert_eq!(listed, CALLERS.len(), "every method between services is served by one of them");
    }

    #[test]
    fn no_service_is_told_to_speak_in_clear() {
        configurations(|service, configuration| {
            let common = &configuration["common"];
            assert_eq!(common["database"]["tls"], "verify-full", "{}", service.name);
            assert_eq!(common["broker"]["tls"], true, "{}", service.name);
        });
    }

    #[test]
    fn no_two_listeners_share_a_port() {
        let ports = Ports::new(std::array::from_fn(|place| u16::try_from(place).unwrap()));
        let mut all = vec![ports.issuer(), ports.simulator(), ports.control()];
        all.extend(SERVICES.iter().flat_map(|service| [ports.grpc(service.name), ports.http(service.name)]));
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), Ports::COUNT);
    }

    #[test]
    fn a_broker_user_reads_its_queues_and_declares_nothing() {
        for service in &SERVICES {
            let Permissions { configure, write, read } = service.permissions();
            let tells = matches!(service.name, "credential-validator" | "mitigation-executor");
            let writes = if tells { r"^(amq\.default|parapet\.outbound)$" } else { r"^(amq\.default)$" };
            assert_eq!((configure.as_str(), write.as_str()), ("^$", writes), "{}", service.name);
            assert!(read.contains(&service.consumes[0].replace('.', r"\.")));
        }
    }

    #[test]
    fn the_chart_admits_exactly_the_callers_that_the_protos_name() {
        let chart: std::collections::BTreeMap<String, Vec<String>> =
            serde_json::from_str(include_str!("../../../../deploy/chart/files/callers.json")).unwrap();
        let protos = CALLERS.iter().map(|(method, callers)| {
            ((*method).to_owned(), callers.iter().map(|caller| (*caller).to_owned()).collect())
        });
        assert_eq!(chart, protos.collect());
    }

    #[test]
    fn the_example_of_a_broker_permits_what_the_services_need() {
        let example = include_str!("../../../../deploy/operators/rabbitmq.yaml");
        for service in &SERVICES {
            let Permissions { configure, write, read } = service.permissions();
            let permission =
                format!("    configure: '{configure}'\n    write: '{write}'\n    read: '{read}'\n");
            let after = example.split(&format!("name: parapet-{}\n", service.name)).nth(2).unwrap();
            assert!(after.contains(&permission), "{}: {permission}", service.name);
        }
    }

    #[test]
    fn every_queue_has_exactly_one_consuming_service() {
        for topic in shared::outbox::Topic::ALL {
            let consumers =
                SERVICES.iter().filter(|service| service.consumes.contains(&topic.as_str())).count();
            assert_eq!(consumers, 1, "{}", topic.as_str());
        }
    }
}
