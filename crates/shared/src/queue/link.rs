//! Keeps one connection to the broker alive, for ever.

use std::{
    future::Future,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use lapin::Connection;
use rand::RngExt;
use tokio_util::sync::CancellationToken;

use super::config::{BrokerConfig, BrokerError};

/// Since when a connection works or does not.
#[derive(Clone, Debug)]
pub(crate) struct LinkState {
    name: String,
    state: Arc<Mutex<State>>,
}

#[derive(Clone, Copy, Debug)]
enum State {
    NeverUp,
    Up,
    Down(Instant),
}

impl LinkState {
    pub(crate) fn new(name: String) -> Self {
        Self { name, state: Arc::new(Mutex::new(State::NeverUp)) }
    }

    /// The session is established: channel open, queues there.
    pub(super) fn up(&self) {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) = State::Up;
        metrics::gauge!("parapet_amqp_connected", "link" => self.name.clone()).set(1.0);
    }

    fn down(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if matches!(*state, State::Up) {
            *state = State::Down(Instant::now());
        }
        metrics::gauge!("parapet_amqp_connected", "link" => self.name.clone()).set(0.0);
    }

    /// A short loss is no reason to take the service out; a long one is.
    pub(crate) fn check(&self, patience: Duration) -> Result<(), String> {
        match *self.state.lock().unwrap_or_else(PoisonError::into_inner) {
            State::Up => Ok(()),
            State::NeverUp => Err(format!("{}: not connected yet", self.name)),
            State::Down(since) if since.elapsed() < patience => Ok(()),
            State::Down(since) => {
                Err(format!("{}: no connection for {} s", self.name, since.elapsed().as_secs()))
            }
        }
    }
}

/// Full-jitter backoff from 0.2 to 30 seconds.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    failures: u32,
}

impl Backoff {
    const FIRST: Duration = Duration::from_millis(200);
    const LAST: Duration = Duration::from_secs(30);

    fn ceiling(&self) -> Duration {
        Self::FIRST.saturating_mul(1 << self.failures.min(8)).min(Self::LAST)
    }

    fn next(&mut self) -> Duration {
        let pause =
            self.ceiling().mul_f64(rand::rng().random_range(0.0..=1.0)).max(Duration::from_millis(20));
        self.failures += 1;
        pause
    }
}

/// Connects, runs a session, and starts again from nothing whenever it ends, until asked to stop.
///
/// Recovery is not a special case: it is the code that runs at every start.
pub(super) async fn supervise<F, S>(
    config: &BrokerConfig,
    state: &LinkState,
    stop: &CancellationToken,
    session: F,
) where
    F: Fn(Connection) -> S,
    S: Future<Output = Result<(), BrokerError>>,
{
    let mut backoff = Backoff::default();
    loop {
        let began = Instant::now();
        let connected = tokio::select! {
            () = stop.cancelled() => return,
            connected = config.connect(&state.name) => connected,
        };
        let ended = match connected {
            Ok(connection) => session(connection).await,
            Err(error) => Err(error),
        };
        state.down();
        match ended {
            Ok(()) => return,
            Err(error) => tracing::warn!(link = state.name, %error, "broker session ended"),
        }
        metrics::counter!("parapet_amqp_reconnects_total", "link" => state.name.clone()).increment(1);
        if began.elapsed() > Backoff::LAST {
            backoff = Backoff::default();
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(backoff.next()) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_half_a_minute_and_not_beyond() {
        let mut backoff = Backoff::default();
        assert_eq!(backoff.ceiling(), Backoff::FIRST);
        for _ in 0..100 {
            let ceiling = backoff.ceiling();
            let pause = backoff.next();
            assert!(pause <= ceiling && pause <= Backoff::LAST);
        }
        assert_eq!(backoff.ceiling(), Backoff::LAST);
    }

    #[test]
    fn a_link_is_ready_through_a_short_loss_only() {
        let link = LinkState::new("x".into());
        assert!(link.check(Duration::from_mins(1)).is_err(), "never connected");
        link.up();
        assert!(link.check(Duration::ZERO).is_ok());
        link.down();
        assert!(link.check(Duration::from_mins(1)).is_ok());
        assert!(link.check(Duration::ZERO).is_err());
    }
}
