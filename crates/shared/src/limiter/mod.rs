//! The attempt limiter: the only maker of attempt permits.

/// Permission to submit one password once. Made only by the limiter, after its reservation has committed.
#[must_use = "a dropped permit is a spent attempt"]
#[derive(Debug)]
pub struct AttemptPermit {
    pub(crate) deadline: std::time::Instant,
}

impl AttemptPermit {
    /// The instant, by this process's monotonic clock, after which nothing may be sent under this permit.
    pub fn deadline(&self) -> std::time::Instant {
        self.deadline
    }
}
