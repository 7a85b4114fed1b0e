//! What there is: the database, the validators' processes, the provider, and what may befall them.
//!
//! Time is counted in ticks. Only the order of the lengths matters: a permit lives a tick, the reaper comes after two, a
//! day has three. A step of a clock is a whole tick at least; what is shorter is the tolerance that the window's quarter of
//! an hour pays for.

/// An instant or a length, in ticks.
pub type Time = i8;

/// What I1 counts in: the longest calendar day.
pub const DAY: Time = 3;
/// From the start of a reservation to the first byte sent (`SEND_DEADLINE`).
pub const DEADLINE: Time = 1;
/// How long a reservation counts: a day, and the time between reserving and sending.
pub const WINDOW: Time = DAY + DEADLINE;
/// When the reaper calls a reservation unknown.
pub const OVERDUE: Time = 2;
/// What the directory dates earlier than this after our attempt may be the attempt's own trace.
pub const GRACE: Time = 1;
/// The most that the function grants in a window, whoever asks.
pub const CEILING: usize = 3;
/// What validators of the old version ask for, whatever the integration's setting has become.
pub const OLD_LIMIT: usize = 5;

/// What may happen in a model.
#[derive(Clone, Copy, Debug)]
pub struct World {
    /// Processes; each handles one message at a time.
    pub workers: usize,
    /// Requests for the one account, each with an attempt of its own.
    pub requests: usize,
    /// How far time goes.
    pub ticks: Time,
    /// The integration's daily maximum.
    pub limit: usize,
    /// Attempts allowed between two sign-ins of the owner.
    pub reserve: usize,
    /// Sign-ins of the owner.
    pub sign_ins: u8,
    /// Times that somebody stops attempts.
    pub stops: u8,
    /// An administrator lowers the limit to one.
    pub lowered: u8,
    /// Validators of the old version work beside those of the new one.
    pub two_versions: bool,
    /// Failovers of the database.
    pub failovers: u8,
    /// Commits reach the standby before they are answered, as the deployment declares. It always declares so: what counts
    /// is what the database was seen to do.
    pub synchronous: bool,
    /// Steps of the database's clock, forward or back.
    pub clock_steps: u8,
}

/// The least that can happen: processes die, messages are repeated, time passes.
pub const PLAIN: World = World {
    workers: 2,
    requests: 3,
    ticks: 5,
    limit: 2,
    reserve: 9,
    sign_ins: 0,
    stops: 0,
    lowered: 0,
    two_versions: false,
    failovers: 0,
    synchronous: false,
    clock_steps: 0,
};

/// Which rules a validator was built with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Version {
    Old,
    New,
}

/// Everything at one instant.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct State {
    /// True time; every process's monotonic clock runs with it.
    pub now: Time,
    /// The database's clock is this much ahead.
    pub skew: Time,
    pub db: Database,
    /// What an asynchronous standby has.
    pub standby: Option<Database>,
    /// Identity of the database that answers: system identifier and timeline.
    pub identity: u8,
    /// When the last beat was, by the validators' own clocks.
    pub beaten: Time,
    /// In no particular order: processes have no names.
    pub workers: Vec<Worker>,
    pub provider: Provider,
    /// When attempts were stopped, while they are.
    pub stopped_at: Option<Time>,
    /// Requests whose reservation a failover lost, once for each.
    pub lost: Vec<usize>,
    /// What may still happen.
    pub left: Left,
}

/// How often something may still happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Left {
    pub sign_ins: u8,
    pub stops: u8,
    pub lowered: u8,
    pub failovers: u8,
    pub clock_steps: u8,
}

/// What is committed.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Database {
    pub account: Account,
    pub requests: Vec<Request>,
    /// `budget.stop` covers the account.
    pub stopped: bool,
    /// The integration's daily maximum.
    pub limit: usize,
    pub gate: Gate,
}

/// The row of `budget.account`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Account {
    /// Reservations that may count still, oldest first.
    pub recent: Vec<Slot>,
    pub last_attempt_at: Option<Time>,
    pub since_success: usize,
}

/// A reservation's time. Whose it was is looked at by a broken variant only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Slot {
    pub at: Time,
    pub by: Version,
}

/// The row of `budget.gate`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Gate {
    /// The database that the reservations are known to be in.
    pub identity: u8,
    /// No reservation before, by the database's clock.
    pub closed_until: Option<Time>,
    /// The database's clock at the last beat.
    pub beat_at: Time,
}

/// An exposure in one round, and the row of `budget.attempt` once it has one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Request {
    pub status: Status,
    pub attempt: Option<Attempt>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Status {
    /// It waits for its turn, deferred or not; the dispatcher sends it again and again.
    Waiting,
    /// An answer decided it.
    Decided,
    /// Nobody knows what came of its attempt, and that is shown.
    Unknown,
}

/// What is left of the row of `budget.attempt` once it is closed is how.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Attempt {
    /// The instant stands for the nonce as well: only the process that reserved then knows it.
    Reserved {
        at: Time,
    },
    Answered,
    Unknown,
}

/// A process of the validator, in the stages of `turn.rs`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Worker {
    /// Waits for a message.
    Idle,
    /// The slot is taken in the open transaction, whose row lock keeps others out. The time to send is counted from
    /// here, really from before the transaction: less may be sent than here.
    Reserving { request: usize, begun: Time, grant: Grant },
    /// The commit was seen to succeed.
    Permitted { request: usize, begun: Time, grant: Grant },
    /// The password may have left.
    Sent { request: usize, grant: Grant },
}

/// What a granted reservation writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Grant {
    pub at: Time,
    /// The count since the owner's last sign-in, before this attempt.
    pub since_success: usize,
    /// What I1 allows the asker: its limit, at most the ceiling.
    pub allowed: usize,
    pub by: Version,
}

/// What the directory saw: the judge's book.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Provider {
    /// Submissions of each request.
    pub times: Vec<u8>,
    /// Submissions of the day that ends now, oldest first.
    pub day: Vec<Submission>,
    /// The owner's last sign-in, and submissions after it.
    pub owner_at: Time,
    pub since_owner: usize,
}

/// One password submission that may have reached the directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Submission {
    pub at: Time,
    pub allowed: usize,
    /// How long attempts had been stopped.
    pub stopped_for: Option<Time>,
    /// The gate had been closed, and was open again.
    pub gated: bool,
}

impl Worker {
    /// Too late is too late: how much does not matter.
    pub fn grow_old(&mut self, too_late: Time) {
        if let Self::Reserving { begun, .. } | Self::Permitted { begun, .. } = self {
            *begun = too_late.max(*begun);
        }
    }

    fn holds(&self, held: usize) -> bool {
        match self {
            Self::Idle => false,
            Self::Reserving { request, .. }
            | Self::Permitted { request, .. }
            | Self::Sent { request, .. } => *request == held,
        }
    }
}

impl State {
    /// Nothing has happened to the request yet.
    pub fn is_fresh(&self, request: usize) -> bool {
        self.db.requests.get(request).is_some_and(|r| r.attempt.is_none() && r.status == Status::Waiting)
            && !self.workers.iter().any(|worker| worker.holds(request))
            && self.provider.times.get(request) == Some(&0)
            && !self.lost.contains(&request)
    }

    /// What `clock_timestamp()` says.
    pub fn clock(&self) -> Time {
        self.now + self.skew
    }

    /// The beginning: nothing has happened yet.
    pub fn first(world: &World) -> Self {
        let db = Database {
            account: Account { recent: Vec::new(), last_attempt_at: None, since_success: 0 },
            requests: vec![Request { status: Status::Waiting, attempt: None }; world.requests],
            stopped: false,
            limit: world.limit,
            gate: Gate { identity: 0, closed_until: None, beat_at: 0 },
        };
        Self {
            now: 0,
            skew: 0,
            standby: (world.failovers > 0 && !world.synchronous).then(|| db.clone()),
            db,
            identity: 0,
            beaten: 0,
            workers: vec![Worker::Idle; world.workers],
            provider: Provider {
                times: vec![0; world.requests],
                day: Vec::new(),
                owner_at: -WINDOW,
                since_owner: 0,
            },
            stopped_at: None,
            lost: Vec::new(),
            left: Left {
                sign_ins: world.sign_ins,
                stops: world.stops,
                lowered: world.lowered,
                failovers: world.failovers,
                clock_steps: world.clock_steps,
            },
        }
    }
}
