//! A service as a process of its own, told by a file what a test would tell it in memory.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
};

use serde_json::{Value, json};
use shared::{
    db::{DatabaseTls, Pooler},
    provider::http::EgressConfig,
    service::Common,
};
use tokio::process::{Child, Command};

/// What every service is told, as its file has it.
pub fn common(common: &Common) -> Value {
    let (database, broker) = (&common.database, &common.broker);
    let mut told = json!({
        "database": {
            "host": database.host, "port": database.port, "database": database.database,
            "user": database.user, "password_file": database.password_file,
            "tls": if database.tls == DatabaseTls::VerifyFull { "verify-full" } else { "disable" },
            "ca_file": database.ca_file,
            "pooler": database.pooler.map(|Pooler::Transaction| "transaction"),
        },
        "broker": {
            "host": broker.host, "port": broker.port, "vhost": broker.vhost, "user": broker.user,
            "password_file": broker.password_file, "tls": broker.tls, "ca_file": broker.ca_file,
        },
        "telemetry": { "log": "error" },
    });
    if let Some(tls) = &common.tls {
        told["tls"] = json!({ "cert_file": tls.cert_file, "key_file": tls.key_file, "ca_file": tls.ca_file });
        told["grpc"] = json!({ "listen": common.grpc.listen, "allow": common.grpc.allow });
    }
    told
}

/// How it reaches directories.
pub fn egress(config: &EgressConfig) -> Value {
    let resolve = config.resolve.iter().map(|f| json!({ "suffix": f.suffix, "address": f.address }));
    json!({ "extra_ca": config.extra_ca, "resolve": resolve.collect::<Vec<_>>() })
}

/// Writes the file, below this directory.
pub fn file(dir: &Path, options: &Value) -> PathBuf {
    let file = dir.join("service.json");
    std::fs::write(&file, options.to_string()).unwrap();
    file
}

/// Starts it; dropped, it is killed. `fail_point`: the place at which it is to die by itself.
pub fn start(program: &Path, config: &Path, fail_point: Option<&str>) -> Child {
    let mut command = Command::new(program);
    command.arg("--config").arg(config).stdin(Stdio::null()).kill_on_drop(true);
    if let Some(place) = fail_point {
        command.env("PARAPET_FAIL_POINT", place);
    }
    command.spawn().unwrap()
}
