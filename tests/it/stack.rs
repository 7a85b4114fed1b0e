//! The local stack as a person uses it: the command `parapet` and nothing else.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use parapet::{
    cli::Global,
    client::Endpoints,
    servers::process::{Child, Program, tail},
};
use rustix::process::Signal;
use serde_json::Value;

pub struct Stack {
    dir: tempfile::TempDir,
}

impl Stack {
    pub fn new() -> Self {
        Self { dir: e2e::server_dir() }
    }

    pub fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    pub fn parapet(&self, args: &[&str]) -> Output {
        Command::new(e2e::program("parapet")).arg("--data-dir").arg(self.data()).args(args).output().unwrap()
    }

    /// An access token of a caller of the local issuer.
    pub async fn token(&self, caller: &str) -> String {
        let global = Global { caller: Some(caller.to_owned()), ..self.global() };
        parapet::login::token(&global).await.unwrap()
    }

    /// Where its ports are.
    pub fn endpoints(&self) -> Endpoints {
        Endpoints::load(&self.global()).unwrap()
    }

    fn global(&self) -> Global {
        let data_dir = Some(self.data());
        Global { json: false, tenant: None, data_dir, api: None, api_ca: None, caller: None }
    }

    /// In the foreground, so that it ends with this process.
    pub fn up(&self) -> Child {
        self.up_with(&[])
    }

    /// As [`up`](Self::up), with options.
    pub fn up_with(&self, options: &[&str]) -> Child {
        let data = self.data().into_os_string();
        Program::new("stack", e2e::program("parapet"), self.log())
            .args(["--data-dir".into(), data, "up".into()])
            .args(options)
            .spawn()
            .unwrap()
    }

    /// What the supervisor says.
    pub fn log(&self) -> PathBuf {
        self.dir.path().join("up.log")
    }

    fn status(&self) -> Option<Value> {
        let shown = self.parapet(&["--json", "status"]);
        serde_json::from_slice(&shown.stdout).ok()
    }

    pub async fn until(&self, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
        let deadline = Instant::now() + Duration::from_mins(3);
        loop {
            let status = self.status();
            match status {
                Some(status) if holds(&status) => return status,
                status => assert!(Instant::now() < deadline, "{what}: {status:?}\n{}", tail(&self.log(), 40)),
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }
}

pub fn process<'a>(status: &'a Value, name: &str) -> &'a Value {
    status["processes"].as_array().unwrap().iter().find(|process| process["name"] == name).unwrap()
}

fn pids(status: &Value) -> Vec<u64> {
    status["processes"].as_array().unwrap().iter().filter_map(|process| process["pid"].as_u64()).collect()
}

pub fn all_ready(status: &Value) -> bool {
    status["up"] == true
        && status["processes"].as_array().unwrap().iter().all(|process| process["state"] == "ready")
}

pub fn kill(pid: u64, signal: Signal) {
    let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    rustix::process::kill_process(pid, signal).unwrap();
}

/// Gone, or dead and waiting for a parent that reaps late.
fn is_gone(pid: u64) -> bool {
    std::fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("stat"))
        .map_or(true, |stat| stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with('Z')))
}

#[tokio::test]
async fn the_stack_survives_its_children_takes_them_along_and_finds_its_data_again() {
    let stack = Stack::new();
    let supervisor = stack.up();
    let first = stack.until("the stack comes up", all_ready).await;

    let second = stack.parapet(&["up"]);
    assert!(!second.status.success());
    assert!(String::from_utf8_lossy(&second.stderr).contains("already running"));

    for name in ["audit-writer", "postgres"] {
        kill(process(&first, name)["pid"].as_u64().unwrap(), Signal::KILL);
    }
    let healed = stack
        .until("what was killed comes back", |status| {
            all_ready(status)
                && ["audit-writer", "postgres"].iter().all(|name| process(status, name)["restarts"] == 1)
        })
        .await;

    let sample = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/local/bootstrap.toml");
    for outcome in ["created", "unchanged"] {
        let done = stack.parapet(&["--json", "bootstrap", sample]);
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        let report: Vec<Value> = serde_json::from_slice(&done.stdout).unwrap();
        assert!(report.iter().all(|line| line["outcome"] == outcome), "{report:?}");
    }

    // No warning, no chance to clean up.
    supervisor.signal(Signal::KILL);
    supervisor.wait().await;
    let children = pids(&healed);
    let deadline = Instant::now() + Duration::from_secs(30);
    while !children.iter().all(|pid| is_gone(*pid)) {
        assert!(Instant::now() < deadline, "children outlive their supervisor");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }

    let again = stack.up();
    let status = stack.until("the stack comes up again", all_ready).await;
    for name in ["postgres", "rabbitmq", "integration-api"] {
        assert_eq!(process(&status, name)["address"], process(&first, name)["address"]);
    }
    let kept = stack.parapet(&["--json", "bootstrap", sample]);
    assert!(
        String::from_utf8_lossy(&kept.stdout).contains("unchanged"),
        "{}",
        String::from_utf8_lossy(&kept.stderr)
    );

    assert!(stack.parapet(&["down"]).status.success());
    assert!(again.wait().await.success(), "{}", tail(&stack.log(), 20));
    assert!(stack.parapet(&["clean"]).status.success());
    assert!(!stack.data().exists());
}
