//! Whether the service can do its job now.

use std::{
    fmt,
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicBool, Ordering},
    },
};

use tokio_util::sync::CancellationToken;

type Check = Box<dyn Fn() -> Result<(), String> + Send + Sync>;

/// The checks of a service; it is ready when all pass.
#[derive(Clone)]
pub struct Readiness(Arc<Inner>);

struct Inner {
    checks: RwLock<Vec<Check>>,
    started: AtomicBool,
    stop: CancellationToken,
}

impl fmt::Debug for Readiness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Readiness").field(&self.faults()).finish()
    }
}

impl Readiness {
    pub(super) fn new(stop: CancellationToken) -> Self {
        Self(Arc::new(Inner { checks: RwLock::default(), started: AtomicBool::new(false), stop }))
    }

    /// Adds a check: cheap, without waiting, and with a reason a person can act on.
    pub fn add(&self, check: impl Fn() -> Result<(), String> + Send + Sync + 'static) {
        self.0.checks.write().unwrap_or_else(PoisonError::into_inner).push(Box::new(check));
    }

    pub(super) fn started(&self) {
        self.0.started.store(true, Ordering::Relaxed);
    }

    /// What stands in the way; empty when ready.
    pub fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        if !self.0.started.load(Ordering::Relaxed) {
            faults.push("starting".to_owned());
        }
        if self.0.stop.is_cancelled() {
            faults.push("stopping".to_owned());
        }
        faults.extend(
            self.0
                .checks
                .read()
                .unwrap_or_else(PoisonError::into_inner)
                .iter()
                .filter_map(|check| check().err()),
        );
        faults
    }

    /// Whether nothing stands in the way.
    pub fn is_ready(&self) -> bool {
        self.faults().is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_means_started_not_stopping_and_every_check_passing() {
        let stop = CancellationToken::new();
        let readiness = Readiness::new(stop.clone());
        assert_eq!(readiness.faults(), ["starting"]);
        readiness.started();
        assert!(readiness.is_ready());
        let broken = Arc::new(AtomicBool::new(true));
        let seen = Arc::clone(&broken);
        readiness.add(move || if seen.load(Ordering::Relaxed) { Err("broken".to_owned()) } else { Ok(()) });
        assert_eq!(readiness.faults(), ["broken"]);
        broken.store(false, Ordering::Relaxed);
        assert!(readiness.is_ready());
        stop.cancel();
        assert_eq!(readiness.faults(), ["stopping"]);
    }
}
