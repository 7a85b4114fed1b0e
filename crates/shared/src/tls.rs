//! TLS between our own parts: version 1.3 and nothing older, our own authorities and no others, no resumed sessions,
//! and files that may change under a running process.

mod reload;

use std::{io, path::PathBuf, sync::Arc};

use anyhow::{Context as _, bail};
use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    crypto::CryptoProvider,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _},
    server::{NoServerSessionStorage, WebPkiClientVerifier},
    version::TLS13,
};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};
use x509_parser::prelude::{FromDer, X509Certificate};

pub use self::reload::{Contents, Reloaded};

/// What a party shows and whom it believes; all files are PEM.
#[derive(Clone, Debug, Default)]
pub struct Files {
    /// Its own certificate chain, and the private key of the first certificate in it.
    pub own: Option<(PathBuf, PathBuf)>,
    /// The authorities whose certificates it accepts from the other side.
    pub authorities: Option<PathBuf>,
    /// Whether the other side may also come without a certificate.
    pub optional: bool,
}

/// What was in [`Files`].
#[derive(Debug)]
pub struct Material {
    /// Certificate chain and private key.
    own: Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>,
    authorities: Option<RootCertStore>,
}

impl Files {
    /// The files, in the order in which [`Material::read`] expects their contents.
    pub fn paths(&self) -> Vec<PathBuf> {
        let own = self.own.iter().flat_map(|(certificate, key)| [certificate, key]);
        own.chain(&self.authorities).cloned().collect()
    }
}

impl Material {
    /// Reads what is in the files; says when each certificate expires, as `name` and `name_ca`.
    pub fn read(name: &'static str, files: &Files, contents: &[Contents]) -> anyhow::Result<Self> {
        let mut contents = contents.iter();
        let mut next = || contents.next().context("a file was not read");
        let mut expiries = Vec::new();
        let own = match &files.own {
            Some((certificate, key)) => {
                let chain = certificates(next()?).with_context(|| certificate.display().to_string())?;
                let private = PrivateKeyDer::from_pem_slice(next()?)
                    .with_context(|| format!("{}: no private key", key.display()))?;
                expiries.push((name.to_owned(), earliest_end(&chain)?));
                Some((chain, private))
            }
            None => None,
        };
        let authorities = match &files.authorities {
            Some(file) => {
                let read = certificates(next()?).with_context(|| file.display().to_string())?;
                expiries.push((format!("{name}_ca"), earliest_end(&read)?));
                let mut roots = RootCertStore::empty();
                for authority in read {
                    roots.add(authority).with_context(|| format!("{}: no authority", file.display()))?;
                }
                Some(roots)
            }
            None => None,
        };
        for (certificate, end) in expiries {
            #[expect(clippy::cast_precision_loss, reason = "a gauge")]
            metrics::gauge!("parapet_certificate_expiry_timestamp_seconds", "certificate" => certificate)
                .set(end as f64);
        }
        Ok(Self { own, authorities })
    }

    /// The side that is called. With authorities, callers must show a certificate of theirs, or may where it is `optional`.
    fn server(self, optional: bool) -> anyhow::Result<ServerConfig> {
        let Some((chain, key)) = self.own else { bail!("a server needs a certificate") };
        let builder = ServerConfig::builder_with_provider(provider()).with_protocol_versions(&[&TLS13])?;
        let builder = match self.authorities {
            Some(roots) => {
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider());
                let verifier = if optional { verifier.allow_unauthenticated() } else { verifier };
                builder.with_client_cert_verifier(verifier.build()?)
            }
            None => builder.with_no_client_auth(),
        };
        let mut config = builder.with_single_cert(chain, key)?;
        // INVARIANT: whoever calls shows a certificate that is good now, also when it was here before.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(config)
    }

    /// The side that calls. Without authorities, the system's are believed.
    pub(crate) fn client(self) -> anyhow::Result<ClientConfig> {
        let roots = self.authorities.unwrap_or_else(|| {
            let mut roots = RootCertStore::empty();
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            roots
        });
        let builder = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13])?
            .with_root_certificates(roots);
        let mut config = match self.own {
            Some((chain, key)) => builder.with_client_auth_cert(chain, key)?,
            None => builder.with_no_client_auth(),
        };
        config.resumption = rustls::client::Resumption::disabled();
        Ok(config)
    }
}

/// What a server presents, kept up to date. `protocols`: what may be spoken inside.
pub async fn server(
    name: &'static str,
    files: Files,
    protocols: &'static [&'static [u8]],
) -> anyhow::Result<Reloaded<ServerConfig>> {
    Reloaded::start(name, files.paths(), move |contents| {
        let mut config = Material::read(name, &files, contents)?.server(files.optional)?;
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
        Ok(config)
    })
    .await
}

/// What a client presents and believes, kept up to date. `protocols`: what may be spoken inside.
pub async fn client(
    name: &'static str,
    files: Files,
    protocols: &'static [&'static [u8]],
) -> anyhow::Result<Reloaded<ClientConfig>> {
    Reloaded::start(name, files.paths(), move |contents| {
        let mut config = Material::read(name, &files, contents)?.client()?;
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
        Ok(config)
    })
    .await
}

/// What a client presents and believes, as its files are now.
pub async fn client_once(name: &'static str, files: &Files) -> anyhow::Result<ClientConfig> {
    Material::read(name, files, &reload::read(&files.paths()).await?)?.client()
}

/// Connects to a host's port and makes sure that it is `name`.
pub async fn connect(
    config: Arc<ClientConfig>,
    host: &str,
    port: u16,
    name: ServerName<'static>,
) -> io::Result<TlsStream<TcpStream>> {
    let stream = TcpStream::connect((host, port)).await?;
    stream.set_nodelay(true)?;
    TlsConnector::from(config).connect(name, stream).await
}

/// Whether a connection to this host, or path of a socket, stays within the machine.
pub fn is_this_machine(host: &str) -> bool {
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<std::net::IpAddr>();
    host.starts_with('/')
        || host.eq_ignore_ascii_case("localhost")
        || address.is_ok_and(|address| address.to_canonical().is_loopback())
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

fn certificates(pem: &[u8]) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let found = CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>().context("no PEM")?;
    if found.is_empty() {
        bail!("no certificate");
    }
    Ok(found)
}

/// Seconds since 1970 at which the first of them expires.
fn earliest_end(certificates: &[CertificateDer<'_>]) -> anyhow::Result<i64> {
    let ends = certificates.iter().map(|der| {
        let (_, certificate) = X509Certificate::from_der(der).context("a certificate cannot be read")?;
        Ok(certificate.validity().not_after.timestamp())
    });
    Ok(ends.collect::<anyhow::Result<Vec<_>>>()?.into_iter().min().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_loopback_addresses_and_sockets_are_this_machine() {
        for here in
            ["127.0.0.1", "127.8.9.1", "::1", "[::1]", "::ffff:127.0.0.1", "localhost", "/run/postgresql"]
        {
            assert!(is_this_machine(here), "{here}");
        }
        for away in ["db", "10.0.0.1", "localhost.example.org", "127.0.0.1.example.org", "0.0.0.0", ""] {
            assert!(!is_this_machine(away), "{away}");
        }
    }
}
