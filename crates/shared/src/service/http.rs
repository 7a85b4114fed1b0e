//! The plain port for probes and metrics.

use std::net::SocketAddr;

use anyhow::Context;
use axum::{Json, Router, extract::State, http::StatusCode, response::IntoResponse, routing::get};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::{Readiness, telemetry};

/// Serves until the process ends: a stopping service still answers its probes.
pub(super) async fn serve(
    listen: SocketAddr,
    readiness: Readiness,
    routes: Router,
    stop: CancellationToken,
) -> anyhow::Result<SocketAddr> {
    let listener = TcpListener::bind(listen).await.with_context(|| format!("cannot listen on {listen}"))?;
    let address = listener.local_addr()?;
    let app = Router::new()
        // Alive: the runtime answers. Neither database nor broker: a restart repairs neither.
        .route("/livez", get(|| async { "alive\n" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(|| async { telemetry::render_metrics() }))
        .with_state(readiness)
        .merge(routes);
    tokio::spawn(async move {
        if let Err(error) = axum::serve(listener, app).await {
            tracing::error!(%error, "the plain port failed");
            stop.cancel();
        }
    });
    Ok(address)
}

async fn ready(State(readiness): State<Readiness>) -> impl IntoResponse {
    let faults = readiness.faults();
    let status = if faults.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(serde_json::json!({ "ready": faults.is_empty(), "faults": faults })))
}
