//! The connection that submits one password: dialled before the reservation, used for exactly one request.
//!
//! No pool, no redirect, no retry and no second look-up exist at this level (reliability §3.5): the HTTP client
//! library's own retries are how an attempt would silently become two.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use http::{HeaderValue, Request};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::TlsConnector;
use zeroize::Zeroizing;

use super::{
    ProviderError,
    http::{self as egress, Answer, Egress, USER_AGENT},
};
use crate::limiter::AttemptPermit;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// From the first byte sent to the last byte read; part of the limiter's window arithmetic (reliability §3.2).
pub const SUBMIT_TIMEOUT: Duration = Duration::from_secs(20);
const ANSWER_LIMIT: usize = 256 * 1024;

/// A finished TLS connection to a sign-in host, good for one request.
pub struct AttemptConnection {
    sender: SendRequest<Full<Bytes>>,
    host: String,
    driver: tokio::task::JoinHandle<()>,
}

impl std::fmt::Debug for AttemptConnection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AttemptConnection").field("host", &self.host).finish_non_exhaustive()
    }
}

impl Drop for AttemptConnection {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

/// Why a submission has no answer. The attempt is spent in every case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoAnswer {
    /// The permit's deadline had passed; nothing was sent.
    TooLate,
    /// The request, the connection or the answer broke off, or time ran out: it may have been received.
    Lost,
    /// The answer was larger than any sign-in answer.
    TooLarge,
}

impl AttemptConnection {
    /// Resolves through the filter, connects and finishes TLS.
    pub async fn open(egress: &Egress, host: &str) -> Result<Self, ProviderError> {
        timeout(CONNECT_TIMEOUT, Self::dial(egress, host))
            .await
            .map_err(|_| ProviderError::NotSent("connecting timed out"))?
    }

    async fn dial(egress: &Egress, host: &str) -> Result<Self, ProviderError> {
        let tcp = match egress.proxy() {
            None => connect(&egress.resolver().resolve(host).await?).await?,
            Some(proxy) => tunnel(proxy, host).await?,
        };
        tcp.set_nodelay(true).map_err(|_| ProviderError::NotSent(egress::NO_CONNECTION))?;
        let name = ServerName::try_from(host.to_owned())
            .map_err(|_| ProviderError::NotSent("the host name is invalid"))?;
        let tls = TlsConnector::from(egress.tls().clone())
            .connect(name, tcp)
            .await
            .map_err(|_| ProviderError::NotSent("TLS failed"))?;
        let (sender, connection) = http1::handshake(TokioIo::new(tls))
            .await
            .map_err(|_| ProviderError::NotSent("HTTP failed before the request"))?;
        let driver = tokio::spawn(async move {
            // How the connection ends is seen by the request; after it nobody cares.
            connection.await.ok();
        });
        Ok(Self { sender, host: host.to_owned(), driver })
    }

    /// Sends the one request. The body is wiped when the connection lets go of it.
    ///
    /// INVARIANT: consumes permit and connection; nothing is sent after the permit's deadline; one request, no retry.
    pub async fn post(
        mut self,
        permit: AttemptPermit,
        path: &str,
        content_type: &'static str,
        body: Zeroizing<Vec<u8>>,
    ) -> Result<Answer, NoAnswer> {
        let request = Request::post(path)
            .header(http::header::HOST, HeaderValue::from_str(&self.host).map_err(|_| NoAnswer::Lost)?)
            .header(http::header::CONTENT_TYPE, content_type)
            .header(http::header::ACCEPT, "application/json")
            .header(http::header::USER_AGENT, USER_AGENT)
            .header(http::header::CONNECTION, "close")
            .body(Full::new(Bytes::from_owner(body)))
            .map_err(|_| NoAnswer::Lost)?;
        if Instant::now() >= permit.deadline() {
            return Err(NoAnswer::TooLate);
        }
        timeout(SUBMIT_TIMEOUT, async {
            let response = self.sender.send_request(request).await.map_err(|_| NoAnswer::Lost)?;
            let (parts, mut stream) = response.into_parts();
            let mut body = BytesMut::new();
            while let Some(frame) = stream.frame().await {
                if let Ok(data) = frame.map_err(|_| NoAnswer::Lost)?.into_data() {
                    if body.len() + data.len() > ANSWER_LIMIT {
                        return Err(NoAnswer::TooLarge);
                    }
                    body.extend_from_slice(&data);
                }
            }
            Ok(Answer { status: parts.status.as_u16(), headers: parts.headers, body: body.freeze() })
        })
        .await
        .unwrap_or(Err(NoAnswer::Lost))
    }
}

async fn connect(addresses: &[SocketAddr]) -> Result<TcpStream, ProviderError> {
    for address in addresses {
        let mut address = *address;
        if address.port() == 0 {
            address.set_port(443);
        }
        if let Ok(stream) = TcpStream::connect(address).await {
            return Ok(stream);
        }
    }
    Err(ProviderError::NotSent(egress::NO_CONNECTION))
}

/// An HTTP CONNECT tunnel through the deployment's proxy.
async fn tunnel(proxy: &url::Url, host: &str) -> Result<TcpStream, ProviderError> {
    let failed = || ProviderError::NotSent(egress::PROXY_REFUSES);
    let address = (proxy.host_str().ok_or_else(failed)?, proxy.port_or_known_default().ok_or_else(failed)?);
    let mut tcp =
        TcpStream::connect(address).await.map_err(|_| ProviderError::NotSent(egress::PROXY_AWAY))?;
    let request =
        format!("CONNECT {host}:443 HTTP/1.1\r\nHost: {host}:443\r\nUser-Agent: {USER_AGENT}\r\n\r\n");
    tcp.write_all(request.as_bytes()).await.map_err(|_| failed())?;
    let mut head = Vec::with_capacity(256);
    // Byte by byte, so that nothing of the TLS stream behind the head is swallowed.
    while !head.ends_with(b"\r\n\r\n") {
        if head.len() > 8192 {
            return Err(failed());
        }
        head.push(tcp.read_u8().await.map_err(|_| failed())?);
    }
    let accepted = head.starts_with(b"HTTP/1.1 200") || head.starts_with(b"HTTP/1.0 200");
    accepted.then_some(tcp).ok_or_else(failed)
}
