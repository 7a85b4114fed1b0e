//! Every shape is read from a sample; garbage is counted, never dropped, and never makes the reader panic.

use std::{
    fmt::Write as _,
    io::{Cursor, Read},
};

use proptest::prelude::*;
use time::macros::datetime;

use super::*;

macro_rules! sample {
    ($name:literal) => {
        include_bytes!(concat!("../../../../tests/fixtures/feeds/", $name))
    };
}

fn read(bytes: &[u8]) -> Vec<Entry> {
    read_with(bytes, None)
}

fn read_with(bytes: &[u8], domain: Option<&str>) -> Vec<Entry> {
    let mut records = Records::open(bytes, domain).unwrap();
    let mut all = Vec::new();
    while let Some(entry) = records.next_entry().unwrap() {
        assert_eq!(entry.ordinal, all.len() as u64);
        all.push(entry);
    }
    all
}

fn row(entry: &Entry) -> String {
    match &entry.record {
        Ok(r) => {
            let secret = r.secret.as_ref().map(|s| String::from_utf8_lossy(s.expose()).into_owned());
            format!("{} {} {} {}", r.feed, r.identity, r.form, secret.unwrap_or_default())
                .trim_end()
                .to_owned()
        }
        Err(reject) => format!("rejected {}", reject.as_str()),
    }
}

fn rows(bytes: &[u8]) -> Vec<String> {
    read(bytes).iter().map(row).collect()
}

fn record(entry: &Entry) -> &Record {
    entry.record.as_ref().unwrap()
}

fn cookies(record: &Record) -> Vec<&str> {
    record.cookies.iter().filter_map(|c| c.value.as_ref()?.expose_str()).collect()
}

#[test]
fn flare_searches_are_read_across_empty_pages_and_the_hash_field_is_judged_by_content() {
    let bytes = sample!("flare_search.json");
    assert_eq!(
        rows(bytes),
        [
            "flare ann@example.com plaintext Sample-Plain-1",
            "flare bob@example.com hash",
            "flare cat@example.com plaintext Sample-Plain-3",
            "flare dan@example.com hash",
            "flare eve@example.com none",
            "rejected no_identity",
            "flare fay@example.com masked",
        ]
    );
    let entries = read(bytes);
    let first = record(&entries[0]);
    assert_eq!(first.external_id.as_deref(), Some("9001"));
    assert_eq!(first.targets, ["https://login.example.com"]);
    assert_eq!(first.published_at, Some(datetime!(2026-01-02 0:00 UTC)));
    assert_eq!(first.first_seen_at, Some(datetime!(2026-01-05 10:00 UTC)));
    assert_eq!(first.origin.kind, OriginKind::Combolist);
    assert_eq!(entries[1].at.line, 4);
}

#[test]
fn flare_events_and_logs_are_read_and_a_broken_line_costs_only_itself() {
    let bytes = sample!("flare_events.ndjson");
    assert_eq!(
        rows(bytes),
        [
            "flare ann@example.com plaintext Sample-\"Quoted\"-é",
            "flare ann@example.com plaintext Sample-Log-1",
            "flare ann plaintext Sample-Log-2",
            "rejected other_event",
            "rejected malformed",
            "flare bob@example.com plaintext Sample-3",
        ]
    );
    let entries = read(bytes);
    let log = record(&entries[1]);
    assert_eq!(log.captured_before, Some(datetime!(2026-01-01 8:00 UTC)));
    assert_eq!((log.origin.kind, log.severity), (OriginKind::Stealer, Some(95)));
    assert_eq!(cookies(log), ["Sample-Cookie-1"]);
    assert!(record(&entries[2]).cookies.is_empty());
    assert_eq!(entries[4].at.line, 4);
}

#[test]
fn an_old_stealer_log_gives_its_credentials_what_follows_them() {
    let bytes = sample!("flare_stealer_old.json");
    let entries = read(bytes);
    assert_eq!(rows(bytes), ["flare ann@example.com plaintext Sample-Old-1", "rejected no_identity"]);
    let first = record(&entries[0]);
    assert_eq!(first.precision, Some(Precision::Day));
    assert_eq!(cookies(first), ["Sample-Cookie-3"]);
}

#[test]
fn spycloud_masks_are_exactly_eight_asterisks_and_cracked_is_not_plaintext() {
    let bytes = sample!("spycloud.json");
    assert_eq!(
        rows(bytes),
        [
            "spycloud ann@example.com plaintext Sample-Spy-1",
            "spycloud bob@example.com cracked Sample-Spy-2",
            "spycloud cat@example.com masked",
            "spycloud dan plaintext *********",
            "spycloud eve@example.com hash",
            "spycloud fay@example.com none",
        ]
    );
    let entries = read(bytes);
    assert!(record(&entries[1]).hashes.is_empty(), "a hash of a known password is not kept");
    assert_eq!(record(&entries[3]).captured_before, Some(datetime!(2025-12-01 10:00 UTC)));
    assert_eq!(cookies(record(&entries[5])), ["Sample-Cookie-4"]);
    assert_eq!(record(&entries[0]).external_id.as_deref(), Some("11111111-1111-4111-8111-111111111111"));
}

#[test]
fn recorded_future_hints_are_never_secrets() {
    let bytes = sample!("recorded_future.json");
    assert_eq!(
        rows(bytes),
        [
            "recorded_future ann@example.com plaintext Sample-RF-1",
            "recorded_future bob@example.com hint",
            "recorded_future cat@example.com cracked Sample-RF-3",
        ]
    );
    let entries = read(bytes);
    assert_eq!(record(&entries[0]).captured_before, Some(datetime!(2026-01-01 0:00 UTC)));
    assert_eq!(record(&entries[1]).precision, Some(Precision::Year));
    assert!(record(&entries[1]).captured_before.unwrap() >= datetime!(2024-12-31 0:00 UTC));
    assert_eq!(record(&entries[2]).severity, Some(75));
    assert_eq!(record(&entries[2]).targets, ["https://vpn.example.com/x"]);
    assert_eq!(
        rows(sample!("recorded_future_lookup.json")),
        ["recorded_future ann@example.com plaintext Sample-RF-4", "recorded_future ann@example.com hash"]
    );
}

#[test]
fn hudson_rock_and_hibp_are_read() {
    assert_eq!(
        rows(sample!("hudson_rock.json")),
        [
            "hudson_rock ann@example.com plaintext Sample-HR-1",
            "hudson_rock bob@example.com masked",
            "hudson_rock ann@example.com plaintext Sample-HR-2",
        ]
    );
    let bytes = sample!("hibp_domain.json");
    let entries = read_with(bytes, Some("example.com"));
    let identities: Vec<_> = entries.iter().map(|e| record(e).identity.as_str()).collect();
    assert_eq!(identities, ["ann@example.com", "ann@example.com", "bob@example.com", "cat@example.com"]);
    assert_eq!(record(&entries[0]).external_id.as_deref(), Some("Adobe:ann@example.com"));
    assert_eq!(record(&entries[3]).targets, ["shop.example.org", "mail.example.net"]);
    assert!(rows(bytes).iter().all(|row| row == "rejected no_domain"));
}

#[test]
fn text_lists_are_read_line_by_line() {
    let entries = read(sample!("combolist.txt"));
    let summary: Vec<_> = entries.iter().map(row).collect();
    assert_eq!(
        summary,
        [
            "combolist ann@example.com plaintext Sample:Text:1",
            "combolist bob@example.com plaintext Sample-Text-2",
            "combolist cat@example.com plaintext Sample-Text-3",
            "rejected no_separator",
            "combolist dan@example.com masked",
            "combolist eve@example.com plaintext caf\u{fffd}",
        ]
    );
    assert_eq!(entries[3].at.line, 5);
}

#[test]
fn the_same_records_come_out_of_every_wrapping() {
    let one = |n: usize| format!(r#"{{"id":{n},"identity_name":"u{n}@example.com","hash":"Sample-{n}"}}"#);
    let all: Vec<String> = (0..7).map(one).collect();
    let array = format!("[{}]", all.join(","));
    let envelope = format!(r#"{{"next":null,"items":[{}]}}"#, all.join(",\n"));
    let expected = rows(array.as_bytes());
    assert_eq!(expected.len(), 7);
    for wrapped in [
        all.join("\n"),
        all.join("\r\n\r\n"),
        all.join(" "),
        envelope.clone(),
        format!("[{envelope}]"),
        format!("\u{feff}{array}"),
        format!(" \n {array} \n"),
        format!(r#"{{"items":[],"next":"a"}}{envelope}"#),
    ] {
        assert_eq!(rows(wrapped.as_bytes()), expected, "{wrapped}");
    }
    assert_eq!(rows(one(1).as_bytes()).len(), 1);
}

#[test]
fn an_export_that_stops_at_a_named_further_page_says_so() {
    let stats = |text: &str| {
        let mut records = Records::open(text.as_bytes(), None).unwrap();
        while records.next_entry().unwrap().is_some() {}
        records.stats()
    };
    assert!(stats(r#"{"items":[],"next":"more"}"#).continues);
    assert!(!stats(r#"{"items":[],"next":null}"#).continues);
    assert!(!stats(r#"{"results":[],"cursor":""}"#).continues);
}

#[test]
fn files_that_cannot_be_read_say_what_to_do() {
    let open = |bytes: &'static [u8]| Records::open(bytes, None).err().unwrap();
    assert!(matches!(open(b"\x1f\x8b\x08"), OpenError::Compressed));
    assert!(matches!(open(b"\xff\xfea\0"), OpenError::Utf16));
    assert!(matches!(open(b"ab\0cd"), OpenError::Binary));
    assert!(matches!(open(b" \n"), OpenError::Empty));
}

#[test]
fn a_record_of_any_size_is_refused_without_being_held_and_the_next_one_is_read() {
    let huge = "x".repeat(5 * 1024 * 1024);
    let good = r#"{"id":1,"identity_name":"ann@example.com","hash":"Sample-1"}"#;
    let text = format!(r#"[{{"identity_name":"{huge}"}},{good}]"#);
    assert_eq!(rows(text.as_bytes()), ["rejected too_large", "flare ann@example.com plaintext Sample-1"]);
    let lines = format!("{huge}:secret\nann@example.com:Sample-1\n");
    assert_eq!(
        rows(lines.as_bytes()),
        ["rejected line_too_long", "combolist ann@example.com plaintext Sample-1"]
    );
}

#[test]
fn a_map_larger_than_memory_allows_is_read_in_pieces() {
    let mut text = String::from("{");
    for n in 0..120_000 {
        write!(text, r#"{}"alias{n:06}":["Adobe","LinkedIn"]"#, if n == 0 { "" } else { "," }).unwrap();
    }
    text.push('}');
    assert!(text.len() > 4 * 1024 * 1024);
    assert_eq!(read_with(text.as_bytes(), Some("example.com")).len(), 240_000);
}

/// Endless text of one envelope, to see that memory does not grow with it.
struct Endless {
    left: u64,
    pending: Cursor<Vec<u8>>,
}

impl Read for Endless {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        loop {
            let read = self.pending.read(buffer)?;
            if read > 0 || self.left == 0 {
                return Ok(read);
            }
            self.left -= 1;
            let n = self.left;
            self.pending = Cursor::new(
                format!(
                    r#"{{"id":{n},"identity_name":"u{n}@example.com","hash":"Sample-{n}","pad":"{}"}},"#,
                    "p".repeat(400)
                )
                .into_bytes(),
            );
        }
    }
}

#[test]
fn one_envelope_of_any_size_is_read_record_by_record() {
    let reader = Endless { left: 60_000, pending: Cursor::new(br#"{"next":null,"items":["#.to_vec()) };
    let mut records = Records::open(reader, None).unwrap();
    let (mut count, mut behind) = (0_u64, 0);
    while let Some(entry) = records.next_entry().unwrap() {
        // What is held back is bounded: the reader is never far ahead of what it hands out.
        behind = behind.max(records.position().offset - entry.at.offset);
        count += 1;
    }
    assert_eq!(count, 60_001, "60,000 records, and the end that is missing");
    assert!(behind < 6 * 1024 * 1024, "{behind} bytes held back");
}

#[test]
fn no_error_quotes_the_file() {
    for bytes in [
        b"ann@example.com Sample-Secret".as_slice(),
        br#"{"hash":"Sample-Secret"}"#,
        br#"[{"identity_name":"a","hash":"Sample-Secret"#,
        br#"{"document_id":"1","source_id":2,"password":"Sample-Secret"}"#,
    ] {
        for entry in read(bytes) {
            let text = format!("{entry:?} {}", entry.record.as_ref().unwrap_err());
            assert!(!text.contains("Sample-Secret"), "{text}");
        }
    }
}

fn mutated(sample: &'static [u8]) -> impl Strategy<Value = Vec<u8>> {
    proptest::collection::vec((0..sample.len(), any::<u8>(), 0..3_u8), 0..12).prop_map(move |edits| {
        let mut bytes = sample.to_vec();
        for (at, byte, kind) in edits {
            let at = at.min(bytes.len().saturating_sub(1));
            match kind {
                0 => bytes[at] = byte,
                1 => bytes.insert(at, byte),
                _ => bytes.truncate(at.max(1)),
            }
        }
        bytes
    })
}

fn survives(bytes: &[u8]) {
    let Ok(mut records) = Records::open(bytes, Some("example.com")) else { return };
    let (mut ordinal, mut offset) = (0, 0);
    while let Some(entry) = records.next_entry().unwrap() {
        assert_eq!(entry.ordinal, ordinal);
        assert!(entry.at.offset >= offset && entry.at.offset <= bytes.len() as u64);
        (ordinal, offset) = (ordinal + 1, entry.at.offset);
        assert!(ordinal <= bytes.len() as u64 + 1, "more entries than bytes");
        if let Ok(record) = &entry.record {
            let testable = matches!(record.form, SecretForm::Plaintext | SecretForm::Cracked);
            assert_eq!(testable, record.secret.is_some());
        }
    }
    assert_eq!(records.position().offset, bytes.len() as u64, "every byte was looked at");
}

proptest! {
    #[test]
    fn garbage_is_counted_and_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        survives(&bytes);
    }
    #[test]
    fn almost_json_is_counted_and_never_panics(text in r#"[\[\]{}:,"\\a \n0-9]{0,300}"#) {
        survives(text.as_bytes());
    }
    #[test]
    fn damaged_samples_are_counted_and_never_panic(
        bytes in prop_oneof![
            mutated(sample!("flare_search.json")),
            mutated(sample!("flare_events.ndjson")),
            mutated(sample!("flare_stealer_old.json")),
            mutated(sample!("spycloud.json")),
            mutated(sample!("recorded_future.json")),
            mutated(sample!("hudson_rock.json")),
            mutated(sample!("hibp_domain.json")),
            mutated(sample!("combolist.txt")),
        ]
    ) {
        survives(&bytes);
    }
    #[test]
    fn every_record_of_a_list_with_faults_between_is_accounted_for(good in proptest::collection::vec(any::<bool>(), 1..60)) {
        let lines: Vec<String> = good
            .iter()
            .enumerate()
            .map(|(n, good)| if *good { format!(r#"{{"id":{n},"identity_name":"u{n}","hash":"p"}}"#) } else { r#"{"nothing":1}"#.into() })
            .collect();
        for text in [lines.join("\n"), format!("[{}]", lines.join(","))] {
            let entries = read(text.as_bytes());
            prop_assert_eq!(entries.len(), good.len());
            for (entry, good) in entries.iter().zip(&good) {
                prop_assert_eq!(entry.record.is_ok(), *good);
            }
        }
    }
}
