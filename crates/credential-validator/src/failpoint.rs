//! The stages of an exposure's turn at which a test lets the process die.

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

/// Dies here if a test asked for it.
pub fn reach(stage: Stage) {
    shared::failpoint::reach(stage.as_str());
}
