//! What can happen next: the steps of a validator's turn (`turn.rs`), and everything that can come between them.
//!
//! Broker and outbox are left out, which allows more than they do: any message may reach any process at any time, any
//! number of times. That is redelivery, duplicate delivery, a lease that ran out and a message weeks old. A process can
//! die at every step; how often is not bounded.

use stateright::{Model, Property};

use crate::{
    budget::{Answer, Ask},
    catalogue::Fault,
    properties,
    world::{
        DAY, DEADLINE, Database, OLD_LIMIT, State, Status, Submission, Time, Version, WINDOW, Worker, World,
    },
};

/// The protocol in a world, with all its protections or without one.
#[derive(Clone, Copy, Debug)]
pub struct Protocol {
    pub world: World,
    pub fault: Option<Fault>,
}

/// One step. `worker` is a place in [`State::workers`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// A message for the request arrives; its reservation's transaction asks, under the account's row lock.
    Ask { request: usize, by: Version, shown: Shown },
    /// The commit is seen to succeed.
    Commit { worker: usize },
    /// The commit happened, its answer is lost: not ours, nothing is sent.
    CommitUnheard { worker: usize },
    /// The connection broke before the commit.
    Abort { worker: usize },
    /// The one request leaves.
    Send { worker: usize },
    /// The permit's deadline has passed: nothing is sent, the outcome is stored as unknown.
    GiveUp { worker: usize },
    /// The answer is stored with the verdict.
    Conclude { worker: usize },
    /// No answer came.
    ConcludeUnknown { worker: usize },
    /// `kill -9`.
    Die { worker: usize },
    /// The reaper finds an overdue reservation.
    Reap { request: usize },
    /// Time passes.
    Tick,
    /// The owner signs in.
    OwnerSignsIn,
    /// Somebody stops attempts.
    Stop,
    /// And ends the stop.
    Resume,
    /// An administrator lowers the limit to one.
    Lower,
    /// The standby has caught up.
    Replicate,
    /// The standby takes over.
    Failover,
    /// The database's clock jumps.
    ClockJumps(Time),
    /// A validator compares the database's clock with its own.
    Beat,
}

/// What the directory shows as the owner's last sign-in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shown {
    Nothing,
    Owner,
    /// Our own last attempt, as a directory shows it that counts ours as sign-ins.
    Ours,
}

impl Protocol {
    /// Whether this protection is taken out.
    pub fn lacks(&self, fault: Fault) -> bool {
        self.fault == Some(fault)
    }

    fn next_of_worker(&self, state: &State, worker: usize, now: &Worker, steps: &mut Vec<Step>) {
        match now {
            Worker::Idle => return,
            Worker::Reserving { .. } if self.lacks(Fault::SendThenRecord) => {
                steps.push(Step::Send { worker });
            }
            Worker::Reserving { .. } => {
                steps.extend([
                    Step::Commit { worker },
                    Step::CommitUnheard { worker },
                    Step::Abort { worker },
                ]);
            }
            Worker::Permitted { begun, .. } => {
                let in_time = state.now <= begun + DEADLINE;
                let unheeded = self.lacks(Fault::DeadlineUnheeded);
                steps.push(if in_time || unheeded { Step::Send { worker } } else { Step::GiveUp { worker } });
            }
            Worker::Sent { .. } if self.lacks(Fault::SendThenRecord) => steps.push(Step::Commit { worker }),
            Worker::Sent { .. } => {
                steps.extend([Step::Conclude { worker }, Step::ConcludeUnknown { worker }]);
            }
        }
        steps.push(Step::Die { worker });
    }

    /// Whether a validator can ask: it is free, nobody holds the row lock. It beats every few seconds, and a tick is longer.
    fn may_ask(&self, state: &State) -> bool {
        let locked = state.workers.iter().any(|worker| matches!(worker, Worker::Reserving { .. }));
        let beaten = self.world.clock_steps == 0 || state.beaten == state.now;
        state.workers.contains(&Worker::Idle) && beaten && (!locked || self.lacks(Fault::CheckThenSend))
    }

    /// What a process does, and what it is then.
    fn advance(&self, state: &mut State, worker: Worker, step: Step) -> Worker {
        match (worker, step) {
            (Worker::Idle, Step::Ask { request, by, shown }) => match self.ask(state, request, by, shown) {
                Answer::Granted(grant) => Worker::Reserving { request, begun: state.now, grant },
                // INVARIANT: what has a reservation is never sent again. Its holder or the reaper concludes it.
                Answer::Already | Answer::Denied => Worker::Idle,
            },
            (Worker::Reserving { request, begun, grant }, Step::Commit { .. }) => {
                Self::commit(&mut state.db, request, &grant);
                Worker::Permitted { request, begun, grant }
            }
            (Worker::Reserving { request, grant, .. }, Step::CommitUnheard { .. }) => {
                Self::commit(&mut state.db, request, &grant);
                Worker::Idle
            }
            (Worker::Reserving { request, begun, grant }, Step::Abort { .. })
                if self.lacks(Fault::LostCommitBelieved) =>
            {
                Worker::Permitted { request, begun, grant }
            }
            (
                Worker::Permitted { request, grant, .. } | Worker::Reserving { request, grant, .. },
                Step::Send { .. },
            ) => {
                let gate = state.db.gate.closed_until;
                state.provider.day.push(Submission {
                    at: state.now,
                    allowed: grant.allowed,
                    stopped_for: state.stopped_at.map(|since| state.now - since),
                    gated: gate.is_some_and(|until| until <= grant.at),
                });
                if let Some(times) = state.provider.times.get_mut(request) {
                    *times += 1;
                }
                state.provider.since_owner += 1;
                Worker::Sent { request, grant }
            }
            (Worker::Sent { request, grant }, Step::Commit { .. }) => {
                Self::commit(&mut state.db, request, &grant);
                Self::settle(&mut state.db, request, &grant, true);
                Worker::Idle
            }
            (Worker::Sent { request, grant }, Step::Conclude { .. }) => {
                Self::settle(&mut state.db, request, &grant, true);
                Worker::Idle
            }
            (Worker::Sent { request, grant }, Step::ConcludeUnknown { .. })
            | (Worker::Permitted { request, grant, .. }, Step::GiveUp { .. }) => {
                Self::settle(&mut state.db, request, &grant, false);
                Worker::Idle
            }
            // Dead, or its connection is.
            (_, _) => Worker::Idle,
        }
    }

    fn ask(&self, state: &mut State, request: usize, by: Version, shown: Shown) -> Answer {
        let ask = Ask {
            request,
            by,
            limit: if by == Version::Old { OLD_LIMIT } else { state.db.limit },
            shown: match shown {
                Shown::Nothing => None,
                Shown::Owner => Some(state.provider.owner_at),
                Shown::Ours => state.provider.day.last().map(|sent| sent.at),
            },
            instant: state.clock(),
            identity: state.identity,
        };
        // A denial commits what it wrote, the gate's closing for one. What a grant writes waits for its own commit.
        let mut written = state.db.clone();
        let answer = self.decide(&mut written, &ask);
        if answer == Answer::Denied {
            state.db = written;
        }
        answer
    }

    /// The standby takes over: what it does not have is lost, open transactions are gone, permits are not.
    fn fail_over(state: &mut State) {
        if let Some(standby) = &state.standby {
            let had = |db: &Database, n: usize| db.requests.get(n).is_some_and(|r| r.attempt.is_some());
            let all = 0..state.db.requests.len();
            state.lost.extend(all.filter(|n| had(&state.db, *n) && !had(standby, *n)));
            state.db = standby.clone();
        }
        state.identity += 1;
        for worker in &mut state.workers {
            if matches!(worker, Worker::Reserving { .. }) {
                *worker = Worker::Idle;
            }
        }
    }
}

fn waits(db: &Database, request: usize) -> bool {
    db.requests.get(request).is_some_and(|r| r.status == Status::Waiting)
}

impl Model for Protocol {
    type State = State;
    type Action = Step;

    fn init_states(&self) -> Vec<State> {
        vec![State::first(&self.world)]
    }

    fn actions(&self, state: &State, steps: &mut Vec<Step>) {
        for (n, worker) in state.workers.iter().enumerate() {
            self.next_of_worker(state, n, worker, steps);
        }
        if self.may_ask(state) {
            // Requests that nothing has happened to are alike: the first stands for all.
            let first = (0..self.world.requests).find(|n| state.is_fresh(*n));
            let comes = |n: &usize| waits(&state.db, *n) && (!state.is_fresh(*n) || first == Some(*n));
            for request in (0..self.world.requests).filter(comes) {
                for by in
                    if self.world.two_versions { &[Version::New, Version::Old][..] } else { &[Version::New] }
                {
                    let all = [Shown::Nothing, Shown::Owner, Shown::Ours];
                    let shown = if self.world.sign_ins > 0 { &all[..] } else { &[Shown::Nothing] };
                    steps.extend(shown.iter().map(|shown| Step::Ask { request, by: *by, shown: *shown }));
                }
            }
        }
        let overdue = |n: &usize| Self::is_overdue(&state.db, *n, state.clock());
        steps.extend((0..self.world.requests).filter(overdue).map(|request| Step::Reap { request }));
        let mut may = |possible: bool, step| {
            if possible {
                steps.push(step);
            }
        };
        may(state.now < self.world.ticks, Step::Tick);
        may(state.left.sign_ins > 0, Step::OwnerSignsIn);
        may(state.left.stops > 0 && !state.db.stopped, Step::Stop);
        may(state.db.stopped, Step::Resume);
        may(state.left.lowered > 0, Step::Lower);
        may(state.standby.as_ref().is_some_and(|standby| *standby != state.db), Step::Replicate);
        may(state.left.failovers > 0, Step::Failover);
        for length in [WINDOW, 2, -2] {
            may(state.left.clock_steps > 0, Step::ClockJumps(length));
        }
        may(self.world.clock_steps > 0 || state.db.gate.identity != state.identity, Step::Beat);
    }

    fn next_state(&self, before: &State, step: Step) -> Option<State> {
        let mut state = before.clone();
        match step {
            Step::Ask { .. } => {
                let then = self.advance(&mut state, Worker::Idle, step);
                *state.workers.iter_mut().find(|worker| **worker == Worker::Idle)? = then;
            }
            Step::Commit { worker }
            | Step::CommitUnheard { worker }
            | Step::Abort { worker }
            | Step::Send { worker }
            | Step::GiveUp { worker }
            | Step::Conclude { worker }
            | Step::ConcludeUnknown { worker }
            | Step::Die { worker } => {
                let then = self.advance(&mut state, *before.workers.get(worker)?, step);
                *state.workers.get_mut(worker)? = then;
            }
            Step::Reap { request } => self.reap(&mut state.db, request),
            Step::Tick => {
                state.now += 1;
                state.workers.iter_mut().for_each(|worker| worker.grow_old(before.now - DEADLINE));
                state.provider.day.retain(|sent| sent.at > before.now + 1 - DAY);
            }
            Step::OwnerSignsIn => {
                state.left.sign_ins -= 1;
                (state.provider.owner_at, state.provider.since_owner) = (state.now, 0);
            }
            Step::Stop => {
                state.left.stops -= 1;
                (state.db.stopped, state.stopped_at) = (true, Some(state.now));
            }
            Step::Resume => (state.db.stopped, state.stopped_at) = (false, None),
            Step::Lower => {
                state.left.lowered -= 1;
                state.db.limit = 1;
            }
            Step::Replicate => state.standby = Some(state.db.clone()),
            Step::Failover => {
                state.left.failovers -= 1;
                Self::fail_over(&mut state);
            }
            Step::ClockJumps(length) => {
                state.left.clock_steps -= 1;
                state.skew += length;
            }
            Step::Beat => self.beat(&mut state),
        }
        // Processes are alike: states that differ in their order only are one.
        state.workers.sort_unstable();
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        properties::of(&self.world)
    }
}
