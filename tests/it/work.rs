//! Waiting work: order, fairness, caps, leases.

use std::collections::BTreeMap;

use e2e::Bus;
use shared::{
    db::Db,
    id::{TenantId, WorkId},
    outbox::Topic,
    provider::ProviderError,
    work::{
        self, Caps, Dispatcher, NewWork, WorkRow,
        lane::{Lane, Standing, TRIP},
    },
};
use time::{Duration, OffsetDateTime};
use uuid::Uuid;

fn body(row: &WorkRow) -> (Topic, Vec<u8>) {
    (Topic::ValidationDue, row.work_id.uuid().as_bytes().to_vec())
}

async fn db(bus: &Bus) -> Db {
    Db::connect(&bus.common_as("parapet_validator").database).await.unwrap()
}

fn new(tenant: TenantId, priority: i16, due_at: Option<OffsetDateTime>) -> NewWork {
    NewWork {
        work_id: WorkId::new(),
        tenant,
        directory: "dir".into(),
        kind: "validate",
        subject: Uuid::now_v7(),
        priority,
        due_at,
    }
}

async fn schedule(db: &Db, work: &[NewWork]) {
    let mut tx = db.system().await.unwrap();
    work::schedule_many(&mut tx, work).await.unwrap();
    tx.commit().await.unwrap();
}

async fn finish(db: &Db, id: WorkId) {
    let mut tx = db.system().await.unwrap();
    work::finish(&mut tx, id).await.unwrap();
    tx.commit().await.unwrap();
}

/// Work ids in the order in which the dispatcher wrote their messages.
async fn given_out(bus: &Bus) -> Vec<WorkId> {
    let mut connection = bus.superuser().await;
    let bodies: Vec<Vec<u8>> = sqlx::query_scalar("SELECT body FROM validator.outbox ORDER BY seq")
        .fetch_all(&mut connection)
        .await
        .unwrap();
    bodies.iter().map(|b| WorkId(Uuid::from_slice(b).unwrap())).collect()
}

#[tokio::test]
async fn the_most_urgent_goes_first_and_tenants_take_turns_up_to_the_cap() {
    let bus = Bus::without_queues().await;
    let db = db(&bus).await;
    let (big, small) = (TenantId::new(), TenantId::new());
    let now = OffsetDateTime::now_utc();
    let mut work: Vec<NewWork> =
        (0..50).map(|n| new(big, 5, Some(now - Duration::minutes(100 - n)))).collect();
    let urgent = new(big, 0, Some(now - Duration::SECOND));
    let small_work: Vec<NewWork> = (0..3).map(|_| new(small, 5, Some(now - Duration::SECOND))).collect();
    let later = new(small, 0, Some(now + Duration::hours(1)));
    work.push(urgent.clone());
    work.extend(small_work.iter().cloned());
    work.push(later.clone());
    schedule(&db, &work).await;

    let caps = Caps { in_flight: 10, ..Caps::default() };
    let dispatcher = Dispatcher::new(db.clone(), body, caps);
    assert_eq!(dispatcher.round().await.unwrap(), 13, "10 of the big tenant, 3 of the small one");
    assert_eq!(dispatcher.round().await.unwrap(), 0, "the cap is reached, the rest is not due");

    let order = given_out(&bus).await;
    assert_eq!(order[0], urgent.work_id);
    let owner: BTreeMap<WorkId, TenantId> = work.iter().map(|w| (w.work_id, w.tenant)).collect();
    assert!(
        order[..6].iter().filter(|id| owner[id] == small).count() == 3,
        "the small tenant waits behind the big one"
    );
    assert!(!order.contains(&later.work_id));

    finish(&db, urgent.work_id).await;
    assert_eq!(dispatcher.round().await.unwrap(), 1, "one place became free");
    assert_eq!(bus.count("SELECT count(*) FROM validator.work WHERE state = 'in_flight'").await, 13);
}

#[tokio::test]
async fn the_oldest_ready_work_waits_neither_for_its_time_nor_for_a_directory_that_is_left_alone() {
    let bus = Bus::without_queues().await;
    let db = db(&bus).await;
    let (tenant, now) = (TenantId::new(), OffsetDateTime::now_utc());
    let dispatcher = Dispatcher::new(db.clone(), body, Caps { in_flight: 1, ..Caps::default() });
    let age = async || dispatcher.oldest_ready().await.unwrap().as_secs();
    schedule(&db, &[new(tenant, 0, Some(now + Duration::hours(1)))]).await;
    assert_eq!(age().await, 0, "nothing is due");

    let held = NewWork { directory: "held".into(), ..new(tenant, 1, Some(now - Duration::hours(9))) };
    let ready = [8, 2].map(|minutes| new(tenant, 1, Some(now - Duration::minutes(minutes))));
    schedule(&db, &[&ready[..], std::slice::from_ref(&held)].concat()).await;
    let mut connection = bus.superuser().await;
    sqlx::query(
        "INSERT INTO validator.lane_holds (tenant_id, directory, held_until, reason)
         VALUES ($1, 'held', clock_timestamp() + interval '1 hour', 'unavailable')",
    )
    .bind(tenant.uuid())
    .execute(&mut connection)
    .await
    .unwrap();
    assert_eq!(age().await / 60, 8, "the oldest that waits for its turn only");
    assert_eq!(dispatcher.round().await.unwrap(), 1, "the cap");
    assert_eq!(age().await / 60, 2, "what is in flight waits no more");
}

#[tokio::test]
async fn the_cap_holds_with_many_dispatchers_at_once() {
    let bus = Bus::without_queues().await;
    let db = db(&bus).await;
    let tenant = TenantId::new();
    schedule(&db, &(0..200).map(|_| new(tenant, 1, None)).collect::<Vec<_>>()).await;
    let rounds = (0..12).map(|_| {
        let dispatcher = Dispatcher::new(db.clone(), body, Caps { in_flight: 8, ..Caps::default() });
        tokio::spawn(async move { dispatcher.round().await.unwrap() })
    });
    let mut given = 0;
    for round in rounds.collect::<Vec<_>>() {
        given += round.await.unwrap();
    }
    assert_eq!(given, 8);
    assert_eq!(bus.count("SELECT count(*) FROM validator.work WHERE state = 'in_flight'").await, 8);
}

#[tokio::test]
async fn scheduling_again_keeps_one_row_and_the_earlier_time() {
    let bus = Bus::without_queues().await;
    let db = db(&bus).await;
    let now = OffsetDateTime::now_utc();
    let first = new(TenantId::new(), 5, Some(now + Duration::hours(2)));
    let earlier = NewWork {
        work_id: WorkId::new(),
        due_at: Some(now + Duration::hours(1)),
        priority: 3,
        ..first.clone()
    };
    let latest = NewWork {
        work_id: WorkId::new(),
        due_at: Some(now + Duration::hours(9)),
        priority: 9,
        ..first.clone()
    };
    for work in [&first, &earlier, &latest] {
        schedule(&db, std::slice::from_ref(work)).await;
    }
    let mut connection = bus.superuser().await;
    let (id, priority, due): (WorkId, i16, OffsetDateTime) =
        sqlx::query_as("SELECT work_id, priority, due_at FROM validator.work")
            .fetch_one(&mut connection)
            .await
            .unwrap();
    assert_eq!((id, priority), (first.work_id, 3));
    assert!((due - (now + Duration::hours(1))).abs() < Duration::SECOND);
}

#[tokio::test]
async fn work_scheduled_again_while_in_flight_is_done_once_more() {
    let bus = Bus::without_queues().await;
    let db = db(&bus).await;
    let work = new(TenantId::new(), 1, None);
    schedule(&db, std::slice::from_ref(&work)).await;
    let dispatcher = Dispatcher::new(db.clone(), body, Caps::default());
    assert_eq!(dispatcher.round().await.unwrap(), 1);
    schedule(&db, std::slice::from_ref(&work)).await;
    assert_eq!(dispatcher.round().await.unwrap(), 0, "it is in flight");
    finish(&db, work.work_id).await;
    assert_eq!(dispatcher.round().await.unwrap(), 1);
    finish(&db, work.work_id).await;
    assert_eq!(dispatcher.round().await.unwrap(), 0);
    assert_eq!(bus.count("SELECT count(*) FROM validator.work").await, 0);
}

#[tokio::test]
async fn postponed_work_waits_and_cancelled_work_is_gone() {
    let bus = Bus::without_queues().await;
    let db = db(&bus).await;
    let (postponed, cancelled) = (new(TenantId::new(), 1, None), new(TenantId::new(), 1, None));
    schedule(&db, &[postponed.clone(), cancelled.clone()]).await;
    let dispatcher = Dispatcher::new(db.clone(), body, Caps::default());
    assert_eq!(dispatcher.round().await.unwrap(), 2);
    let mut tx = db.system().await.unwrap();
    work::postpone(&mut tx, postponed.work_id, OffsetDateTime::now_utc() + Duration::hours(1), "budget")
        .await
        .unwrap();
    for _ in 0..2 {
        work::cancel(&mut tx, cancelled.tenant, cancelled.kind, &[cancelled.subject]).await.unwrap();
    }
    tx.commit().await.unwrap();
    assert_eq!(dispatcher.round().await.unwrap(), 0);
    let waiting =
        "SELECT count(*) FROM validator.work WHERE state = 'waiting' AND reason = 'budget' AND tries = 0";
    assert_eq!(bus.count(waiting).await, 1);
}

#[tokio::test]
async fn work_whose_handler_vanished_is_given_out_again_and_parked_in_the_end() {
    let bus = Bus::without_queues().await;
    let db = db(&bus).await;
    schedule(&db, &[new(TenantId::new(), 1, None)]).await;
    let caps = Caps { lease: std::time::Duration::ZERO, ..Caps::default() };
    let dispatcher = Dispatcher::new(db.clone(), body, caps);
    let mut given = 0;
    for _ in 0..10 {
        given += dispatcher.round().await.unwrap();
    }
    assert_eq!(given, 1 + usize::try_from(work::MAX_TRIES).unwrap());
    let parked = "SELECT count(*) FROM validator.work WHERE state = 'parked' AND reason LIKE 'given out%'";
    assert_eq!(bus.count(parked).await, 1);
}

#[tokio::test]
async fn finding_due_work_takes_no_longer_behind_a_mountain_of_work_that_is_not_due() {
    let bus = Bus::without_queues().await;
    let db = db(&bus).await;
    bus.execute(
        "INSERT INTO validator.work (work_id, tenant_id, directory, kind, subject, priority, due_at)
         SELECT gen_random_uuid(), '00000000-0000-7000-8000-000000000001', 'dir', 'validate', gen_random_uuid(), n % 3,
                clock_timestamp() + interval '1 day' FROM generate_series(1, 50000) n;
         ANALYZE validator.work",
    )
    .await;
    let due = new(TenantId::new(), 2, None);
    schedule(&db, std::slice::from_ref(&due)).await;
    let read =
        "SELECT (coalesce(seq_tup_read, 0) + coalesce(idx_tup_fetch, 0))::bigint FROM pg_stat_user_tables
                WHERE relid = 'validator.work'::regclass";
    let before = bus.count(read).await;
    assert_eq!(Dispatcher::new(db.clone(), body, Caps::default()).round().await.unwrap(), 1);
    assert_eq!(given_out(&bus).await, [due.work_id]);
    db.close().await;
    bus.until_count("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND usename = 'parapet_validator'", 0)
        .await;
    let read = bus.count(read).await - before;
    assert!(read < 1000, "the dispatcher read {read} rows for one that is due");
}

const OUTAGE: ProviderError = ProviderError::Unavailable { status: 503 };

async fn failed(db: &Db, lane: Lane<'_>, error: &ProviderError) -> Option<OffsetDateTime> {
    let mut tx = db.system().await.unwrap();
    let held = lane.failed(&mut tx, error).await.unwrap();
    tx.commit().await.unwrap();
    held
}

async fn standing(db: &Db, lane: Lane<'_>) -> Standing {
    let mut tx = db.system().await.unwrap();
    lane.standing(&mut tx).await.unwrap()
}

const TIME_IS_UP: &str = "UPDATE validator.lane_holds SET held_until = clock_timestamp()";

#[tokio::test]
async fn work_for_a_directory_that_does_not_answer_stays_put_and_then_goes_one_at_a_time() {
    let bus = Bus::without_queues().await;
    let db = db(&bus).await;
    let (tenant, other) = (TenantId::new(), TenantId::new());
    let dispatcher = Dispatcher::new(db.clone(), body, Caps::default());
    let lane = Lane { tenant, directory: "dir" };
    for _ in 1..TRIP {
        assert_eq!(failed(&db, lane, &OUTAGE).await, None);
    }
    assert_eq!(standing(&db, lane).await, Standing::Doubtful);
    let until = failed(&db, lane, &OUTAGE).await.unwrap();
    assert_eq!(standing(&db, lane).await, Standing::Held(until, "unavailable".into()));
    // What was under way when it opened is no further failure.
    assert_eq!(failed(&db, lane, &OUTAGE).await, Some(until));

    schedule(&db, &(0..3).map(|_| new(tenant, 1, None)).collect::<Vec<_>>()).await;
    let elsewhere = new(other, 1, None);
    schedule(&db, std::slice::from_ref(&elsewhere)).await;
    assert_eq!(dispatcher.round().await.unwrap(), 1, "another tenant is not held up");
    assert_eq!(given_out(&bus).await, [elsewhere.work_id]);

    bus.execute(TIME_IS_UP).await;
    assert_eq!(dispatcher.round().await.unwrap(), 1, "one piece of work finds out");
    assert_eq!(dispatcher.round().await.unwrap(), 0);
    let longer = failed(&db, lane, &OUTAGE).await.expect("a single failure opens it again");
    assert!(longer - until > Duration::seconds(20), "for longer: {until} and {longer}");
    let tried = given_out(&bus).await[1];
    let mut tx = db.system().await.unwrap();
    work::postpone(&mut tx, tried, OffsetDateTime::now_utc(), "unavailable").await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(dispatcher.round().await.unwrap(), 0);

    bus.execute(TIME_IS_UP).await;
    assert_eq!(dispatcher.round().await.unwrap(), 1);
    let mut tx = db.system().await.unwrap();
    lane.answered(&mut tx).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(standing(&db, lane).await, Standing::Well);
    assert_eq!(dispatcher.round().await.unwrap(), 2, "everything goes once it answers");
}

#[tokio::test]
async fn a_directory_that_asks_to_slow_down_is_left_alone_for_so_long_and_an_answer_clears_it() {
    let bus = Bus::without_queues().await;
    let db = db(&bus).await;
    let tenant = TenantId::new();
    let lane = Lane { tenant, directory: "dir" };
    let dispatcher = Dispatcher::new(db.clone(), body, Caps::default());
    schedule(&db, &[new(tenant, 1, None), new(tenant, 1, None)]).await;
    let hour = std::time::Duration::from_hours(1);
    let until = failed(&db, lane, &ProviderError::Throttled { retry_after: Some(hour) }).await.unwrap();
    let sooner = failed(&db, lane, &ProviderError::Paced { wait: hour / 60 }).await;
    assert_eq!(sooner, Some(until), "the longest wish counts");
    assert_eq!(failed(&db, lane, &ProviderError::Protocol("not JSON")).await, None, "an answer is an answer");
    assert_eq!(dispatcher.round().await.unwrap(), 0);
    bus.execute(TIME_IS_UP).await;
    assert_eq!(dispatcher.round().await.unwrap(), 2, "a throttle is no outage: nothing has to be tried out");
}
