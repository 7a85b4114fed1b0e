//! Callers that show a client certificate instead of a token.

use std::collections::HashMap;

use shared::{audit::SERVICE_PREFIX, grpc::Peer};

use super::{Claims, role};
use crate::config::CertifiedService;

/// The programs that may call by certificate, by the name in it.
#[derive(Debug, Default)]
pub struct CertifiedServices(HashMap<String, Claims>);

impl CertifiedServices {
    /// As configured; the configuration was checked.
    pub fn new(services: Vec<CertifiedService>) -> Self {
        Self(services.into_iter().map(|service| (service.san.clone(), claims(service))).collect())
    }

    /// Who a verified certificate is. One that has the names of several programs is nobody.
    pub fn of(&self, peer: &Peer) -> Option<&Claims> {
        let mut known = peer.0.iter().filter_map(|name| self.0.get(name));
        let first = known.next()?;
        known.all(|other| other == first).then_some(first)
    }
}

fn claims(service: CertifiedService) -> Claims {
    let CertifiedService { san, name, organization, tenants, roles } = service;
    Claims {
        subject: format!("{SERVICE_PREFIX}{san}"),
        name: if name.is_empty() { san } else { name },
        organization,
        tenants,
        roles: roles.iter().filter_map(|name| role(name)).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(san: &str, role: &str) -> CertifiedService {
        CertifiedService { san: san.into(), roles: vec![role.into()], ..Default::default() }
    }

    #[test]
    fn a_certificate_with_the_names_of_several_programs_is_nobody() {
        let services =
            CertifiedServices::new(vec![service("feeds", "feed_writer"), service("admin", "org_admin")]);
        let of = |names: &[&str]| {
            services.of(&Peer(names.iter().map(|&n| n.to_owned()).collect())).map(|c| c.subject.clone())
        };
        assert_eq!(of(&["feeds", "feeds.internal"]).as_deref(), Some("service:feeds"));
        assert_eq!(of(&["feeds", "admin"]), None);
        assert_eq!(of(&["stranger"]), None);
        assert_eq!(of(&[]), None);
    }
}
