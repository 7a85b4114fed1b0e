//! Whether somebody else changed an account since our action, so that taking it back would undo their decision.
//!
//! Two sources, the cheaper first: the directory's own date of the change, as it showed it when our action was verified and
//! as it shows it now, and its log of changes. Neither may be there, which is said and never taken for "nobody did".

use shared::{
    id::MitigationId,
    provider::{Asked, Change, Containment, Provider, ProviderError, Retry},
};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::{Executor, Stop, ending::OUTAGE};
use crate::{plan::Step, store::Mitigation, undo};

/// What an undo says that goes by the account's state alone.
pub(super) const UNSEEN: &str = "whether somebody else has changed the account since could not be seen: the directory's \
     log of changes may not be read, or does not tell (Okta: okta.logs.read; Entra ID: AuditLog.Read.All and \
     Directory.Read.All)";

/// What is known of others' changes since our action.
pub(super) enum Since {
    /// There were none, as far as the directory shows by now.
    Nobody,
    /// Somebody changed the account, told by name if the log has it.
    Somebody(Option<Change>),
    /// It cannot be known.
    Unseen,
    /// The log did not answer.
    Silent(ProviderError),
}

/// Notes who changed the account, for whoever reads why the undo was refused.
pub(super) fn note(m: &mut Mitigation, change: Option<Change>) {
    let Some(Change { at, by }) = change else { return };
    if !by.is_empty() {
        m.details.insert("changed_by".to_owned(), by);
    }
    if let Ok(at) = at.format(&Rfc3339) {
        m.details.insert("changed_at".to_owned(), at);
    }
}

/// When to ask the log again. The directory itself is not left alone for it: logs have a quota of their own.
pub(super) fn log_wait(error: &ProviderError, now: OffsetDateTime) -> (OffsetDateTime, &'static str) {
    let after = match error.retry(OUTAGE) {
        Retry::After(after) => after.max(OUTAGE),
        Retry::Restart | Retry::Never => OUTAGE,
    };
    let reason = match error {
        ProviderError::Throttled { .. } | ProviderError::Paced { .. } => "throttled",
        _ => "provider_unavailable",
    };
    (now + after, reason)
}

impl Executor {
    /// Looks for others' changes, if the undo `m` of the mitigation `of` is about to act on an account that looks so now.
    ///
    /// INVARIANT: an undo acts only if nobody else is seen to have changed the account since our last call, or says that
    /// this could not be seen.
    pub(super) async fn since(
        &self,
        provider: &dyn Provider,
        m: &Mitigation,
        of: MitigationId,
        now: &Containment,
    ) -> Result<Since, Stop> {
        let mut tx = self.db.tenant(m.tenant).await?;
        let step = undo::step(m.action, undo::was(&mut tx, of).await?, Some(now));
        let ours = undo::ours(&mut tx, m).await?;
        tx.rollback().await?;
        let (Step::Act, Some(ours)) = (step, ours) else { return Ok(Since::Nobody) };
        let moved = match (ours.changed_at, now.changed_at) {
            (Some(then), Some(now)) if then == now => return Ok(Since::Nobody),
            (Some(_), Some(_)) => true,
            _ => false,
        };
        let asked = Asked { since: ours.intent, at: m.created_at };
        Ok(match provider.changed_by_others(&m.object_id, m.action, asked).await {
            Ok(Some(Some(change))) => Since::Somebody(Some(change)),
            Ok(_) if moved => Since::Somebody(None),
            Ok(Some(None)) => Since::Nobody,
            Ok(None) => Since::Unseen,
            Err(error) => Since::Silent(error),
        })
    }
}
