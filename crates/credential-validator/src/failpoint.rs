//! Places where a test lets the process die: only with the feature `fail-points`, and never in a release build, whatever
//! its features (design §5).

/// A stage of an exposure's turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// The message arrived; nothing was done.
    Received,
    /// Connected to the sign-in host; nothing was reserved.
    Connected,
    /// The slot is taken in an open transaction.
    Reserving,
    /// The reservation is committed; nothing was sent.
    Reserved,
    /// The answer is there; nothing of it is stored.
    Answered,
    /// The result is written in an open transaction.
    Concluding,
    /// The result is committed; the message is not acknowledged.
    Concluded,
}

impl Stage {
    /// Every stage, in order.
    pub const ALL: [Self; 7] = [
        Self::Received,
        Self::Connected,
        Self::Reserving,
        Self::Reserved,
        Self::Answered,
        Self::Concluding,
        Self::Concluded,
    ];

    /// The name by which the variable `PARAPET_FAIL_POINT` chooses it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Received => "received",
            Self::Connected => "connected",
            Self::Reserving => "reserving",
            Self::Reserved => "reserved",
            Self::Answered => "answered",
            Self::Concluding => "concluding",
            Self::Concluded => "concluded",
        }
    }
}

/// Dies here, as by `kill -9`, if a test asked for it.
#[cfg(all(feature = "fail-points", debug_assertions))]
pub fn reach(stage: Stage) {
    if std::env::var("PARAPET_FAIL_POINT").is_ok_and(|wanted| wanted == stage.as_str())
        && let Err(error) =
            rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL)
    {
        tracing::error!(%error, "could not die");
    }
}

/// Nothing: the build has no fail points.
#[cfg(not(all(feature = "fail-points", debug_assertions)))]
pub const fn reach(_stage: Stage) {}
