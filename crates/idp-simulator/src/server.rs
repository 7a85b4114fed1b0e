//! The public listener: HTTP/1.1 and HTTP/2, plain or over TLS, and which surface a request is addressed to.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, HOST};
use http::{HeaderValue, Response, StatusCode};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, Limited, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use crate::faults::Effect;
use crate::wire::{self, Answer, Request, Surface};
use crate::world::World;
use crate::{entra, okta};

const MAX_BODY: usize = 4 * 1024 * 1024;
const OKTA_SUFFIXES: [&str; 3] = [".okta.com", ".oktapreview.com", ".okta-emea.com"];

type Body = BoxBody<Bytes, Infallible>;

/// Accepts connections until stopped.
pub async fn serve(
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    world: Arc<World>,
    stop: CancellationToken,
) {
    let tracker = tokio_util::task::TaskTracker::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.cancelled() => break,
        };
        let Ok((stream, peer)) = accepted else { continue };
        let (world, tls, stop) = (Arc::clone(&world), tls.clone(), stop.clone());
        tracker.spawn(async move {
            if let Err(error) = stream.set_nodelay(true) {
                tracing::debug!(%error, "cannot set nodelay");
            }
            let reset = Arc::new(AtomicBool::new(false));
            let stream = Resettable { stream, reset: Arc::clone(&reset) };
            match tls {
                None => connection(stream, false, peer, world, reset, stop).await,
                Some(tls) => match tls.accept(stream).await {
                    Ok(stream) => connection(stream, true, peer, world, reset, stop).await,
                    Err(error) => tracing::debug!(%peer, %error, "tls handshake failed"),
                },
            }
        });
    }
    tracker.close();
    tracker.wait().await;
}

async fn connection<S>(
    stream: S,
    tls: bool,
    peer: SocketAddr,
    world: Arc<World>,
    reset: Arc<AtomicBool>,
    stop: CancellationToken,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(move |request| {
        let (world, reset) = (Arc::clone(&world), Arc::clone(&reset));
        async move { answer(&world, request, tls, peer, &reset).await }
    });
    let builder = auto::Builder::new(TokioExecutor::new());
    let connection = builder.serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    tokio::select! {
        outcome = connection.as_mut() => report(peer, outcome),
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            if let Ok(outcome) = tokio::time::timeout(Duration::from_secs(2), connection.as_mut()).await {
                report(peer, outcome);
            }
        }
    }
}

fn report(peer: SocketAddr, outcome: Result<(), Box<dyn std::error::Error + Send + Sync>>) {
    if let Err(error) = outcome {
        tracing::debug!(%peer, %error, "connection ended");
    }
}

/// Answers one request; an error makes hyper drop the connection, and the marked socket sends a reset.
async fn answer(
    world: &Arc<World>,
    request: http::Request<Incoming>,
    tls: bool,
    peer: SocketAddr,
    reset: &AtomicBool,
) -> Result<Response<Body>, io::Error> {
    let (parts, body) = request.into_parts();
    let body = match Limited::new(body, MAX_BODY).collect().await {
        Ok(body) => body.to_bytes(),
        Err(_) => return Ok(full(wire::empty(StatusCode::PAYLOAD_TOO_LARGE))),
    };
    let host = parts.uri.authority().map(ToString::to_string);
    let host = host.or_else(|| parts.headers.get(HOST)?.to_str().ok().map(str::to_owned)).unwrap_or_default();
    let scheme = if tls { "https" } else { "http" };
    let Some((surface, base, path)) = address(world, scheme, &host, parts.uri.path()) else {
        return Ok(full(wire::empty(StatusCode::MISDIRECTED_REQUEST)));
    };
    let request = Request {
        surface,
        base,
        method: parts.method,
        path,
        query: parts.uri.query().unwrap_or_default().to_owned(),
        headers: parts.headers,
        body,
        peer,
    };
    let Answer { response, fault } = match &request.surface {
        Surface::EntraLogin => entra::login(world, &request),
        Surface::Graph => entra::graph(world, &request),
        Surface::Okta(_) => okta::answer(world, &request).await,
    };
    tracing::debug!(surface = ?request.surface, method = %request.method, path = request.path,
        status = response.status().as_u16(), fault = ?fault.as_ref().map(crate::faults::Fault::name), "answered");
    let Some(fault) = fault else { return Ok(full(response)) };
    match fault.effect {
        Effect::Reset => {
            reset.store(true, Ordering::Release);
            Err(io::Error::from(io::ErrorKind::ConnectionReset))
        }
        Effect::Delay { ms } => {
            tokio::time::sleep(Duration::from_millis(ms)).await;
            Ok(full(response))
        }
        Effect::Oversized { bytes } => Ok(oversized(bytes)),
        _ => Ok(full(fault.instead(&request, world.now()).unwrap_or(response))),
    }
}

/// Which surface a host and path mean, the root the caller sees, and the path below it.
fn address(world: &World, scheme: &str, host: &str, path: &str) -> Option<(Surface, String, String)> {
    let (name, _) =
        host.rsplit_once(':').filter(|(_, port)| port.parse::<u16>().is_ok()).unwrap_or((host, ""));
    let name = name.to_ascii_lowercase();
    let root = format!("{scheme}://{host}");
    let whole = |surface| Some((surface, root.clone(), path.to_owned()));
    if entra::is_login_host(&name) {
        return whole(Surface::EntraLogin);
    }
    if entra::is_graph_host(&name) {
        return whole(Surface::Graph);
    }
    if let Some(org) = OKTA_SUFFIXES.iter().find_map(|suffix| name.strip_suffix(suffix)) {
        return whole(Surface::Okta(org.to_owned()));
    }
    if !matches!(name.as_str(), "localhost" | "127.0.0.1" | "[::1]") {
        return world.okta(&name).and_then(|_| whole(Surface::Okta(name.clone()))); // its custom domain
    }
    let below = |prefix: &str| -> Option<String> {
        let rest = path.strip_prefix(prefix)?;
        (rest.is_empty() || rest.starts_with('/'))
            .then(|| if rest.is_empty() { "/".into() } else { rest.to_owned() })
    };
    if let Some(rest) = below("/entra-login") {
        return Some((Surface::EntraLogin, format!("{root}/entra-login"), rest));
    }
    if let Some(rest) = below("/graph") {
        return Some((Surface::Graph, format!("{root}/graph"), rest));
    }
    let org = path.strip_prefix("/okta/")?.split('/').next()?;
    let prefix = format!("/okta/{org}");
    let rest = below(&prefix)?;
    Some((Surface::Okta(org.to_owned()), format!("{root}{prefix}"), rest))
}

fn full(response: Response<Bytes>) -> Response<Body> {
    response.map(|bytes| Full::new(bytes).boxed())
}

/// A body that claims to be JSON and does not end before `bytes`.
fn oversized(bytes: u64) -> Response<Body> {
    let chunk = Bytes::from(vec![b'9'; 64 * 1024]);
    let chunks = usize::try_from(bytes / 65_536 + 1).unwrap_or(usize::MAX);
    let stream = futures::stream::repeat(chunk).take(chunks).map(|chunk| Ok(Frame::data(chunk)));
    let mut response = Response::new(BodyExt::boxed(StreamBody::new(stream)));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response.headers_mut().remove(CONTENT_LENGTH);
    response
}

/// A socket that, once marked, is closed with a reset instead of an orderly end.
struct Resettable {
    stream: TcpStream,
    reset: Arc<AtomicBool>,
}

impl Drop for Resettable {
    fn drop(&mut self) {
        if self.reset.load(Ordering::Acquire)
            && let Err(error) = self.stream.set_zero_linger()
        {
            tracing::warn!(%error, "connection cannot be reset");
        }
    }
}

impl AsyncRead for Resettable {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Resettable {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.reset.load(Ordering::Acquire) {
            return Poll::Ready(Ok(())); // an orderly end first would spare the client the reset
        }
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
