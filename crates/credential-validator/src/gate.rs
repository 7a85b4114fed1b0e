//! Watches whether the budget's database can be believed: its identity, its memory, its clock.

use std::time::Duration;

use shared::{
    audit::{self, Actor, Event, Outcome, names},
    db::{Db, StoreError},
    limiter::gate::{News, Witness},
};
use tokio_util::sync::CancellationToken;

use crate::NAME;

const EVERY: Duration = Duration::from_secs(5);

/// Testifies every five seconds until asked to stop. A beat that fails is missed: reservations compare the database's
/// identity themselves.
pub async fn watch(db: Db, synchronous: bool, stop: CancellationToken) -> anyhow::Result<()> {
    let mut witness = Witness::default();
    loop {
        if let Err(error) = beat(&db, &mut witness, synchronous).await {
            tracing::warn!(%error, "the attempt gate was not looked at; it is tried again");
        }
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            () = tokio::time::sleep(EVERY) => {}
        }
    }
}

/// One beat: what is new is recorded with it.
pub async fn beat(db: &Db, witness: &mut Witness, synchronous: bool) -> Result<Option<News>, StoreError> {
    let mut tx = db.system().await?;
    let beat = witness.beat(&mut tx, synchronous).await?;
    if let Some(event) = beat.news.map(told) {
        let until = beat.closed_until.map(|at| at.to_string()).unwrap_or_default();
        audit::record(&mut tx, &event.detail("closed_until", until)).await?;
    }
    tx.commit().await?;
    witness.saw(&beat);
    metrics::gauge!("parapet_attempt_gate_open").set(if beat.closed_until.is_some() { 0.0 } else { 1.0 });
    Ok(beat.news)
}

fn told(news: News) -> Event {
    let event = |kind, outcome, message| Event::new(None, kind, Actor::Service(NAME), outcome, message);
    match news {
        News::Closed { reason, message } => {
            tracing::error!(reason, "{message}; no password is submitted for a window");
            event(names::VALIDATION_GATE_CLOSED, Outcome::Refused, message).detail("reason", reason)
        }
        News::Kept => {
            tracing::warn!("a replica was promoted; as declared, it lacks nothing, and attempts go on");
            let message = "A replica was promoted; as the deployment declares, it lacks no reservation";
            event(names::VALIDATION_GATE_KEPT, Outcome::Info, message)
        }
        News::ClockBack => {
            tracing::warn!("the database's clock went back; slots become free later");
            event(
                names::VALIDATION_CLOCK_BACK,
                Outcome::Info,
                "The database's clock went back; nothing becomes free by it",
            )
        }
        News::Opened => {
            tracing::info!("the attempt gate is open again");
            event(names::VALIDATION_GATE_OPENED, Outcome::Success, "A window has passed; attempts go on")
        }
    }
}
