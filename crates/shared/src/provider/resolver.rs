//! Where a directory's name may lead: resolved once, through a filter, and connected to as resolved.

use std::{
    future::Future,
    io,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::Arc,
};

use ipnet::IpNet;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use serde::Deserialize;

use super::{
    ProviderError,
    http::{NO_NAME, PRIVATE, UNRESOLVED},
};

/// Sends every host that equals or ends in `.suffix` to one address and port.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FixedAddress {
    /// Host name, or the part after its first label.
    pub suffix: String,
    /// Address and port.
    pub address: SocketAddr,
}

type Found = Pin<Box<dyn Future<Output = io::Result<Vec<SocketAddr>>> + Send>>;

/// Resolves hosts once, through the address filter. What it returns is what is connected to: nobody asks again.
#[derive(Clone)]
pub struct Resolver {
    fixed: Arc<[FixedAddress]>,
    deny: Arc<[IpNet]>,
    lookup: Arc<dyn Fn(String) -> Found + Send + Sync>,
}

impl std::fmt::Debug for Resolver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Resolver")
            .field("fixed", &self.fixed)
            .field("deny", &self.deny)
            .finish_non_exhaustive()
    }
}

impl Resolver {
    /// Asks the machine's resolver; `fixed` names are not asked about, and no name may lead into `deny`.
    pub(super) fn new(fixed: &[FixedAddress], deny: &[IpNet]) -> Self {
        let system = |host: String| -> Found {
            Box::pin(async move { Ok(tokio::net::lookup_host((host.as_str(), 0)).await?.collect()) })
        };
        Self { fixed: Arc::from(fixed), deny: Arc::from(deny), lookup: Arc::new(system) }
    }

    /// The addresses to connect to; port 0 stands for the default port.
    ///
    /// INVARIANT: if any address of a name is not globally reachable, the name is refused (reliability §4.7).
    pub async fn resolve(&self, host: &str) -> Result<Vec<SocketAddr>, ProviderError> {
        let host = host.trim_end_matches('.').to_ascii_lowercase();
        if let Some(fixed) = self.fixed.iter().find(|f| {
            host == f.suffix || host.strip_suffix(&f.suffix).is_some_and(|rest| rest.ends_with('.'))
        }) {
            return Ok(vec![fixed.address]);
        }
        // The machine's resolver reads more spellings of addresses than the standard library: `127.1`, `0x7f000001`.
        if !matches!(url::Host::parse(&host), Ok(url::Host::Domain(_))) {
            return Err(ProviderError::NotSent(NO_NAME));
        }
        let addresses = (self.lookup)(host).await.map_err(|_| ProviderError::NotSent(UNRESOLVED))?;
        if addresses.is_empty() {
            return Err(ProviderError::NotSent(UNRESOLVED));
        }
        if !addresses.iter().all(|a| self.admits(a.ip())) {
            return Err(ProviderError::NotSent(PRIVATE));
        }
        Ok(addresses)
    }

    fn admits(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        is_globally_reachable(address) && !self.deny.iter().any(|net| net.contains(&address))
    }
}

impl Resolve for Resolver {
    fn resolve(&self, name: Name) -> Resolving {
        let (this, host) = (self.clone(), name.as_str().to_owned());
        Box::pin(async move {
            let addresses = Resolver::resolve(&this, &host).await?;
            Ok(Box::new(addresses.into_iter()) as Addrs)
        })
    }
}

/// Judged on the canonical address, by the IANA special-purpose registries (as of RFC 9637).
fn is_globally_reachable(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(v4) => {
            let [a, b, c, _] = v4.octets();
            !(v4.is_unspecified()
                || v4.is_loopback()
                || v4.is_private()
                || v4.is_link_local()
                || v4.is_broadcast()
                || v4.is_multicast()
                || v4.is_documentation()
                || a == 0
                || a >= 240
                || (a == 100 && (64..128).contains(&b))
                || (a == 192 && b == 0 && c == 0)
                || (a == 192 && b == 88 && c == 99)
                || (a == 198 && (b == 18 || b == 19)))
        }
        // Only 2000::/3 is given out to anybody; of that, what can wrap another address or stays inside is taken out.
        IpAddr::V6(v6) => {
            let [s0, s1, ..] = v6.segments();
            s0 & 0xe000 == 0x2000
                && !(s0 == 0x2002 // 6to4 can wrap a private IPv4 address
                    || (s0 == 0x2001 && s1 < 0x200) // IETF protocol assignments, Teredo
                    || (s0 == 0x2001 && s1 == 0xdb8) // documentation
                    || s0 == 0x3fff) // documentation
        }
    }
}

#[cfg(test)]
mod tests;
