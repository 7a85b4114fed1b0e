//! The local stack: private servers, the simulator, the issuer and the five services, kept alive by a supervisor.

mod board;
mod config;
mod local;
mod spans;
mod unit;

use std::fs::{File, TryLockError};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use rustix::process::{Pid, Signal, kill_process};
use sqlx::{ConnectOptions as _, PgConnection};
use time::OffsetDateTime;
use tokio::signal::unix::{SignalKind, signal};

pub use board::{Board, Entry, Snapshot, State};
pub use config::{SERVICES, Service, declare_queues};
pub use local::Stack;

use crate::cli::Global;
use crate::data::DataDir;
use crate::servers::process::tail;
use crate::servers::{Postgres, superuser_options};

/// The stack's database.
pub const DATABASE: &str = "parapet";
/// The stack's virtual host.
pub const VHOST: &str = "parapet";

/// `parapet up`
#[derive(Debug, clap::Args)]
pub struct Up {
    /// Return when everything is ready, and leave it running; `parapet down` stops it
    #[arg(long, short)]
    detach: bool,
    #[command(flatten)]
    options: Options,
}

/// How a local stack differs from what everybody gets.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Options {
    /// Reach the real Entra ID and Okta instead of the simulator
    #[arg(long)]
    pub real_providers: bool,
    /// Seconds after an action at which its account is read again [default: 0,60,2100,3900]
    #[arg(long, value_name = "SECONDS,…", value_delimiter = ',')]
    pub check_after_seconds: Vec<u32>,
    /// Have the services export their spans, and keep them in the file `spans` of the directory
    #[arg(long)]
    pub keep_spans: bool,
}

impl Up {
    /// Starts the stack and stays until it is told to stop, or returns when it is ready.
    pub async fn run(self, global: &Global) -> anyhow::Result<()> {
        let data = global.data()?;
        if self.detach {
            return detach(&data, &self.options, global.json).await;
        }
        let stack = Stack::start(&data, &self.options).await?;
        print(&stack.board().snapshot(), global.json);
        if !global.json {
            println!("\nup; Ctrl-C or `parapet down` stops it");
        }
        interrupted().await?;
        eprintln!("stopping; once more to stop at once");
        let hurry = stack.hurry();
        tokio::spawn(async move {
            interrupted().await.ok();
            hurry.cancel();
        });
        stack.stop().await;
        Ok(())
    }
}

/// Waits for Ctrl-C or SIGTERM.
pub async fn interrupted() -> anyhow::Result<()> {
    let (mut int, mut term) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    tokio::select! {
        _ = int.recv() => {}
        _ = term.recv() => {}
    }
    Ok(())
}

async fn detach(data: &DataDir, options: &Options, json: bool) -> anyhow::Result<()> {
    if is_running(data) {
        bail!(already_running(data));
    }
    data.create()?;
    std::fs::remove_file(data.state()).ok();
    let log = data.log("stack");
    let out = File::options().create(true).append(true).open(&log)?;
    let checks: Vec<String> = options.check_after_seconds.iter().map(u32::to_string).collect();
    let mut child = Command::new("setsid")
        .arg(std::env::current_exe()?)
        .arg("--data-dir")
        .arg(data.path())
        .arg("up")
        .args(options.real_providers.then_some("--real-providers"))
        .args(options.keep_spans.then_some("--keep-spans"))
        .args((!checks.is_empty()).then(|| format!("--check-after-seconds={}", checks.join(","))))
        .stdin(Stdio::null())
        .stdout(out.try_clone()?)
        .stderr(out)
        .spawn()
        .context("cannot run setsid (Debian package util-linux)")?;
    let mut shown = Vec::new();
    loop {
        if let Some(status) = child.try_wait()? {
            bail!("the stack did not start ({status}); {} ends:\n{}", log.display(), tail(&log, 20));
        }
        if let Ok(snapshot) = Snapshot::load(&data.state()) {
            if !json {
                for entry in snapshot.processes.iter().filter(|entry| entry.state == State::Ready) {
                    if !shown.contains(&entry.name) {
                        eprintln!("{} is ready", entry.name);
                        shown.push(entry.name.clone());
                    }
                }
            }
            if snapshot.up {
                print(&snapshot, json);
                return Ok(());
            }
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// `parapet down`
pub async fn down(global: &Global) -> anyhow::Result<()> {
    let data = global.data()?;
    let Some(pid) = supervisor(&data) else {
        eprintln!("the local stack is not running");
        return Ok(());
    };
    kill_process(pid, Signal::TERM).context("cannot signal the supervisor")?;
    // Longer than any process's grace: the supervisor decides who is killed.
    let deadline = Instant::now() + Duration::from_mins(3);
    while is_running(&data) {
        if Instant::now() > deadline {
            bail!("the supervisor, process {}, does not end", pid.as_raw_pid());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    eprintln!("stopped");
    Ok(())
}

/// `parapet status`
pub fn status(global: &Global) -> anyhow::Result<()> {
    let data = global.data()?;
    if !is_running(&data) {
        bail!("the local stack of {} is not running; `parapet up` starts it", data.path().display());
    }
    // A supervisor that was killed leaves its last word behind; the present one has not written yet.
    match Snapshot::load(&data.state()) {
        Ok(snapshot) if supervisor(&data).is_some_and(|pid| snapshot.is_of(pid)) => {
            print(&snapshot, global.json);
            Ok(())
        }
        _ => bail!("the local stack of {} is about to start", data.path().display()),
    }
}

/// `parapet clean`
pub async fn clean(global: &Global) -> anyhow::Result<()> {
    let data = global.data()?;
    if is_running(&data) {
        down(global).await?;
    }
    if !data.path().exists() {
        return Ok(());
    }
    // Never a directory that something else made.
    anyhow::ensure!(
        data.lock().exists() || data.postgres().exists() || std::fs::read_dir(data.path())?.next().is_none(),
        "{} does not look like a local stack's directory; it stays",
        data.path().display()
    );
    if data.postgres().exists() {
        // It may lie elsewhere, when the database server's user could not get here.
        let cluster = Postgres::data_dir(&data.postgres())?;
        if cluster.exists() {
            std::fs::remove_dir_all(&cluster)
                .with_context(|| format!("cannot remove {}", cluster.display()))?;
        }
    }
    std::fs::remove_dir_all(data.path())
        .with_context(|| format!("cannot remove {}", data.path().display()))?;
    eprintln!("removed {}", data.path().display());
    Ok(())
}

/// `parapet logs`
#[derive(Debug, clap::Args)]
pub struct Logs {
    /// The process, as `parapet status` names it [default: all]
    process: Option<String>,
    /// How many lines of each
    #[arg(long, short = 'n', default_value_t = 20)]
    lines: usize,
    /// Go on showing what is added
    #[arg(long, short)]
    follow: bool,
}

impl Logs {
    /// Shows the end of the logs.
    pub async fn run(self, global: &Global) -> anyhow::Result<()> {
        let data = global.data()?;
        let entries = Snapshot::load(&data.state()).context("no local stack was started here")?.processes;
        let known: Vec<String> = entries.iter().map(|entry| entry.name.clone()).collect();
        let chosen: Vec<Entry> = entries
            .into_iter()
            .filter(|entry| self.process.as_ref().is_none_or(|name| *name == entry.name))
            .collect();
        if chosen.is_empty() {
            bail!("no such process; there are {}", known.join(", "));
        }
        let several = chosen.len() > 1;
        let mut files = Vec::new();
        for entry in chosen {
            let position = std::fs::metadata(&entry.log).map(|meta| meta.len()).unwrap_or_default();
            if several {
                println!("==> {} <==", entry.name);
            }
            println!("{}", tail(&entry.log, self.lines));
            files.push((entry, position));
        }
        if !self.follow {
            return Ok(());
        }
        loop {
            tokio::time::sleep(Duration::from_millis(200)).await;
            for (entry, position) in &mut files {
                let prefix = if several { format!("{} | ", entry.name) } else { String::new() };
                for line in added(&entry.log, position)?.lines() {
                    println!("{prefix}{line}");
                }
            }
        }
    }
}

/// The whole lines added to a file since `position`, which moves behind them.
fn added(file: &Path, position: &mut u64) -> anyhow::Result<String> {
    let Ok(mut file) = File::open(file) else { return Ok(String::new()) };
    file.seek(SeekFrom::Start(*position))?;
    let mut bytes = Vec::new();
    file.take(1 << 20).read_to_end(&mut bytes)?;
    let whole = bytes.iter().rposition(|b| *b == b'\n').map_or(0, |at| at + 1);
    bytes.truncate(whole);
    *position += whole as u64;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn print(snapshot: &Snapshot, json: bool) {
    if json {
        println!("{}", serde_json::to_string(snapshot).unwrap_or_default());
    } else {
        println!("{}", snapshot.table(OffsetDateTime::now_utc()));
    }
}

/// Held while a supervisor runs; the kernel lets go of it whatever ends the process.
#[derive(Debug)]
struct Lock {
    _file: File,
}

impl Lock {
    fn take(data: &DataDir) -> anyhow::Result<Self> {
        let mut file =
            File::options().create(true).truncate(false).write(true).read(true).open(data.lock())?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => bail!(already_running(data)),
            Err(TryLockError::Error(e)) => return Err(e).context("cannot lock the data directory"),
        }
        file.set_len(0)?;
        file.write_all(std::process::id().to_string().as_bytes())?;
        Ok(Self { _file: file })
    }
}

fn already_running(data: &DataDir) -> String {
    let pid = supervisor(data).map(|pid| format!(", process {}", pid.as_raw_pid())).unwrap_or_default();
    format!("the local stack of {} is already running{pid}; `parapet status` shows it", data.path().display())
}

/// Whether a supervisor runs on this directory.
pub fn is_running(data: &DataDir) -> bool {
    // Only opening for writing, and never creating: a question leaves no trace.
    let Ok(file) = File::options().write(true).open(data.lock()) else { return false };
    matches!(file.try_lock(), Err(TryLockError::WouldBlock))
}

fn supervisor(data: &DataDir) -> Option<Pid> {
    if !is_running(data) {
        return None;
    }
    std::fs::read_to_string(data.lock()).ok()?.trim().parse().ok().and_then(Pid::from_raw)
}

/// Connects to the database of a running stack as the one whom no row security binds: to look, never to act.
pub async fn superuser(data: &DataDir) -> anyhow::Result<PgConnection> {
    let port = std::fs::read_to_string(data.postgres().join("port"))?.trim().parse()?;
    let password = std::fs::read_to_string(data.postgres().join("password"))?;
    let options = superuser_options(port, password.trim(), DATABASE, &data.tls().join("ca.pem"));
    options.connect().await.context("the database cannot be read")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_supervisor_is_refused_and_the_first_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let data = DataDir::find(Some(dir.path())).unwrap();
        assert!(!is_running(&data));
        let held = Lock::take(&data).unwrap();
        let refused = Lock::take(&data).unwrap_err();
        assert!(refused.to_string().contains(&format!("process {}", std::process::id())));
        drop(held);
        assert!(!is_running(&data));
    }

    #[test]
    fn following_a_log_never_splits_a_line() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("log");
        std::fs::write(&file, "one\ntw").unwrap();
        let mut position = 0;
        assert_eq!(added(&file, &mut position).unwrap(), "one\n");
        std::fs::write(&file, "one\ntwo\n").unwrap();
        assert_eq!(added(&file, &mut position).unwrap(), "two\n");
    }
}
