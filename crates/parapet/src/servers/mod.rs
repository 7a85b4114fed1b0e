//! Private PostgreSQL and RabbitMQ servers for the local stack and for tests.
//!
//! Each lives in a directory and on ports of its own, next to whatever else runs on the machine, and dies with the
//! process that started it. What was not started here is never touched.

mod admin;
mod install;
mod postgres;
pub mod process;
mod rabbitmq;
mod unpack;

use std::fs;
use std::io::Write as _;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use rand::RngExt as _;

pub use install::{Package, ensure};
pub use postgres::{Postgres, PostgresSettings, SUPERUSER, superuser_options};
pub use rabbitmq::{Permissions, RabbitMq, broker_config};

/// How long a port may take to become free again.
const LINGER: Duration = Duration::from_secs(2);

/// Makes sure that the programs of both servers are there.
pub async fn ensure_all() -> anyhow::Result<()> {
    ensure(&[Package::Postgresql, Package::RabbitmqServer]).await
}

/// Below the range from which the kernel takes the local port of an outgoing connection (32768 and up by default), so
/// that nobody's client sits on a server's port when that server restarts.
const PORTS: std::ops::Range<u16> = 21_000..32_000;

/// Picks `N` different ports of the loopback interface on which nobody listens.
pub fn free_ports<const N: usize>() -> anyhow::Result<[u16; N]> {
    let mut rng = rand::rng();
    let mut held = Vec::new();
    // All are held until the last is found, so that they differ.
    for _ in 0..1_000 {
        let port = rng.random_range(PORTS);
        if let Ok(listener) = TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
            held.push((port, listener));
        }
        if held.len() == N {
            let ports: Vec<u16> = held.iter().map(|(port, _)| *port).collect();
            return ports.try_into().map_err(|_| anyhow::anyhow!("no free port"));
        }
    }
    anyhow::bail!("no free port of 127.0.0.1 found between {} and {}", PORTS.start, PORTS.end)
}

/// The ports remembered in `file` if all are free, else new ones, which are then remembered.
pub fn remembered_ports<const N: usize>(file: &Path) -> anyhow::Result<[u16; N]> {
    let before: Option<[u16; N]> = fs::read_to_string(file)
        .ok()
        .and_then(|text| text.split_whitespace().map(|word| word.parse().ok()).collect::<Option<Vec<u16>>>())
        .and_then(|ports| ports.try_into().ok());
    if let Some(ports) = before {
        // What held them may be on its way out: the children of a killed process end after it.
        let deadline = Instant::now() + LINGER;
        loop {
            if ports.iter().all(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok()) {
                return Ok(ports);
            }
            if Instant::now() > deadline {
                break;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
    let ports = free_ports::<N>()?;
    write_private(file, ports.map(|port| port.to_string()).join(" ").as_bytes())?;
    Ok(ports)
}

/// The password remembered in `file`, or a new random one, which is then remembered.
pub fn remembered_password(file: &Path) -> anyhow::Result<String> {
    if let Ok(password) = fs::read_to_string(file)
        && !password.is_empty()
    {
        return Ok(password);
    }
    let password = hex::encode(rand::rng().random::<[u8; 20]>());
    write_private(file, password.as_bytes())?;
    Ok(password)
}

/// Writes a file that only its owner reads, in one step: a reader sees the old content or the new.
pub fn write_private(file: &Path, content: &[u8]) -> anyhow::Result<()> {
    let mut name = file.as_os_str().to_owned();
    name.push(".new");
    let fresh = Path::new(&name);
    let write = || -> std::io::Result<()> {
        let mut out =
            fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(fresh)?;
        out.write_all(content)?;
        fs::rename(fresh, file)
    };
    write().with_context(|| format!("cannot write {}", file.display()))
}

/// Creates a directory, and its parents, that only its owner enters.
pub fn private_dir(dir: &Path) -> anyhow::Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .with_context(|| format!("cannot create {}", dir.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_picked_together_differ() {
        let mut ports = free_ports::<8>().unwrap().to_vec();
        ports.sort_unstable();
        ports.dedup();
        assert_eq!(ports.len(), 8);
    }

    #[test]
    fn ports_come_back_while_they_are_free_and_change_when_taken() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("ports");
        let first = remembered_ports::<2>(&file).unwrap();
        assert_eq!(remembered_ports::<2>(&file).unwrap(), first);
        let _taken = TcpListener::bind((Ipv4Addr::LOCALHOST, first[1])).unwrap();
        assert_ne!(remembered_ports::<2>(&file).unwrap(), first);
    }

    #[test]
    fn a_remembered_password_is_readable_by_its_owner_only() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("password");
        let password = remembered_password(&file).unwrap();
        assert_eq!(remembered_password(&file).unwrap(), password);
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    }
}
