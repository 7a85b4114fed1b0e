//! Which hosts are Okta orgs (§9): official ones, and the custom domains that a deployment has approved.

use std::sync::Arc;

use serde::Deserialize;

/// Suffixes of official Okta hosts; an org is one label in front of one of them.
const SUFFIXES: [&str; 7] = [
    "okta.com",
    "oktapreview.com",
    "okta-emea.com",
    "okta-gov.com",
    "okta.mil",
    "okta-miltest.com",
    "trex-govcloud.com",
];

/// The custom domains of Okta orgs that whoever operates a deployment has approved (`idp.okta_domains`), the same for all
/// services: the API refuses others, and the workers refuse them again.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(try_from = "Vec<String>")]
pub struct ApprovedDomains(Arc<[String]>);

impl TryFrom<Vec<String>> for ApprovedDomains {
    type Error = String;

    /// Accepts what people paste; the error is a sentence for an operator.
    fn try_from(given: Vec<String>) -> Result<Self, String> {
        let plain = |text: &String| match plain(text) {
            Ok(host) if is_official(&host) => {
                Err(format!("{host} is an official Okta host, which needs no approval"))
            }
            Ok(host) if is_domain(&host) => Ok(host),
            Ok(host) => Err(format!("`{host}` is not a domain name like login.acme.com")),
            Err(remedy) => Err(remedy),
        };
        Ok(Self(given.iter().map(plain).collect::<Result<_, _>>()?))
    }
}

/// The org's host name as an integration stores it, from whatever a person pasted: scheme, path, capitals and
/// slashes are taken off. The error is a sentence for that person.
pub fn normalise(text: &str, approved: &ApprovedDomains) -> Result<String, String> {
    let host = plain(text)?;
    if approved.0.contains(&host) {
        return Ok(host);
    }
    let Some((org, suffix)) = host.split_once('.').filter(|(_, suffix)| SUFFIXES.contains(suffix)) else {
        return Err(format!(
            "this is not an official host of an Okta org; expected one label in front of one of: {}. A custom domain has to \
             be approved first by whoever operates this deployment (idp.okta_domains); the org's own name always works",
            SUFFIXES.join(", ")
        ));
    };
    if !is_label(org) {
        return Err("the org's name may hold letters, digits and hyphens only".into());
    }
    if let Some(name) = org.strip_suffix("-admin") {
        return Err(format!("this is the address of the admin console; use {name}.{suffix}"));
    }
    Ok(host)
}

/// Whether a host is an org under one of Okta's own names.
pub(super) fn is_official(host: &str) -> bool {
    normalise(host, &ApprovedDomains::default()).as_deref() == Ok(host)
}

/// The host of a pasted address.
fn plain(text: &str) -> Result<String, String> {
    let text = text.trim().to_ascii_lowercase();
    let rest = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://")).unwrap_or(&text);
    let host = rest.split(['/', '?', '#']).next().unwrap_or_default().trim_end_matches('.');
    if host.is_empty() {
        return Err("the org's host is empty; expected a name like acme.okta.com".into());
    }
    if host.contains('@') || host.contains(':') {
        return Err("the org's host must be a plain name like acme.okta.com, without user or port".into());
    }
    Ok(host.to_owned())
}

fn is_label(label: &str) -> bool {
    (1..=63).contains(&label.len())
        && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
        && !label.starts_with('-')
        && !label.ends_with('-')
}

/// A name of several labels; an address is none, in whatever spelling (`0x7f.1`).
fn is_domain(host: &str) -> bool {
    host.len() <= 253
        && host.contains('.')
        && host.split('.').all(is_label)
        && matches!(url::Host::parse(host), Ok(url::Host::Domain(_)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn none() -> ApprovedDomains {
        ApprovedDomains::default()
    }

    fn approved(domains: &[&str]) -> Result<ApprovedDomains, String> {
        domains.iter().map(|&domain| domain.to_owned()).collect::<Vec<_>>().try_into()
    }

    #[test]
    fn a_custom_domain_is_accepted_once_it_is_approved_however_it_is_written() {
        let approved = approved(&["https://Login.Acme.com/"]).unwrap();
        for pasted in ["login.acme.com", " HTTPS://LOGIN.acme.com/app?x", "login.acme.com."] {
            assert_eq!(normalise(pasted, &approved).as_deref(), Ok("login.acme.com"), "{pasted}");
            assert!(normalise(pasted, &none()).unwrap_err().contains("idp.okta_domains"), "{pasted}");
        }
        for other in ["acme.com", "x.login.acme.com", "login.acme.com.evil.example", "login.acme.com:8443"] {
            assert!(normalise(other, &approved).is_err(), "{other}");
        }
        assert_eq!(normalise("acme.okta.com", &approved).as_deref(), Ok("acme.okta.com"));
    }

    #[test]
    fn only_names_of_hosts_can_be_approved() {
        for bad in [
            "",
            "localhost",
            "127.0.0.1",
            "10.0.0.7",
            "0x7f.1",
            "127.1",
            "a b.example",
            "*.acme.com",
            "acme.okta.com",
            "login.acme.com:1",
        ] {
            assert!(approved(&[bad]).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_people_paste_becomes_a_plain_host_name() {
        for pasted in [
            "acme.okta.com",
            " ACME.Okta.com ",
            "https://acme.okta.com",
            "https://acme.okta.com/",
            "http://acme.okta.com/app/UserHome?x=1",
            "acme.okta.com.",
        ] {
            assert_eq!(normalise(pasted, &none()).as_deref(), Ok("acme.okta.com"), "{pasted}");
        }
        assert_eq!(normalise("dev-123.oktapreview.com", &none()).as_deref(), Ok("dev-123.oktapreview.com"));
    }

    #[test]
    fn the_admin_console_is_refused_with_the_right_name() {
        let message = normalise("https://acme-admin.okta.com/admin/dashboard", &none()).unwrap_err();
        assert!(message.ends_with("use acme.okta.com"), "{message}");
    }

    #[test]
    fn other_hosts_are_refused() {
        for bad in [
            "",
            "https://",
            "okta.com",
            "acme.okta.com.evil.example",
            "acme.evilokta.com",
            "a.b.okta.com",
            "user@acme.okta.com",
            "acme.okta.com:8443",
            "-acme.okta.com",
            "ac me.okta.com",
            "127.0.0.1",
            "login.customer.example",
        ] {
            assert!(normalise(bad, &none()).is_err(), "{bad}");
        }
    }
}
