//! Which peer may call which method of an internal port.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
    task::{Context, Poll},
};

use anyhow::bail;
use futures::future::{Either, Ready, ready};
use tonic::{
    Status,
    body::Body,
    transport::server::{TcpConnectInfo, TlsConnectInfo},
};
use tower::{Layer, Service as TowerService};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use crate::wire;

pub(super) const HEALTH: &str = "grpc.health.v1.Health";
const REFLECTION: [&str; 2] =
    ["grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection"];

/// Which peers may call which method, by the DNS names in their certificates.
#[derive(Debug, Default)]
pub(super) struct AllowList {
    /// By `package.Service/Method`. What is not here is closed.
    methods: HashMap<String, BTreeSet<String>>,
    /// Whoever may call something here may ask whether it is healthy, and what it looks like if that is on.
    any: BTreeSet<String>,
}

impl AllowList {
    /// From `package.Service` or `package.Service/Method` to peers, of the services served here. What is said of a method
    /// counts instead of what is said of its service.
    ///
    /// A list for what is not there is a mistake that would leave something else closed, or open: an error.
    pub(super) fn new(
        served: &[&'static str],
        allow: &BTreeMap<String, Vec<String>>,
    ) -> anyhow::Result<Self> {
        let methods: Vec<(String, String)> =
            wire::methods().into_iter().filter(|(service, _)| served.contains(&service.as_str())).collect();
        for name in allow.keys() {
            let known = methods
                .iter()
                .any(|(service, method)| name == service || *name == format!("{service}/{method}"));
            if !known {
                bail!(
                    "common.grpc.allow names {name}, which is not served here; served are {}",
                    served.join(", ")
                );
            }
        }
        let peers = |(service, method): &(String, String)| {
            let name = format!("{service}/{method}");
            let peers = allow.get(&name).or_else(|| allow.get(service))?;
            Some((name, peers.iter().cloned().collect()))
        };
        let methods: HashMap<String, BTreeSet<String>> = methods.iter().filter_map(peers).collect();
        let any = methods.values().flatten().cloned().collect();
        Ok(Self { methods, any })
    }

    fn permits(&self, path: &str, peers: &[String]) -> bool {
        let path = path.strip_prefix('/').unwrap_or(path);
        let listed = self.methods.get(path).or_else(|| {
            let service = path.split('/').next().unwrap_or_default();
            (service == HEALTH || REFLECTION.contains(&service)).then_some(&self.any)
        });
        listed.is_some_and(|listed| peers.iter().any(|peer| listed.contains(peer)))
    }
}

/// The caller, as its verified certificate names it; found in the extensions of requests on a port that asks for one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer(pub Vec<String>);

fn peer_names<B>(request: &http::Request<B>) -> Vec<String> {
    let certificates =
        request.extensions().get::<TlsConnectInfo<TcpConnectInfo>>().and_then(TlsConnectInfo::peer_certs);
    certificates.as_ref().and_then(|chain| chain.first()).map(|leaf| names(leaf)).unwrap_or_default()
}

// DNS names, and URIs such as a SPIFFE id.
//
// INVARIANT: the alternative names alone say who somebody is, never the common name.
fn names(der: &[u8]) -> Vec<String> {
    let Ok((_, certificate)) = X509Certificate::from_der(der) else { return Vec::new() };
    let Ok(Some(names)) = certificate.subject_alternative_name() else { return Vec::new() };
    let known = names.value.general_names.iter().filter_map(|name| match name {
        GeneralName::DNSName(name) | GeneralName::URI(name) => Some((*name).to_owned()),
        _ => None,
    });
    known.collect()
}

#[derive(Clone, Debug)]
pub(super) struct AllowLayer(pub(super) Option<Arc<AllowList>>);

impl<S> Layer<S> for AllowLayer {
    type Service = Allow<S>;
    fn layer(&self, inner: S) -> Allow<S> {
        Allow { inner, list: self.0.clone() }
    }
}

#[derive(Clone, Debug)]
pub(super) struct Allow<S> {
    inner: S,
    list: Option<Arc<AllowList>>,
}

impl<S, R> TowerService<http::Request<R>> for Allow<S>
where
    S: TowerService<http::Request<R>, Response = http::Response<Body>>,
{
    type Response = http::Response<Body>;
    type Error = S::Error;
    type Future = Either<S::Future, Ready<Result<Self::Response, S::Error>>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: http::Request<R>) -> Self::Future {
        // INVARIANT: who a caller is comes from the connection alone, also where nobody has to be listed.
        let peers = peer_names(&request);
        if let Some(list) = &self.list
            && !list.permits(request.uri().path(), &peers)
        {
            tracing::warn!(path = request.uri().path(), ?peers, "peer refused");
            metrics::counter!("parapet_grpc_peers_refused_total").increment(1);
            let refusal = Status::permission_denied("this service may not call that method");
            return Either::Right(ready(Ok(refusal.into_http())));
        }
        request.extensions_mut().insert(Peer(peers));
        Either::Left(self.inner.call(request))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AUDIT: &str = "parapet.internal.v1.AuditQueryService";
    const REMOVALS: &str = "parapet.internal.v1.RemovalService";
    const DIRECTORY: &str = "parapet.internal.v1.DirectoryService";

    fn list(allow: &[(&str, &str)]) -> anyhow::Result<AllowList> {
        let allow = allow.iter().map(|(name, peer)| ((*name).to_owned(), vec![(*peer).to_owned()])).collect();
        AllowList::new(&[AUDIT, REMOVALS, DIRECTORY], &allow)
    }

    fn permits(list: &AllowList, path: &str, peer: &str) -> bool {
        list.permits(path, &[peer.to_owned()])
    }

    #[test]
    fn a_peer_may_call_what_it_is_listed_for_and_nothing_else() {
        let verify = format!("{AUDIT}/Verify");
        let list = list(&[(AUDIT, "integration-api"), (&verify, "checker"), (REMOVALS, "worker")]).unwrap();
        assert!(permits(&list, &format!("/{AUDIT}/Search"), "integration-api"));
        assert!(!permits(&list, &format!("/{AUDIT}/Search"), "checker"));
        assert!(permits(&list, &format!("/{verify}"), "checker"));
        assert!(!permits(&list, &format!("/{verify}"), "integration-api"), "the method's list counts");
        assert!(!permits(&list, &format!("/{REMOVALS}/DropRemovals"), "integration-api"));
        assert!(
            !permits(&list, &format!("/{DIRECTORY}/TestConnection"), "integration-api"),
            "without a list: closed"
        );
        assert!(!list.permits(&format!("/{AUDIT}/Search"), &[]), "a peer without a name is nobody");
        for path in [format!("/{AUDIT}"), format!("/{AUDIT}/"), format!("/{AUDIT}/Searching"), "/".into()] {
            assert!(!permits(&list, &path, "integration-api"), "{path}");
        }
    }

    #[test]
    fn everybody_on_a_list_may_ask_for_health() {
        let list = list(&[(AUDIT, "integration-api")]).unwrap();
        assert!(permits(&list, "/grpc.health.v1.Health/Check", "integration-api"));
        assert!(!permits(&list, "/grpc.health.v1.Health/Check", "stranger"));
    }

    #[test]
    fn a_list_for_an_unknown_service_or_method_is_refused() {
        for unknown in
            ["parapet.internal.v1.Nothing", "parapet.internal.v1.AuditQueryService/Serach", "Search"]
        {
            let refused = list(&[(unknown, "integration-api")]).unwrap_err().to_string();
            assert!(refused.contains(unknown), "{refused}");
        }
        // Known, but of somebody else.
        assert!(list(&[("parapet.internal.v1.ContainmentService", "integration-api")]).is_err());
    }

    #[test]
    fn a_peer_is_known_by_the_alternative_names_of_its_certificate() {
        let key = rcgen::KeyPair::generate().unwrap();
        let dns = vec!["audit-writer".to_owned(), "audit-writer.parapet.svc".to_owned()];
        let mut params = rcgen::CertificateParams::new(dns.clone()).unwrap();
        let spiffe = "spiffe://acme/audit-writer";
        params.subject_alt_names.push(rcgen::SanType::URI(spiffe.try_into().unwrap()));
        params.distinguished_name.push(rcgen::DnType::CommonName, "integration-api");
        let certificate = params.self_signed(&key).unwrap();
        assert_eq!(names(certificate.der()), [dns[0].as_str(), dns[1].as_str(), spiffe]);
        params.subject_alt_names.clear();
        assert!(names(params.self_signed(&key).unwrap().der()).is_empty(), "the common name is no name");
        assert!(names(b"nonsense").is_empty());
    }
}
