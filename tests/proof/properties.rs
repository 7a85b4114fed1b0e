//! What must hold always (design §4), and what must happen sometimes: a model in which nothing happens proves nothing.

use stateright::Property;

use crate::{
    model::Protocol,
    world::{Attempt, DAY, DEADLINE, State, Status, Submission, Worker, World},
};

type Rule = Property<Protocol>;

/// The properties of a model in this world.
pub fn of(world: &World) -> Vec<Rule> {
    let mut all = always().to_vec();
    all.extend(sometimes());
    if world.ticks > DAY {
        all.push(Rule::sometimes("a slot falls free and is used again", |_, s| {
            s.provider.day.iter().any(|sent| sent.at > DAY)
        }));
    }
    if world.sign_ins > 0 {
        all.extend(owner());
    }
    if world.stops > 0 {
        all.extend(stops());
    }
    if world.two_versions {
        all.extend(versions());
    }
    if world.failovers > 0 {
        all.extend(failovers(world.synchronous));
    }
    if world.clock_steps > 0 {
        all.push(Rule::sometimes("the gate closes for a clock, opens, and an attempt follows", |_, s| {
            s.left.clock_steps == 0 && reopened(s)
        }));
    }
    all
}

fn always() -> [Rule; 6] {
    [
        // I1. The newest is looked at in every state, so all are.
        Rule::always("in any day at most the limit", |_, s| {
            s.provider.day.last().is_none_or(|last| in_its_day(s, last) <= last.allowed)
        }),
        // A failover that loses a reservation, and only that, lets its attempt be made anew (a window later).
        Rule::always("an attempt is sent once", |_, s| {
            let lost = |n: usize| s.lost.iter().filter(|lost| **lost == n).count();
            s.provider.times.iter().enumerate().all(|(n, times)| usize::from(*times) <= 1 + lost(n))
        }),
        // I2. What a failover loses is not counted any more: nobody can know of it.
        Rule::always("between two sign-ins at most the reserve", |model, s| {
            s.provider.since_owner <= model.world.reserve + s.lost.len()
        }),
        Rule::always("nothing is sent once a stop is older than a permit", |_, s| {
            s.provider.day.last().is_none_or(|last| last.stopped_for.is_none_or(|length| length <= DEADLINE))
        }),
        // I4.
        Rule::always("what was sent is on record", |_, s| {
            let both = s.provider.times.iter().zip(&s.db.requests).enumerate();
            both.into_iter().all(|(n, (times, r))| *times == 0 || r.attempt.is_some() || s.lost.contains(&n))
        }),
        // I3, I5. What waits can still be tried or is about to be decided; what does not has evidence.
        Rule::always("every request waits, is decided or is visibly unknown", |_, s| {
            let both = s.provider.times.iter().zip(&s.db.requests);
            both.into_iter().all(|(times, request)| match request.status {
                Status::Waiting => matches!(request.attempt, None | Some(Attempt::Reserved { .. })),
                Status::Unknown => request.attempt == Some(Attempt::Unknown),
                Status::Decided => request.attempt == Some(Attempt::Answered) && *times > 0,
            })
        }),
    ]
}

fn sometimes() -> [Rule; 4] {
    [
        Rule::sometimes("the limit is reached", |_, s| {
            s.provider.day.last().is_some_and(|last| in_its_day(s, last) == last.allowed)
        }),
        Rule::sometimes("a process dies after reserving", |_, s| {
            let open = |a: Attempt| matches!(a, Attempt::Reserved { .. });
            let held = |w: &Worker| matches!(w, Worker::Permitted { .. } | Worker::Sent { .. });
            s.db.requests.iter().any(|r| r.attempt.is_some_and(open)) && !s.workers.iter().any(held)
        }),
        Rule::sometimes("an answer comes after the reaper", |_, s| {
            let reaped = |n: &usize| s.db.requests.get(*n).is_some_and(|r| r.status == Status::Unknown);
            s.workers.iter().any(|w| matches!(w, Worker::Sent { request, .. } if reaped(request)))
        }),
        Rule::sometimes("all requests are decided by their answers", |_, s| {
            s.db.requests.iter().all(|r| r.status == Status::Decided)
        }),
    ]
}

fn owner() -> [Rule; 2] {
    [
        Rule::sometimes("the reserve is used up", |model, s| s.provider.since_owner == model.world.reserve),
        Rule::sometimes("a sign-in of the owner gives it back", |model, s| {
            s.provider.times.iter().map(|times| usize::from(*times)).sum::<usize>() > model.world.reserve
        }),
    ]
}

fn stops() -> [Rule; 2] {
    [
        Rule::sometimes("a permit that was out is used after the stop", |_, s| {
            s.provider.day.last().is_some_and(|last| last.stopped_for.is_some())
        }),
        Rule::sometimes("attempts go on after a stop", |_, s| {
            let after = s.provider.day.last().is_some_and(|last| last.stopped_for.is_none());
            after && s.provider.day.iter().any(|sent| sent.stopped_for.is_some())
        }),
    ]
}

fn versions() -> [Rule; 2] {
    [
        Rule::sometimes("both versions make attempts", |_, s| {
            let by = |limit: fn(usize) -> bool| s.provider.day.iter().any(|sent| limit(sent.allowed));
            by(|allowed| allowed > 2) && by(|allowed| allowed <= 2)
        }),
        Rule::sometimes("a lowered limit is kept to", |_, s| {
            s.db.limit == 1 && s.provider.day.last().is_some_and(|last| last.allowed == 1)
        }),
    ]
}

fn failovers(synchronous: bool) -> Vec<Rule> {
    if synchronous {
        return vec![Rule::sometimes("attempts go on at once after a failover", |_, s| {
            // A transaction that is open after a failover began after it.
            s.now == 0 && s.identity > 0 && s.workers.iter().any(|w| matches!(w, Worker::Reserving { .. }))
        })];
    }
    vec![
        Rule::sometimes("a failover loses a reservation that was used", |_, s| {
            s.lost.iter().any(|n| s.provider.times.get(*n).is_some_and(|times| *times > 0))
        }),
        // The honest rest: after a window nobody knows that it was made before.
        Rule::sometimes("what a failover lost is made again, a window later", |_, s| {
            s.lost.iter().any(|n| s.provider.times.get(*n).is_some_and(|times| *times > 1))
        }),
        Rule::sometimes("the gate closes for a failover, opens, and an attempt follows", |_, s| {
            s.identity > 0 && reopened(s)
        }),
    ]
}

/// An attempt was made after the gate had closed and its time had passed.
fn reopened(s: &State) -> bool {
    s.provider.day.last().is_some_and(|last| last.gated)
}

/// Submissions in the day that ends with this one.
fn in_its_day(s: &State, last: &Submission) -> usize {
    s.provider.day.iter().filter(|sent| sent.at > last.at - DAY).count()
}
