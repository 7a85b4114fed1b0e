//! PgBouncer in front of the shared database server.

use std::{fs, os::unix::fs::PermissionsExt as _};

use parapet::servers::{
    Package, ensure, free_ports,
    process::{Child, Program, tail},
};
use rustix::process::Signal;
use shared::db::{DatabaseConfig, Pooler};
use tokio::net::TcpStream;

use crate::{
    bus::until,
    servers::{ROLE_PASSWORD, certificates, server_dir, servers},
};

/// Connections to the server for each role and database: fewer than anybody here opens to the pooler.
pub const SERVER_CONNECTIONS: usize = 2;

const ROLES: [&str; 5] =
    ["parapet_api", "parapet_sync", "parapet_validator", "parapet_mitigation", "parapet_audit"];

/// A running pooler that lends a connection for one transaction. It ends with this value.
#[derive(Debug)]
pub struct PgBouncer {
    port: u16,
    process: Child,
    _dir: tempfile::TempDir,
}

impl PgBouncer {
    /// Starts it; it is installed when it is missing. Its settings are the ones that README names.
    pub async fn start() -> Self {
        ensure(&[Package::Pgbouncer]).await.unwrap();
        let (dir, server, [port]) = (server_dir(), servers().await.postgres.port(), free_ports().unwrap());
        let write = |name: &str, content: &[u8]| {
            let path = dir.path().join(name);
            fs::write(&path, content).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
            path.display().to_string()
        };
        let own = certificates().of("client");
        let ca = write("ca.pem", &fs::read(certificates().ca()).unwrap());
        let cert = write("cert.pem", &fs::read(own.cert).unwrap());
        let key = write("key.pem", &fs::read(own.key).unwrap());
        let users = ROLES.map(|role| format!("\"{role}\" \"{ROLE_PASSWORD}\"\n")).concat();
        let users = write("users", users.as_bytes());
        let settings = format!(
            "[databases]
             * = host=127.0.0.1 port={server}
             [pgbouncer]
             listen_addr = 127.0.0.1
             listen_port = {port}
             unix_socket_dir =
             pool_mode = transaction
             default_pool_size = {SERVER_CONNECTIONS}
             auth_type = scram-sha-256
             auth_file = {users}
             client_tls_sslmode = require
             client_tls_protocols = tlsv1.3
             client_tls_cert_file = {cert}
             client_tls_key_file = {key}
             server_tls_sslmode = verify-full
             server_tls_protocols = tlsv1.3
             server_tls_ca_file = {ca}
            "
        );
        let settings = settings.lines().map(str::trim).collect::<Vec<_>>().join("\n") + "\n";
        let settings = write("pgbouncer.ini", settings.as_bytes());
        let log = dir.path().join("log");
        let program = Package::Pgbouncer.bin().unwrap().join("pgbouncer");
        // It refuses to run as root.
        let user = rustix::process::geteuid().is_root().then_some("postgres");
        let process = Program::new("pgbouncer", program, &log).args([settings]).user(user).spawn().unwrap();
        until("the pooler listens", || async {
            assert!(process.exited().is_none(), "{}", tail(&log, 20));
            TcpStream::connect(("127.0.0.1", port)).await.is_ok()
        })
        .await;
        Self { port, process, _dir: dir }
    }

    /// The same database, through the pooler, by somebody who does not know of it.
    pub fn unknown(&self, config: &DatabaseConfig) -> DatabaseConfig {
        DatabaseConfig { port: self.port, ..config.clone() }
    }

    /// The same database, through the pooler.
    pub fn before(&self, config: &DatabaseConfig) -> DatabaseConfig {
        DatabaseConfig { pooler: Some(Pooler::Transaction), ..self.unknown(config) }
    }
}

impl Drop for PgBouncer {
    fn drop(&mut self) {
        self.process.signal(Signal::KILL);
    }
}
