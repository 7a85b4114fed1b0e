//! One process of the stack: how it starts, how it is seen to be ready, how it is kept alive and how it ends.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::bail;
use rustix::process::Signal;
use tokio_util::sync::CancellationToken;

use super::board::{Board, State};
use crate::servers::process::{Child, Program, tail};
use crate::servers::{Postgres, RabbitMq};

const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// Who lived this long starts over with the shortest pause.
const SETTLED: Duration = Duration::from_mins(1);
const LOOK_EVERY: Duration = Duration::from_secs(1);
const READY_WITHIN: Duration = Duration::from_secs(90);

/// A process of the stack.
#[derive(Debug)]
pub struct Unit {
    /// Its name.
    pub name: String,
    kind: Kind,
    /// How long it may take to end when asked.
    grace: Duration,
}

#[derive(Debug)]
enum Kind {
    Postgres(Postgres),
    RabbitMq(RabbitMq),
    Program { program: Program, ready: String, child: Mutex<Option<Arc<Child>>> },
}

impl Unit {
    /// The running database server.
    pub fn postgres(server: Postgres) -> Self {
        Self { name: "postgres".into(), kind: Kind::Postgres(server), grace: Duration::from_secs(20) }
    }

    /// The running broker.
    pub fn rabbitmq(server: RabbitMq) -> Self {
        Self { name: "rabbitmq".into(), kind: Kind::RabbitMq(server), grace: Duration::from_secs(30) }
    }

    /// A program, not yet started, that is ready when a GET of `ready` answers 200.
    pub fn program(program: Program, ready: String, grace: Duration) -> Self {
        Self {
            name: program.name.clone(),
            kind: Kind::Program { program, ready, child: Mutex::new(None) },
            grace,
        }
    }

    /// The present process, if it was started.
    pub fn child(&self) -> Option<Arc<Child>> {
        match &self.kind {
            Kind::Postgres(server) => Some(server.child()),
            Kind::RabbitMq(server) => Some(server.child()),
            Kind::Program { child, .. } => child.lock().unwrap_or_else(PoisonError::into_inner).clone(),
        }
    }

    fn pid(&self) -> Option<u32> {
        self.child().filter(|child| child.exited().is_none()).map(|child| child.pid())
    }

    /// Starts it. A server is then ready; a program has only begun.
    async fn start(&self) -> anyhow::Result<()> {
        match &self.kind {
            Kind::Postgres(server) => server.start_again().await,
            Kind::RabbitMq(server) => server.start_again().await,
            Kind::Program { program, child, .. } => {
                let started = program.clone().spawn()?;
                *child.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(started));
                Ok(())
            }
        }
    }

    async fn is_ready(&self, http: &reqwest::Client) -> bool {
        match &self.kind {
            Kind::Postgres(_) | Kind::RabbitMq(_) => self.pid().is_some(),
            Kind::Program { ready, .. } => {
                http.get(ready).send().await.is_ok_and(|answer| answer.status() == reqwest::StatusCode::OK)
            }
        }
    }

    /// Starts a program for the first time and waits until it is ready. One that ends instead is an error: a wrong
    /// configuration does not get better by trying again.
    pub async fn start_first(&self, board: &Board, http: &reqwest::Client) -> anyhow::Result<()> {
        if let Kind::Program { program, .. } = &self.kind {
            self.start().await?;
            board.set(&self.name, State::Starting, self.pid());
            let deadline = Instant::now() + READY_WITHIN;
            while !self.is_ready(http).await {
                let ended = self.child().and_then(|child| child.exited());
                if let Some(status) = ended {
                    bail!(
                        "{} ended at once ({status}); its log ends:\n{}",
                        self.name,
                        tail(&program.log, 12)
                    );
                }
                if Instant::now() > deadline {
                    let log = tail(&program.log, 12);
                    bail!("{} is not ready after {READY_WITHIN:?}; its log ends:\n{log}", self.name);
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            eprintln!("{} is ready", self.name);
        }
        board.set(&self.name, State::Ready, self.pid());
        Ok(())
    }

    /// Watches it and starts it again whenever it ends, until `stop`.
    pub async fn keep(self: Arc<Self>, board: Arc<Board>, http: reqwest::Client, stop: CancellationToken) {
        let mut pause = FIRST_PAUSE;
        let mut begun = Instant::now();
        while let Some(child) = self.child() {
            let ended = async {
                loop {
                    tokio::select! {
                        status = child.wait() => return status,
                        () = tokio::time::sleep(LOOK_EVERY) => {}
                    }
                    let state = match self.is_ready(&http).await {
                        true => State::Ready,
                        false if board.state(&self.name) == Some(State::Ready) => State::Unready,
                        false => continue,
                    };
                    if board.state(&self.name) != Some(state) {
                        board.set(&self.name, state, self.pid());
                    }
                }
            };
            let status = tokio::select! {
                () = stop.cancelled() => return,
                status = ended => status,
            };
            if begun.elapsed() > SETTLED {
                pause = FIRST_PAUSE;
            }
            eprintln!("{} ended ({status}); starting it again in {pause:?}", self.name);
            board.set(&self.name, State::Restarting, None);
            let again = async {
                tokio::time::sleep(pause).await;
                self.start().await
            };
            let started = tokio::select! {
                () = stop.cancelled() => return,
                started = again => started,
            };
            pause = (pause * 2).min(LONGEST_PAUSE);
            begun = Instant::now();
            match started {
                Ok(()) => board.set(&self.name, State::Starting, self.pid()),
                // The child of the failed start has ended, so the loop comes round to the next one.
                Err(error) => eprintln!("{} cannot be started: {error:#}", self.name),
            }
        }
    }

    /// Ends it: politely first, by force after its grace, or at once when `hurry` comes.
    pub async fn stop(&self, board: &Board, hurry: &CancellationToken) {
        let Some(child) = self.child() else { return };
        let polite = match self.kind {
            // Cuts open sessions; the other signals wait for them or leave a recovery to do.
            Kind::Postgres(_) => Signal::INT,
            Kind::RabbitMq(_) | Kind::Program { .. } => Signal::TERM,
        };
        tokio::select! {
            _ = child.stop(polite, self.grace) => {}
            () = hurry.cancelled() => {
                child.signal(Signal::KILL);
                child.wait().await;
            }
        }
        if let Kind::RabbitMq(server) = &self.kind {
            server.shut_down().await;
        }
        board.set(&self.name, State::Stopped, None);
    }

    /// The database server, when this is it.
    pub fn as_postgres(&self) -> Option<&Postgres> {
        match &self.kind {
            Kind::Postgres(server) => Some(server),
            Kind::RabbitMq(_) | Kind::Program { .. } => None,
        }
    }

    /// The broker, when this is it.
    pub fn as_rabbitmq(&self) -> Option<&RabbitMq> {
        match &self.kind {
            Kind::RabbitMq(server) => Some(server),
            Kind::Postgres(_) | Kind::Program { .. } => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A server that says it is ready, in place of a service's plain port.
    async fn ready() -> String {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let app = axum::Router::new().route("/readyz", axum::routing::get(async || "ready"));
        tokio::spawn(async move { axum::serve(listener, app).await });
        format!("http://{address}/readyz")
    }

    async fn until(what: impl Fn() -> bool) {
        let wait = async {
            while !what() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), wait).await.unwrap();
    }

    struct World {
        dir: tempfile::TempDir,
        board: Arc<Board>,
        http: reqwest::Client,
    }

    fn world() -> World {
        let dir = tempfile::tempdir().unwrap();
        let entry = ("worker".to_owned(), String::new(), dir.path().join("log"));
        let board = Arc::new(Board::new(dir.path().join("state.json"), vec![entry]));
        let http = reqwest::Client::builder().no_proxy().tls_certs_only([]).build().unwrap();
        World { dir, board, http }
    }

    #[tokio::test]
    async fn a_killed_program_is_started_again_and_ready_again() {
        let World { dir, board, http } = world();
        let program = Program::new("worker", "sleep", dir.path().join("log")).args(["600"]);
        let unit = Arc::new(Unit::program(program, ready().await, Duration::from_secs(1)));
        unit.start_first(&board, &http).await.unwrap();
        let stop = CancellationToken::new();
        let keeper = tokio::spawn(Arc::clone(&unit).keep(Arc::clone(&board), http, stop.clone()));
        let first = unit.child().unwrap();
        first.signal(Signal::KILL);
        until(|| board.snapshot().processes[0].restarts == 1 && board.state("worker") == Some(State::Ready))
            .await;
        assert_ne!(unit.child().unwrap().pid(), first.pid());
        stop.cancel();
        keeper.await.unwrap();
        unit.stop(&board, &CancellationToken::new()).await;
        assert!(unit.child().unwrap().exited().is_some());
        assert_eq!(board.state("worker"), Some(State::Stopped));
    }

    #[tokio::test]
    async fn a_program_that_ends_at_its_first_start_is_reported_with_its_last_words() {
        let World { dir, board, http } = world();
        let program =
            Program::new("worker", "sh", dir.path().join("log")).args(["-c", "echo no such key; exit 2"]);
        let unit = Unit::program(program, "http://127.0.0.1:1/readyz".into(), Duration::from_secs(1));
        let error = unit.start_first(&board, &http).await.unwrap_err();
        assert!(error.to_string().contains("no such key"), "{error}");
    }

    #[tokio::test]
    async fn in_a_hurry_nobody_gets_its_grace() {
        let World { dir, board, http: _ } = world();
        let program =
            Program::new("worker", "sh", dir.path().join("log")).args(["-c", "trap '' TERM; sleep 600"]);
        let unit = Unit::program(program, String::new(), Duration::from_mins(10));
        unit.start().await.unwrap();
        let hurry = CancellationToken::new();
        hurry.cancel();
        tokio::time::timeout(Duration::from_secs(30), unit.stop(&board, &hurry)).await.unwrap();
    }
}
