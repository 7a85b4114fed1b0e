//! Rotation of client keys, at an org that keeps our key set for a while and does not ask again for a key it lacks.

use std::{
    collections::HashSet,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use e2e::until;
use identity_sync_worker::ClientKeyConfig;
use serde_json::json;
use shared::provider::{Listing, ProviderError};

use crate::client_key_stage::{CALL, HELD, PUBLISHED, SET_KEPT, Stage, fast, is_refused_for_the_key, timed};

#[tokio::test(flavor = "multi_thread")]
async fn no_token_call_fails_during_a_hundred_rotations_at_an_org_that_keeps_our_keys() {
    const INTEGRATIONS: usize = 10;
    const EACH: usize = 10;
    let stage = Stage::new(INTEGRATIONS, fast(), SET_KEPT.as_secs_f64()).await;
    stage.synced.start_another();
    let (over, calls, late) = (AtomicBool::new(false), AtomicUsize::new(0), AtomicUsize::new(0));
    let (one, other) = (stage.caller().await, stage.caller().await);
    let (over, calls, late, one, other, stage) = (&over, &calls, &late, &one, &other, &stage);
    let traffic = |integration| async move {
        while !over.load(Ordering::Relaxed) {
            let sign = timed(one.sign(integration, Duration::from_millis(600)));
            let (sign, read) = tokio::join!(sign, timed(other.read(integration)));
            for (took, outcome) in [sign, read] {
                let counts = stage.counts(integration, took, outcome).await;
                if counts { calls } else { late }.fetch_add(1, Ordering::Relaxed);
            }
        }
    };
    let rotations = |integration| async move {
        for _ in 0..EACH {
            let before = stage.signing(integration).await;
            assert!(stage.rotate(integration, false).await);
            stage.until_step(integration, "activated").await;
            assert_ne!(stage.signing(integration).await, before);
            stage.until_step(integration, "idle").await;
            assert_eq!(stage.published(integration).await, HashSet::from([stage.signing(integration).await]));
        }
    };
    let traffic = async { futures::future::join_all(stage.integrations.iter().map(|i| traffic(*i))).await };
    let rotations = async {
        futures::future::join_all(stage.integrations.iter().map(|i| rotations(*i))).await;
        over.store(true, Ordering::Relaxed);
    };
    tokio::join!(traffic, rotations);
    assert!(calls.load(Ordering::Relaxed) > 3 * INTEGRATIONS * EACH, "{calls:?} calls");
    assert!(
        late.load(Ordering::Relaxed) * 50 < calls.load(Ordering::Relaxed),
        "{late:?} late, {calls:?} not"
    );
    stage.check_published();
    // The first keys were made before anybody looked.
    let waits = "SELECT count(*) FILTER (WHERE signed_at >= published_at + make_interval(secs => $1)),
                        count(*) FILTER (WHERE gone_at >= replaced_at + make_interval(secs => $2)) FROM public.lives";
    let waited: (i64, i64) = sqlx::query_as(waits)
        .bind(PUBLISHED.as_secs_f64())
        .bind((HELD + CALL).as_secs_f64())
        .fetch_one(&mut stage.synced.bus.superuser().await)
        .await
        .unwrap();
    assert_eq!(
        waited,
        (100, 90),
        "keys that signed when they could be known, and went when nothing of theirs was on its way"
    );
    for kind in ["published", "activated", "retired"] {
        let told: i64 =
            sqlx::query_scalar("SELECT count(*) FROM public.told WHERE kind = 'client_key.' || $1")
                .bind(kind)
                .fetch_one(&mut stage.synced.bus.superuser().await)
                .await
                .unwrap();
        assert_eq!(told, 100, "{kind}");
    }
}

/// Negative control: the org does keep our keys, and the wait is what a rotation needs.
#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_signs_as_soon_as_it_is_published_is_refused() {
    let stage = Stage::new(1, ClientKeyConfig::default(), 3600.0).await;
    let (integration, caller) = (stage.integrations[0], stage.caller().await);
    caller.sign(integration, Duration::ZERO).await.unwrap();
    assert!(stage.rotate(integration, false).await);
    assert!(!stage.rotate(integration, false).await, "it is under way");
    caller.sign(integration, Duration::ZERO).await.unwrap();
    let now = "UPDATE sync.client_keys SET state = 'old' WHERE state = 'signing';
               UPDATE sync.client_keys SET state = 'signing' WHERE state = 'next'";
    stage.synced.bus.execute(now).await;
    let refused = caller.sign(integration, Duration::ZERO).await.unwrap_err();
    assert!(is_refused_for_the_key(&refused), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_adapter_that_was_held_for_too_long_signs_no_more_until_it_is_connected_again() {
    const HELD_HERE: Duration = Duration::from_millis(1500);
    let stage = Stage::new(1, fast(), SET_KEPT.as_secs_f64()).await;
    let integration = stage.integrations[0];
    let mut caller = stage.caller().await;
    caller.directories = caller.directories.holding(HELD_HERE);
    let adapter = caller.connect(integration).await;
    let begun = Instant::now();
    let refused = loop {
        // Its tokens end after a second.
        if let Err(error) = adapter.accounts(Listing::Full, None).await {
            break error;
        }
        assert!(begun.elapsed() < Duration::from_mins(1), "it signs for ever");
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    assert!(begun.elapsed() >= HELD_HERE && matches!(refused, ProviderError::NotSent(_)), "{refused:?}");
    let again = caller.connect(integration).await;
    assert!(Arc::ptr_eq(&adapter, &again), "the adapter is kept");
    adapter.accounts(Listing::Full, None).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_whose_claim_was_lost_is_not_taken() {
    let hasty = ClientKeyConfig { publish_seconds: 0, ..fast() };
    let stage = Stage::new(2, hasty, 0.0).await;
    let (slow, next) = (stage.integrations[0], stage.integrations[1]);
    let before = stage.signing(slow).await;
    stage.synced.idp.fault(json!({ "operation": "okta.token", "effect": { "delay": { "ms": 10_000 } } }));
    stage.rotate(slow, false).await;
    let proving = "SELECT count(*) FROM sync.client_key_rotations
                   WHERE step = 'published' AND due_at > clock_timestamp() + interval '20 s'";
    stage.synced.bus.until_count(proving, 1).await;
    // As another worker that claims it after this one stood still.
    stage.synced.bus.execute("UPDATE sync.client_key_rotations SET due_at = now() + interval '1 h'").await;
    stage.rotate(next, false).await;
    // The worker takes one step after the other.
    stage.until_step(next, "activated").await;
    assert_eq!((stage.step(slow).await.as_str(), stage.signing(slow).await), ("published", before.clone()));
    stage
        .synced
        .bus
        .execute("UPDATE sync.client_key_rotations SET due_at = now() WHERE step = 'published'")
        .await;
    stage.until_step(slow, "activated").await;
    assert_ne!(stage.signing(slow).await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_cannot_be_proven_does_not_replace_the_one_that_works() {
    let hasty = ClientKeyConfig { publish_seconds: 0, ..fast() };
    let stage = Stage::new(1, hasty, 3600.0).await;
    let (integration, caller) = (stage.integrations[0], stage.caller().await);
    caller.sign(integration, Duration::ZERO).await.unwrap();
    let before = stage.signing(integration).await;
    stage.rotate(integration, false).await;
    let failed =
        "SELECT count(*) FROM sync.client_key_rotations WHERE last_error LIKE '%does not know our key%'";
    stage.synced.bus.until_count(failed, 1).await;
    assert_eq!(stage.signing(integration).await, before);
    assert_eq!(stage.published(integration).await.len(), 2);
    caller.sign(integration, Duration::ZERO).await.unwrap();
    stage.synced.patch_settings(|okta| okta.jwks_life_s = 0.0);
    stage.until_step(integration, "idle").await;
    assert_ne!(stage.signing(integration).await, before);
    caller.sign(integration, Duration::ZERO).await.unwrap();
    assert_eq!(stage.synced.bus.count(failed).await, 0);
    let told = "SELECT count(*) FROM public.told WHERE kind = 'client_key.unproven'";
    assert_eq!(stage.synced.bus.count(told).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn after_an_emergency_work_waits_until_the_org_has_the_new_key_and_nothing_is_refused() {
    let kept = Duration::from_secs(3);
    let stage = Stage::new(1, ClientKeyConfig::default(), kept.as_secs_f64()).await;
    let (integration, caller) = (stage.integrations[0], stage.caller().await);
    let before = stage.signing(integration).await;
    stage.rotate(integration, false).await;
    caller.read(integration).await.unwrap();
    caller.sign(integration, Duration::ZERO).await.unwrap();
    assert!(stage.rotate(integration, true).await, "also while another is under way");
    let after = stage.signing(integration).await;
    assert_ne!(after, before);
    assert_eq!(stage.published(integration).await, HashSet::from([after]), "at once");
    let (begun, mut waited) = (Instant::now(), 0);
    loop {
        match caller.read(integration).await {
            Ok(()) => break,
            Err(ProviderError::Unavailable { .. }) => waited += 1,
            Err(error) => panic!("{error:?}"),
        }
        assert!(begun.elapsed() < kept + Duration::from_secs(30), "later than the org's cache ends");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(waited > 0, "control");
    stage.until_step(integration, "idle").await;
    caller.sign(integration, Duration::ZERO).await.unwrap();
    let proven = "SELECT count(*) FROM sync.client_keys WHERE state = 'signing'";
    assert_eq!(stage.synced.bus.count(proven).await, 1);
    stage.check_published();
    for kind in [
        "SELECT count(*) FROM public.told WHERE kind = 'client_key.emergency'",
        "SELECT count(*) FROM public.told WHERE kind = 'client_key.activated'",
    ] {
        assert_eq!(stage.synced.bus.count(kind).await, 1, "{kind}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotation_goes_on_in_another_process_after_every_step() {
    let mut stage = Stage::new(1, fast(), SET_KEPT.as_secs_f64()).await;
    let (integration, caller) = (stage.integrations[0], stage.caller().await);
    let before = stage.signing(integration).await;
    stage.rotate(integration, false).await;
    stage.synced.stop().await;
    assert_eq!(stage.signing(integration).await, before);
    caller.sign(integration, Duration::ZERO).await.unwrap();
    stage.synced.start();
    stage.until_step(integration, "activated").await;
    stage.synced.stop().await;
    caller.sign(integration, Duration::ZERO).await.unwrap();
    // One that claimed the last step and died: its lease ends.
    stage.synced.bus.execute("UPDATE sync.client_key_rotations SET due_at = now() + interval '2 s'").await;
    stage.synced.start();
    stage.until_step(integration, "idle").await;
    caller.sign(integration, Duration::ZERO).await.unwrap();
    assert_eq!(stage.published(integration).await, HashSet::from([stage.signing(integration).await]));
    assert_eq!(stage.synced.bus.count("SELECT count(*) FROM sync.client_keys").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_die_in_the_middle_of_steps_leave_one_key_that_signs() {
    let stage = Stage::new(1, fast(), SET_KEPT.as_secs_f64()).await;
    let (integration, caller) = (stage.integrations[0], stage.caller().await);
    let before = stage.signing(integration).await;
    stage.rotate(integration, false).await;
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(4) {
        let kill = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                    WHERE datname = current_database() AND usename = 'parapet_sync' AND state <> 'idle' AND query LIKE '%client_key%'";
        stage.synced.bus.execute(kill).await;
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    stage.until_step(integration, "idle").await;
    let after = stage.signing(integration).await;
    assert_ne!(after, before);
    assert_eq!(stage.published(integration).await, HashSet::from([after]));
    caller.sign(integration, Duration::ZERO).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_replaced_when_it_is_as_old_as_the_schedule_says() {
    let stage = Stage::new(1, ClientKeyConfig { every_days: 90, ..fast() }, SET_KEPT.as_secs_f64()).await;
    let integration = stage.integrations[0];
    let before = stage.signing(integration).await;
    let scheduled = "SELECT count(*) FROM sync.client_key_rotations
                     WHERE step = 'idle' AND due_at - rotated_at = interval '90 days'";
    stage.synced.bus.until_count(scheduled, 1).await;
    stage
        .synced
        .bus
        .execute("UPDATE sync.client_key_rotations SET rotated_at = now() - interval '90 days'")
        .await;
    until("the key is replaced", || async {
        stage.signing(integration).await != before && stage.step(integration).await == "idle"
    })
    .await;
    stage.synced.bus.until_count(scheduled, 1).await;
}
