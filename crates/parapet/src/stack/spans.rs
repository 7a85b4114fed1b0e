//! A collector of spans that keeps what it gets: for the search for secrets, and for whoever wants to read them.

use std::fs::File;
use std::io::Write as _;
use std::net::Ipv4Addr;
use std::path::Path;

use anyhow::Context as _;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use prost::Message as _;
use tokio::task::JoinHandle;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};

/// A running collector; it ends with this value.
#[derive(Debug)]
pub struct Spans {
    port: u16,
    task: JoinHandle<()>,
}

impl Spans {
    /// Listens for OTLP over gRPC on 127.0.0.1 and appends each request, as protobuf with its length before it, to `file`.
    pub async fn keep(file: &Path) -> anyhow::Result<Self> {
        let kept = File::options().create(true).append(true).open(file);
        let kept = Kept(kept.with_context(|| format!("cannot keep spans in {}", file.display()))?);
        let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let port = listener.local_addr()?.port();
        let server = Server::builder()
            .add_service(TraceServiceServer::new(kept))
            .serve_with_incoming(TcpIncoming::from(listener));
        let task = tokio::spawn(async move {
            if let Err(error) = server.await {
                eprintln!("spans are no longer kept: {error}");
            }
        });
        Ok(Self { port, task })
    }

    /// Where it listens.
    pub fn port(&self) -> u16 {
        self.port
    }
}

impl Drop for Spans {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Kept(File);

#[tonic::async_trait]
impl TraceService for Kept {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let request = request.into_inner().encode_length_delimited_to_vec();
        // Appended in one call, so requests do not mix.
        (&self.0).write_all(&request).map_err(|error| Status::internal(error.to_string()))?;
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}
