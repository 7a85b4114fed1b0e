//! IdentityService.

use shared::{
    db::Db,
    id::{IdentityId, IntegrationId},
    identifier,
    wire::v1::{self, identity_service_server::IdentityService},
};
use time::OffsetDateTime;
use tonic::{Request, Response, Status};
use uuid::Uuid;

use super::{convert, id, optional_id};
use crate::{
    auth::{Caller, caller},
    error::ApiError,
    page::{self, Scope},
    store::{
        accounts,
        exposures::{self, Filter, Sort},
        mitigations,
    },
};

const NEWEST: i64 = 100;

/// The service.
#[derive(Clone, Debug)]
pub struct Identities {
    db: Db,
}

impl Identities {
    /// On this database.
    pub fn new(db: Db) -> Self {
        Self { db }
    }

    async fn list(
        &self,
        caller: &Caller,
        mut request: v1::ListIdentitiesRequest,
    ) -> Result<v1::ListIdentitiesResponse, ApiError> {
        let tenant = caller.tenant()?;
        let (size, token) = (page::size(request.page_size)?, std::mem::take(&mut request.page_token));
        request.page_size = 0;
        let scope = Scope::of("identities", &request);
        let after = scope.read::<(OffsetDateTime, Uuid)>(&token)?.map(|(at, id)| (at, IdentityId(id)));
        let integration: Option<IntegrationId> = optional_id("integration_id", &request.integration_id)?;
        let value = match request.identifier.as_str() {
            "" => None,
            text => Some(identifier::normalise(text).ok_or_else(|| {
                ApiError::field("identifier", "give a sign-in name, e-mail address or alias")
            })?),
        };
        let mut tx = self.db.tenant(tenant).await?;
        let mut rows =
            accounts::identities(&mut tx, tenant, integration, value.as_deref(), after, size + 1).await?;
        let next_page_token = scope.cut(&mut rows, size, |i| (i.created_at, i.identity_id.uuid()))?;
        let ids: Vec<_> = rows.iter().map(|i| i.identity_id).collect();
        let known = accounts::of_identities(&mut tx, tenant, &ids).await?;
        tx.rollback().await?;
        let identities = rows.into_iter().map(|row| identity(row, &known)).collect();
        Ok(v1::ListIdentitiesResponse { identities, next_page_token })
    }

    async fn get(&self, caller: &Caller, of: IdentityId) -> Result<v1::GetIdentityResponse, ApiError> {
        let tenant = caller.tenant()?;
        let mut tx = self.db.tenant(tenant).await?;
        let row = accounts::identity(&mut tx, tenant, of).await?.ok_or(ApiError::NotFound("identity"))?;
        let known = accounts::of_identities(&mut tx, tenant, &[of]).await?;
        let identifiers = accounts::identifiers(&mut tx, tenant, of).await?;
        let filter = Filter { identity: Some(of.uuid()), ..Filter::default() };
        let leaked = exposures::list(&mut tx, tenant, &filter, (Sort::Received, true), None, NEWEST).await?;
        let standings = exposures::standings(&mut tx, leaked.iter().map(|(e, _)| e)).await?;
        let filter = mitigations::Filter {
            accounts: Some(known.iter().map(|a| a.account_id.uuid()).collect()),
            ..mitigations::Filter::default()
        };
        let contained = mitigations::list(&mut tx, tenant, &filter, None, NEWEST).await?;
        tx.rollback().await?;
        Ok(v1::GetIdentityResponse {
            identity: Some(identity(row, &known)),
            identifiers: identifiers.into_iter().map(convert::identifier).collect(),
            exposures: convert::exposures(leaked, &standings),
            mitigations: contained.into_iter().map(|m| convert::mitigation(m, false)).collect(),
        })
    }
}

fn identity(row: accounts::Identity, known: &[accounts::Account]) -> v1::Identity {
    let accounts::Identity { identity_id, display_name, created_at } = row;
    let own = known.iter().filter(|a| a.identity_id == Some(identity_id)).cloned();
    v1::Identity {
        id: identity_id.to_string(),
        display_name,
        accounts: own.map(convert::account).collect(),
        created_at: Some(convert::timestamp(created_at)),
    }
}

#[tonic::async_trait]
impl IdentityService for Identities {
    async fn list_identities(
        &self,
        request: Request<v1::ListIdentitiesRequest>,
    ) -> Result<Response<v1::ListIdentitiesResponse>, Status> {
        let caller = caller(&request)?;
        Ok(Response::new(self.list(&caller, request.into_inner()).await?))
    }
    async fn get_identity(
        &self,
        request: Request<v1::GetIdentityRequest>,
    ) -> Result<Response<v1::GetIdentityResponse>, Status> {
        let caller = caller(&request)?;
        Ok(Response::new(self.get(&caller, id("id", &request.get_ref().id)?).await?))
    }
}
