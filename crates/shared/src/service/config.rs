//! Typed configuration: a file, then the environment; every fault in one message.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::{self, Write as _},
    net::SocketAddr,
    path::{Path, PathBuf},
};

use config::{Environment, File, Value, ValueKind};
use serde::{Deserialize, de::DeserializeOwned};

use super::{check, telemetry::TelemetryConfig};
use crate::{db::DatabaseConfig, queue::BrokerConfig, tls::Files};

/// What every service is configured with, under `[common]`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Common {
    /// PostgreSQL.
    pub database: DatabaseConfig,
    /// RabbitMQ.
    pub broker: BrokerConfig,
    /// Logs and traces.
    pub telemetry: TelemetryConfig,
    /// The plain port.
    pub http: HttpConfig,
    /// The port other services call.
    pub grpc: ListenConfig,
    /// This service's certificate and whom it trusts, for calls between services.
    pub tls: Option<TlsFiles>,
    /// The services this one calls, by name.
    pub peers: BTreeMap<String, PeerConfig>,
    /// Stopping.
    pub lifecycle: LifecycleConfig,
}

/// The plain port with `/livez`, `/readyz` and `/metrics`.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HttpConfig {
    /// Address; port 0 takes a free one.
    pub listen: SocketAddr,
}

impl Default for HttpConfig {
    fn default() -> Self {
        Self { listen: SocketAddr::from(([127, 0, 0, 1], 0)) }
    }
}

/// A gRPC port.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ListenConfig {
    /// Address; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Which peers may call which method (`package.Service/Method`) or, where that has no list, any method of which
    /// service (`package.Service`), by the DNS names in their certificates. What is not listed is closed. The product
    /// needs [`crate::wire::CALLERS`]. Not used on the public port, where callers present tokens.
    pub allow: BTreeMap<String, Vec<String>>,
    /// Whether tools may ask for the protos.
    pub reflection: bool,
    /// Most calls at once per connection; more wait at the caller.
    pub calls_per_connection: usize,
    /// Most calls at once on the port; more are turned away with a hint when to come again.
    pub calls_at_once: usize,
    /// Longest time until a call starts its answer, in seconds: the deadline of every call that brings none, or a later one.
    pub timeout_seconds: u64,
}

impl Default for ListenConfig {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            allow: BTreeMap::new(),
            reflection: false,
            calls_per_connection: 256,
            calls_at_once: 1024,
            timeout_seconds: 30,
        }
    }
}

/// Certificate, key and authorities of one party (PEM files).
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TlsFiles {
    /// Certificate chain.
    pub cert_file: PathBuf,
    /// Private key.
    pub key_file: PathBuf,
    /// Authorities whose certificates are accepted from the other side.
    pub ca_file: PathBuf,
}

impl TlsFiles {
    /// As files to be watched.
    pub(crate) fn all(&self) -> Files {
        Files {
            own: Some((self.cert_file.clone(), self.key_file.clone())),
            authorities: Some(self.ca_file.clone()),
            optional: false,
        }
    }
}

/// A service that is called.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PeerConfig {
    /// `https://host:port`.
    pub address: String,
    /// Name its certificate must carry; the address's host when absent.
    #[serde(default)]
    pub server_name: Option<String>,
}

/// Stopping.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LifecycleConfig {
    /// Seconds the tasks have to end; then the process ends anyhow, with a failure.
    pub grace_seconds: u64,
    /// Seconds between saying "not ready" and refusing new connections, so that callers notice first.
    pub drain_seconds: u64,
}

impl Default for LifecycleConfig {
    fn default() -> Self {
        Self { grace_seconds: 60, drain_seconds: 0 }
    }
}

/// Configuration of one service.
///
/// Give every struct `#[serde(default, deny_unknown_fields)]` and leave what is required empty: [`load`] then finds
/// every fault of a file at once, and `check` reports what is missing.
pub trait Configuration: DeserializeOwned {
    /// The common part.
    fn common(&self) -> &Common;
    /// Adds the faults of the service's own part.
    fn check(&self, _faults: &mut Faults) {}
}

/// Everything that is wrong with a configuration.
#[derive(Debug, Default)]
pub struct Faults {
    found: Vec<(String, String)>,
    paths: BTreeSet<String>,
}

impl Faults {
    /// A fault of one field, named by its path: `common.database.host`. The first one of a field counts.
    pub fn add(&mut self, path: impl Into<String>, fault: impl Into<String>) {
        let path = path.into();
        if self.paths.insert(path.clone()) {
            self.found.push((path, fault.into()));
        }
    }

    /// A fault unless the condition holds.
    pub fn require(&mut self, holds: bool, path: &str, fault: &str) {
        if !holds {
            self.add(path, fault);
        }
    }

    /// A fault unless this is a file that can be read.
    pub fn require_file(&mut self, file: &Path, path: &str) {
        if file.as_os_str().is_empty() {
            self.add(path, "is required: the path of a file");
        } else if let Err(error) = std::fs::File::open(file) {
            self.add(path, format!("cannot read {}: {error}", file.display()));
        }
    }
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the configuration has {} fault(s):", self.found.len())?;
        self.found.iter().try_for_each(|(path, fault)| write!(f, "\n  {path}: {fault}"))
    }
}

impl std::error::Error for Faults {}

/// Reads the file, if there is one, and then the variables `PARAPET__SECTION__FIELD`, which win.
pub fn load<C: Configuration>(file: Option<&Path>) -> Result<C, Faults> {
    load_from(file, None)
}

fn load_from<C: Configuration>(
    file: Option<&Path>,
    variables: Option<std::collections::HashMap<String, String>>,
) -> Result<C, Faults> {
    let mut faults = Faults::default();
    let mut builder = config::Config::builder();
    if let Some(file) = file {
        builder = builder.add_source(File::from(file));
    }
    let environment =
        Environment::with_prefix("PARAPET").prefix_separator("__").separator("__").source(variables);
    let tree = builder.add_source(environment).build().and_then(config::Config::try_deserialize::<Value>);
    let mut tree = match tree {
        Ok(tree) => tree,
        Err(error) => {
            faults.add("file", error.to_string());
            return Err(faults);
        }
    };
    // A value that does not fit is noted and taken out, so that the next one is found too.
    let read: Option<C> = loop {
        match serde_path_to_error::deserialize::<_, C>(tree.clone()) {
            Ok(config) => break Some(config),
            Err(error) => {
                let (path, fault) = located(&error);
                let removed = remove(&mut tree, &path);
                faults.add(path, fault);
                if !removed {
                    break None;
                }
            }
        }
    };
    let Some(config) = read else { return Err(faults) };
    check::common(config.common(), &mut faults);
    config.check(&mut faults);
    if faults.found.is_empty() { Ok(config) } else { Err(faults) }
}

// serde names the table of an unknown field; the field itself is in the text.
fn located(error: &serde_path_to_error::Error<config::ConfigError>) -> (String, String) {
    let path = error.path().to_string();
    let text = match error.inner() {
        config::ConfigError::At { error, .. } => error.to_string(),
        other => other.to_string(),
    };
    let path = if path == "." { String::new() } else { path };
    let path = match text.strip_prefix("unknown field `").and_then(|rest| rest.split('`').next()) {
        Some(field) if path.rsplit('.').next() != Some(field) => {
            if path.is_empty() {
                field.to_owned()
            } else {
                format!("{path}.{field}")
            }
        }
        _ => path,
    };
    (path, text)
}

fn remove(tree: &mut Value, path: &str) -> bool {
    let Some((first, rest)) = path.split_once('.').map_or(Some((path, None)), |(a, b)| Some((a, Some(b))))
    else {
        return false;
    };
    // A path into a list names its place, `allow.x[0]`: the whole list goes.
    let name = first.split('[').next().unwrap_or(first);
    let ValueKind::Table(table) = &mut tree.kind else { return false };
    match rest {
        Some(rest) if !first.contains('[') => table.get_mut(name).is_some_and(|inner| remove(inner, rest)),
        _ => table.remove(name).is_some(),
    }
}

/// Reads `--config FILE` and the environment. None: the command line asked for help or a check and got it.
pub(super) fn from_command_line<C: Configuration>(name: &str) -> anyhow::Result<Option<C>> {
    let (mut file, mut check) = (None, false);
    let mut arguments = std::env::args_os().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.to_str() {
            Some("--config") => file = Some(PathBuf::from(arguments.next().ok_or_else(|| usage(name))?)),
            Some("--check-config") => check = true,
            Some("--help" | "-h") => {
                println!("{}", usage(name));
                return Ok(None);
            }
            Some("--version" | "-V") => {
                println!("{name} {}", env!("CARGO_PKG_VERSION"));
                return Ok(None);
            }
            _ => return Err(usage(name)),
        }
    }
    let config = load(file.as_deref())?;
    if check {
        println!("the configuration is good");
        return Ok(None);
    }
    Ok(Some(config))
}

fn usage(name: &str) -> anyhow::Error {
    let mut text = String::new();
    for line in [
        format_args!("usage: {name} [--config FILE] [--check-config]"),
        format_args!("  --config FILE    TOML, YAML or JSON; variables PARAPET__SECTION__FIELD win over it"),
        format_args!("  --check-config   say what is wrong with the configuration and leave"),
    ] {
        let _infallible = writeln!(text, "{line}");
    }
    anyhow::Error::msg(text.trim_end().to_owned())
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    #[derive(Debug, Default, Deserialize)]
    #[serde(default, deny_unknown_fields)]
    struct Example {
        common: Common,
        worker: Worker,
    }

    #[derive(Debug, Default, Deserialize)]
    #[serde(default, deny_unknown_fields)]
    struct Worker {
        threads: u16,
        ratio: f64,
        names: Vec<String>,
    }

    impl Configuration for Example {
        fn common(&self) -> &Common {
            &self.common
        }
        fn check(&self, faults: &mut Faults) {
            faults.require(self.worker.threads > 0, "worker.threads", "must not be 0");
        }
    }

    fn written(text: &str) -> tempfile::NamedTempFile {
        let file = tempfile::Builder::new().suffix(".toml").tempfile().unwrap();
        std::fs::write(file.path(), text).unwrap();
        file
    }

    const GOOD: &str = r#"
        worker.threads = 2
        [common.database]
        host = "db"
        tls = "verify-full"
        database = "parapet"
        user = "parapet_api"
        [common.broker]
        host = "mq"
        tls = true
        user = "api"
        password_file = "/etc/hostname"
    "#;

    #[test]
    fn the_environment_wins_over_the_file() {
        let file = written(GOOD);
        let variables = HashMap::from([
            ("PARAPET__COMMON__DATABASE__PORT".to_owned(), "6000".to_owned()),
            ("PARAPET__COMMON__DATABASE__HOST".to_owned(), "other".to_owned()),
        ]);
        let config: Example = load_from(Some(file.path()), Some(variables)).unwrap();
        assert_eq!((config.common.database.host.as_str(), config.common.database.port), ("other", 6000));
        assert_eq!(config.worker.threads, 2);
    }

    #[test]
    fn every_fault_is_in_one_message() {
        let file = written(
            r#"
            [common.database]
            port = "many"
            hots = "db"
            [common.broker]
            heartbeat_seconds = 1
            password_file = "/nowhere/at/all"
            [worker]
            threads = -1
            names = [1, [2]]
            [wrong]
            x = 1
            "#,
        );
        let text = load_from::<Example>(Some(file.path()), Some(HashMap::new())).unwrap_err().to_string();
        for path in [
            "common.database.port:",
            "common.database.hots:",
            "common.database.host:",
            "common.database.user:",
            "common.broker.heartbeat_seconds:",
            "common.broker.password_file: cannot read",
            "worker.threads:",
            "worker.names",
            "wrong:",
        ] {
            assert!(text.contains(path), "{path} is not in:\n{text}");
        }
    }

    #[test]
    fn a_server_on_another_machine_without_tls_and_half_a_certificate_are_refused() {
        let said = |text: &str| load_from::<Example>(Some(written(text).path()), Some(HashMap::new()));
        let clear = GOOD.replace("tls = ", "#");
        let text = said(&clear).unwrap_err().to_string();
        for field in ["common.database.tls: must be", "common.broker.tls: must be"] {
            assert!(text.contains(field), "{field} is not in:\n{text}");
        }
        said(&clear.replace("\"db\"", "\"127.0.0.1\"").replace("\"mq\"", "\"::1\"")).unwrap();
        said(&clear.replace("\"db\"", "\"/run/postgresql\"").replace("\"mq\"", "\"localhost\"")).unwrap();
        let half = format!("{GOOD}\ncert_file = \"/etc/hostname\"");
        let text = said(&half).unwrap_err().to_string();
        assert!(text.contains("common.broker.key_file: is required"), "{text}");
    }

    #[test]
    fn an_allow_list_for_what_no_proto_knows_is_refused() {
        let known = "parapet.internal.v1.AuditQueryService";
        let listed = |name: &str| {
            let file = written(&format!("{GOOD}\n[common.grpc.allow]\n\"{name}\" = [\"a\"]"));
            load_from::<Example>(Some(file.path()), Some(HashMap::new()))
        };
        listed(known).unwrap();
        listed(&format!("{known}/Search")).unwrap();
        let text = listed(&format!("{known}/Serach")).unwrap_err().to_string();
        assert!(text.contains("AuditQueryService/Serach: is neither"), "{text}");
    }

    #[test]
    fn a_file_that_is_no_toml_or_not_there_is_refused() {
        let file = written("[common");
        assert!(load_from::<Example>(Some(file.path()), Some(HashMap::new())).is_err());
        assert!(load_from::<Example>(Some(Path::new("/nowhere.toml")), Some(HashMap::new())).is_err());
    }
}
