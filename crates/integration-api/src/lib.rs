//! integration-api: the public gRPC API. Owns organizations, tenants, integrations, feed records, and what people
//! ask for; derives the status of integrations from what workers report.
//!
//! Belongs here: admitting callers, checking requests, storing them with their event and message. Does not: opening
//! secrets (this process only seals), talking to directories, deciding verdicts or mitigations.

pub mod auditor;
mod auth;
mod catalogue;
mod config;
mod error;
#[cfg(feature = "fuzzing")]
pub mod fuzz;
mod idempotent;
mod integration;
mod observe;
mod page;
mod peers;
mod rpc;
mod sealers;
mod store;
pub mod tasks;
mod well_known;

use std::{future::Future, process::ExitCode, sync::Arc};

use shared::{
    grpc::{Callers, Server},
    queue::{Topic, spawn_consumer},
    rotation::{self, Holder},
    service::{Service, TlsFiles},
    wire::v1::{
        audit_service_server::AuditServiceServer, exposure_service_server::ExposureServiceServer,
        identity_service_server::IdentityServiceServer,
        installation_service_server::InstallationServiceServer,
        integration_service_server::IntegrationServiceServer, key_service_server::KeyServiceServer,
        mitigation_service_server::MitigationServiceServer, removal_service_server::RemovalServiceServer,
        tenant_service_server::TenantServiceServer, validation_service_server::ValidationServiceServer,
    },
};

pub use self::config::{
    ApiConfig, CertifiedService, ClaimNames, Config, IdpConfig, KeysConfig, Limits, OidcConfig, PublicTls,
    RoleMapping, TenantMapping,
};
use self::{
    auth::{AccessTable, CertifiedServices, Guard, Guarded, IssuerKeys, Verifier},
    observe::Observer,
    peers::Peers,
    rpc::ingest::{Ingest, MOST_BYTES},
    sealers::Sealers,
};

const MOST_REQUEST_BYTES: usize = 1 << 20;
const OBSERVED_AT_ONCE: u16 = 16;

/// The service's name.
pub const NAME: &str = "integration-api";

/// Runs the service until `stop` or a failure.
pub async fn run(
    config: Config,
    stop: impl Future<Output = ()> + Send + 'static,
) -> anyhow::Result<ExitCode> {
    let Config { common, api, oidc, keys, idp, limits } = config;
    let sealers = Sealers::load(&keys)?;
    let issuer = IssuerKeys::new(&oidc)?;
    let table = AccessTable::from_descriptors()?;
    let peers = Peers::connect(&common).await?;
    let (routes, jwks_db) = well_known::routes();
    let service = Service::start_with_routes(NAME, common, routes, stop).await?;
    let (db, stop) = (service.db().clone(), service.stop_token());
    jwks_db.get_or_init(|| db.clone());

    service.spawn("token issuer keys", Arc::clone(&issuer).run(stop.clone()));
    let keys_there = Arc::clone(&issuer);
    service.readiness().add(move || {
        if keys_there.fetched() { Ok(()) } else { Err("token issuer: its keys were never fetched".into()) }
    });
    service.spawn_relay(&["outbox"]);
    spawn_consumer(
        &service,
        Topic::IntegrationObserved,
        OBSERVED_AT_ONCE,
        Arc::new(Observer::new(db.clone())),
    );
    service.spawn("client keys", tasks::client_keys(db.clone(), peers.clone(), stop.clone()));
    service.spawn("ends of validations", tasks::validation_ends(db.clone(), stop.clone()));
    service.spawn("limit auditor", auditor::watch(db.clone(), stop.clone()));
    Holder::spawn(&service, sealers.holdings());
    service.spawn("deleted tenants", rotation::forget_deleted(db.clone(), stop.clone()));
    service.spawn("retention", tasks::retention(db.clone(), limits.retention_days, stop.clone()));

    let certified = CertifiedServices::new(api.services);
    let guard = Guard::new(Verifier::new(&oidc, issuer), certified, table, db.clone());
    let ingest = Ingest::new(db.clone(), sealers.clone(), limits.outbox_rows, limits.feed_streams);
    let integrations = rpc::integration::Integrations {
        db: db.clone(),
        sealers,
        peers: peers.clone(),
        public_url: api.public_url,
        okta_domains: idp.okta_domains,
        stop,
    };
    // INVARIANT: every public service stands behind the guard.
    macro_rules! guarded {
        ($server:ident, $service:expr, $bytes:expr) => {
            Guarded::new($server::new($service).max_decoding_message_size($bytes), &guard)
        };
    }
    let exposures = rpc::exposure::Exposures { db: db.clone(), ingest };
    let server = Server::new()
        .add(guarded!(IntegrationServiceServer, integrations, MOST_REQUEST_BYTES))
        .add(guarded!(IdentityServiceServer, rpc::identity::Identities::new(db.clone()), MOST_REQUEST_BYTES))
        .add(guarded!(ExposureServiceServer, exposures, MOST_BYTES))
        .add(guarded!(
            ValidationServiceServer,
            rpc::validation::Validations::new(db.clone()),
            MOST_REQUEST_BYTES
        ))
        .add(guarded!(
            MitigationServiceServer,
            rpc::mitigation::Mitigations::new(db.clone(), peers.clone()),
            rpc::mitigation::MOST_BYTES
        ))
        .add(guarded!(
            RemovalServiceServer,
            rpc::removal::Removals::new(db.clone(), peers.clone()),
            MOST_REQUEST_BYTES
        ))
        .add(guarded!(KeyServiceServer, rpc::keys::Keys::new(db.clone()), MOST_REQUEST_BYTES))
        .add(guarded!(AuditServiceServer, rpc::audit::Audit::new(db.clone(), peers), MOST_REQUEST_BYTES))
        .add(guarded!(TenantServiceServer, rpc::tenant::Tenants::new(db.clone()), MOST_REQUEST_BYTES))
        .add(guarded!(
            InstallationServiceServer,
            rpc::installation::Installation::new(db),
            MOST_REQUEST_BYTES
        ));
    let (callers, tls) = port(api.tls);
    server.listen(&service, &service.common().grpc.clone(), callers, tls.as_ref()).await?;
    service.run().await
}

/// Whom the public port asks for a certificate, and its own.
fn port(tls: Option<PublicTls>) -> (Callers, Option<TlsFiles>) {
    let Some(PublicTls { cert_file, key_file, client_ca_file }) = tls else { return (Callers::Public, None) };
    match client_ca_file {
        Some(ca_file) => (Callers::PublicOrCertified, Some(TlsFiles { cert_file, key_file, ca_file })),
        // No authority is asked for; the field has to hold something.
        None => (Callers::Public, Some(TlsFiles { ca_file: cert_file.clone(), cert_file, key_file })),
    }
}
