//! Consuming in batches; a batch that fails is taken apart.

use std::{
    collections::HashSet,
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use futures::StreamExt;
use lapin::{Channel, Connection, message};
use time::OffsetDateTime;
use tracing::Instrument;

use super::{
    BatchHandler, Delivery, Handler, HandlerError, Outcome,
    config::BrokerError,
    consumer::{Worker, guarded, shortened},
    link,
};
use crate::{
    inbox::{MAX_TRIES, Seen},
    outbox::Topic,
    service::{Service, telemetry},
};

/// Most messages worked on one by one beside the batches: a message that fails for a while holds nobody up.
const APART: u16 = 16;

/// Consumes a topic in batches of up to `max_batch` messages that arrive within `linger` of the first.
pub fn spawn_batch_consumer(
    service: &Service,
    topic: Topic,
    prefetch: u16,
    handler: Arc<dyn BatchHandler>,
    max_batch: usize,
    linger: Duration,
) {
    let one_by_one: Arc<dyn Handler> = Arc::new(Apart(Arc::clone(&handler)));
    let worker = Arc::new(Worker::new(service, topic, prefetch, prefetch.min(APART), one_by_one));
    let batches = Arc::new(Batches { worker, handler, max_batch: max_batch.max(1), linger });
    service.watch_link(batches.worker.state.clone());
    service.spawn(topic.as_str(), async move {
        let stop = batches.worker.stop.clone();
        link::supervise(&batches.worker.broker, &batches.worker.state, &stop, |connection| {
            Arc::clone(&batches).consume(connection)
        })
        .await;
        Ok(())
    });
}

/// A batch handler, given one message at a time.
struct Apart(Arc<dyn BatchHandler>);

#[async_trait]
impl Handler for Apart {
    async fn handle(&self, delivery: &Delivery) -> Result<Outcome, HandlerError> {
        self.0.handle(std::slice::from_ref(delivery)).await.map(|()| Outcome::Done)
    }
}

struct Batches {
    worker: Arc<Worker>,
    handler: Arc<dyn BatchHandler>,
    max_batch: usize,
    linger: Duration,
}

impl Batches {
    async fn consume(self: Arc<Self>, connection: Connection) -> Result<(), BrokerError> {
        let worker = &self.worker;
        let (channel, mut consumer) = worker.open(&connection).await?;
        loop {
            let first = tokio::select! {
                biased;
                () = worker.stop.cancelled() => break,
                next = consumer.next() => next,
            };
            let first = first.ok_or(BrokerError::Ended("the broker cancelled the consumer"))??;
            let (batch, ended) = self.gather(first, &mut consumer).await;
            self.settle(&channel, batch).await;
            ended?;
        }
        worker.close(&connection, &channel, &consumer).await
    }

    async fn gather(
        &self,
        first: message::Delivery,
        consumer: &mut lapin::Consumer,
    ) -> (Vec<message::Delivery>, Result<(), BrokerError>) {
        let mut batch = vec![first];
        let deadline = tokio::time::Instant::now() + self.linger;
        while batch.len() < self.max_batch {
            match tokio::time::timeout_at(deadline, consumer.next()).await {
                Err(_) => break,
                Ok(Some(Ok(raw))) => batch.push(raw),
                Ok(Some(Err(error))) => return (batch, Err(error.into())),
                Ok(None) => return (batch, Err(BrokerError::Ended("the broker cancelled the consumer"))),
            }
        }
        (batch, Ok(()))
    }

    async fn settle(&self, channel: &Channel, raws: Vec<message::Delivery>) {
        let worker = &self.worker;
        let now = OffsetDateTime::now_utc();
        let mut ids = HashSet::new();
        let (mut batch, mut acks, mut apart) = (Vec::new(), Vec::new(), Vec::new());
        for raw in raws {
            let (delivery, refused) = Delivery::read(worker.topic, &raw, now);
            // What is refused, and a second copy of a message, is looked at alone.
            if refused.is_none() && ids.insert(delivery.message_id) {
                batch.push(delivery);
                acks.push(raw);
            } else {
                apart.push(raw);
            }
        }
        match self.together(&mut batch).await {
            Together::Done => {
                for raw in &acks {
                    // Gone with its channel, and so are the others: no need to find that out one by one.
                    if !worker.acknowledge(raw).await {
                        break;
                    }
                }
            }
            Together::Failed => apart.splice(0..0, acks).for_each(drop),
            Together::Stopping => return,
        }
        for raw in apart {
            if !worker.settle_apart(channel, raw).await {
                return;
            }
        }
    }

    async fn together(&self, batch: &mut Vec<Delivery>) -> Together {
        let worker = &self.worker;
        let ids: Vec<_> = batch.iter().map(|d| d.message_id).collect();
        if ids.is_empty() {
            return Together::Done;
        }
        let Some(seen) = worker.begin(&ids).await else { return Together::Stopping };
        let mut exhausted = false;
        batch.retain_mut(|delivery| match seen.get(&delivery.message_id) {
            Some(Seen::Try(tries)) => {
                exhausted |= *tries > MAX_TRIES;
                delivery.next_try(*tries);
                true
            }
            Some(Seen::Settled) | None => {
                worker.count("duplicate");
                false
            }
        });
        if batch.is_empty() {
            return Together::Done;
        }
        if exhausted {
            return Together::Failed; // alone, it is parked
        }
        let span = tracing::info_span!(
            "process",
            otel.kind = "consumer",
            messaging.system = "rabbitmq",
            messaging.destination.name = worker.topic.as_str(),
            messaging.batch.message_count = batch.len(),
        );
        for delivery in batch.iter() {
            telemetry::link_to(&span, delivery.traceparent.as_deref());
        }
        let began = Instant::now();
        let result = guarded(self.handler.handle(batch)).instrument(span).await;
        metrics::histogram!("parapet_message_seconds", "topic" => worker.topic.as_str())
            .record(began.elapsed());
        let result = match result {
            Ok(()) => worker.ensure_done(batch).await.map_err(HandlerError::from),
            Err(error) => Err(error),
        };
        match result {
            Ok(()) => {
                for _ in batch.iter() {
                    worker.count("done");
                }
                Together::Done
            }
            Err(error) => {
                let reason = shortened(&error.to_string());
                tracing::warn!(topic = %worker.topic, messages = batch.len(), error = reason, "batch failed, taken apart");
                metrics::counter!("parapet_batches_taken_apart_total", "topic" => worker.topic.as_str())
                    .increment(1);
                if worker.until_reachable().await { Together::Failed } else { Together::Stopping }
            }
        }
    }
}

enum Together {
    Done,
    Failed,
    Stopping,
}
