//! What the supervisor knows about its children, in a file for everybody who asks.

use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use anyhow::Context as _;
use comfy_table::presets::NOTHING;
use comfy_table::{Cell, Color, Table};
use rustix::process::{Pid, test_kill_process};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use crate::servers::write_private;

/// What a process is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Its turn has not come.
    Waiting,
    /// Started, has not yet said that it is ready.
    Starting,
    /// Says that it is ready.
    Ready,
    /// Runs, was ready before and is not now: something it needs is missing.
    Unready,
    /// Died; it is started again after a pause.
    Restarting,
    /// Ended on request.
    Stopped,
}

impl State {
    fn shown(self) -> (&'static str, Color) {
        match self {
            Self::Waiting => ("waiting", Color::Grey),
            Self::Starting => ("starting", Color::Yellow),
            Self::Ready => ("ready", Color::Green),
            Self::Unready => ("not ready", Color::Yellow),
            Self::Restarting => ("restarting", Color::Red),
            Self::Stopped => ("stopped", Color::Grey),
        }
    }
}

/// One process.
#[derive(Debug, Clone, Deserialize, Serialize)]
pub struct Entry {
    /// Its name.
    pub name: String,
    /// What it is doing.
    pub state: State,
    /// Its process id, while it runs.
    pub pid: Option<u32>,
    /// How often it died and was started again.
    pub restarts: u32,
    /// Where it answers.
    pub address: String,
    /// Its log file.
    pub log: PathBuf,
    /// Since when it is in this state.
    #[serde(with = "time::serde::rfc3339")]
    pub since: OffsetDateTime,
}

/// All processes at one moment.
#[derive(Debug, Clone, Deserialize, Serialize)]
pub struct Snapshot {
    /// Whether the start has come to its end.
    pub up: bool,
    /// The supervisor's process id.
    pub pid: u32,
    /// The processes, in the order in which they start.
    pub processes: Vec<Entry>,
}

impl Snapshot {
    /// Reads what the supervisor last wrote.
    pub fn load(file: &Path) -> anyhow::Result<Self> {
        let text = std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
        serde_json::from_slice(&text).with_context(|| format!("{} is damaged", file.display()))
    }

    /// Whether this process wrote it, and still runs.
    pub fn is_of(&self, supervisor: Pid) -> bool {
        u32::try_from(supervisor.as_raw_pid()) == Ok(self.pid) && test_kill_process(supervisor).is_ok()
    }

    /// A table for people.
    pub fn table(&self, now: OffsetDateTime) -> Table {
        let mut table = Table::new();
        table
            .load_preset(NOTHING)
            .set_header(["PROCESS", "STATE", "FOR", "PID", "RESTARTS", "ADDRESS", "LOG"]);
        if !std::io::stdout().is_terminal() {
            table.force_no_tty();
        }
        for entry in &self.processes {
            let (text, color) = entry.state.shown();
            table.add_row([
                Cell::new(&entry.name),
                Cell::new(text).fg(color),
                Cell::new(span(now - entry.since)),
                Cell::new(entry.pid.map(|pid| pid.to_string()).unwrap_or_default()),
                Cell::new(entry.restarts),
                Cell::new(&entry.address),
                Cell::new(shortened(&entry.log).display()),
            ]);
        }
        table
    }
}

/// `path` from here, when it lies below.
fn shortened(path: &Path) -> &Path {
    std::env::current_dir().ok().and_then(|here| path.strip_prefix(here).ok()).unwrap_or(path)
}

fn span(span: time::Duration) -> String {
    let seconds = span.whole_seconds().max(0);
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        _ => format!("{}h{:02}m", seconds / 3600, seconds % 3600 / 60),
    }
}

/// The supervisor's copy, written through to the file at every change.
#[derive(Debug)]
pub struct Board {
    file: PathBuf,
    snapshot: Mutex<Snapshot>,
}

impl Board {
    /// A board on which every process waits.
    pub fn new(file: PathBuf, processes: Vec<(String, String, PathBuf)>) -> Self {
        let now = OffsetDateTime::now_utc();
        let entry = |(name, address, log)| Entry {
            name,
            state: State::Waiting,
            pid: None,
            restarts: 0,
            address,
            log,
            since: now,
        };
        let processes = processes.into_iter().map(entry).collect();
        let board =
            Self { file, snapshot: Mutex::new(Snapshot { up: false, pid: std::process::id(), processes }) };
        board.change(|_| ());
        board
    }

    /// Notes what a process does now.
    pub fn set(&self, name: &str, state: State, pid: Option<u32>) {
        self.change(|snapshot| {
            if let Some(entry) = snapshot.processes.iter_mut().find(|entry| entry.name == name) {
                if entry.state != state {
                    entry.since = OffsetDateTime::now_utc();
                    entry.restarts += u32::from(state == State::Restarting);
                }
                entry.state = state;
                entry.pid = pid;
            }
        });
    }

    /// Notes where a process answers.
    pub fn address(&self, name: &str, address: String) {
        self.change(|snapshot| {
            if let Some(entry) = snapshot.processes.iter_mut().find(|entry| entry.name == name) {
                entry.address = address;
            }
        });
    }

    /// What a process was last seen doing.
    pub fn state(&self, name: &str) -> Option<State> {
        self.snapshot().processes.iter().find(|entry| entry.name == name).map(|entry| entry.state)
    }

    /// Notes that everything is up.
    pub fn up(&self) {
        self.change(|snapshot| snapshot.up = true);
    }

    /// A copy.
    pub fn snapshot(&self) -> Snapshot {
        self.snapshot.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn change(&self, change: impl FnOnce(&mut Snapshot)) {
        let mut snapshot = self.snapshot.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut snapshot);
        // A board that cannot be written is an inconvenience; the children matter more.
        if let Ok(text) = serde_json::to_vec_pretty(&*snapshot) {
            write_private(&self.file, &text).ok();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_change_reaches_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("state.json");
        let board = Board::new(file.clone(), vec![("a".into(), "here".into(), "log".into())]);
        board.set("a", State::Ready, Some(7));
        board.set("a", State::Restarting, None);
        let read = Snapshot::load(&file).unwrap();
        assert_eq!((read.processes[0].state, read.processes[0].restarts), (State::Restarting, 1));
        assert!(!read.up);
        assert!(read.table(OffsetDateTime::now_utc()).to_string().contains("restarting"));
    }

    #[test]
    fn spans_read_well() {
        assert_eq!(span(time::Duration::seconds(59)), "59s");
        assert_eq!(span(time::Duration::seconds(61)), "1m01s");
        assert_eq!(span(time::Duration::seconds(7260)), "2h01m");
    }
}
