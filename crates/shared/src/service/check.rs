//! What is wrong with the part of a configuration that every service has.

use std::path::PathBuf;

use super::{Common, Faults, telemetry};
use crate::{db::DatabaseTls, tls};

/// Adds the faults of what every service has.
pub(super) fn common(common: &Common, faults: &mut Faults) {
    let Common { database, broker, telemetry, http: _, grpc, tls, peers, lifecycle } = common;
    faults.require(!database.host.is_empty(), "common.database.host", "is required");
    faults.require(database.port != 0, "common.database.port", "must not be 0");
    faults.require(!database.database.is_empty(), "common.database.database", "is required");
    faults.require(!database.user.is_empty(), "common.database.user", "is required");
    faults.require(
        (2..=500).contains(&database.max_connections),
        "common.database.max_connections",
        "must be 2 to 500",
    );
    if let Some(file) = &database.password_file {
        faults.require_file(file, "common.database.password_file");
    }
    if let Some(file) = &database.ca_file {
        faults.require_file(file, "common.database.ca_file");
    }
    let files = [("cert_file", &database.cert_file), ("key_file", &database.key_file)];
    pair("common.database", files, database.tls == DatabaseTls::VerifyFull, faults);
    // INVARIANT: nothing leaves the machine in clear.
    let safe = database.tls == DatabaseTls::VerifyFull
        || database.host.is_empty()
        || tls::is_this_machine(&database.host);
    faults.require(safe, "common.database.tls", "must be verify-full: the database is on another machine");
    let safe = broker.tls || broker.host.is_empty() || tls::is_this_machine(&broker.host);
    faults.require(safe, "common.broker.tls", "must be true: the broker is on another machine");
    let files = [("cert_file", &broker.cert_file), ("key_file", &broker.key_file)];
    pair("common.broker", files, broker.tls, faults);
    faults.require(!broker.host.is_empty(), "common.broker.host", "is required");
    faults.require(broker.port != 0, "common.broker.port", "must not be 0");
    faults.require(!broker.user.is_empty(), "common.broker.user", "is required");
    faults.require_file(&broker.password_file, "common.broker.password_file");
    if let Some(file) = &broker.ca_file {
        faults.require_file(file, "common.broker.ca_file");
    }
    faults.require(
        (5..=60).contains(&broker.heartbeat_seconds),
        "common.broker.heartbeat_seconds",
        "must be 5 to 60",
    );
    if let Err(error) = telemetry::filter(&telemetry.log) {
        faults.add("common.telemetry.log", format!("is no log filter: {error}"));
    }
    let methods = crate::wire::methods();
    for name in grpc.allow.keys() {
        let known =
            methods.iter().any(|(service, method)| name == service || *name == format!("{service}/{method}"));
        faults.require(known, &format!("common.grpc.allow.{name}"), "is neither a service nor a method");
    }
    faults.require(grpc.calls_per_connection > 0, "common.grpc.calls_per_connection", "must not be 0");
    faults.require(grpc.calls_at_once > 0, "common.grpc.calls_at_once", "must not be 0");
    if let Some(tls) = tls {
        faults.require_file(&tls.cert_file, "common.tls.cert_file");
        faults.require_file(&tls.key_file, "common.tls.key_file");
        faults.require_file(&tls.ca_file, "common.tls.ca_file");
    }
    for (name, peer) in peers {
        let https = peer
            .address
            .parse::<http::Uri>()
            .is_ok_and(|u| u.scheme_str() == Some("https") && u.host().is_some());
        faults.require(https, &format!("common.peers.{name}.address"), "must be https://host:port");
        faults.require(tls.is_some(), "common.tls", "is required to call peers");
    }
    faults.require(
        (1..=3600).contains(&lifecycle.grace_seconds),
        "common.lifecycle.grace_seconds",
        "must be 1 to 3600",
    );
}

/// A client's own certificate: both files or none, and only where there is TLS to show it in.
fn pair(path: &str, files: [(&str, &Option<PathBuf>); 2], tls: bool, faults: &mut Faults) {
    let given = files.iter().any(|(_, file)| file.is_some());
    for (field, file) in files {
        let path = format!("{path}.{field}");
        match file {
            Some(file) => {
                faults.require_file(file, &path);
                faults.require(tls, &path, "is of use with tls only");
            }
            None => faults.require(!given, &path, "is required beside the other file"),
        }
    }
}
