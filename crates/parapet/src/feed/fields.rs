//! A JSON object seen field by field, without copying it: secrets are taken straight from the wiped text.

use std::collections::BTreeMap;

use serde_json::value::RawValue;
use shared::secret::SecretBytes;
use zeroize::Zeroizing;

use super::date::Span;

/// The members of an object. Absent, null and empty text read alike.
pub(super) struct Fields<'a>(BTreeMap<String, &'a RawValue>);

impl<'a> Fields<'a> {
    pub(super) fn parse(text: &'a str) -> Option<Self> {
        serde_json::from_str(text).ok().map(Self)
    }

    fn raw(&self, key: &str) -> Option<&'a str> {
        self.0.get(key).map(|raw| raw.get()).filter(|text| *text != "null")
    }

    pub(super) fn has(&self, key: &str) -> bool {
        self.raw(key).is_some()
    }

    pub(super) fn has_any(&self, keys: &[&str]) -> bool {
        keys.iter().any(|key| self.has(key))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &'a str)> {
        self.0.iter().map(|(key, raw)| (key.as_str(), raw.get()))
    }

    /// A string or number as trimmed text; for what is not secret.
    pub(super) fn text(&self, key: &str) -> Option<String> {
        let text = text_of(self.raw(key)?)?;
        let text = text.trim();
        (!text.is_empty()).then(|| text.to_owned())
    }

    /// The first of several fields that has text.
    pub(super) fn first_text(&self, keys: &[&str]) -> Option<String> {
        keys.iter().find_map(|key| self.text(key))
    }

    /// A string, byte for byte.
    pub(super) fn secret(&self, key: &str) -> Option<SecretBytes> {
        let raw = self.raw(key)?;
        let bytes = match raw.strip_prefix('"') {
            Some(quoted) => unescape(quoted.strip_suffix('"')?)?,
            None if raw.starts_with(|c: char| c.is_ascii_digit() || c == '-') => {
                Zeroizing::new(raw.as_bytes().to_vec())
            }
            None => return None,
        };
        (!bytes.is_empty()).then(|| SecretBytes::from(bytes))
    }

    pub(super) fn object(&self, key: &str) -> Option<Fields<'a>> {
        Self::parse(self.raw(key)?)
    }

    /// The elements of an array, as text.
    pub(super) fn array(&self, key: &str) -> Option<Vec<&'a str>> {
        elements(self.raw(key)?)
    }

    /// The objects of an array.
    pub(super) fn objects(&self, key: &str) -> Vec<Fields<'a>> {
        self.array(key).unwrap_or_default().into_iter().filter_map(Fields::parse).collect()
    }

    /// The texts of an array.
    pub(super) fn texts(&self, key: &str) -> Vec<String> {
        self.array(key).unwrap_or_default().into_iter().filter_map(text_of).collect()
    }

    pub(super) fn span(&self, key: &str) -> Option<Span> {
        Span::parse(&self.text(key)?)
    }

    pub(super) fn first_span(&self, keys: &[&str]) -> Option<Span> {
        keys.iter().find_map(|key| self.span(key))
    }
}

/// The elements of an array, as text; `None` when it is no array.
pub(super) fn elements(text: &str) -> Option<Vec<&str>> {
    serde_json::from_str::<Vec<&RawValue>>(text).ok().map(|all| all.into_iter().map(RawValue::get).collect())
}

/// A string's or number's text.
pub(super) fn text_of(raw: &str) -> Option<String> {
    if raw.starts_with('"') {
        return serde_json::from_str(raw).ok();
    }
    raw.starts_with(|c: char| c.is_ascii_digit() || c == '-').then(|| raw.to_owned())
}

/// Decodes the inside of a JSON string without leaving copies behind, which a general parser's scratch space would.
fn unescape(text: &str) -> Option<Zeroizing<Vec<u8>>> {
    // Decoding never makes a string longer, so the buffer never moves.
    let mut out = Zeroizing::new(Vec::with_capacity(text.len()));
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        let (plain, escape) = rest.split_at(at);
        out.extend_from_slice(plain.as_bytes());
        let mut chars = escape.chars();
        chars.next();
        let decoded = match chars.next()? {
            c @ ('"' | '\\' | '/') => c,
            'b' => '\u{8}',
            'f' => '\u{c}',
            'n' => '\n',
            'r' => '\r',
            't' => '\t',
            'u' => {
                let (unit, after) = code_unit(chars.as_str())?;
                chars = after.chars();
                if (0xD800..0xDC00).contains(&unit) {
                    let (low, after) = code_unit(after.strip_prefix("\\u")?)?;
                    chars = after.chars();
                    char::decode_utf16([unit, low]).next()?.ok()?
                } else {
                    char::from_u32(u32::from(unit))?
                }
            }
            _ => return None,
        };
        out.extend_from_slice(decoded.encode_utf8(&mut [0; 4]).as_bytes());
        rest = chars.as_str();
    }
    out.extend_from_slice(rest.as_bytes());
    Some(out)
}

fn code_unit(text: &str) -> Option<(u16, &str)> {
    let (digits, rest) = text.split_at_checked(4)?;
    if !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    Some((u16::from_str_radix(digits, 16).ok()?, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_decoded_byte_for_byte() {
        let json = r#"{"a":"p\"\\\/\u00e9\ud83d\ude00\n ","b":123456,"c":null,"d":"","e":"\ud83d","f":true}"#;
        let fields = Fields::parse(json).unwrap();
        assert_eq!(fields.secret("a").unwrap().expose(), "p\"\\/é😀\n ".as_bytes());
        assert_eq!(fields.secret("b").unwrap().expose(), b"123456");
        for absent in ["c", "d", "e", "f", "g"] {
            assert!(fields.secret(absent).is_none(), "{absent}");
        }
    }

    proptest::proptest! {
        #[test]
        fn decoding_agrees_with_the_general_parser(text in "\\PC*") {
            let json = format!("{{\"k\":{}}}", serde_json::to_string(&text).unwrap());
            let fields = Fields::parse(&json).unwrap();
            assert_eq!(fields.secret("k").map(|s| s.expose().to_vec()).unwrap_or_default(), text.as_bytes());
        }
        #[test]
        fn no_text_makes_decoding_panic(text in ".*") {
            drop(unescape(&text));
            drop(Fields::parse(&text));
        }
    }
}
