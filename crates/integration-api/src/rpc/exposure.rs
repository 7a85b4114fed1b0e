//! ExposureService.

use shared::{
    db::Db,
    id::ExposureId,
    wire::v1::{self, exposure_service_server::ExposureService},
};
use tonic::{Request, Response, Status, Streaming};
use uuid::Uuid;

use super::{convert, id, ingest, optional_id};
use crate::{
    auth::{Caller, caller},
    error::ApiError,
    page::{self, Scope},
    store::{
        exposures::{self, Filter, Sort},
        mitigations,
    },
};

const MOST_VALUES: usize = 100;

/// The service.
#[derive(Clone, Debug)]
pub struct Exposures {
    /// The database.
    pub db: Db,
    /// Takes batches in.
    pub ingest: ingest::Ingest,
}

/// A filter of the wire, checked.
pub(super) fn filter_in(sent: Option<v1::ExposureFilter>) -> Result<Filter, ApiError> {
    let v1::ExposureFilter {
        verdicts,
        reasons,
        provider,
        account_id,
        identity_id,
        integration_id,
        login,
        feed,
        source,
        source_kinds,
        received,
        captured,
        decided,
        history,
    } = sent.unwrap_or_default();
    if verdicts.len().max(reasons.len()).max(source_kinds.len()) > MOST_VALUES {
        return Err(ApiError::field("filter", "give at most 100 values per field"));
    }
    let verdicts = verdicts
        .into_iter()
        .map(|v| convert::verdict_name("filter.verdicts", v).map(str::to_owned))
        .collect::<Result<Vec<_>, _>>()?;
    let source_kinds = source_kinds
        .into_iter()
        .map(|k| {
            convert::source_kind_name(k)
                .map(str::to_owned)
                .ok_or_else(|| ApiError::field("filter.source_kinds", "give known kinds of source"))
        })
        .collect::<Result<Vec<_>, _>>()?;
    let text = |text: String| Some(text.trim().to_lowercase()).filter(|t| !t.is_empty());
    let uuid = |field: &str, text: &str| optional_id::<Uuid>(&format!("filter.{field}"), text);
    Ok(Filter {
        verdicts: some(verdicts),
        reasons: some(reasons),
        provider: convert::provider_in("filter.provider", provider)?.map(|p| p.to_string()),
        account: uuid("account_id", &account_id)?,
        identity: uuid("identity_id", &identity_id)?,
        integration: uuid("integration_id", &integration_id)?,
        login: text(login),
        feed: text(feed),
        source: text(source),
        source_kinds: some(source_kinds),
        received: convert::range("filter.received", received)?,
        captured: convert::range("filter.captured", captured)?,
        decided: convert::range("filter.decided", decided)?,
        history,
    })
}

fn some<T>(values: Vec<T>) -> Option<Vec<T>> {
    if values.is_empty() { None } else { Some(values) }
}

fn order(sort: i32, direction: i32) -> Result<(Sort, bool), ApiError> {
    let sort = match v1::ExposureSort::try_from(sort) {
        Ok(v1::ExposureSort::Unspecified | v1::ExposureSort::Received) => Sort::Received,
        Ok(v1::ExposureSort::Verdict) => Sort::Verdict,
        Ok(v1::ExposureSort::Decided) => Sort::Decided,
        Ok(v1::ExposureSort::Provider) => Sort::Provider,
        Ok(v1::ExposureSort::Login) => Sort::Login,
        Ok(v1::ExposureSort::Source) => Sort::Source,
        Ok(v1::ExposureSort::Captured) => Sort::Captured,
        Ok(v1::ExposureSort::Reason) => Sort::Reason,
        Err(_) => return Err(ApiError::field("sort", "give a known order")),
    };
    match v1::SortDirection::try_from(direction) {
        Ok(v1::SortDirection::Unspecified | v1::SortDirection::Descending) => Ok((sort, true)),
        Ok(v1::SortDirection::Ascending) => Ok((sort, false)),
        Err(_) => Err(ApiError::field("direction", "give a known direction")),
    }
}

impl Exposures {
    async fn list(
        &self,
        caller: &Caller,
        mut request: v1::ListExposuresRequest,
    ) -> Result<v1::ListExposuresResponse, ApiError> {
        let tenant = caller.tenant()?;
        let (size, token) = (page::size(request.page_size)?, std::mem::take(&mut request.page_token));
        request.page_size = 0;
        let scope = Scope::of("exposures", &request);
        let after = scope.read::<(String, Uuid)>(&token)?.map(|(key, id)| (key, ExposureId(id)));
        let order = order(request.sort, request.direction)?;
        let filter = filter_in(request.filter)?;
        let mut tx = self.db.tenant(tenant).await?;
        let mut rows = exposures::list(&mut tx, tenant, &filter, order, after, size + 1).await?;
        let standings = exposures::standings(&mut tx, rows.iter().map(|(e, _)| e)).await?;
        tx.rollback().await?;
        let next_page_token = scope.cut(&mut rows, size, |(e, key)| (key.clone(), e.exposure_id.uuid()))?;
        Ok(v1::ListExposuresResponse { exposures: convert::exposures(rows, &standings), next_page_token })
    }

    async fn get(&self, caller: &Caller, of: ExposureId) -> Result<v1::GetExposureResponse, ApiError> {
        let tenant = caller.tenant()?;
        let mut tx = self.db.tenant(tenant).await?;
        let row =
            exposures::by_ids(&mut tx, tenant, &[of]).await?.pop().ok_or(ApiError::NotFound("exposure"))?;
        let standings = exposures::standings(&mut tx, std::iter::once(&row)).await?;
        let filter =
            mitigations::Filter { exposures: Some(vec![of.uuid()]), ..mitigations::Filter::default() };
        let contained = mitigations::list(&mut tx, tenant, &filter, None, 100).await?;
        tx.rollback().await?;
        Ok(v1::GetExposureResponse {
            exposure: Some(convert::exposure(row, standings.get(&of), true)),
            mitigations: contained.into_iter().map(|m| convert::mitigation(m, false)).collect(),
        })
    }
}

#[tonic::async_trait]
impl ExposureService for Exposures {
    type IngestFeedRecordsStream = ingest::Answers;

    async fn ingest_feed_records(
        &self,
        request: Request<Streaming<v1::IngestFeedRecordsRequest>>,
    ) -> Result<Response<Self::IngestFeedRecordsStream>, Status> {
        let caller = caller(&request)?;
        Ok(Response::new(self.ingest.stream(caller, request.into_inner())?))
    }
    async fn list_exposures(
        &self,
        request: Request<v1::ListExposuresRequest>,
    ) -> Result<Response<v1::ListExposuresResponse>, Status> {
        let caller = caller(&request)?;
        Ok(Response::new(self.list(&caller, request.into_inner()).await?))
    }
    async fn get_exposure(
        &self,
        request: Request<v1::GetExposureRequest>,
    ) -> Result<Response<v1::GetExposureResponse>, Status> {
        let caller = caller(&request)?;
        Ok(Response::new(self.get(&caller, id("id", &request.get_ref().id)?).await?))
    }
}
