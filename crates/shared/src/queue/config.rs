//! Where the broker is and how a connection to it is made.

use std::{future::Future, path::PathBuf, time::Duration};

use lapin::{
    Connection, ConnectionProperties,
    tcp::{AMQPUriTcpExt as _, RustlsConnector},
    uri::{AMQPAuthority, AMQPQueryString, AMQPScheme, AMQPUri, AMQPUserInfo},
};
use serde::Deserialize;

use crate::tls::{self, Files};

/// Where the broker is.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BrokerConfig {
    /// Host name or address.
    pub host: String,
    /// Port.
    pub port: u16,
    /// Virtual host.
    pub vhost: String,
    /// User.
    pub user: String,
    /// File with the user's password, without or with a final line break.
    pub password_file: PathBuf,
    /// Encrypt the connection (TLS 1.3) and verify the broker's certificate and name. Required unless the broker is on
    /// this machine.
    pub tls: bool,
    /// File with the certificate authorities to trust (PEM), and no others; the system's when absent.
    pub ca_file: Option<PathBuf>,
    /// This service's own certificate chain (PEM), where the broker asks for one. It logs in with its password all the
    /// same.
    pub cert_file: Option<PathBuf>,
    /// The private key of that certificate (PEM).
    pub key_file: Option<PathBuf>,
    /// Seconds between heartbeats; a silent connection is given up after twice this.
    pub heartbeat_seconds: u16,
    /// After so many seconds without a connection the service says that it is not ready.
    pub unready_after_seconds: u64,
}

impl Default for BrokerConfig {
    fn default() -> Self {
        Self {
            host: String::new(),
            port: 5672,
            vhost: "/".to_owned(),
            user: String::new(),
            password_file: PathBuf::new(),
            tls: false,
            ca_file: None,
            cert_file: None,
            key_file: None,
            heartbeat_seconds: 15,
            unready_after_seconds: 300,
        }
    }
}

/// The broker could not be used.
#[derive(Debug, thiserror::Error)]
pub enum BrokerError {
    /// A file of the configuration cannot be read.
    #[error("{what} cannot be read")]
    File {
        /// Which file.
        what: &'static str,
        /// Why.
        source: std::io::Error,
    },
    /// The certificates of the configuration cannot be used.
    #[error("the broker's certificates cannot be used: {0}")]
    Certificates(String),
    /// The broker did not answer in time.
    #[error("the broker did not answer in time")]
    Timeout,
    /// The connection, channel or consumer ended.
    #[error("{0}")]
    Ended(&'static str),
    /// Anything else.
    #[error(transparent)]
    Amqp(#[from] lapin::Error),
}

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest wait for the broker's part in one call.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);

/// Waits for one call to the broker, but not for ever.
///
/// INVARIANT: no call to lapin is waited for without a bound. When a connection is cut at the wrong moment, the future of
/// a call that was under way stays open for ever (lapin 4: an acknowledgement, in one of some ten runs of
/// `tests/it/outage.rs`). It would keep a place among the messages at work, and the service from ending.
pub(super) async fn answered<T>(call: impl Future<Output = lapin::Result<T>>) -> Result<T, BrokerError> {
    match tokio::time::timeout(ANSWER_LIMIT, call).await {
        Ok(answer) => Ok(answer?),
        Err(_) => Err(BrokerError::Timeout),
    }
}

impl BrokerConfig {
    /// The certificates of the connection.
    pub(crate) fn certificates(&self) -> Files {
        Files {
            own: self.cert_file.clone().zip(self.key_file.clone()),
            authorities: self.ca_file.clone(),
            ..Files::default()
        }
    }

    /// Opens a connection that broker operators see under this name. Files are read each time, so that a new
    /// password or certificate is used at the next connection.
    pub async fn connect(&self, name: &str) -> Result<Connection, BrokerError> {
        let password = tokio::fs::read_to_string(&self.password_file)
            .await
            .map_err(|source| BrokerError::File { what: "the broker's password file", source })?;
        let uri = AMQPUri {
            // TLS is made here, from our own files: lapin's would believe the system's authorities too, and speak 1.2.
            scheme: AMQPScheme::AMQP,
            authority: AMQPAuthority {
                userinfo: AMQPUserInfo {
                    username: self.user.clone(),
                    password: password.trim_end_matches(['\r', '\n']).to_owned(),
                },
                host: self.host.clone(),
                port: self.port,
            },
            vhost: self.vhost.clone(),
            query: AMQPQueryString { heartbeat: Some(self.heartbeat_seconds), ..AMQPQueryString::default() },
        };
        let tls = if self.tls {
            let config = tls::client_once("broker", &self.certificates()).await;
            let config = config.map_err(|error| BrokerError::Certificates(format!("{error:#}")))?;
            Some(RustlsConnector::from(config))
        } else {
            None
        };
        let host = self.host.clone();
        // lapin's own recovery stays off, its default; the supervisor above decides when to try again.
        let properties = ConnectionProperties::default().with_connection_name(name.into());
        let opened = Connection::connector(
            uri,
            lapin::runtime::default_runtime()?,
            async move |uri, runtime| {
                let stream = uri.connect_async(&runtime).await?;
                match &tls {
                    Some(tls) => Ok(stream.into_rustls(tls, &host).await?),
                    None => Ok(stream),
                }
            },
            properties,
        );
        tokio::time::timeout(CONNECT_TIMEOUT, opened)
            .await
            .map_err(|_| BrokerError::Timeout)?
            .map_err(BrokerError::Amqp)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_call_that_stays_open_is_given_up() {
        let answer = answered(std::future::pending::<lapin::Result<()>>()).await;
        assert!(matches!(answer, Err(BrokerError::Timeout)), "{answer:?}");
        assert_eq!(answered(async { Ok(7) }).await.unwrap(), 7);
    }
}
