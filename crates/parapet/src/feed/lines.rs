//! Text lists: one `url:login:password` or `login:password` per line.
//!
//! Everything may contain a colon: URLs do (`https://`, ports), passwords may. Read as follows: a URL with a scheme
//! ends where its host, port and path end; without a scheme the first field is a place if it looks like a host or a
//! path and something that can be a login follows; whatever comes after the login's colon is the password.

use std::io::{self, Read};

use shared::secret::SecretBytes;
use zeroize::Zeroizing;

use super::{
    content::{is_address, is_hash, is_host, is_mask, target},
    record::{Feed, HashedSecret, Origin, OriginKind, Record, Reject, SecretForm},
    source::{Cut, Position, Source},
};

pub(super) const LINE_LIMIT: usize = 64 * 1024;

/// Where a line begins, and what it says; `None`: it is longer than the limit.
pub(super) type Line = (Position, Option<Zeroizing<Vec<u8>>>);

/// The next line that is not blank, without its end.
pub(super) fn next_line<R: Read>(source: &mut Source<R>, limit: usize) -> io::Result<Option<Line>> {
    loop {
        if source.peek()?.is_none() {
            return Ok(None);
        }
        let at = source.position();
        let mut line = Cut::new(limit);
        while let Some(byte) = source.peek()? {
            source.advance();
            if byte == b'\n' {
                break;
            }
            line.push(byte);
        }
        if line.is_over() {
            return Ok(Some((at, None)));
        }
        let mut line = line.into_bytes();
        if line.last() == Some(&b'\r') {
            line.pop();
        }
        if !line.iter().all(u8::is_ascii_whitespace) {
            return Ok(Some((at, Some(line))));
        }
    }
}

/// Reads one line.
pub(super) fn parse(line: &[u8]) -> Result<Record, Reject> {
    let parts = split(line)?;
    let identity = std::str::from_utf8(parts.login).map_err(|_| Reject::NotUtf8)?.trim();
    let origin = Origin { id: String::new(), name: String::new(), kind: OriginKind::Combolist };
    let mut record = Record::new(Feed::Combolist, identity.to_owned(), origin);
    record.targets =
        parts.place.and_then(|place| std::str::from_utf8(place).ok()).and_then(target).into_iter().collect();
    let secret = || SecretBytes::new(parts.password.to_vec());
    let record = if parts.password.is_empty() {
        record
    } else if is_mask(parts.password) {
        record.with_secret(SecretForm::Masked, None)
    } else if is_hash(parts.password) {
        record.hashes.push(HashedSecret::whole(String::new(), secret()));
        record.with_secret(SecretForm::Hash, None)
    } else {
        record.with_secret(SecretForm::Plaintext, Some(secret()))
    };
    record.checked()
}

struct Parts<'a> {
    place: Option<&'a [u8]>,
    login: &'a [u8],
    password: &'a [u8],
}

fn split(line: &[u8]) -> Result<Parts<'_>, Reject> {
    if let Some(parts) = with_scheme(line) {
        return parts;
    }
    let (first, rest) = cut(line).ok_or(Reject::NoSeparator)?;
    let without_place = Parts { place: None, login: first, password: rest };
    let looks_like_place =
        !is_address_bytes(first) && (first.contains(&b'/') || std::str::from_utf8(first).is_ok_and(is_host));
    if !looks_like_place {
        return Ok(without_place);
    }
    let (place, rest) = with_port(line, rest).unwrap_or((first, rest));
    Ok(match cut(rest) {
        Some((login, password)) if !login.is_empty() => Parts { place: Some(place), login, password },
        _ => without_place,
    })
}

/// `scheme://host[:port][/path]:login:password`; `None` when the line does not begin with a scheme.
fn with_scheme(line: &[u8]) -> Option<Result<Parts<'_>, Reject>> {
    let scheme = line.iter().position(|b| *b == b':')?;
    let is_scheme = scheme > 0
        && line.get(..scheme)?.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.'))
        && line.get(scheme..scheme + 3) == Some(b"://");
    if !is_scheme {
        return None;
    }
    let start = scheme + 3;
    let rest = line.get(start..)?;
    // An IPv6 address has colons of its own, inside brackets.
    let bracket = if rest.first() == Some(&b'[') { rest.iter().position(|b| *b == b']')? } else { 0 };
    let host = bracket + rest.get(bracket..)?.iter().position(|b| matches!(b, b':' | b'/'))?;
    let mut end = start + host;
    if line.get(end) == Some(&b':')
        && let Some(after) = port(line.get(end + 1..)?)
    {
        let candidate = line.len() - after.len() - 1;
        // `https://host:12345:password` has a login of digits, not a port.
        if line.get(candidate) == Some(&b'/') || cut(after).is_some() {
            end = candidate;
        }
    }
    // The path may hold colons too: prefer the first colon that an address follows, else the first of all.
    let colons = || line.iter().enumerate().skip(end).filter(|(_, b)| **b == b':').map(|(at, _)| at);
    let followed_by_address =
        |at: &usize| line.get(at + 1..).and_then(cut).is_some_and(|(login, _)| is_address_bytes(login));
    let Some(colon) = colons().find(followed_by_address).or_else(|| colons().next()) else {
        return Some(Err(Reject::NoSeparator));
    };
    let (place, rest) = (line.get(..colon)?, line.get(colon + 1..)?);
    Some(cut(rest).ok_or(Reject::NoSeparator).map(|(login, password)| Parts {
        place: Some(place),
        login,
        password,
    }))
}

/// Place and rest of `host:port[/path]:login:password`, given what follows the first colon.
fn with_port<'a>(line: &'a [u8], rest: &[u8]) -> Option<(&'a [u8], &'a [u8])> {
    let separator = line.len() - port(rest)?.len() - 1;
    let end = separator + line.get(separator..)?.iter().position(|b| *b == b':')?;
    let after = line.get(end + 1..)?;
    cut(after)?;
    Some((line.get(..end)?, after))
}

/// What follows a port and the colon or slash after it. The byte before the result is that colon or slash.
fn port(text: &[u8]) -> Option<&[u8]> {
    let digits = text.iter().take_while(|b| b.is_ascii_digit()).count();
    let ends = matches!(text.get(digits), Some(b':' | b'/'));
    ((1..=5).contains(&digits) && ends).then(|| text.get(digits + 1..)).flatten()
}

fn cut(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let at = text.iter().position(|b| *b == b':')?;
    Some((text.get(..at)?, text.get(at + 1..)?))
}

fn is_address_bytes(text: &[u8]) -> bool {
    std::str::from_utf8(text).is_ok_and(|text| is_address(text.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> (Option<String>, String, String) {
        let record = parse(line.as_bytes()).unwrap();
        let secret =
            record.secret.map(|s| String::from_utf8(s.expose().to_vec()).unwrap()).unwrap_or_default();
        (record.targets.first().cloned(), record.identity, secret)
    }

    #[test]
    fn colons_in_urls_and_passwords_do_not_confuse_the_fields() {
        for (line, place, login, password) in [
            ("ann@example.com:pa:ss:word", None, "ann@example.com", "pa:ss:word"),
            ("ann:pa:ss", None, "ann", "pa:ss"),
            (
                "https://x.com/login:ann@example.com:p:w",
                Some("https://x.com/login"),
                "ann@example.com",
                "p:w",
            ),
            ("https://x.com:8443/a:ann:p", Some("https://x.com:8443/a"), "ann", "p"),
            ("https://x.com:8443:ann:p:q", Some("https://x.com:8443"), "ann", "p:q"),
            ("https://x.com:ann:p", Some("https://x.com"), "ann", "p"),
            ("https://x.com:12345:secret", Some("https://x.com"), "12345", "secret"),
            (
                "https://w.org/wiki/Special:Login:ann@example.com:p",
                Some("https://w.org/wiki/Special:Login"),
                "ann@example.com",
                "p",
            ),
            ("http://[2001:db8::1]:80/x:ann:p", Some("http://[2001:db8::1]:80/x"), "ann", "p"),
            ("android://k3y==@com.app/:ann:p", Some("android://com.app"), "ann", "p"),
            ("x.com/login:ann:p", Some("x.com/login"), "ann", "p"),
            ("x.com:ann@example.com:p", Some("x.com"), "ann@example.com", "p"),
            ("x.com:8443:ann:p", Some("x.com:8443"), "ann", "p"),
            ("x.com:8443/sso:ann:p", Some("x.com:8443/sso"), "ann", "p"),
            ("ann.lee:secret", None, "ann.lee", "secret"),
            ("CORP\\ann:secret", None, "CORP\\ann", "secret"),
            ("ann@example.com:https://not-a-place:x", None, "ann@example.com", "https://not-a-place:x"),
            ("ann@example.com: leading and trailing ", None, "ann@example.com", " leading and trailing "),
        ] {
            assert_eq!(
                read(line),
                (place.map(str::to_owned), login.to_owned(), password.to_owned()),
                "{line}"
            );
        }
    }

    #[test]
    fn what_is_no_password_is_never_called_one() {
        let form = |line: &str| parse(line.as_bytes()).unwrap().form;
        assert_eq!(form("ann@example.com:"), SecretForm::None);
        assert_eq!(form("ann@example.com:********"), SecretForm::Masked);
        assert_eq!(form("ann@example.com:5f4dcc3b5aa765d61d8327deb882cf99"), SecretForm::Hash);
        assert_eq!(form("ann@example.com:Winter2025"), SecretForm::Plaintext);
    }

    #[test]
    fn lines_that_are_no_credentials_are_refused_with_a_reason() {
        for (line, reason) in [
            (b"no separator at all".as_slice(), Reject::NoSeparator),
            (b":password", Reject::NoIdentity),
            (b"https://x.com/only", Reject::NoSeparator),
            (b"https://x.com/a:ann", Reject::NoSeparator),
            (b"\xff\xfe:password", Reject::NotUtf8),
            (b"a\x00b:password", Reject::BadIdentity),
        ] {
            assert_eq!(parse(line).unwrap_err(), reason);
        }
    }

    #[test]
    fn a_password_that_is_not_utf8_is_kept_as_it_is() {
        let record = parse(b"ann@example.com:caf\xe9").unwrap();
        assert_eq!(record.secret.unwrap().expose(), b"caf\xe9");
    }

    proptest::proptest! {
        #[test]
        fn no_line_makes_reading_panic(line in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
            drop(parse(&line));
        }
        #[test]
        fn an_address_and_whatever_follows_its_colon_come_back(password in "[ -~]{1,40}") {
            let record = parse(format!("ann@example.com:{password}").as_bytes()).unwrap();
            if record.form == SecretForm::Plaintext {
                assert_eq!(record.secret.unwrap().expose(), password.as_bytes());
            }
        }
    }
}
