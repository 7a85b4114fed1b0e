//! How a secret may be written where it should not be (reliability.md §4.3): what the search looks for, and, made by other
//! means, what a leak looks like.

use base64::{
    Engine,
    engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD},
};

/// A kind of spelling.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Spelling {
    /// As it is, or within quotes: as JSON, as Rust's `{:?}`, either within the other, however deep.
    Text,
    /// With `%XX`.
    Url,
    /// With `\u00XX`.
    Unicode,
    /// Base64 in either alphabet, at any offset within what was encoded.
    Base64,
    /// Hexadecimal digits.
    Hex,
    /// A list of decimal numbers, as `{:?}` of bytes.
    Decimal,
    /// Two bytes a character, in either order.
    Utf16,
}

/// What neither the search nor what it searches keeps: backslashes, so that it does not matter how deep something is
/// quoted, and white space, so that it does not matter where lines are broken.
pub(super) fn is_dropped(byte: u8) -> bool {
    matches!(byte, b'\\' | b' ' | b'\t' | b'\r' | b'\n')
}

/// As much of a pattern is looked for: what is cut off in a log is a leak as well, and the search takes less memory.
const LONGEST: usize = 24;

/// What to look for, without what [`is_dropped`]; each once.
pub(super) fn patterns(secret: &str) -> Vec<(Spelling, Vec<u8>)> {
    let mut all: Vec<(Spelling, Vec<u8>)> = spelled(secret)
        .into_iter()
        .map(|(spelling, text)| {
            let kept = text.into_iter().filter(|byte| !is_dropped(*byte)).take(LONGEST).collect();
            (spelling, kept)
        })
        .filter(|(_, pattern): &(_, Vec<u8>)| !pattern.is_empty())
        .collect();
    // A secret of letters is the same in several spellings: it is named by the first.
    all.sort_by(|(spelling, a), (other, b)| a.cmp(b).then(spelling.cmp(other)));
    all.dedup_by(|(_, a), (_, b)| a == b);
    all
}

fn spelled(secret: &str) -> Vec<(Spelling, Vec<u8>)> {
    let bytes = secret.as_bytes();
    let form: String = url::form_urlencoded::byte_serialize(bytes).collect();
    let percent = |upper: bool, kept: &[u8]| -> Vec<u8> {
        let one = |byte: &u8| match byte {
            byte if byte.is_ascii_alphanumeric() || kept.contains(byte) => vec![*byte],
            byte if upper => format!("%{byte:02X}").into_bytes(),
            byte => format!("%{byte:02x}").into_bytes(),
        };
        bytes.iter().flat_map(one).collect()
    };
    let mut all = vec![
        (Spelling::Text, bytes.to_vec()),
        (Spelling::Text, bytes.escape_ascii().collect()),
        (Spelling::Url, form.to_lowercase().into_bytes()),
        (Spelling::Url, form.into_bytes()),
        (Spelling::Hex, hex::encode(bytes).into_bytes()),
        (Spelling::Hex, hex::encode_upper(bytes).into_bytes()),
        (Spelling::Decimal, bytes.iter().map(u8::to_string).collect::<Vec<_>>().join(",").into_bytes()),
        (Spelling::Utf16, secret.encode_utf16().flat_map(u16::to_le_bytes).collect()),
        (Spelling::Utf16, secret.encode_utf16().flat_map(u16::to_be_bytes).collect()),
    ];
    // What is left as it is by RFC 3986, JavaScript's encodeURIComponent, and the crate url in a path and in a query.
    let (path, query) = (b"-._~!$&'()*+,;=:@|[]", b"-._~!$&()*+,;=:@|[]/?\\^`{}%");
    for kept in [b"-._~".as_slice(), b"-._~!'()*", path, query] {
        all.extend([true, false].map(|upper| (Spelling::Url, percent(upper, kept))));
    }
    // What Go and .NET take for dangerous in HTML, what others do with all that is not ASCII, and everything.
    let chosen: [fn(char) -> bool; 4] =
        [|c| "<>&".contains(c), |c| "<>&'\"+`".contains(c) || !c.is_ascii(), |c| !c.is_ascii(), |_| true];
    for chosen in chosen {
        all.extend([true, false].map(|upper| (Spelling::Unicode, escaped(secret, chosen, upper))));
    }
    for (lead, skip) in [(0, 0), (1, 2), (2, 3)] {
        // Base64 depends on the position in the encoded text: encode at three offsets, cut what the neighbours touch.
        let text = [&vec![b'\0'; lead], bytes].concat();
        for encoded in [STANDARD_NO_PAD.encode(&text), URL_SAFE_NO_PAD.encode(&text)] {
            let own = encoded.get(skip..text.len() * 8 / 6).unwrap_or(&encoded);
            all.push((Spelling::Base64, own.as_bytes().to_vec()));
        }
    }
    all
}

/// With `uXXXX` in place of what is chosen; the backslash before it would be dropped.
fn escaped(secret: &str, chosen: impl Fn(char) -> bool, upper: bool) -> Vec<u8> {
    let mut text = String::new();
    for c in secret.chars() {
        if !chosen(c) {
            text.push(c);
            continue;
        }
        for unit in c.encode_utf16(&mut [0; 2]) {
            let unit = if upper { format!("u{unit:04X}") } else { format!("u{unit:04x}") };
            text.push_str(&unit);
        }
    }
    text.into_bytes()
}

/// Addresses with the secret in path and query, as a client would write them into an error.
fn addresses(secret: &str) -> Vec<url::Url> {
    let Ok(host) = url::Url::parse("https://login.example") else { return Vec::new() };
    let (mut path, mut query) = (host.clone(), host);
    if let Ok(mut segments) = path.path_segments_mut() {
        segments.push(secret);
    }
    query.set_query(Some(secret));
    vec![path, query]
}

/// What this secret looks like where it leaks, in every spelling and in each way of getting it: for the proof that the
/// search finds it. Made by what makes it in life wherever that is at hand, not by what the search is made of.
pub fn leaks(secret: &str) -> Vec<(Spelling, Vec<u8>)> {
    let bytes = secret.as_bytes();
    let json = serde_json::Value::from(secret).to_string();
    let listed = |written: Vec<String>| written.concat();
    let (units, hex) = (|| secret.encode_utf16(), || bytes.iter());
    let mut all = vec![
        (Spelling::Text, secret.to_owned()),
        (Spelling::Text, format!("{secret:?}")),
        (Spelling::Text, format!("{:?}", Some(format!("{secret:?}")))),
        (Spelling::Text, serde_json::Value::from(json.as_str()).to_string()),
        (Spelling::Text, json.replace('/', "\\/")),
        (Spelling::Text, json),
        (Spelling::Unicode, listed(units().map(|unit| format!("\\u{unit:04x}")).collect())),
        (Spelling::Unicode, listed(units().map(|unit| format!("\\u{unit:04X}")).collect())),
        (
            Spelling::Url,
            url::form_urlencoded::Serializer::new(String::new()).append_pair("p", secret).finish(),
        ),
        (Spelling::Hex, listed(hex().map(|byte| format!("{byte:02x}")).collect())),
        (Spelling::Hex, listed(hex().map(|byte| format!("{byte:02X}")).collect())),
        (Spelling::Decimal, format!("{bytes:?}")),
        (Spelling::Decimal, format!("{bytes:#?}")),
        (Spelling::Decimal, serde_json::Value::from(bytes).to_string()),
    ];
    all.extend(addresses(secret).into_iter().map(|address| (Spelling::Url, address.to_string())));
    for lead in ["", "1", "22"] {
        let text = format!("{lead}{secret}, and more");
        let wrapped: Vec<String> = STANDARD
            .encode(&text)
            .as_bytes()
            .chunks(19)
            .map(|line| line.escape_ascii().to_string())
            .collect();
        all.push((Spelling::Base64, STANDARD.encode(&text)));
        all.push((Spelling::Base64, URL_SAFE.encode(&text)));
        all.push((Spelling::Base64, wrapped.join("\r\n")));
    }
    let mut all: Vec<_> = all.into_iter().map(|(spelling, text)| (spelling, text.into_bytes())).collect();
    all.push((Spelling::Utf16, units().flat_map(u16::to_le_bytes).collect()));
    all.push((Spelling::Utf16, units().flat_map(u16::to_be_bytes).collect()));
    all
}
