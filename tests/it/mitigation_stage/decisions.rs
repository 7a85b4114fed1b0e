//! The policy that the tenant follows, and what people decide about what it holds.

use mitigation_executor::{
    approvals::{self, Decision, Refused},
    cancellations::{self, Cancellation},
};
use prost::Message as _;
use shared::{
    id::{ApprovalId, MitigationId, MitigationRequestId},
    outbox::Topic,
    policy::{Approval, Brake, MitigationPolicy, Protected},
    wire::events::AuditRecorded,
};

use super::Stage;

/// No brake and no approval but for what is protected: each test puts on what it is about.
pub fn free() -> MitigationPolicy {
    MitigationPolicy {
        approval: Approval { more_than_accounts: 100_000, first_run: false, ..Approval::default() },
        brake: Brake {
            accounts_per_hour: 1000,
            percent_of_accounts: 100,
            share_from_accounts: 1000,
            administrators_per_hour: 1000,
            feed_from_exposures: 1_000_000,
            ..Brake::default()
        },
        ..MitigationPolicy::default()
    }
}

/// [`free`] with another brake.
pub fn braked(change: impl Fn(&mut Brake)) -> MitigationPolicy {
    let mut policy = free();
    change(&mut policy.brake);
    policy
}

/// [`free`] with other protections.
pub fn protecting(change: impl Fn(&mut Protected)) -> MitigationPolicy {
    let mut policy = free();
    change(&mut policy.protected);
    policy
}

impl Stage {
    /// The tenant follows another policy from now on, which `pat` changed.
    pub async fn follow(&self, policy: &MitigationPolicy) {
        sqlx::query(
            "INSERT INTO api.mitigation_policies (tenant_id, version, policy, reason, updated_by, updater_name)
             SELECT $1, count(*) + 1, $2, 'because', 'pat', 'Pat' FROM api.mitigation_policies WHERE tenant_id = $1",
        )
        .bind(self.tenant)
        .bind(sqlx::types::Json(policy))
        .execute(&mut self.bus.superuser().await)
        .await
        .unwrap();
    }

    /// Approvals that are open, oldest first, with what holds them.
    pub async fn open(&self) -> Vec<(ApprovalId, String)> {
        sqlx::query_as(
            "SELECT approval_id, held_by FROM mitigation.approvals WHERE state = 'open' ORDER BY opened_at",
        )
        .fetch_all(&mut self.bus.superuser().await)
        .await
        .unwrap()
    }

    /// A person decides about an approval.
    pub async fn decide(
        &self,
        who: &str,
        approval: ApprovalId,
        approve: bool,
        only: &[MitigationId],
    ) -> Result<(), Refused> {
        let decision = Decision {
            tenant: self.tenant,
            approval,
            approve,
            only: only.to_vec(),
            actor: (who.to_owned(), who.to_owned()),
            reason: "looked at it".to_owned(),
        };
        approvals::decide(&self.db, &decision).await
    }

    /// A person cancels the newest request; how many mitigations that dropped.
    pub async fn cancel(&self, who: &str) -> Option<i64> {
        let newest = "SELECT request_id FROM api.mitigation_requests ORDER BY created_at DESC LIMIT 1";
        let cancellation = Cancellation {
            tenant: self.tenant,
            request: MitigationRequestId(self.ids(newest).await[0]),
            actor: (who.to_owned(), who.to_owned()),
            reason: "a mistake".to_owned(),
        };
        cancellations::cancel(&self.db, &cancellation).await.unwrap()
    }

    /// Takes what the audit log was told until now, and returns what is of this type.
    pub async fn audited(&self, kind: &str) -> Vec<AuditRecorded> {
        self.until("SELECT count(*) FROM mitigation.outbox", 0).await;
        let (_connection, channel) = self.bus.channel().await;
        let options = lapin::options::BasicGetOptions { no_ack: true };
        let mut found = Vec::new();
        while let Some(got) = channel.basic_get(Topic::AuditRecorded.as_str().into(), options).await.unwrap()
        {
            let event = AuditRecorded::decode(got.data.as_slice()).unwrap();
            found.extend((event.r#type == kind).then_some(event));
        }
        found
    }

    /// A person approves everything that waits; what was refused to them stays.
    pub async fn approve(&self, who: &str) -> Vec<Result<(), Refused>> {
        let mut decided = Vec::new();
        for (approval, _) in self.open().await {
            decided.push(self.decide(who, approval, true, &[]).await);
        }
        decided
    }
}
