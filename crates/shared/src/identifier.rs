//! Identifiers: strings by which a leak names a person, brought into the one form in which they are compared.
//!
//! Directory side (sync) and feed side (ingest) use the same function; a match is equality of its results.

use unicode_normalization::UnicodeNormalization;

/// Longest identifier, in bytes: 64 for the local part, 1 for `@`, 255 for the domain (RFC 5321 §4.5.3.1).
pub const MAX_BYTES: usize = 320;

/// What an identifier looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// An e-mail address, or a sign-in name of that form.
    Email,
    /// A plain user name.
    Username,
}

/// The comparable form: without surrounding white space and `DOMAIN\`, lower case, Unicode NFC.
/// `None`: nothing is left, it is too long, or it holds control characters, so that it can name nobody.
pub fn normalise(text: &str) -> Option<String> {
    let text = text.trim();
    let name = text.rsplit_once('\\').map_or(text, |(_, name)| name).trim_start();
    if name.is_empty() || name.len() > 4 * MAX_BYTES {
        return None;
    }
    // Lower-casing can undo the composition, so it is composed once more afterwards.
    let composed: String = name.nfc().collect();
    let folded: String = composed.to_lowercase().nfc().collect();
    let usable = folded.len() <= MAX_BYTES && !folded.chars().any(char::is_control);
    usable.then_some(folded)
}

/// The shape of a normalised identifier.
pub fn shape(normalised: &str) -> Shape {
    match normalised.rsplit_once('@') {
        Some((local, domain))
            if !local.is_empty() && is_domain(domain) && !normalised.contains(char::is_whitespace) =>
        {
            Shape::Email
        }
        _ => Shape::Username,
    }
}

fn is_domain(text: &str) -> bool {
    text.len() <= 255
        && text.split('.').all(|label| {
            !label.is_empty()
                && label.len() <= 63
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label.chars().all(|c| c.is_alphanumeric() || c == '-')
        })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn spellings_of_one_person_become_equal() {
        for text in
            ["Ann@Example.com", "  ann@example.com\t", "CORP\\ann@example.com", "corp\\ ANN@EXAMPLE.COM"]
        {
            assert_eq!(normalise(text).as_deref(), Some("ann@example.com"), "{text:?}");
        }
        assert_eq!(normalise("JOSE\u{301}@x.es"), normalise("josé@x.es"));
        assert_eq!(normalise("CORP\\jdoe").as_deref(), Some("jdoe"));
    }

    #[test]
    fn what_can_name_nobody_is_refused() {
        for text in ["", "   ", "CORP\\", "a\u{0}b", &"x".repeat(321)] {
            assert_eq!(normalise(text), None, "{text:?}");
        }
    }

    #[test]
    fn an_address_is_told_from_a_user_name() {
        assert_eq!(shape("ann@example.com"), Shape::Email);
        for text in ["ann", "ann@", "@example.com", "ann smith@example.com", "ann@-x.com", "ann@x..com"] {
            assert_eq!(shape(text), Shape::Username, "{text}");
        }
    }

    proptest! {
        #[test]
        fn normalising_twice_changes_nothing(text in "\\PC{0,80}") {
            if let Some(once) = normalise(&text) {
                prop_assert_eq!(normalise(&once), Some(once.clone()));
            }
        }
    }
}
