//! Consuming: count the try, run the handler, settle, acknowledge after the commit.

use std::{
    future::Future,
    panic::AssertUnwindSafe,
    sync::{Arc, PoisonError},
    time::{Duration, Instant},
};

use futures::{FutureExt, StreamExt};
use lapin::{
    Channel, Connection, message,
    options::{
        BasicAckOptions, BasicCancelOptions, BasicConsumeOptions, BasicQosOptions, QueueDeclareOptions,
    },
    types::FieldTable,
};
use time::OffsetDateTime;
use tokio::sync::{Semaphore, oneshot};
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use super::{
    Delivery, Handler, HandlerError, Outcome,
    config::{BrokerConfig, BrokerError, answered},
    link::{self, LinkState},
};
use crate::{
    db::{Db, StoreError},
    id::MessageId,
    inbox::{self, MAX_TRIES, Seen},
    outbox::Topic,
    service::{Service, telemetry},
};

/// A handler that takes longer has failed. Far below the 30 minutes after which the broker takes a message back.
const HANDLER_LIMIT: Duration = Duration::from_mins(10);
/// Longest reason kept of a failure.
const REASON_CHARS: usize = 500;

/// Consumes a topic with up to `prefetch` messages in work at once.
pub fn spawn_consumer(service: &Service, topic: Topic, prefetch: u16, handler: Arc<dyn Handler>) {
    let worker = Arc::new(Worker::new(service, topic, prefetch, prefetch, handler));
    service.watch_link(worker.state.clone());
    service.spawn(topic.as_str(), async move {
        let stop = worker.stop.clone();
        link::supervise(&worker.broker, &worker.state, &stop, |connection| {
            Arc::clone(&worker).consume_single(connection)
        })
        .await;
        Ok(())
    });
}

pub(super) struct Worker {
    db: Db,
    pub(super) broker: BrokerConfig,
    service: Service,
    pub(super) stop: CancellationToken,
    pub(super) topic: Topic,
    prefetch: u16,
    // Bounds the messages at work one by one, across reconnections: the broker's prefetch starts anew with each
    // channel.
    at_once: u16,
    slots: Arc<Semaphore>,
    handler: Arc<dyn Handler>,
    pub(super) state: LinkState,
    /// Messages whose try waits to be counted, and whoever counts.
    arrived: std::sync::Mutex<Vec<(MessageId, oneshot::Sender<Seen>)>>,
    counting: tokio::sync::Mutex<()>,
}

/// What to do with a message after one try.
enum Step {
    Acknowledge,
    TryAgain(Duration),
    /// Leave it to the broker, which gives it to somebody else.
    Leave,
}

impl Worker {
    pub(super) fn new(
        service: &Service,
        topic: Topic,
        prefetch: u16,
        at_once: u16,
        handler: Arc<dyn Handler>,
    ) -> Self {
        Self {
            db: service.db().clone(),
            broker: service.common().broker.clone(),
            service: service.clone(),
            stop: service.stop_token(),
            topic,
            prefetch,
            at_once,
            slots: Arc::new(Semaphore::new(usize::from(at_once))),
            handler,
            state: LinkState::new(format!("{} consume {topic}", service.name())),
            arrived: std::sync::Mutex::default(),
            counting: tokio::sync::Mutex::default(),
        }
    }

    pub(super) async fn open(
        &self,
        connection: &Connection,
    ) -> Result<(Channel, lapin::Consumer), BrokerError> {
        let channel = answered(connection.create_channel()).await?;
        answered(channel.basic_qos(self.prefetch, BasicQosOptions::default())).await?;
        let look = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
        answered(channel.queue_declare(self.topic.as_str().into(), look, FieldTable::default())).await?;
        let consumer = answered(channel.basic_consume(
            self.topic.as_str().into(),
            self.service.name().into(),
            BasicConsumeOptions::default(),
            FieldTable::default(),
        ))
        .await?;
        self.state.up();
        Ok((channel, consumer))
    }

    async fn consume_single(self: Arc<Self>, connection: Connection) -> Result<(), BrokerError> {
        let (channel, mut consumer) = self.open(&connection).await?;
        loop {
            let next = tokio::select! {
                biased;
                () = self.stop.cancelled() => break,
                next = consumer.next() => next,
            };
            let raw = next.ok_or(BrokerError::Ended("the broker cancelled the consumer"))??;
            if !self.settle_apart(&channel, raw).await {
                break;
            }
        }
        self.close(&connection, &channel, &consumer).await
    }

    /// Works on one message in a task of its own, once there is room; false when the consumer is going away.
    pub(super) async fn settle_apart(self: &Arc<Self>, channel: &Channel, raw: message::Delivery) -> bool {
        let Ok(slot) = Arc::clone(&self.slots).acquire_owned().await else { return false };
        let (worker, channel) = (Arc::clone(self), channel.clone());
        self.service.track(async move {
            worker.settle(&channel, raw).await;
            drop(slot);
        });
        true
    }

    // No new messages; those in work are finished and acknowledged; the rest goes back to the queue.
    pub(super) async fn close(
        &self,
        connection: &Connection,
        channel: &Channel,
        consumer: &lapin::Consumer,
    ) -> Result<(), BrokerError> {
        answered(channel.basic_cancel(consumer.tag(), BasicCancelOptions::default())).await?;
        let _all = self.slots.acquire_many(u32::from(self.at_once)).await;
        answered(connection.close(200, "stopping".into())).await?;
        Ok(())
    }

    /// Works on one message until it is acknowledged or must be left.
    async fn settle(&self, channel: &Channel, raw: message::Delivery) {
        let (mut delivery, refused) = Delivery::read(self.topic, &raw, OffsetDateTime::now_utc());
        if let Some(reason) = refused {
            if self.park(&delivery, reason).await {
                self.acknowledge(&raw).await;
            }
            return;
        }
        let span = tracing::info_span!(
            "process",
            otel.kind = "consumer",
            messaging.system = "rabbitmq",
            messaging.destination.name = self.topic.as_str(),
            messaging.message.id = %delivery.message_id,
            parapet.delivery.tries = tracing::field::Empty,
        );
        telemetry::link_to(&span, delivery.traceparent.as_deref());
        async {
            loop {
                match self.attempt(&mut delivery).await {
                    Step::Acknowledge => {
                        self.acknowledge(&raw).await;
                        return;
                    }
                    Step::Leave => return,
                    Step::TryAgain(pause) => {
                        tokio::select! {
                            () = self.stop.cancelled() => return,
                            () = tokio::time::sleep(pause) => {}
                        }
                        if !channel.status().connected() {
                            return; // the broker has given it to somebody else
                        }
                    }
                }
            }
        }
        .instrument(span)
        .await;
    }

    async fn attempt(&self, delivery: &mut Delivery) -> Step {
        let Some(seen) = self.begin_one(delivery.message_id).await else { return Step::Leave };
        let Seen::Try(tries) = seen else {
            self.count("duplicate");
            return Step::Acknowledge;
        };
        delivery.next_try(tries);
        tracing::Span::current().record("parapet.delivery.tries", tries);
        if tries > MAX_TRIES {
            let reason = format!("gave up after {MAX_TRIES} tries that did not end");
            return self.park_step(delivery, &reason).await;
        }
        let began = Instant::now();
        let result = guarded(self.handler.handle(delivery)).await;
        metrics::histogram!("parapet_message_seconds", "topic" => self.topic.as_str())
            .record(began.elapsed());
        match result {
            Ok(Outcome::Done) => match self.ensure_done(std::slice::from_ref(delivery)).await {
                Ok(()) => {
                    self.count("done");
                    Step::Acknowledge
                }
                Err(error) => self.failed(delivery, &HandlerError::from(error)).await,
            },
            Ok(Outcome::Park(reason)) | Err(HandlerError::Poison(reason)) => {
                self.park_step(delivery, &reason).await
            }
            Err(error) => self.failed(delivery, &error).await,
        }
    }

    async fn failed(&self, delivery: &Delivery, error: &HandlerError) -> Step {
        let reason = shortened(&error.to_string());
        let tries = delivery.tries;
        tracing::warn!(message.id = %delivery.message_id, topic = %self.topic, tries, error = reason, "message failed");
        self.count("failed");
        if tries >= MAX_TRIES {
            return self.park_step(delivery, &reason).await;
        }
        // A database that is away is nobody's fault and costs no further try.
        if !self.until_reachable().await {
            return Step::Leave;
        }
        if let Err(error) = inbox::failed(&self.db, self.topic, delivery.message_id, &reason).await {
            tracing::warn!(%error, "the failure could not be noted");
        }
        Step::TryAgain(pause_after(tries))
    }

    async fn park_step(&self, delivery: &Delivery, reason: &str) -> Step {
        if self.park(delivery, reason).await { Step::Acknowledge } else { Step::Leave }
    }

    /// Parks; false when asked to stop before the database took it.
    async fn park(&self, delivery: &Delivery, reason: &str) -> bool {
        let reason = shortened(reason);
        loop {
            match inbox::park(&self.db, &delivery.parked(&reason)).await {
                Ok(()) => {
                    self.count("parked");
                    tracing::error!(message.id = %delivery.message_id, topic = %self.topic, reason, "message parked");
                    return true;
                }
                Err(error) => tracing::warn!(%error, "message could not be parked"),
            }
            if !self.pause_for_database().await {
                return false;
            }
        }
    }

    /// Counts a try of a message together with those of others that came meanwhile: one transaction at a time, and
    /// whoever is next takes all that wait. None when asked to stop before the database could.
    async fn begin_one(&self, id: MessageId) -> Option<Seen> {
        let (reply, seen) = oneshot::channel();
        self.arrived.lock().unwrap_or_else(PoisonError::into_inner).push((id, reply));
        let counting = self.counting.lock().await;
        let arrived = std::mem::take(&mut *self.arrived.lock().unwrap_or_else(PoisonError::into_inner));
        if !arrived.is_empty() {
            let ids: Vec<_> = arrived.iter().map(|(id, _)| *id).collect();
            let known = self.begin(&ids).await?;
            for (id, reply) in arrived {
                if let Some(seen) = known.get(&id) {
                    reply.send(*seen).ok(); // whoever asked waits below
                }
            }
        }
        drop(counting);
        seen.await.ok()
    }

    /// Counts a try of each message; None when asked to stop before the database could.
    pub(super) async fn begin(
        &self,
        ids: &[MessageId],
    ) -> Option<std::collections::HashMap<MessageId, Seen>> {
        loop {
            match inbox::begin(&self.db, self.topic, ids).await {
                Ok(seen) => return Some(seen),
                Err(error) => tracing::warn!(%error, "inbox not available"),
            }
            if !self.pause_for_database().await {
                return None;
            }
        }
    }

    async fn pause_for_database(&self) -> bool {
        tokio::select! {
            () = self.stop.cancelled() => return false,
            () = tokio::time::sleep(Duration::from_millis(200)) => {}
        }
        self.until_reachable().await
    }

    pub(super) async fn until_reachable(&self) -> bool {
        tokio::select! {
            biased;
            () = self.stop.cancelled() => false,
            () = self.db.wait_until_reachable() => true,
        }
    }

    /// A handler that had nothing to commit has not marked its message.
    pub(super) async fn ensure_done(&self, batch: &[Delivery]) -> Result<(), StoreError> {
        let open: Vec<_> = batch.iter().filter(|d| !d.is_settled()).map(|d| d.message_id).collect();
        if open.is_empty() {
            return Ok(());
        }
        let mut tx = self.db.system().await?;
        inbox::done(&mut tx, self.topic, &open).await?;
        tx.commit().await
    }

    /// Whether the acknowledgement arrived. A lost one undoes nothing: the message comes again and the inbox knows it.
    pub(super) async fn acknowledge(&self, raw: &message::Delivery) -> bool {
        let arrived = matches!(answered(raw.acker.ack(BasicAckOptions::default())).await, Ok(true));
        if !arrived {
            metrics::counter!("parapet_acks_lost_total", "topic" => self.topic.as_str()).increment(1);
            tracing::debug!(topic = %self.topic, "acknowledgement lost with its channel");
        }
        arrived
    }

    pub(super) fn count(&self, outcome: &'static str) {
        metrics::counter!("parapet_messages_total", "topic" => self.topic.as_str(), "outcome" => outcome)
            .increment(1);
    }
}

/// Runs a handler under its time limit; a panic fails the message, not the service, and counts as a try.
pub(super) async fn guarded<T>(
    handler: impl Future<Output = Result<T, HandlerError>>,
) -> Result<T, HandlerError> {
    match tokio::time::timeout(HANDLER_LIMIT, AssertUnwindSafe(handler).catch_unwind()).await {
        Ok(Ok(result)) => result,
        Ok(Err(_)) => {
            metrics::counter!("parapet_handler_panics_total").increment(1);
            Err(HandlerError::Transient(anyhow::anyhow!("the handler panicked")))
        }
        Err(_) => Err(HandlerError::Transient(anyhow::anyhow!("the handler took longer than ten minutes"))),
    }
}

fn pause_after(tries: i32) -> Duration {
    let exponent = u32::try_from(tries.clamp(1, 6) - 1).unwrap_or(0);
    Duration::from_millis(200) * 4_u32.pow(exponent)
}

pub(super) fn shortened(reason: &str) -> String {
    // PostgreSQL has no text with NUL: a reason that cannot be stored would keep its message for ever.
    reason.chars().filter(|c| *c != '\0').take(REASON_CHARS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_between_tries_grow_and_stay_below_the_brokers_patience() {
        let pauses: Vec<_> = (1..MAX_TRIES).map(pause_after).collect();
        assert!(pauses.is_sorted());
        assert!(pauses.iter().sum::<Duration>() < Duration::from_mins(1));
    }

    #[tokio::test]
    async fn a_panicking_handler_fails_its_message_only() {
        let result: Result<(), _> = guarded(async { panic!("boom") }).await;
        assert!(matches!(result, Err(HandlerError::Transient(_))));
    }
}
