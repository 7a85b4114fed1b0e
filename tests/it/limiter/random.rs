//! Random schedules in virtual time: weeks of days, owners, crashes and clocks in seconds.

use proptest::{
    prelude::*,
    test_runner::{Config, TestRunner},
};
use shared::limiter::{Limits, OwnerSeen};
use sqlx::{ConnectOptions as _, PgConnection};
use time::{Duration, OffsetDateTime};

use super::{
    Question, START, Said, WINDOW,
    checker::{Sent, allowed, violations},
    decide, settle,
};

#[derive(Clone, Debug)]
enum Step {
    /// Time goes on.
    Wait { minutes: i64 },
    /// The database's clock goes back.
    ClockBack { minutes: i64 },
    /// The owner signs in.
    SignIn { account: usize },
    /// Somebody wants to try a password.
    Try { account: usize, limits: Limits, shown: Shown, tries: Option<u32>, crash: bool, again: bool },
}

/// What the directory shows as the owner's last sign-in.
#[derive(Clone, Copy, Debug)]
enum Shown {
    Nothing,
    Truth,
    /// The trace of our own last attempt, as a directory shows it that counts ours as sign-ins.
    Ours {
        seconds: i64,
    },
}

fn limits() -> impl Strategy<Value = Limits> {
    let threshold = prop_oneof![2 => Just(None), 1 => Just(Some(10)), 3 => (0u32..14).prop_map(Some)];
    (0u32..8, threshold, any::<bool>(), any::<bool>(), any::<bool>()).prop_map(
        |(daily_max, threshold, ad_backed, us_gov, low_threshold_opt_in)| Limits {
            daily_max,
            threshold,
            us_gov: us_gov && threshold.is_none(),
            ad_backed,
            low_threshold_opt_in,
        },
    )
}

fn step() -> impl Strategy<Value = Step> {
    let shown = prop_oneof![
        2 => Just(Shown::Nothing),
        3 => Just(Shown::Truth),
        2 => (0i64..800).prop_map(|seconds| Shown::Ours { seconds }),
    ];
    // Mostly nothing is known: every known try takes from the attempts that this test needs.
    let tries = prop_oneof![6 => Just(None), 1 => (0u32..6).prop_map(Some)];
    prop_oneof![
        6 => (1i64..600).prop_map(|minutes| Step::Wait { minutes }),
        2 => (1200i64..1800).prop_map(|minutes| Step::Wait { minutes }),
        1 => (1i64..3000).prop_map(|minutes| Step::ClockBack { minutes }),
        1 => (0usize..2).prop_map(|account| Step::SignIn { account }),
        12 => (0usize..2, limits(), shown, tries, prop::bool::weighted(0.1), prop::bool::weighted(0.1)).prop_map(
            |(account, limits, shown, tries, crash, again)| Step::Try { account, limits, shown, tries, crash, again }
        ),
    ]
}

/// Runs a schedule against the function and returns what was sent, in the judge's own time.
async fn run(db: &mut PgConnection, steps: &[Step], window: Duration) -> Vec<Sent> {
    let directory = uuid::Uuid::new_v4().to_string();
    let (mut truth, mut skew) = (START, Duration::ZERO);
    let mut owners = [START - Duration::days(90); 2];
    let mut last: [Option<OffsetDateTime>; 2] = [None; 2];
    let mut sent: Vec<Sent> = Vec::new();
    let mut previous: Option<Question> = None;
    for step in steps {
        match step {
            Step::Wait { minutes } => truth += Duration::minutes(*minutes),
            Step::ClockBack { minutes } => skew -= Duration::minutes(*minutes),
            // Not within the quarter of an hour in which it cannot be told from our own trace.
            Step::SignIn { account } => {
                truth += Duration::minutes(20);
                owners[*account] = truth;
                truth += Duration::minutes(1);
            }
            Step::Try { account, limits, shown, tries, crash, again } => {
                let object = ["ann", "bob"][*account];
                let at = truth + skew;
                let mut q = Question::new(object, *limits, at);
                q.directory.clone_from(&directory);
                q.window = window;
                q.owner = OwnerSeen {
                    sign_in_at: match shown {
                        Shown::Nothing => None,
                        // Seen by the directory's clock, which did not go back.
                        Shown::Truth => Some(owners[*account] + skew.min(Duration::ZERO)),
                        Shown::Ours { seconds } => last[*account].map(|l| l + Duration::seconds(*seconds)),
                    },
                    password_changed_at: None,
                    locked: false,
                    failures: *tries,
                };
                if let (true, Some(before)) = (*again, &previous) {
                    q = before.clone();
                }
                sqlx::query("SELECT budget.expire(100, $1)").bind(at).execute(&mut *db).await.unwrap();
                let said: Said = decide(db, &q).await.unwrap();
                if said.granted() {
                    let (daily, reserve) = allowed(
                        q.limits.daily_max,
                        q.limits.threshold,
                        q.limits.ad_backed,
                        q.limits.us_gov,
                        q.limits.low_threshold_opt_in,
                        q.owner.failures.unwrap_or(0),
                    );
                    sent.push(Sent {
                        attempt: q.attempt,
                        account: q.object.clone(),
                        at: truth,
                        daily,
                        reserve,
                        owner: owners[*account],
                    });
                    last[*account] = Some(at);
                    if !crash {
                        assert!(settle(db, &q).await);
                    }
                }
                previous = Some(q);
            }
        }
    }
    sent
}

fn check(window: Duration, cases: u32) -> Result<usize, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    // The database lives as long as the process's servers, which another runtime may hold.
    let database = runtime.block_on(e2e::database());
    let total = std::cell::Cell::new(0);
    let mut runner = TestRunner::new(Config {
        cases,
        failure_persistence: None,
        max_shrink_iters: 0,
        ..Config::default()
    });
    let result = runner.run(&prop::collection::vec(step(), 1..80), |steps| {
        let sent = runtime.block_on(async {
            let mut db = database.superuser().await.connect().await.unwrap();
            run(&mut db, &steps, window).await
        });
        total.set(total.get() + sent.len());
        let found = violations(&sent);
        prop_assert!(found.is_empty(), "{}", found.join("\n"));
        Ok(())
    });
    result.map(|()| total.get()).map_err(|e| e.to_string())
}

#[test]
fn no_schedule_of_owners_crashes_and_clocks_exceeds_a_limit() {
    let sent = check(WINDOW, 96).unwrap();
    assert!(sent > 300, "only {sent} attempts were granted: the test proves nothing");
}

#[test]
fn the_checker_sees_a_window_that_is_too_short() {
    let error = check(Duration::hours(12), 96).unwrap_err();
    assert!(error.contains("in a day where"), "{error}");
}
