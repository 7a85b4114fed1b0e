//! What a string is by its looks: a mask, a hash, a place. Labels of feeds are unreliable, contents less so.

/// True for a value that only hides another: nothing but asterisks or bullets.
pub(super) fn is_mask(value: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(value) else { return false };
    !text.is_empty() && text.chars().all(|c| matches!(c, '*' | '•' | '●'))
}

/// SpyCloud's contract: exactly eight asterisks are a mask, and only these.
pub(super) fn is_spycloud_mask(value: &[u8]) -> bool {
    value == b"********"
}

/// True for hashes that say so themselves: crypt and LDAP notations.
pub(super) fn is_marked_hash(value: &[u8]) -> bool {
    let crypt = || {
        let mut fields = value.split(|b| *b == b'$');
        fields.next() == Some(b"".as_slice())
            && fields.next().is_some_and(|id| {
                matches!(
                    id,
                    b"1" | b"2"
                        | b"2a"
                        | b"2b"
                        | b"2x"
                        | b"2y"
                        | b"5"
                        | b"6"
                        | b"7"
                        | b"y"
                        | b"gy"
                        | b"apr1"
                        | b"P"
                        | b"H"
                        | b"S"
                        | b"argon2i"
                        | b"argon2d"
                        | b"argon2id"
                        | b"scrypt"
                        | b"pbkdf2"
                        | b"pbkdf2-sha256"
                        | b"pbkdf2-sha512"
                )
            })
            && fields.next().is_some_and(|rest| !rest.is_empty())
            && value.len() >= 20
    };
    let ldap = || {
        [b"{SHA}".as_slice(), b"{SSHA}", b"{MD5}", b"{SMD5}", b"{CRYPT}", b"{SHA256}", b"{SSHA512}"]
            .iter()
            .any(|mark| value.starts_with(mark))
            && value.len() > 20
    };
    let mysql = || value.len() == 41 && value.starts_with(b"*") && hex(value.get(1..).unwrap_or_default());
    crypt() || ldap() || mysql()
}

/// True for hashes recognised by notation, or by being as long as a digest and hexadecimal throughout.
pub(super) fn is_hash(value: &[u8]) -> bool {
    let digest = value.split(|b| *b == b':').next().unwrap_or_default(); // hash:salt
    is_marked_hash(value) || (matches!(digest.len(), 32 | 40 | 56 | 64 | 96 | 128) && hex(digest))
}

fn hex(value: &[u8]) -> bool {
    value.iter().all(u8::is_ascii_hexdigit)
}

/// True for `someone@somewhere.tld`.
pub(super) fn is_address(text: &str) -> bool {
    text.split_once('@').is_some_and(|(name, domain)| {
        !name.is_empty() && !name.contains(['/', ' ']) && !domain.contains('@') && is_host(domain)
    })
}

/// True for a dotted host name.
pub(super) fn is_host(text: &str) -> bool {
    let labels = || text.split('.');
    labels().count() >= 2
        && text.len() <= 253
        && labels().all(|label| {
            (1..=63).contains(&label.len())
                && label.chars().all(|c| c.is_alphanumeric() || matches!(c, '-' | '_'))
        })
}

/// A place where a credential was used, without what may be secret in it: user information, query and fragment.
pub(super) fn target(text: &str) -> Option<String> {
    let (scheme, rest) = match text.trim().split_once("://") {
        Some((scheme, rest)) => (Some(scheme), rest),
        None => (None, text.trim()),
    };
    let rest = rest.split(['?', '#']).next()?;
    let (authority, path) = match rest.find('/') {
        Some(slash) => rest.split_at(slash),
        None => (rest, ""),
    };
    // Stealers write Android applications as android://{key digest}@{package}/
    let host = authority.rsplit('@').next()?;
    if host.is_empty() || host.len() > 260 || path.len() > 1024 || rest.chars().any(char::is_control) {
        return None;
    }
    let path = if path == "/" { "" } else { path };
    Some(scheme.map_or_else(|| format!("{host}{path}"), |scheme| format!("{scheme}://{host}{path}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_and_hashes_are_told_from_passwords() {
        assert!(is_mask(b"********") && is_mask("••••".as_bytes()) && !is_mask(b"***a") && !is_mask(b""));
        assert!(is_spycloud_mask(b"********") && !is_spycloud_mask(b"*********"));
        for hash in [
            "5f4dcc3b5aa765d61d8327deb882cf99",
            "5baa61e4c9b93f3f0682250b6cf8331b7ee68fd8",
            "$2b$12$KIXQ4Y9Qe8m6vE0pX1Zb7uYw8b2a",
            "$argon2id$v=19$m=65536,t=3,p=4$c29tZXNhbHQ",
            "{SSHA}0c0blFTXXNuAMHECS4uxrj3ZieMoWImr",
            "5f4dcc3b5aa765d61d8327deb882cf99:salt",
            "*2470C0C06DEE42FD1618BB99005ADCA2EC9D1E19",
        ] {
            assert!(is_hash(hash.as_bytes()), "{hash}");
        }
        for password in ["Summer2024!", "$5$", "$1$x", "deadbeef", "pa$$word", "{SHA}x", "$money$money$"] {
            assert!(!is_hash(password.as_bytes()), "{password}");
        }
    }

    #[test]
    fn a_target_keeps_where_and_drops_what_may_be_secret() {
        for (given, kept) in [
            ("https://u:p@login.example.com:8443/a/b?token=1#x", "https://login.example.com:8443/a/b"),
            ("login.example.com", "login.example.com"),
            ("https://example.com/", "https://example.com"),
            ("android://s3cr3t==@com.example.app/", "android://com.example.app"),
        ] {
            assert_eq!(target(given).as_deref(), Some(kept));
        }
        assert_eq!(target("https://?x"), None);
    }

    #[test]
    fn addresses_and_hosts_are_recognised() {
        assert!(is_address("a.b+c@example.co.uk") && is_address("jürgen@müller.de"));
        assert!(!is_address("@example.com") && !is_address("a@b") && !is_address("https://a@b.com"));
        assert!(is_host("example.com") && !is_host("localhost") && !is_host("a..b") && !is_host("a b.c"));
    }
}
