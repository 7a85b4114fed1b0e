//! Kill switches: what they cover, whom they bind, and who ends them.

use shared::{
    db::Db,
    id::{AccountKey, AttemptId, ProviderKind, TenantId},
    limiter::{self, Answer, Denial, Reservation},
};
use sqlx::{ConnectOptions as _, PgConnection};
use uuid::Uuid;

use super::{as_validator, ask, intent, limits};

const DIRECTORY: &str = "8d7b1c52-6c39-4f5e-9d35-0c2c0f6b9a11";
const ANN: &str = "11111111-aaaa-4111-8111-111111111111";
const BOB: &str = "22222222-aaaa-4111-8111-222222222222";

fn account(directory: &str, object: &str) -> AccountKey {
    AccountKey { provider: ProviderKind::EntraId, directory: directory.into(), object: object.into() }
}

/// The API's side, for a tenant or for the installation.
async fn act_for(db: &mut PgConnection, tenant: Option<TenantId>) {
    sqlx::query("SELECT set_config('app.tenant', $1, false), set_config('role', 'parapet_api', false)")
        .bind(tenant.map(|t| t.to_string()).unwrap_or_default())
        .execute(db)
        .await
        .unwrap();
}

async fn stop(
    db: &mut PgConnection,
    tenant: Option<TenantId>,
    directory: Option<&str>,
    object: Option<&str>,
) -> Uuid {
    act_for(db, tenant).await;
    sqlx::query_scalar("SELECT budget.stop_attempts($1, $2, $3, $4, 'a storm', 'ann', 'Ann')")
        .bind(Uuid::now_v7())
        .bind(directory.map(|_| "entra_id"))
        .bind(directory)
        .bind(object)
        .fetch_one(db)
        .await
        .unwrap()
}

async fn resume(db: &mut PgConnection, tenant: Option<TenantId>, stop: Uuid) -> bool {
    act_for(db, tenant).await;
    sqlx::query_scalar("SELECT budget.resume_attempts($1)").bind(stop).fetch_one(db).await.unwrap()
}

/// Whether an attempt is stopped; a granted one is given back.
async fn stopped(db: &Db, tenant: TenantId, account: &AccountKey) -> bool {
    let intent = intent(tenant);
    let mut reservation = Reservation::begin(db, tenant).await.unwrap();
    let explained = limiter::explain(reservation.tx(), account, &limits(2, None)).await.unwrap();
    let answer = reservation.ask(&ask(AttemptId::new(), account, limits(2, None), &intent)).await.unwrap();
    reservation.abandon().await.unwrap();
    let stopped = answer == Answer::Denied { reason: Denial::Stopped, free_at: None };
    assert!(stopped || answer == Answer::Granted, "{answer:?}");
    assert_eq!(
        explained.blocked_by.as_deref() == Some("stopped"),
        stopped,
        "what is explained is what holds"
    );
    assert_eq!(explained.next_free_at.is_none(), stopped);
    stopped
}

#[tokio::test]
async fn a_stop_holds_for_its_scope_from_the_next_reservation_on_and_only_its_maker_ends_it() {
    let database = e2e::database().await;
    let db = as_validator(&database, None).await;
    let mut api = database.superuser().await.connect().await.unwrap();
    let (ours, theirs) = (TenantId::new(), TenantId::new());
    let (ann, bob) = (account(DIRECTORY, ANN), account(DIRECTORY, BOB));
    let elsewhere = account("9e8c2d63-7d4a-4a6f-8e46-1d3d1a7c0b22", ANN);
    let upper = (DIRECTORY.to_uppercase(), ANN.to_uppercase());
    // Who stops what, and whether that holds for our Ann, our Bob, our other directory, and the other tenant's Ann.
    for (by, directory, object, holds) in [
        (None, None, None, [true, true, true, true]),
        (Some(ours), None, None, [true, true, true, false]),
        (Some(ours), Some(upper.0.as_str()), None, [true, true, false, true]),
        (Some(ours), Some(upper.0.as_str()), Some(upper.1.as_str()), [true, false, false, true]),
    ] {
        let asked = async || {
            [
                stopped(&db, ours, &ann).await,
                stopped(&db, ours, &bob).await,
                stopped(&db, ours, &elsewhere).await,
                stopped(&db, theirs, &ann).await,
            ]
        };
        assert_eq!(asked().await, [false; 4]);
        let made = stop(&mut api, by, directory, object).await;
        assert_eq!(asked().await, holds, "{by:?} {directory:?} {object:?}");
        assert_eq!(stop(&mut api, by, directory, object).await, made, "stopping again changes nothing");
        let strangers = [Some(theirs), if by.is_none() { Some(ours) } else { None }];
        for stranger in strangers {
            assert!(!resume(&mut api, stranger, made).await, "{stranger:?} ended what {by:?} stopped");
        }
        assert_eq!(asked().await, holds);
        assert!(resume(&mut api, by, made).await);
        assert_eq!(asked().await, [false; 4], "and what was stopped goes on");
    }
}
