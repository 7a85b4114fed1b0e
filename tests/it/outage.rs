//! Servers that go away under load. Each test starts its own.

use std::{process::ExitCode, sync::Arc, sync::atomic::Ordering, time::Duration};

use e2e::{Bus, Proxy};
use parapet::servers::{Postgres, PostgresSettings, RabbitMq};
use shared::queue::{self, Handler, Topic};

use crate::messaging::{EFFECTS, Effect, FORGETFUL_INBOX, enqueue};

const TOPIC: Topic = Topic::ValidationRequested;
const MESSAGES: i64 = 1500;
const PREFETCH: u16 = 4;

struct World {
    postgres: Postgres,
    rabbitmq: RabbitMq,
    bus: Bus,
    _dir: tempfile::TempDir,
}

impl World {
    async fn new() -> Self {
        let dir = e2e::server_dir();
        let (postgres_dir, rabbitmq_dir) = (dir.path().join("pg"), dir.path().join("mq"));
        let (postgres, rabbitmq) = tokio::try_join!(
            Postgres::start(&postgres_dir, PostgresSettings::for_tests(), e2e::certificates()),
            RabbitMq::start(&rabbitmq_dir, e2e::certificates())
        )
        .unwrap();
        let bus = Bus::on(&postgres, &rabbitmq, dir.path().join("password")).await;
        bus.execute(EFFECTS).await;
        Self { postgres, rabbitmq, bus, _dir: dir }
    }

    async fn end(self) {
        self.postgres.stop().await;
        self.rabbitmq.shut_down().await;
    }
}

#[tokio::test]
async fn a_broker_killed_under_load_loses_nothing_and_its_prefetch_still_holds() {
    let world = World::new().await;
    let running = world.bus.start("validator", "parapet_validator").await;
    let handler = Effect::new(running.service.db(), Duration::from_millis(2));
    queue::spawn_consumer(&running.service, TOPIC, PREFETCH, Arc::clone(&handler) as Arc<dyn Handler>);
    running.service.spawn_relay(&["outbox"]);
    for round in 0..3 {
        let third = MESSAGES / 3;
        enqueue(running.service.db(), (round * third..(round + 1) * third).map(|n| format!("{n}"))).await;
        until_at_least(&world.bus, round * third + third / 10).await;
        if round < 2 {
            world.rabbitmq.kill().await;
            world.rabbitmq.start_again().await.unwrap();
        }
    }
    everything_once(&world.bus).await;
    assert!(
        handler.most_at_work.load(Ordering::SeqCst) <= usize::from(PREFETCH),
        "more at work than the prefetch allows"
    );
    assert_eq!(running.stop().await, ExitCode::SUCCESS);
    world.end().await;
}

#[tokio::test]
async fn a_database_killed_under_load_loses_nothing_and_repeats_nothing() {
    let world = World::new().await;
    let running = world.bus.start("validator", "parapet_validator").await;
    let handler = Effect::new(running.service.db(), Duration::from_millis(2));
    queue::spawn_consumer(&running.service, TOPIC, PREFETCH, handler);
    running.service.spawn_relay(&["outbox"]);
    enqueue(running.service.db(), (0..MESSAGES).map(|n| format!("{n}"))).await;
    for round in 1..=3 {
        until_at_least(&world.bus, round * MESSAGES / 10).await;
        world.postgres.kill().await;
        world.postgres.start_again().await.unwrap();
    }
    everything_once(&world.bus).await;
    assert_eq!(running.stop().await, ExitCode::SUCCESS);
    world.end().await;
}

#[tokio::test]
async fn cut_connections_under_load_lose_nothing() {
    let cut = Cut::new().await;
    for round in 1..=8 {
        until_at_least(&cut.bus, round * MESSAGES / 12).await;
        if round % 2 == 0 { cut.database.cut() } else { cut.broker.cut() }
    }
    everything_once(&cut.bus).await;
    assert!(
        cut.handler.most_at_work.load(Ordering::SeqCst) <= usize::from(PREFETCH),
        "more at work than the prefetch allows"
    );
    assert_eq!(cut.running.stop().await, ExitCode::SUCCESS);
}

/// Negative control: what is delivered again after a cut has its effect again.
#[tokio::test]
async fn without_the_inbox_cut_connections_repeat_effects() {
    let cut = Cut::new().await;
    cut.bus.execute(FORGETFUL_INBOX).await;
    let repeated = "SELECT count(*) - count(DISTINCT subject) FROM validator.effects";
    for round in 1..=40 {
        until_at_least(&cut.bus, round * MESSAGES / 50).await;
        cut.broker.cut();
        if cut.bus.count(repeated).await > 0 {
            break;
        }
    }
    assert!(
        cut.bus.count(repeated).await > 0,
        "the inbox was taken out and nothing went wrong: the test proves nothing"
    );
    assert_eq!(cut.running.stop().await, ExitCode::SUCCESS);
}

/// A consumer under load whose connections can be cut.
struct Cut {
    bus: Bus,
    database: Proxy,
    broker: Proxy,
    running: e2e::bus::Running,
    handler: Arc<Effect>,
}

impl Cut {
    async fn new() -> Self {
        let bus = Bus::new().await;
        bus.execute(EFFECTS).await;
        let database = Proxy::to(bus.common.database.port).await;
        let broker = Proxy::to(bus.common.broker.port).await;
        let mut common = bus.common_as("parapet_validator");
        common.database.port = database.port();
        common.broker.port = broker.port();
        let running = e2e::bus::start("validator", common).await;
        let handler = Effect::new(running.service.db(), Duration::from_millis(2));
        let consumer = Arc::clone(&handler) as Arc<dyn Handler>;
        queue::spawn_consumer(&running.service, TOPIC, PREFETCH, consumer);
        running.service.spawn_relay(&["outbox"]);
        enqueue(running.service.db(), (0..MESSAGES).map(|n| format!("{n}"))).await;
        Self { bus, database, broker, running, handler }
    }
}

async fn until_at_least(bus: &Bus, effects: i64) {
    bus.until_at_least("SELECT count(*) FROM validator.effects", effects).await;
}

/// Every message had its effect, none twice, none was given up, and nothing is left over.
async fn everything_once(bus: &Bus) {
    bus.until_count("SELECT count(DISTINCT subject) FROM validator.effects", MESSAGES).await;
    bus.until_count("SELECT count(*) FROM validator.outbox", 0).await;
    assert_eq!(bus.count("SELECT count(*) FROM validator.effects").await, MESSAGES);
    assert_eq!(bus.count("SELECT count(*) FROM validator.parked").await, 0);
}
