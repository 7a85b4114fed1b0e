//! Outbox, broker, inbox: what is lost, repeated, refused or broken, and what still comes out.

use std::{
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use e2e::{Bus, until};
use lapin::{
    BasicProperties, Channel,
    options::{BasicPublishOptions, QueueDeclareOptions, QueueDeleteOptions},
    types::FieldTable,
};
use prost::Message as _;
use shared::{
    db::Db,
    id::{MessageId, TenantId},
    inbox, outbox,
    queue::{
        self, BatchHandler, Delivery, Handler, HandlerError, Outcome, Topic, dead_letter_queue,
        declare_topology, done_many,
    },
    wire::events::ValidationRequested,
};
use uuid::Uuid;

pub const TOPIC: Topic = Topic::ValidationRequested;

/// Where handlers leave their effect.
pub const EFFECTS: &str = "
    CREATE TABLE validator.effects (n bigint GENERATED ALWAYS AS IDENTITY, message_id uuid NOT NULL, subject text NOT NULL);
    GRANT INSERT, SELECT ON validator.effects TO parapet_validator";

/// Writes one effect per message; what else it does is in the message's `validation_id`.
pub struct Effect {
    db: Db,
    pub at_work: AtomicUsize,
    pub most_at_work: AtomicUsize,
    pub pause: Duration,
}

impl Effect {
    pub fn new(db: &Db, pause: Duration) -> Arc<Self> {
        Arc::new(Self {
            db: db.clone(),
            at_work: AtomicUsize::new(0),
            most_at_work: AtomicUsize::new(0),
            pause,
        })
    }
}

#[async_trait]
impl Handler for Effect {
    async fn handle(&self, delivery: &Delivery) -> Result<Outcome, HandlerError> {
        let message: ValidationRequested = delivery.decode()?;
        let now = self.at_work.fetch_add(1, Ordering::SeqCst) + 1;
        self.most_at_work.fetch_max(now, Ordering::SeqCst);
        tokio::time::sleep(self.pause).await;
        self.at_work.fetch_sub(1, Ordering::SeqCst);
        match message.validation_id.as_str() {
            "hopeless" => return Ok(Outcome::Park("nothing can be done".into())),
            "failing" => return Err(HandlerError::Transient(anyhow::anyhow!("still broken"))),
            "panicking" => panic!("a handler that panics"),
            "second time" if delivery.tries < 2 => {
                return Err(HandlerError::Transient(anyhow::anyhow!("not yet")));
            }
            "gone" => return Ok(Outcome::Done),
            _ => {}
        }
        let mut tx = self.db.system().await?;
        if !delivery.done(&mut tx).await? {
            tx.rollback().await?;
            return Ok(Outcome::Done);
        }
        effect(&mut tx, delivery, &message).await?;
        tx.commit().await?;
        Ok(Outcome::Done)
    }
}

async fn effect(
    tx: &mut shared::db::Tx,
    delivery: &Delivery,
    message: &ValidationRequested,
) -> Result<(), HandlerError> {
    sqlx::query("INSERT INTO effects (message_id, subject) VALUES ($1, $2)")
        .bind(delivery.message_id)
        .bind(&message.validation_id)
        .execute(&mut **tx)
        .await
        .map_err(shared::db::StoreError::from)?;
    Ok(())
}

pub fn message(subject: &str) -> ValidationRequested {
    ValidationRequested { tenant_id: String::new(), validation_id: subject.into(), cause_id: String::new() }
}

/// Writes messages into the validator's outbox, in transactions of 100.
pub async fn enqueue(db: &Db, subjects: impl IntoIterator<Item = String>) {
    let messages: Vec<_> = subjects.into_iter().map(|s| message(&s)).collect();
    for some in messages.chunks(100) {
        let mut tx = db.system().await.unwrap();
        outbox::enqueue_many(&mut tx, TOPIC, Some(TenantId::new()), some).await.unwrap();
        tx.commit().await.unwrap();
    }
}

struct Raw<'a> {
    id: Option<String>,
    content_type: &'a str,
    body: Vec<u8>,
}

impl Raw<'_> {
    fn good(subject: &str) -> Self {
        Self {
            id: Some(MessageId::new().to_string()),
            content_type: TOPIC.content_type(),
            body: message(subject).encode_to_vec(),
        }
    }
}

async fn send(channel: &Channel, raw: &Raw<'_>) {
    let mut properties =
        BasicProperties::default().with_content_type(raw.content_type.into()).with_delivery_mode(2);
    if let Some(id) = &raw.id {
        properties = properties.with_message_id(id.as_str().into());
    }
    channel
        .basic_publish(
            "".into(),
            TOPIC.as_str().into(),
            BasicPublishOptions::default(),
            &raw.body,
            properties,
        )
        .await
        .unwrap()
        .await
        .unwrap();
}

async fn depth(channel: &Channel, queue: &str) -> u32 {
    let look = QueueDeclareOptions { passive: true, ..Default::default() };
    channel.queue_declare(queue.into(), look, FieldTable::default()).await.unwrap().message_count()
}

/// Reason and tries of every parked message.
async fn parked(bus: &Bus) -> Vec<(String, i32)> {
    let mut connection = bus.superuser().await;
    sqlx::query_as("SELECT reason, tries FROM validator.parked ORDER BY reason")
        .fetch_all(&mut connection)
        .await
        .unwrap()
}

#[tokio::test]
async fn a_thousand_duplicate_deliveries_have_one_effect() {
    let bus = Bus::new().await;
    bus.execute(EFFECTS).await;
    let effects = duplicates(&bus).await;
    assert_eq!(effects, 101, "one effect of the duplicated message, and one of each other");
    assert_eq!(bus.count("SELECT count(*) FROM validator.inbox WHERE status = 'done'").await, 102);
}

/// Takes a protection out: an inbox that forgets that a message is done.
pub const FORGETFUL_INBOX: &str = "
    CREATE FUNCTION validator.forget() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN NEW.status := 'working'; NEW.tries := 1; RETURN NEW; END $$;
    GRANT EXECUTE ON FUNCTION validator.forget() TO parapet_validator;
    CREATE TRIGGER forget BEFORE UPDATE ON validator.inbox FOR EACH ROW EXECUTE FUNCTION validator.forget()";

/// Negative control.
#[tokio::test]
async fn without_the_inbox_duplicates_have_many_effects() {
    let bus = Bus::new().await;
    bus.execute(EFFECTS).await;
    bus.execute(FORGETFUL_INBOX).await;
    assert!(
        duplicates(&bus).await > 1000,
        "the inbox was taken out and nothing went wrong: the test proves nothing"
    );
}

/// Sends one message 1,000 times among 100 others and returns the number of effects.
async fn duplicates(bus: &Bus) -> i64 {
    let running = bus.start("validator", "parapet_validator").await;
    queue::spawn_consumer(&running.service, TOPIC, 8, Effect::new(running.service.db(), Duration::ZERO));
    let (_connection, channel) = bus.channel().await;
    let again = Raw::good("again");
    for n in 0..1000 {
        send(&channel, &again).await;
        if n % 10 == 0 {
            send(&channel, &Raw::good(&format!("other {n}"))).await;
        }
    }
    send(&channel, &Raw::good("last")).await;
    bus.until_count("SELECT count(*) FROM validator.effects WHERE subject = 'last'", 1).await;
    // Nothing is left to be delivered, neither ready nor unacknowledged: a stopped consumer gives back what it holds.
    assert_eq!(running.stop().await, ExitCode::SUCCESS);
    until("the queue is empty", || async { depth(&channel, TOPIC.as_str()).await == 0 }).await;
    bus.count("SELECT count(*) FROM validator.effects WHERE subject <> 'last'").await
}

#[tokio::test]
async fn what_cannot_be_done_is_parked_with_its_reason_while_the_rest_flows() {
    let bus = Bus::new().await;
    bus.execute(EFFECTS).await;
    let running = bus.start("validator", "parapet_validator").await;
    queue::spawn_consumer(&running.service, TOPIC, 16, Effect::new(running.service.db(), Duration::ZERO));
    running.service.spawn_relay(&["outbox"]);
    let (_connection, channel) = bus.channel().await;

    let old = Uuid::new_v7(uuid::Timestamp::from_unix(
        uuid::NoContext,
        u64::try_from((time::OffsetDateTime::now_utc() - time::Duration::days(15)).unix_timestamp()).unwrap(),
        0,
    ));
    let bad = [
        Raw { body: vec![0xff; 40], ..Raw::good("") },
        Raw {
            content_type: "application/x-protobuf; type=parapet.events.v2.ValidationRequested",
            ..Raw::good("")
        },
        Raw { content_type: "application/json", ..Raw::good("") },
        Raw { id: None, ..Raw::good("") },
        Raw { id: Some(Uuid::new_v4().to_string()), ..Raw::good("") },
        Raw { id: Some(old.to_string()), ..Raw::good("") },
        Raw { body: message(&"x".repeat(70_000)).encode_to_vec(), ..Raw::good("") },
        Raw::good("hopeless"),
        Raw::good("failing"),
        Raw::good("panicking"),
    ];
    for raw in &bad {
        send(&channel, raw).await;
    }
    send(&channel, &Raw::good("second time")).await;
    send(&channel, &Raw::good("gone")).await;
    enqueue(running.service.db(), (0..300).map(|n| format!("good {n}"))).await;

    bus.until_count("SELECT count(*) FROM validator.effects WHERE subject LIKE 'good%'", 300).await;
    bus.until_count("SELECT count(*) FROM validator.parked", i64::try_from(bad.len()).unwrap()).await;
    bus.until_count("SELECT count(*) FROM validator.effects WHERE subject = 'second time'", 1).await;
    bus.until_count("SELECT count(*) FROM validator.inbox WHERE status = 'working'", 0).await;
    bus.until_count("SELECT count(*) FROM validator.outbox", 0).await;
    let parked = parked(&bus).await;
    for (reason, tries) in [
        ("unreadable", 1),
        ("the content type", 0),
        ("the message has no id", 0),
        ("the message id is not a UUIDv7", 0),
        ("the message is older than 14 days", 0),
        ("the message is larger", 0),
        ("nothing can be done", 1),
        ("still broken", inbox::MAX_TRIES),
        ("the handler panicked", inbox::MAX_TRIES),
    ] {
        assert!(
            parked.iter().any(|(r, t)| r.starts_with(reason) && *t == tries),
            "{reason} is not in {parked:?}"
        );
    }
    assert_eq!(running.stop().await, ExitCode::SUCCESS);
    assert_eq!(depth(&channel, TOPIC.as_str()).await, 0);
    assert_eq!(depth(&channel, &dead_letter_queue(TOPIC)).await, 0, "parking is ours, never the broker's");
}

#[tokio::test]
async fn a_parked_message_can_be_sent_again_or_dropped() {
    let bus = Bus::new().await;
    bus.execute(EFFECTS).await;
    let running = bus.start("validator", "parapet_validator").await;
    queue::spawn_consumer(&running.service, TOPIC, 4, Effect::new(running.service.db(), Duration::ZERO));
    running.service.spawn_relay(&["outbox"]);
    enqueue(running.service.db(), ["hopeless".to_owned(), "hopeless".to_owned()]).await;
    bus.until_count("SELECT count(*) FROM validator.parked", 2).await;
    let ids: Vec<MessageId> = sqlx::query_scalar("SELECT message_id FROM validator.parked")
        .fetch_all(&mut bus.superuser().await)
        .await
        .unwrap();
    // The cause is repaired: the body now names something that can be done.
    let repaired = message("repaired").encode_to_vec();
    sqlx::query("UPDATE validator.parked SET body = $1")
        .bind(repaired)
        .execute(&mut bus.superuser().await)
        .await
        .unwrap();
    let mut tx = running.service.db().system().await.unwrap();
    assert!(inbox::retry(&mut tx, ids[0]).await.unwrap());
    assert!(inbox::discard(&mut tx, ids[1]).await.unwrap());
    assert!(!inbox::retry(&mut tx, ids[1]).await.unwrap());
    tx.commit().await.unwrap();
    bus.until_count("SELECT count(*) FROM validator.effects WHERE subject = 'repaired'", 1).await;
    assert_eq!(bus.count("SELECT count(*) FROM validator.parked").await, 0);
    assert_eq!(running.stop().await, ExitCode::SUCCESS);
}

struct EffectBatch {
    db: Db,
    largest: AtomicUsize,
}

#[async_trait]
impl BatchHandler for EffectBatch {
    async fn handle(&self, batch: &[Delivery]) -> Result<(), HandlerError> {
        self.largest.fetch_max(batch.len(), Ordering::SeqCst);
        let mut tx = self.db.system().await?;
        for delivery in done_many(&mut tx, batch).await? {
            let message: ValidationRequested = delivery.decode()?;
            effect(&mut tx, delivery, &message).await?;
            if message.validation_id == "failing" {
                return Err(HandlerError::Transient(anyhow::anyhow!("still broken")));
            }
        }
        tx.commit().await?;
        Ok(())
    }
}

#[tokio::test]
async fn a_failing_batch_is_taken_apart_and_only_its_bad_messages_are_parked() {
    let bus = Bus::new().await;
    bus.execute(EFFECTS).await;
    let (_connection, channel) = bus.channel().await;
    for n in 0..200 {
        let good = Raw::good(&format!("good {n}"));
        send(&channel, &good).await;
        if n % 50 == 10 {
            send(&channel, &good).await; // a duplicate in the same batch
            send(&channel, &Raw::good("failing")).await;
            send(&channel, &Raw { body: vec![0xff; 9], ..Raw::good("") }).await;
            send(&channel, &Raw { id: None, ..Raw::good("") }).await;
        }
    }
    let running = bus.start("validator", "parapet_validator").await;
    let handler = Arc::new(EffectBatch { db: running.service.db().clone(), largest: AtomicUsize::new(0) });
    let linger = Duration::from_millis(50);
    queue::spawn_batch_consumer(
        &running.service,
        TOPIC,
        200,
        Arc::clone(&handler) as Arc<dyn BatchHandler>,
        100,
        linger,
    );
    bus.until_count("SELECT count(*) FROM validator.effects", 200).await;
    bus.until_count("SELECT count(*) FROM validator.parked", 12).await;
    // A second wave without a bad message stays together.
    handler.largest.store(0, Ordering::SeqCst);
    for n in 0..200 {
        send(&channel, &Raw::good(&format!("more {n}"))).await;
    }
    bus.until_count("SELECT count(*) FROM validator.effects", 400).await;
    assert!(handler.largest.load(Ordering::SeqCst) > 1, "nothing was batched");
    assert_eq!(bus.count("SELECT count(DISTINCT message_id) FROM validator.effects").await, 400);
    assert_eq!(bus.count("SELECT count(*) FROM validator.effects WHERE subject = 'failing'").await, 0);
    assert_eq!(running.stop().await, ExitCode::SUCCESS);
    assert_eq!(depth(&channel, TOPIC.as_str()).await, 0);
}

#[tokio::test]
async fn what_no_queue_takes_stays_visible_and_goes_when_the_queue_is_back() {
    let bus = Bus::new().await;
    bus.execute(EFFECTS).await;
    let mut common = bus.common_as("parapet_validator");
    common.broker.unready_after_seconds = 1;
    let running = e2e::bus::start("validator", common).await;
    queue::spawn_consumer(&running.service, TOPIC, 8, Effect::new(running.service.db(), Duration::ZERO));
    running.service.spawn_relay(&["outbox"]);
    enqueue(running.service.db(), (0..50).map(|n| format!("before {n}"))).await;
    bus.until_count("SELECT count(*) FROM validator.effects", 50).await;
    until("the service is ready", || async { running.service.readiness().is_ready() }).await;

    let (_connection, channel) = bus.channel().await;
    channel.queue_delete(TOPIC.as_str().into(), QueueDeleteOptions::default()).await.unwrap();
    until("the service says that it is not ready", || async { !running.service.readiness().is_ready() })
        .await;
    enqueue(running.service.db(), (0..50).map(|n| format!("after {n}"))).await;
    bus.until_count(
        "SELECT count(*) FROM validator.outbox WHERE tries > 0 AND last_error = 'no queue takes this topic'",
        50,
    )
    .await;
    assert_eq!(bus.count("SELECT count(*) FROM validator.effects").await, 50);

    declare_topology(&bus.common.broker).await.unwrap();
    bus.until_count("SELECT count(*) FROM validator.effects", 100).await;
    bus.until_count("SELECT count(*) FROM validator.outbox", 0).await;
    until("the service is ready again", || async { running.service.readiness().is_ready() }).await;
    assert_eq!(running.stop().await, ExitCode::SUCCESS);
}

/// Negative control: an outbox that forgets a row as soon as it was claimed, as one would that trusts a bare ack.
#[tokio::test]
async fn a_relay_that_deletes_before_a_queue_took_it_loses_messages() {
    let bus = Bus::without_queues().await;
    bus.execute(
        "CREATE FUNCTION validator.forget() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS
             $$ BEGIN DELETE FROM validator.outbox WHERE id = NEW.id; RETURN NULL; END $$;
         GRANT EXECUTE ON FUNCTION validator.forget() TO parapet_validator;
         CREATE TRIGGER forget AFTER UPDATE ON validator.outbox FOR EACH ROW EXECUTE FUNCTION validator.forget()",
    )
    .await;
    let running = bus.start("validator", "parapet_validator").await;
    running.service.spawn_relay(&["outbox"]);
    enqueue(running.service.db(), ["lost".to_owned()]).await;
    bus.until_count("SELECT count(*) FROM validator.outbox", 0).await;
    declare_topology(&bus.common.broker).await.unwrap();
    let (_connection, channel) = bus.channel().await;
    assert_eq!(depth(&channel, TOPIC.as_str()).await, 0, "nothing was lost: the test above proves nothing");
    assert_eq!(running.stop().await, ExitCode::SUCCESS);
}

#[tokio::test]
async fn several_relays_send_every_row_and_the_budgets_too() {
    let bus = Bus::new().await;
    bus.execute(EFFECTS).await;
    let running = bus.start("validator", "parapet_validator").await;
    let relays =
        [bus.start("second", "parapet_validator").await, bus.start("third", "parapet_validator").await];
    enqueue(running.service.db(), (0..2000).map(|n| format!("good {n}"))).await;
    let body = message("intent").encode_to_vec();
    sqlx::query("INSERT INTO budget.outbox (id, topic, body) VALUES ($1, $2, $3)")
        .bind(MessageId::new())
        .bind(TOPIC.as_str())
        .bind(body)
        .execute(&mut bus.superuser().await)
        .await
        .unwrap();
    for relay in relays.iter().chain([&running]) {
        relay.service.spawn_relay(&["outbox", "budget.outbox"]);
    }
    queue::spawn_consumer(&running.service, TOPIC, 32, Effect::new(running.service.db(), Duration::ZERO));
    bus.until_count("SELECT count(*) FROM validator.effects", 2001).await;
    bus.until_count(
        "SELECT (SELECT count(*) FROM validator.outbox) + (SELECT count(*) FROM budget.outbox)",
        0,
    )
    .await;
    assert_eq!(bus.count("SELECT count(DISTINCT message_id) FROM validator.effects").await, 2001);
    for relay in relays {
        assert_eq!(relay.stop().await, ExitCode::SUCCESS);
    }
    assert_eq!(running.stop().await, ExitCode::SUCCESS);
}

#[tokio::test]
async fn a_stopping_consumer_finishes_what_it_began_and_gives_back_the_rest() {
    let bus = Bus::new().await;
    bus.execute(EFFECTS).await;
    let (_connection, channel) = bus.channel().await;
    for n in 0..20 {
        send(&channel, &Raw::good(&format!("good {n}"))).await;
    }
    let running = bus.start("validator", "parapet_validator").await;
    let handler = Effect::new(running.service.db(), Duration::from_millis(700));
    queue::spawn_consumer(&running.service, TOPIC, 4, Arc::clone(&handler) as Arc<dyn Handler>);
    until("four are at work", || async { handler.at_work.load(Ordering::SeqCst) == 4 }).await;
    assert_eq!(running.stop().await, ExitCode::SUCCESS);
    let done = bus.count("SELECT count(*) FROM validator.effects").await;
    assert_eq!(done, 4, "those at work were finished, and none was begun");
    until("the rest is in the queue", || async { depth(&channel, TOPIC.as_str()).await == 16 }).await;
}
