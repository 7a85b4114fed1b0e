//! `AuditQueryService`: search, export, tail and verification for integration-api.

use std::{pin::Pin, sync::Arc};

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use futures::Stream;
use shared::{
    db::Db,
    wire::internal::{
        ExportRequest, ExportResponse, SearchRequest, SearchResponse, StoredEvent, TailRequest, TailResponse,
        VerifyRequest, VerifyResponse, audit_query_service_server::AuditQueryService,
    },
};
use time::OffsetDateTime;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};
use uuid::Uuid;

use crate::{
    chain::{Chain, Event, Link, micros},
    checkpoint::Keys,
    export::{Export, Format},
    search::{self, Filter, SearchError},
    store, tail, verify, wire,
};

const DEFAULT_PAGE: i64 = 100;
const MAX_PAGE: i64 = 1000;
const MAX_TERMS: usize = 100;
const MOST_TEXT: usize = 500;

#[derive(Debug)]
pub(crate) struct AuditQuery {
    pub db: Db,
    pub keys: Arc<Keys>,
    pub stop: CancellationToken,
}

type Messages<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl AuditQueryService for AuditQuery {
    async fn search(&self, request: Request<SearchRequest>) -> Result<Response<SearchResponse>, Status> {
        let (chain, filter, page) = asked(request.into_inner(), OffsetDateTime::now_utc())?;
        // One more than the page tells whether another page follows.
        let found = search::search(&self.db, chain, &filter, page + 1).await;
        let search::Found { mut links, older } = found.map_err(|error| match error {
            SearchError::TooWide => Status::resource_exhausted(error.to_string()),
            SearchError::Store(error) => error.into(),
        })?;
        let full = usize::try_from(page).unwrap_or(usize::MAX);
        let more = links.len() > full;
        links.truncate(full);
        let next = links.last().filter(|_| more);
        let next_page_token = next.map(|last| page_token(last, filter.from)).unwrap_or_default();
        Ok(Response::new(SearchResponse {
            events: links.into_iter().map(stored).collect(),
            next_page_token,
            searched_from: filter.from.map(wire::timestamp),
            older_events: older,
        }))
    }

    type ExportStream = Messages<ExportResponse>;

    async fn export(&self, request: Request<ExportRequest>) -> Result<Response<Self::ExportStream>, Status> {
        let ExportRequest { tenant_id, format, from, until } = request.into_inner();
        let chain = chain(&tenant_id)?;
        let format =
            Format::parse(&format).ok_or_else(|| invalid("format", "must be ndjson, csv or ocsf"))?;
        let (from, until) = (time("from", from)?, time("until", until)?);
        let head = store::extent(&self.db, chain).await?.head.map_or(0, |head| head.sequence);
        let after = match from {
            Some(from) => store::last_before(&self.db, chain, from, head).await?,
            None => 0,
        };
        let last = match until {
            Some(until) => store::last_before(&self.db, chain, until, head).await?,
            None => head,
        };
        let export = Export { db: self.db.clone(), chain, format, after, last };
        Ok(Response::new(Box::pin(export.stream()) as Self::ExportStream))
    }

    type TailStream = Messages<TailResponse>;

    async fn tail(&self, request: Request<TailRequest>) -> Result<Response<Self::TailStream>, Status> {
        let TailRequest { tenant_id, after_sequence } = request.into_inner();
        let chain = chain(&tenant_id)?;
        let after = match after_sequence {
            Some(after) => after.max(0),
            None => store::extent(&self.db, chain).await?.head.map_or(0, |head| head.sequence),
        };
        let events = tail::stream(self.db.clone(), chain, after, self.stop.clone());
        Ok(Response::new(Box::pin(events) as Self::TailStream))
    }

    async fn verify(&self, request: Request<VerifyRequest>) -> Result<Response<VerifyResponse>, Status> {
        let chain = chain(&request.into_inner().tenant_id)?;
        let (_, trusted) = self.keys.now();
        let report = verify::verify(&self.db, chain, &trusted).await?;
        if let Some(fault) = &report.fault {
            tracing::error!(tenant = %chain, fault, "audit chain is broken");
        }
        Ok(Response::new(VerifyResponse {
            events: report.events,
            checkpoints: report.checkpoints,
            intact: report.fault.is_none(),
            fault: report.fault.unwrap_or_default(),
            public_keys: trusted.iter().map(hex::encode).collect(),
        }))
    }
}

fn asked(request: SearchRequest, now: OffsetDateTime) -> Result<(Chain, Filter, i64), Status> {
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
        text: words,
    } = request;
    if types.len() > MAX_TERMS || outcomes.len() > MAX_TERMS {
        return Err(invalid("types and outcomes", "at most 100 each"));
    }
    let (prefixes, types): (Vec<_>, Vec<_>) = types.into_iter().partition(|t| t.ends_with('*'));
    if words.len() > MOST_TEXT {
        return Err(invalid("text", "has at most 500 characters"));
    }
    let (cause, before) = (id("cause_id", &cause_id)?, position(&page_token)?);
    let (from, until) = (time("from", from)?, time("until", until)?);
    // Every page of a search has the bounds of the first.
    let from = match before {
        Some((_, _, from)) => from,
        None => from.or_else(|| cause.is_none().then(|| until.unwrap_or(now) - search::USUAL)),
    };
    // By a cause an index leads straight to its few events, whatever their age.
    if cause.is_none() && from.is_some_and(|from| until.unwrap_or(now) - from > search::MOST) {
        return Err(invalid("from", "at most 90 days are searched at once; search several spans, or export"));
    }
    let filter = Filter {
        from,
        until,
        types,
        type_prefixes: prefixes.into_iter().map(|t| t.trim_end_matches('*').to_owned()).collect(),
        integration: id("integration_id", &integration_id)?,
        actor: text(actor),
        user: text(user),
        outcomes,
        cause,
        object: text(object_id),
        text: text(words),
        before: before.map(|(at, sequence, _)| (at, sequence)),
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

fn time(name: &str, at: Option<prost_types::Timestamp>) -> Result<Option<OffsetDateTime>, Status> {
    at.map(|at| wire::from_timestamp(at).ok_or_else(|| invalid(name, "is not a time"))).transpose()
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

// A place between two events, newest first: time in microseconds and sequence, and from when the search is (in
// microseconds; the least number: of all time).
fn page_token(last: &Link, from: Option<OffsetDateTime>) -> String {
    let numbers = [micros(last.event.occurred_at), last.sequence, from.map_or(i64::MIN, micros)];
    BASE64_URL_SAFE_NO_PAD.encode(numbers.map(i64::to_be_bytes).concat())
}

type Position = (OffsetDateTime, i64, Option<OffsetDateTime>);

fn position(token: &str) -> Result<Option<Position>, Status> {
    if token.is_empty() {
        return Ok(None);
    }
    let time = |micros: i64| OffsetDateTime::from_unix_timestamp_nanos(i128::from(micros) * 1000).ok();
    let read = || {
        let bytes = BASE64_URL_SAFE_NO_PAD.decode(token).ok()?;
        let (numbers, []) = bytes.as_chunks::<8>() else { return None };
        let [at, sequence, from] = *<&[[u8; 8]; 3]>::try_from(numbers).ok()?;
        let from = match i64::from_be_bytes(from) {
            i64::MIN => None,
            from => Some(time(from)?),
        };
        Some((time(i64::from_be_bytes(at))?, i64::from_be_bytes(sequence), from))
    };
    read().map(Some).ok_or_else(|| invalid("page_token", "is not one of ours"))
}

/// An event as integration-api receives it.
pub(crate) fn stored(link: Link) -> StoredEvent {
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
        for from in [None, Some(OffsetDateTime::UNIX_EPOCH - time::Duration::days(7))] {
            let place = (OffsetDateTime::UNIX_EPOCH, 42, from);
            assert_eq!(position(&page_token(&link, from)).unwrap(), Some(place));
        }
        assert!(position("made up").is_err());
    }

    #[test]
    fn a_trailing_star_asks_for_a_prefix() {
        let types = vec!["sync.*".to_owned(), "integration.created".to_owned()];
        let (_, filter, page) = asked(SearchRequest { types, ..SearchRequest::default() }, NOW).unwrap();
        assert_eq!(
            (filter.type_prefixes, filter.types),
            (vec!["sync.".to_owned()], vec!["integration.created".to_owned()])
        );
        assert_eq!(page, 100);
    }

    const NOW: OffsetDateTime = OffsetDateTime::UNIX_EPOCH;

    #[test]
    fn a_search_is_of_the_last_week_unless_it_follows_a_cause_and_of_ninety_days_at_most() {
        let from = |request| asked(request, NOW).map(|(_, filter, _)| filter.from);
        let base = SearchRequest::default;
        assert_eq!(from(base()).unwrap(), Some(NOW - search::USUAL));
        assert_eq!(from(SearchRequest { cause_id: Uuid::nil().to_string(), ..base() }).unwrap(), None);
        let days = |days: i64| Some(wire::timestamp(NOW - time::Duration::days(days)));
        assert!(from(SearchRequest { from: days(90), ..base() }).is_ok());
        assert!(from(SearchRequest { from: days(100), ..base() }).is_err());
        let earlier = SearchRequest { from: days(200), until: days(120), ..base() };
        assert_eq!(from(earlier).unwrap(), Some(NOW - time::Duration::days(200)));
    }

    #[test]
    fn every_page_searches_from_where_the_first_did() {
        let link = Link::new(Chain::INSTALLATION, 42, NOW, Hash::ZERO, event("x"));
        let from = Some(NOW - search::USUAL);
        let request = SearchRequest { page_token: page_token(&link, from), ..SearchRequest::default() };
        let later = NOW + time::Duration::HOUR;
        assert_eq!(asked(request, later).unwrap().1.from, from);
    }
}
