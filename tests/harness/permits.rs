//! Real attempt permits: the real limiter on a real database is their only maker.

use shared::audit::{self, Actor, Event};
use shared::db::{DatabaseConfig, Db};
use shared::id::{AttemptId, ProviderKind, TenantId};
use shared::limiter::{Ask, AttemptPermit, Limits, OwnerSeen, Reservation};
use shared::provider::{Account, account_key};

use crate::{Database, database, servers};

/// A limiter with a database of its own.
#[derive(Debug)]
pub struct Permits {
    db: Db,
    _database: Database,
}

impl Permits {
    /// Prepares the database.
    pub async fn start() -> Self {
        let servers = servers().await;
        let database = database().await;
        let config = DatabaseConfig {
            host: "127.0.0.1".into(),
            port: servers.postgres.port(),
            database: database.name.clone(),
            user: "parapet_validator".into(),
            password_file: Some(servers.role_password_file.clone()),
            ..DatabaseConfig::default()
        };
        Self { db: Db::connect(&config).await.unwrap(), _database: database }
    }

    /// Reserves one attempt on an account that has its budget left.
    pub async fn permit(&self, provider: ProviderKind, directory: &str, account: &Account) -> AttemptPermit {
        let tenant = TenantId::new();
        let key = account_key(provider, directory, &account.object_id);
        let intent = Event::new(
            Some(tenant),
            "attempt.intended",
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
            owner: OwnerSeen { sign_in_at: None, password_changed_at: None, locked: false },
            intent: &intent,
        };
        let mut reservation = Reservation::begin(&self.db, tenant).await.unwrap();
        reservation.ask(&ask).await.unwrap();
        reservation.commit().await.unwrap().expect("a permit").0
    }
}
