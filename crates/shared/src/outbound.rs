//! What the customer's own systems (SIEM, SOAR, ticketing) are told: `CloudEvents` 1.0 in JSON, through one exchange.
//!
//! Written like any message, to the outbox in the transaction of the fact it tells of. The contract stands in
//! `deploy/setup/outbound-events.md`; a test below holds its examples to what is sent.

use serde::Serialize;
use time::OffsetDateTime;

use crate::{
    db::{StoreError, Tx},
    id::{AccountId, CauseId, ExposureId, IntegrationId, MessageId, MitigationId, ProviderKind, TenantId},
    outbox::{self, Destination, Outbound},
    provider::Action,
    verdict::Verdict,
};

/// Version of the documented fields. It rises when one goes or changes its meaning, not when one is added.
const SCHEMA: u32 = 1;

/// The account that an event is about.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Subject<'a> {
    /// Whose it is.
    pub tenant_id: TenantId,
    /// The integration that sees it.
    pub integration_id: IntegrationId,
    /// Kind of provider.
    pub provider: ProviderKind,
    /// The directory.
    pub directory_id: &'a str,
    /// The account, as the API knows it.
    pub account_id: AccountId,
    /// The account's object id at the directory.
    pub object_id: &'a str,
    /// Its sign-in name.
    pub login: &'a str,
}

/// What is told of the account.
///
/// INVARIANT (I8): ids and names from closed lists only. There is no place for a secret, its digest or its length, nor for
/// free text.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(untagged)]
enum Fact {
    Verdict {
        exposure_id: ExposureId,
        verdict: &'static str,
        cause_id: CauseId,
    },
    Mitigation {
        mitigation_id: MitigationId,
        mitigation_action: Action,
        #[serde(skip_serializing_if = "Option::is_none")]
        exposure_id: Option<ExposureId>,
        #[serde(skip_serializing_if = "Option::is_none")]
        cause_id: Option<CauseId>,
    },
}

#[derive(Debug, Serialize)]
struct Data<'a> {
    schema: u32,
    #[serde(flatten)]
    subject: Subject<'a>,
    #[serde(flatten)]
    fact: Fact,
}

#[derive(Debug, Serialize)]
struct Envelope<'a> {
    specversion: &'static str,
    id: MessageId,
    source: &'static str,
    r#type: &'static str,
    #[serde(with = "time::serde::rfc3339")]
    time: OffsetDateTime,
    datacontenttype: &'static str,
    data: Data<'a>,
}

/// Tells of a verdict, if it is proven: an exposure's password works, or does not. The caller decides it in this transaction.
pub async fn verdict(
    tx: &mut Tx,
    subject: Subject<'_>,
    exposure: ExposureId,
    verdict: Verdict,
) -> Result<(), StoreError> {
    let event = match verdict {
        Verdict::Valid | Verdict::ValidSecondFactor | Verdict::ValidExpired => Outbound::ValidCredential,
        Verdict::Invalid => Outbound::InvalidCredential,
        Verdict::Inconclusive(_) | Verdict::NotTestable(_) | Verdict::Stale(_) | Verdict::Deferred(..) => {
            return Ok(());
        }
    };
    let cause_id = CauseId(exposure.uuid());
    tell(tx, event, subject, Fact::Verdict { exposure_id: exposure, verdict: verdict.name(), cause_id }).await
}

/// Tells that an account is contained. The caller notes in this transaction that the action took effect.
pub async fn mitigated(
    tx: &mut Tx,
    subject: Subject<'_>,
    mitigation_id: MitigationId,
    mitigation_action: Action,
    exposure_id: Option<ExposureId>,
    cause_id: Option<CauseId>,
) -> Result<(), StoreError> {
    let fact = Fact::Mitigation { mitigation_id, mitigation_action, exposure_id, cause_id };
    tell(tx, Outbound::MitigatedCredential, subject, fact).await
}

/// The event's id is the message's: whatever sends the row, and however often, it stays the same.
async fn tell(tx: &mut Tx, event: Outbound, subject: Subject<'_>, fact: Fact) -> Result<(), StoreError> {
    let (id, now) = (MessageId::new(), tx.clock().await?);
    let body = body(event, id, now, subject, fact)?;
    outbox::write(tx, Destination::Outbound(event), id, Some(subject.tenant_id), body).await
}

fn body(
    event: Outbound,
    id: MessageId,
    at: OffsetDateTime,
    subject: Subject<'_>,
    fact: Fact,
) -> Result<Vec<u8>, StoreError> {
    let envelope = Envelope {
        specversion: "1.0",
        id,
        source: "/parapet",
        r#type: event.as_str(),
        // More digits than every reader of RFC 3339 takes are of no use to any.
        time: at.truncate_to_millisecond(),
        datacontenttype: "application/json",
        data: Data { schema: SCHEMA, subject, fact },
    };
    serde_json::to_vec(&envelope).map_err(|error| StoreError::Corrupt(format!("an outbound event: {error}")))
}

#[cfg(test)]
mod tests {
    use serde_json::Value;
    use time::macros::datetime;
    use uuid::Uuid;

    use super::*;

    const DOCUMENT: &str = include_str!("../../../deploy/setup/outbound-events.md");

    fn id(n: u128) -> Uuid {
        Uuid::from_u128(0x0193_5b7c_2f00_7000_8000_0000_0000_0000 + n)
    }

    /// The JSON examples of the document, in order.
    fn documented() -> Vec<Value> {
        let blocks = DOCUMENT.split("```json\n").skip(1);
        blocks.map(|block| serde_json::from_str(block.split("```").next().unwrap()).unwrap()).collect()
    }

    #[test]
    fn the_documented_examples_are_what_is_sent() {
        let subject = Subject {
            tenant_id: TenantId(id(0xa)),
            integration_id: IntegrationId(id(0xb)),
            provider: ProviderKind::EntraId,
            directory_id: "7c2f1f6e-1111-4222-8333-444455556666",
            account_id: AccountId(id(0xc)),
            object_id: "5d0c2b1a-2222-4333-8444-555566667777",
            login: "ann@acme.example",
        };
        let exposure_id = ExposureId(id(0xd));
        let cause_id = CauseId(id(0xd));
        let facts = [
            (
                Outbound::ValidCredential,
                Fact::Verdict { exposure_id, verdict: "valid_second_factor", cause_id },
            ),
            (
                Outbound::MitigatedCredential,
                Fact::Mitigation {
                    mitigation_id: MitigationId(id(0xe)),
                    mitigation_action: Action::DisableAccount,
                    exposure_id: Some(exposure_id),
                    cause_id: Some(cause_id),
                },
            ),
        ];
        let documented = documented();
        assert_eq!(documented.len(), facts.len());
        for (n, (event, fact)) in facts.into_iter().enumerate() {
            let at = datetime!(2026-11-23 12:00:00.25 UTC) + time::Duration::nanoseconds(1);
            let id = MessageId(id(1 + n as u128));
            let sent: Value = serde_json::from_slice(&body(event, id, at, subject, fact).unwrap()).unwrap();
            assert_eq!(sent, documented[n]);
        }
        for event in Outbound::ALL {
            assert!(DOCUMENT.contains(&format!("`{}`", event.as_str())), "{event:?}");
        }
    }
}
