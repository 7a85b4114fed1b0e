//! Real attempt permits: the real limiter on a real database is their only maker.

use shared::audit::{self, Actor, Event, names};
use shared::db::Db;
use shared::id::{AttemptId, ProviderKind, TenantId};
use shared::limiter::{self, Answer, Ask, AttemptPermit, Ended, Limits, OwnerSeen, Reservation, Ticket};
use shared::provider::{Account, Attempted, Signal, account_key};

use crate::{Database, database};

/// A limiter with a database of its own.
#[derive(Debug)]
pub struct Permits {
    db: Db,
    database: Database,
    tenant: TenantId,
}

impl Permits {
    /// Prepares the database.
    pub async fn start() -> Self {
        let database = database().await;
        let config = database.config_as("parapet_validator").await;
        Self { db: Db::connect(&config).await.unwrap(), database, tenant: TenantId::new() }
    }

    /// Asks for one attempt on an account: a permit and what settles it, or the limiter's answer.
    pub async fn ask(
        &self,
        provider: ProviderKind,
        directory: &str,
        account: &Account,
    ) -> Result<(AttemptPermit, Ticket), Answer> {
        let key = account_key(provider, directory, &account.object_id);
        let intent = Event::new(
            Some(self.tenant),
            names::VALIDATION_ATTEMPT,
            Actor::Service("credential-validator"),
            audit::Outcome::Intent,
            "password attempt",
        );
        let ask = Ask {
            attempt: AttemptId::new(),
            account: &key,
            limits: Limits {
                daily_max: 5,
                threshold: None,
                us_gov: false,
                ad_backed: false,
                low_threshold_opt_in: false,
            },
            owner: OwnerSeen { sign_in_at: None, password_changed_at: None, locked: false, failures: None },
            intent: &intent,
            turn: None,
        };
        let mut reservation = Reservation::begin(&self.db, self.tenant).await.unwrap();
        let answer = reservation.ask(&ask).await.unwrap();
        reservation.commit().await.unwrap().ok_or(answer)
    }

    /// Reserves one attempt on an account that has its budget left.
    pub async fn permit(&self, provider: ProviderKind, directory: &str, account: &Account) -> AttemptPermit {
        self.ask(provider, directory, account).await.expect("a permit").0
    }

    /// Stores how an attempt ended.
    pub async fn settle(&self, ticket: &Ticket, attempted: &Attempted) {
        let mut tx = self.db.tenant(self.tenant).await.unwrap();
        let ended = Ended {
            answered: attempted.status.is_some(),
            result: attempted.verdict.name(),
            code: attempted.code.as_deref(),
            locked: attempted.signal == Signal::Locked,
        };
        assert!(limiter::settle(&mut tx, ticket, &ended).await.unwrap());
        tx.commit().await.unwrap();
    }

    /// Permits given out so far.
    pub async fn used(&self) -> usize {
        let mut db = sqlx::ConnectOptions::connect(&self.database.superuser().await).await.unwrap();
        let used: i64 =
            sqlx::query_scalar("SELECT count(*) FROM budget.attempt").fetch_one(&mut db).await.unwrap();
        usize::try_from(used).unwrap()
    }
}
