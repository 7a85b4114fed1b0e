//! Which hosts are Okta orgs (§9).

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

/// The org's host name as an integration stores it, from whatever a person pasted: scheme, path, capitals and
/// slashes are taken off. The error is a sentence for that person.
pub fn normalise(text: &str) -> Result<String, String> {
    let text = text.trim().to_ascii_lowercase();
    let rest = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://")).unwrap_or(&text);
    let host = rest.split(['/', '?', '#']).next().unwrap_or_default().trim_end_matches('.');
    if host.is_empty() {
        return Err("the org's host is empty; expected a name like acme.okta.com".into());
    }
    if host.contains('@') || host.contains(':') {
        return Err("the org's host must be a plain name like acme.okta.com, without user or port".into());
    }
    let Some((org, suffix)) = host.split_once('.').filter(|(_, suffix)| SUFFIXES.contains(suffix)) else {
        return Err(format!(
            "this is not the host of an Okta org; expected one label in front of one of: {}. Use the org's own \
             name, not a custom domain",
            SUFFIXES.join(", ")
        ));
    };
    let well_formed = !org.is_empty()
        && org.len() <= 63
        && org.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
        && !org.starts_with('-')
        && !org.ends_with('-');
    if !well_formed {
        return Err("the org's name may hold letters, digits and hyphens only".into());
    }
    if let Some(name) = org.strip_suffix("-admin") {
        return Err(format!("this is the address of the admin console; use {name}.{suffix}"));
    }
    Ok(format!("{org}.{suffix}"))
}

#[cfg(test)]
mod tests {
    use super::*;

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
            assert_eq!(normalise(pasted).as_deref(), Ok("acme.okta.com"), "{pasted}");
        }
        assert_eq!(normalise("dev-123.oktapreview.com").as_deref(), Ok("dev-123.oktapreview.com"));
    }

    #[test]
    fn the_admin_console_is_refused_with_the_right_name() {
        let message = normalise("https://acme-admin.okta.com/admin/dashboard").unwrap_err();
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
            assert!(normalise(bad).is_err(), "{bad}");
        }
    }
}
