//! `AuditQueryService`: search and verification for integration-api.

use std::sync::Arc;

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use shared::{
    db::Db,
    wire::internal::{
        SearchRequest, SearchResponse, StoredEvent, VerifyRequest, VerifyResponse,
        audit_query_service_server::AuditQueryService,
    },
};
use time::OffsetDateTime;
use tonic::{Request, Response, Status};
use uuid::Uuid;

use crate::{
    chain::{Chain, Event, Link, micros},
    checkpoint::Keys,
    store::{self, Filter},
    verify, wire,
};

const DEFAULT_PAGE: i64 = 100;
const MAX_PAGE: i64 = 1000;
const MAX_TERMS: usize = 100;

#[derive(Debug)]
pub(crate) struct AuditQuery {
    pub db: Db,
    pub keys: Arc<Keys>,
}

#[tonic::async_trait]
impl AuditQueryService for AuditQuery {
    async fn search(&self, request: Request<SearchRequest>) -> Result<Response<SearchResponse>, Status> {
        let (chain, filter, page) = asked(request.into_inner())?;
        // One more than the page tells whether another page follows.
        let mut links = store::search(&self.db, chain, &filter, page + 1).await?;
        let full = usize::try_from(page).unwrap_or(usize::MAX);
        let more = links.len() > full;
        links.truncate(full);
        let next_page_token = links.last().filter(|_| more).map(page_token).unwrap_or_default();
        Ok(Response::new(SearchResponse { events: links.into_iter().map(stored).collect(), next_page_token }))
    }

    async fn verify(&self, request: Request<VerifyRequest>) -> Result<Response<VerifyResponse>, Status> {
        let chain = chain(&request.into_inner().tenant_id)?;
        let report = verify::verify(&self.db, chain, &self.keys.now().1).await?;
        if let Some(fault) = &report.fault {
            tracing::error!(tenant = %chain, fault, "audit chain is broken");
        }
        Ok(Response::new(VerifyResponse {
            events: report.events,
            checkpoints: report.checkpoints,
            intact: report.fault.is_none(),
            fault: report.fault.unwrap_or_default(),
        }))
    }
}

fn asked(request: SearchRequest) -> Result<(Chain, Filter, i64), Status> {
    let SearchRequest {
        tenant_id,
        from,
        until,
        types,
        integration_id,
        actor,
        user,
        outcomes,
        cause_id,
        page_size,
        page_token,
        object_id,
    } = request;
    if types.len() > MAX_TERMS || outcomes.len() > MAX_TERMS {
        return Err(invalid("types and outcomes", "at most 100 each"));
    }
    let (prefixes, types): (Vec<_>, Vec<_>) = types.into_iter().partition(|t| t.ends_with('*'));
    let time = |name, at: Option<_>| {
        at.map(|at| wire::from_timestamp(at).ok_or_else(|| invalid(name, "is not a time"))).transpose()
    };
    let filter = Filter {
        from: time("from", from)?,
        until: time("until", until)?,
        types,
        type_prefixes: prefixes.into_iter().map(|t| t.trim_end_matches('*').to_owned()).collect(),
        integration: id("integration_id", &integration_id)?,
        actor: text(actor),
        user: text(user),
        outcomes,
        cause: id("cause_id", &cause_id)?,
        object: text(object_id),
        before: position(&page_token)?,
    };
    let page = match i64::from(page_size) {
        0 => DEFAULT_PAGE,
        size @ 1..=MAX_PAGE => size,
        _ => return Err(invalid("page_size", "must be 0 to 1000")),
    };
    Ok((chain(&tenant_id)?, filter, page))
}

fn chain(tenant: &str) -> Result<Chain, Status> {
    Ok(id("tenant_id", tenant)?.map_or(Chain::INSTALLATION, Chain::from))
}

fn text(text: String) -> Option<String> {
    (!text.is_empty()).then_some(text)
}

fn id(name: &str, text: &str) -> Result<Option<Uuid>, Status> {
    if text.is_empty() {
        Ok(None)
    } else {
        text.parse().map(Some).map_err(|_| invalid(name, "is not a UUID"))
    }
}

fn invalid(field: &str, fault: &str) -> Status {
    Status::invalid_argument(format!("{field} {fault}"))
}

// A place between two events, newest first: time in microseconds and sequence.
fn page_token(last: &Link) -> String {
    let mut bytes = [0; 16];
    let (time, sequence) = bytes.split_at_mut(8);
    time.copy_from_slice(&micros(last.event.occurred_at).to_be_bytes());
    sequence.copy_from_slice(&last.sequence.to_be_bytes());
    BASE64_URL_SAFE_NO_PAD.encode(bytes)
}

fn position(token: &str) -> Result<Option<(OffsetDateTime, i64)>, Status> {
    if token.is_empty() {
        return Ok(None);
    }
    let read = || {
        let bytes: [u8; 16] = BASE64_URL_SAFE_NO_PAD.decode(token).ok()?.try_into().ok()?;
        let (time, sequence) = bytes.split_first_chunk::<8>()?;
        let time =
            OffsetDateTime::from_unix_timestamp_nanos(i128::from(i64::from_be_bytes(*time)) * 1000).ok()?;
        Some((time, i64::from_be_bytes(sequence.try_into().ok()?)))
    };
    read().map(Some).ok_or_else(|| invalid("page_token", "is not one of ours"))
}

fn stored(link: Link) -> StoredEvent {
    let Link { event, sequence, stored_at, previous, hash } = link;
    let Event {
        event_id,
        occurred_at,
        kind,
        actor_kind,
        actor_id,
        actor_name,
        outcome,
        cause_id,
        integration_id,
        object_kind,
        object_id,
        user_object_id,
        user_name,
        message,
        details,
    } = event;
    let text = |id: Option<Uuid>| id.map(|id| id.to_string()).unwrap_or_default();
    StoredEvent {
        event_id: event_id.to_string(),
        sequence,
        occurred_at: Some(wire::timestamp(occurred_at)),
        stored_at: Some(wire::timestamp(stored_at)),
        r#type: kind,
        actor_kind,
        actor_id,
        actor_name,
        outcome,
        cause_id: text(cause_id),
        integration_id: text(integration_id),
        object_kind,
        object_id,
        user_object_id,
        user_name,
        message,
        details: details.into_iter().collect(),
        previous_hash: previous.0.to_vec(),
        hash: hash.0.to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chain::{Hash, tests::event};

    #[test]
    fn a_page_token_leads_back_to_its_place() {
        let link = Link::new(Chain::INSTALLATION, 42, OffsetDateTime::UNIX_EPOCH, Hash::ZERO, event("x"));
        assert_eq!(position(&page_token(&link)).unwrap(), Some((OffsetDateTime::UNIX_EPOCH, 42)));
        assert!(position("made up").is_err());
    }

    #[test]
    fn a_trailing_star_asks_for_a_prefix() {
        let types = vec!["sync.*".to_owned(), "integration.created".to_owned()];
        let (_, filter, page) = asked(SearchRequest { types, ..SearchRequest::default() }).unwrap();
        assert_eq!(
            (filter.type_prefixes, filter.types),
            (vec!["sync.".to_owned()], vec!["integration.created".to_owned()])
        );
        assert_eq!(page, 100);
    }
}
