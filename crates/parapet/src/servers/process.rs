//! One child process that cannot outlive this one.

use std::ffi::OsString;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::{OnceLock, mpsc};
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::sync::watch;

/// What to run, as whom, and where its output goes.
#[derive(Debug, Clone)]
pub struct Program {
    /// How messages call it.
    pub name: String,
    /// The executable.
    pub path: PathBuf,
    /// Its arguments.
    pub args: Vec<OsString>,
    /// Variables added to the environment.
    pub env: Vec<(OsString, OsString)>,
    /// Whether it also gets this process's environment; a server does not, a service does.
    pub inherit_env: bool,
    /// The user it drops to; only root can ask for this.
    pub user: Option<String>,
    /// Standard output and standard error are appended here.
    pub log: PathBuf,
}

/// A running child. Dropping the value leaves the child alone; the end of this process kills it.
#[derive(Debug)]
pub struct Child {
    name: String,
    pid: u32,
    handle: OwnedFd,
    exit: watch::Receiver<Option<ExitStatus>>,
}

impl Program {
    /// A program without arguments that gets this process's environment.
    pub fn new(name: impl Into<String>, path: impl Into<PathBuf>, log: impl Into<PathBuf>) -> Self {
        Self {
            name: name.into(),
            path: path.into(),
            args: Vec::new(),
            env: Vec::new(),
            inherit_env: true,
            user: None,
            log: log.into(),
        }
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<A: Into<OsString>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    /// Adds one variable.
    #[must_use]
    pub fn env(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.env.push((name.into(), value.into()));
        self
    }

    /// Withholds this process's environment.
    #[must_use]
    pub fn bare(mut self) -> Self {
        self.inherit_env = false;
        self
    }

    /// Runs it as another user.
    #[must_use]
    pub fn user(mut self, user: Option<&str>) -> Self {
        self.user = user.map(str::to_owned);
        self
    }

    /// Starts it.
    pub fn spawn(self) -> anyhow::Result<Child> {
        let (answer, started) = mpsc::sync_channel(1);
        spawner()
            .send(Box::new(move || {
                // The receiver waits until it has the answer, so the send cannot fail.
                answer.send(self.spawn_here()).ok();
            }))
            .map_err(|_| anyhow!("the thread that starts children is gone"))?;
        started.recv().context("the thread that starts children is gone")?
    }

    fn spawn_here(self) -> anyhow::Result<Child> {
        let log = File::options()
            .create(true)
            .append(true)
            .open(&self.log)
            .with_context(|| format!("cannot open the log file {}", self.log.display()))?;
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL"]);
        if let Some(user) = &self.user {
            command.args([format!("--reuid={user}"), format!("--regid={user}"), "--init-groups".into()]);
        }
        command.arg("--").arg(&self.path).args(&self.args);
        if !self.inherit_env {
            command.env_clear();
            command.envs(std::env::vars_os().filter(|(name, _)| name == "PATH"));
            command.env("LANG", "C.UTF-8");
        }
        command
            .envs(self.env.iter().map(|(name, value)| (name, value)))
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            // A group of its own: Ctrl-C in the terminal is ours to handle, in the right order.
            .process_group(0);
        let mut child = command.spawn().with_context(|| {
            format!("cannot start {} through setpriv (Debian package util-linux)", self.path.display())
        })?;
        let pid = child.id();
        let handle = i32::try_from(pid)
            .ok()
            .and_then(Pid::from_raw)
            .ok_or_else(|| anyhow!("process id {pid} out of range"))
            .and_then(|pid| Ok(pidfd_open(pid, PidfdFlags::empty())?))?;
        let (ended, exit) = watch::channel(None);
        std::thread::Builder::new().name(format!("wait-{}", self.name)).spawn(move || {
            let status = child.wait();
            ended.send_replace(Some(status.unwrap_or_default()));
        })?;
        Ok(Child { name: self.name, pid, handle, exit })
    }
}

impl Child {
    /// How messages call it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// How it ended, if it has.
    pub fn exited(&self) -> Option<ExitStatus> {
        *self.exit.borrow()
    }

    /// Sends a signal; one that comes too late is no error.
    pub fn signal(&self, signal: Signal) {
        // The handle names this very process: a recycled process id cannot be hit.
        pidfd_send_signal(&self.handle, signal).ok();
    }

    /// Waits for its end, on any runtime and any number of times.
    pub async fn wait(&self) -> ExitStatus {
        let mut exit = self.exit.clone();
        match exit.wait_for(Option::is_some).await {
            Ok(status) => status.unwrap_or_default(),
            Err(_) => ExitStatus::default(),
        }
    }

    /// A value that waits for the end without borrowing the child.
    pub fn ended(&self) -> impl Future<Output = ()> + Send + 'static {
        let mut exit = self.exit.clone();
        async move {
            exit.wait_for(Option::is_some).await.ok();
        }
    }

    /// Asks with `signal`, and kills when `grace` is over.
    pub async fn stop(&self, signal: Signal, grace: Duration) -> ExitStatus {
        self.signal(signal);
        if let Ok(status) = tokio::time::timeout(grace, self.wait()).await {
            return status;
        }
        self.signal(Signal::KILL);
        self.wait().await
    }
}

type Job = Box<dyn FnOnce() + Send>;

/// The one thread that starts children.
///
/// The kernel sends the parent-death signal when the *thread* that started a child ends, and the threads of test
/// runners and runtimes end all the time; this one lives as long as the process.
fn spawner() -> &'static mpsc::Sender<Job> {
    static SPAWNER: OnceLock<mpsc::Sender<Job>> = OnceLock::new();
    SPAWNER.get_or_init(|| {
        let (jobs, next) = mpsc::channel::<Job>();
        let thread = std::thread::Builder::new().name("spawner".into()).spawn(move || {
            while let Ok(job) = next.recv() {
                job();
            }
        });
        // Without its thread the channel is closed, and every spawn says so.
        thread.ok();
        jobs
    })
}

/// The last lines of a log file, for an error message.
pub fn tail(log: &Path, lines: usize) -> String {
    let text = std::fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let all: Vec<&str> = text.lines().collect();
    all.get(all.len().saturating_sub(lines)..).unwrap_or_default().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sleeper(dir: &Path) -> Child {
        Program::new("sleeper", "sleep", dir.join("log")).args(["600"]).spawn().unwrap()
    }

    #[test]
    fn a_child_survives_the_thread_that_asked_for_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().to_owned();
        let child = std::thread::spawn(move || sleeper(&path)).join().unwrap();
        // A signal of parent death would already be pending: a second child takes longer than its delivery.
        let second = sleeper(dir.path());
        assert!(child.exited().is_none());
        child.signal(Signal::KILL);
        second.signal(Signal::KILL);
    }

    #[tokio::test]
    async fn a_child_that_ignores_the_polite_signal_is_killed_after_the_grace() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        let child = Program::new("stubborn", "sh", &log)
            .args(["-c", "trap '' TERM; echo up; sleep 600"])
            .spawn()
            .unwrap();
        while !tail(&log, 1).contains("up") {
            tokio::task::yield_now().await;
        }
        let status = child.stop(Signal::TERM, Duration::from_millis(100)).await;
        assert!(!status.success());
        assert!(child.exited().is_some());
    }

    #[test]
    fn a_missing_program_is_named_in_the_log() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        let child = Program::new("nothing", "/nonexistent/program", &log).spawn().unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        assert!(!runtime.block_on(child.wait()).success());
        assert!(tail(&log, 3).contains("/nonexistent/program"));
    }
}
