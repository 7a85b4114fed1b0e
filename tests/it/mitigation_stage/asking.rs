//! What leads to mitigations: requests of people, verdicts, and what takes them back.

use shared::{
    id::{ExposureId, MitigationRequestId},
    outbox::{self, Topic},
    provider::Action,
    wire::events::MitigationRequested,
};
use time::OffsetDateTime;
use uuid::Uuid;

use super::Stage;

impl Stage {
    /// A person asks, as integration-api stores it; the message is sent as often as said.
    pub async fn ask(&self, who: &str, logins: &[&str], actions: &[Action], times: usize) {
        let request = MitigationRequestId::new();
        let mut accounts = Vec::new();
        for login in logins {
            accounts.push(self.account(login).await);
        }
        sqlx::query(
            "INSERT INTO api.mitigation_requests (tenant_id, request_id, requested_by, requester_name, actions, account_ids,
                 exposure_ids, accounts, reason)
             VALUES ($1, $2, $3, $3, $4, $5, '{}', cardinality($5), 'because')",
        )
        .bind(self.tenant)
        .bind(request)
        .bind(who)
        .bind(actions.iter().map(|a| a.as_str()).collect::<Vec<_>>())
        .bind(accounts)
        .execute(&mut self.bus.superuser().await)
        .await
        .unwrap();
        self.hand_on(request, times).await;
    }

    /// A person wants these mitigations taken back, or everything automated since.
    pub async fn undo(&self, who: &str, of: &[Uuid], since: Option<OffsetDateTime>, dismiss_risk: bool) {
        let request = MitigationRequestId::new();
        sqlx::query(
            "INSERT INTO api.mitigation_requests (tenant_id, request_id, requested_by, requester_name, actions, account_ids,
                 exposure_ids, reason, undo, mitigation_ids, undo_since, dismiss_risk)
             VALUES ($1, $2, $3, $3, '{}', '{}', '{}', 'a false alarm', true, $4, $5, $6)",
        )
        .bind(self.tenant)
        .bind(request)
        .bind(who)
        .bind(of)
        .bind(since)
        .bind(dismiss_risk)
        .execute(&mut self.bus.superuser().await)
        .await
        .unwrap();
        self.hand_on(request, 1).await;
    }

    /// The mitigations that this query selects.
    pub async fn ids(&self, query: &'static str) -> Vec<Uuid> {
        sqlx::query_scalar(query).fetch_all(&mut self.bus.superuser().await).await.unwrap()
    }

    async fn hand_on(&self, request: MitigationRequestId, times: usize) {
        let message = MitigationRequested {
            tenant_id: self.tenant.to_string(),
            request_id: request.to_string(),
            ..MitigationRequested::default()
        };
        self.send(message, times).await;
    }

    async fn send(&self, message: MitigationRequested, times: usize) {
        let mut tx = self.db.system().await.unwrap();
        outbox::enqueue_many(&mut tx, Topic::MitigationRequested, Some(self.tenant), &vec![message; times])
            .await
            .unwrap();
        tx.commit().await.unwrap();
    }

    /// The validator proves a leaked password of this account.
    pub async fn prove(&self, login: &str, verdict: &str, times: usize) -> ExposureId {
        let exposure = ExposureId::new();
        sqlx::query(
            "INSERT INTO validator.exposures (tenant_id, exposure_id, record_id, batch_id, feed, account_id, identifier_id,
                 integration_id, provider, directory_id, object_id, login_at_match, source, secret_form, received_at,
                 history, wanted, verdict, verdict_at, state)
             SELECT tenant_id, $1, $1, $1, 'test', account_id, $1, integration_id, provider, directory_id, object_id, login,
                 '{}', 'plaintext', clock_timestamp(), false, true, $3, clock_timestamp(), 'decided'
             FROM sync.accounts WHERE login = $2",
        )
        .bind(exposure)
        .bind(login)
        .bind(verdict)
        .execute(&mut self.bus.superuser().await)
        .await
        .unwrap();
        self.tell(exposure, times).await;
        exposure
    }

    /// The validator proves the same exposure once more, now.
    pub async fn proven(&self, exposure: ExposureId) {
        sqlx::query("UPDATE validator.exposures SET verdict_at = clock_timestamp() WHERE exposure_id = $1")
            .bind(exposure)
            .execute(&mut self.bus.superuser().await)
            .await
            .unwrap();
        self.tell(exposure, 1).await;
    }

    async fn tell(&self, exposure: ExposureId, times: usize) {
        let message = MitigationRequested {
            tenant_id: self.tenant.to_string(),
            exposure_id: exposure.to_string(),
            ..MitigationRequested::default()
        };
        self.send(message, times).await;
    }

    /// A person asks about every account there is, in one large request.
    pub async fn ask_bulk(&self, who: &str, actions: &[Action], times: usize) {
        let request = MitigationRequestId::new();
        sqlx::query(
            "WITH items AS (
                 INSERT INTO api.mitigation_items (tenant_id, request_id, account_id)
                 SELECT tenant_id, $2, account_id FROM sync.accounts WHERE tenant_id = $1 RETURNING 1)
             INSERT INTO api.mitigation_requests (tenant_id, request_id, requested_by, requester_name, actions, account_ids,
                 exposure_ids, bulk, accounts, reason)
             SELECT $1, $2, $3, $3, $4, '{}', '{}', true, count(*), 'because' FROM items",
        )
        .bind(self.tenant)
        .bind(request)
        .bind(who)
        .bind(actions.iter().map(|a| a.as_str()).collect::<Vec<_>>())
        .execute(&mut self.bus.superuser().await)
        .await
        .unwrap();
        self.hand_on(request, times).await;
    }
}
