//! Files of leaked credentials, from `parapet feed import` as it is typed to the API's tables: every record has an
//! outcome, whatever is repeated, broken or cut off.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    path::{Path, PathBuf},
    time::Duration,
};

use e2e::Proxy;
use serde::Deserialize;
use serde_json::{Value, json};
use shared::wire::v1::{self, exposure_service_client::ExposureServiceClient};
use tonic::Code;
use tonic_types::StatusExt as _;

use crate::api_stage::{Desk, Stage};

const RECORDS: &str = "SELECT count(*) FROM api.feed_records";

macro_rules! sample {
    ($name:literal) => {
        include_bytes!(concat!("../fixtures/feeds/", $name)).as_slice()
    };
}

/// What the command says of its files.
#[derive(Debug, Deserialize)]
struct Imported {
    records: u64,
    accepted: u64,
    duplicates: u64,
    rejected: u64,
    files: Vec<File>,
}

#[derive(Debug, Deserialize)]
struct File {
    format: String,
    by_feed: BTreeMap<String, u64>,
    rejected_by_reason: BTreeMap<String, u64>,
    repeated_batches: u64,
}

impl Imported {
    fn counts(&self) -> (u64, u64, u64) {
        assert_eq!(self.accepted + self.duplicates + self.rejected, self.records, "{self:?}");
        (self.accepted, self.duplicates, self.rejected)
    }
}

/// What became of one record.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
struct Entry {
    line: u64,
    offset: u64,
    outcome: String,
    #[serde(default)]
    reason: String,
    #[serde(default)]
    external_id: Option<String>,
}

struct Import {
    desk: Desk,
}

impl Import {
    fn at(stage: &Stage) -> Self {
        Self { desk: stage.desk("feeds", &["feed_writer"]) }
    }

    /// Imports one file and returns what the command said, and what it wrote of each record.
    async fn file(&self, file: &Path) -> (Imported, Vec<Entry>) {
        let outcomes = self.desk.dir.path().join("outcomes.ndjson");
        let line = format!("feed import {} --outcomes {}", file.display(), outcomes.display());
        let said: Imported = serde_json::from_value(self.desk.asks(&line).await).unwrap();
        let outcomes = read(&outcomes);
        assert_eq!(outcomes.len() as u64, said.records, "every record has one outcome");
        (said, outcomes)
    }
}

fn read(outcomes: &Path) -> Vec<Entry> {
    let text = std::fs::read_to_string(outcomes).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// A SpyCloud export, one record per line, each with an id of its own.
fn spycloud(records: std::ops::Range<u32>) -> Vec<String> {
    let record = |n| {
        json!({"document_id": format!("00000000-0000-4000-8000-{n:012}"), "source_id": 40_001,
            "spycloud_publish_date": "2026-01-05T00:00:00Z", "email": format!("user{n}@example.com"),
            "password": format!("Sample-{n}"), "password_type": "plaintext",
            "password_plaintext": format!("Sample-{n}"), "severity": 20})
    };
    records.map(|n| record(n).to_string()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_shape_is_recognised_by_its_content_and_every_record_has_an_outcome() {
    let stage = Stage::new().await;
    let import = Import::at(&stage);
    let mut stored = 0;
    // Format, feed, and how many are accepted and rejected. The names say nothing of the content.
    for (number, (content, format, feed, accepted, rejected)) in [
        (sample!("flare_search.json"), "JSON", "flare", 6, vec!["no_identity"]),
        (sample!("flare_events.ndjson"), "NDJSON", "flare", 4, vec!["malformed", "other_event"]),
        (sample!("flare_stealer_old.json"), "JSON", "flare", 1, vec!["no_identity"]),
        (sample!("spycloud.json"), "JSON", "spycloud", 6, vec![]),
        (sample!("recorded_future.json"), "JSON", "recorded_future", 3, vec![]),
        (sample!("recorded_future_lookup.json"), "JSON", "recorded_future", 2, vec![]),
        (sample!("hudson_rock.json"), "JSON", "hudson_rock", 3, vec![]),
        (sample!("hibp_domain.json"), "JSON", "hibp", 0, vec!["no_domain"; 3]),
        (sample!("combolist.txt"), "text", "combolist", 5, vec!["no_separator"]),
    ]
    .into_iter()
    .enumerate()
    {
        let file = import.desk.file(&format!("leak-{number}"), content);
        let (said, outcomes) = import.file(&file).await;
        assert_eq!(said.counts(), (accepted, 0, rejected.len() as u64), "{feed} {said:?}");
        assert_eq!(said.files[0].format, format, "{feed}");
        let feeds: Vec<_> = said.files[0].by_feed.keys().map(String::as_str).collect();
        assert!(feeds == [feed] || accepted == 0, "{feeds:?}");
        let mut reasons: Vec<_> =
            outcomes.iter().filter(|o| o.outcome == "rejected").map(|o| o.reason.as_str()).collect();
        reasons.sort_unstable();
        assert_eq!(reasons, rejected, "{feed}");
        assert!(outcomes.iter().all(|o| o.outcome != "accepted" || o.external_id.is_some()));
        stored += i64::try_from(accepted).unwrap();
    }
    // What HIBP leaves out of its domain results, the domain itself, comes with the command.
    let file = import.desk.file("leak", sample!("hibp_domain.json"));
    let said = import.desk.asks(&format!("feed import {} --domain example.com", file.display())).await;
    assert_eq!((&said["accepted"], &said["rejected"]), (&json!(4), &json!(0)), "{said}");
    assert_eq!(stage.bus.count(RECORDS).await, stored + 4);
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_array_lines_and_the_vendors_envelope_hold_the_same_records() {
    let stage = Stage::new().await;
    let import = Import::at(&stage);
    let flare =
        |n| json!({"id": n, "identity_name": format!("u{n}@example.com"), "hash": format!("Sample-{n}")});
    let spycloud = |n| serde_json::from_str::<Value>(&spycloud(n..n + 1)[0]).unwrap();
    let future = |n| {
        json!({"id": format!("rf-{n}"), "type": "Workforce", "subject": format!("u{n}@example.com"),
            "password": {"type": "clear", "hashes": [], "cleartext": format!("Sample-{n}")},
            "dump": {"name": "d"}, "created": "2026-01-05T00:00:00Z"})
    };
    let enveloped =
        |records: &[Value], list: &str, more: &str| json!({list: records, more: null}).to_string();
    let feeds: [(&str, [&str; 2], Vec<Value>); 3] = [
        ("flare", ["items", "next"], (0..3).map(flare).collect()),
        ("spycloud", ["results", "cursor"], (0..3).map(spycloud).collect()),
        ("recorded_future", ["detections", "next"], (0..3).map(future).collect()),
    ];
    for (feed, [list, more], records) in feeds {
        let lines: Vec<_> = records.iter().map(Value::to_string).collect();
        for (number, (text, format)) in [
            (enveloped(&records, list, more), "JSON"),
            (Value::from(records.clone()).to_string(), "JSON"),
            (lines.join("\n"), "NDJSON"),
            (serde_json::to_string_pretty(&records).unwrap(), "JSON"),
        ]
        .into_iter()
        .enumerate()
        {
            let (said, _) = import.file(&import.desk.file(&format!("{feed}-{number}"), text)).await;
            let expected = if number == 0 { (3, 0, 0) } else { (0, 3, 0) };
            assert_eq!(said.counts(), expected, "{feed} {number}");
            assert_eq!(said.files[0].format, format, "{feed} {number}");
            assert_eq!(said.files[0].by_feed, BTreeMap::from([(feed.to_owned(), 3)]), "{feed} {number}");
        }
    }
    assert_eq!(stage.bus.count(RECORDS).await, 9);
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_import_returns_the_remembered_answers_and_stores_nothing_twice() {
    let stage = Stage::new().await;
    let import = Import::at(&stage);
    let mut text = String::new();
    for n in 0..1200 {
        writeln!(text, "https://login.example.com/:user{n}@example.com:Sample:{n}").unwrap();
    }
    let list = import.desk.file("list.txt", text);
    let export = import.desk.file("export", spycloud(0..600).join("\n"));
    for (file, records, batches) in [(&list, 1200, 3), (&export, 600, 2)] {
        let (first, outcomes) = import.file(file).await;
        assert_eq!(first.counts(), (records, 0, 0));
        assert_eq!(first.files[0].repeated_batches, 0);
        let (again, remembered) = import.file(file).await;
        assert_eq!(again.files[0].repeated_batches, batches);
        assert_eq!((again.counts(), remembered), (first.counts(), outcomes), "the same answers");
    }
    assert_eq!(stage.bus.count(RECORDS).await, 1800);
    assert_eq!(stage.bus.count("SELECT count(*) FROM api.feed_batches").await, 5);
    // Another machine cannot know these batches; the feed's own ids tell that the records are known.
    let elsewhere = Import::at(&stage);
    let copy = elsewhere.desk.file("copy", spycloud(0..600).join("\n"));
    let (said, _) = elsewhere.file(&copy).await;
    assert_eq!((said.counts(), said.files[0].repeated_batches), ((0, 600, 0), 0));
    assert_eq!(stage.bus.count(RECORDS).await, 1800);
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_record_in_the_middle_is_reported_with_its_place_and_nothing_else_is_lost() {
    let stage = Stage::new().await;
    let import = Import::at(&stage);
    let mut lines = spycloud(0..1000);
    lines[300].truncate(40);
    // Well-formed, but not what the API takes: nobody has such an address.
    lines[700] = lines[700].replace("user700@example.com", &"x".repeat(400));
    let file = import.desk.file("export", lines.join("\n"));
    let (said, outcomes) = import.file(&file).await;
    assert_eq!(said.counts(), (998, 0, 2));
    assert_eq!(stage.bus.count(RECORDS).await, 998);
    let rejected: Vec<_> =
        outcomes.iter().filter(|o| o.outcome == "rejected").map(|o| (o.line, o.reason.as_str())).collect();
    assert_eq!(rejected.len(), 2, "{rejected:?}");
    assert!(
        rejected.contains(&(301, "malformed")) && rejected.iter().any(|(line, _)| *line == 701),
        "{rejected:?}"
    );
    assert_eq!(said.files[0].rejected_by_reason.values().sum::<u64>(), 2);
    let places: BTreeSet<_> = outcomes.iter().map(|o| (o.line, o.offset)).collect();
    assert_eq!(places.len(), 1000, "every record has its own place");
    // A person is told where to look.
    let output =
        import.desk.command(["feed", "import"].map(PathBuf::from).into_iter().chain([file])).output().await;
    let said = String::from_utf8(output.unwrap().stderr).unwrap();
    assert!(said.contains("export:301: ") && said.contains("export:701: "), "{said}");
    assert!(!said.contains("Sample-"), "no password is quoted");
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_of_more_than_500_records_is_refused_with_its_field_and_the_remedy() {
    let stage = Stage::new().await;
    let record = |n| v1::FeedRecord {
        external_id: format!("r{n}"),
        identity: format!("user{n}@example.com"),
        secret_form: v1::SecretForm::None.into(),
        ..Default::default()
    };
    let batch = |records| v1::IngestFeedRecordsRequest {
        batch_id: format!("of {records}"),
        feed: "spycloud".into(),
        records: (0..records).map(record).collect(),
        ..Default::default()
    };
    let mut feeds = ExposureServiceClient::new(stage.by("feeds", &["feed_writer"]));
    let sent = feeds.ingest_feed_records(tokio_stream::iter([batch(500), batch(501)])).await;
    let mut answers = sent.unwrap().into_inner();
    assert_eq!(answers.message().await.unwrap().unwrap().accepted, 500);
    let refused = answers.message().await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    let details = refused.get_error_details();
    let fault = &details.bad_request().unwrap().field_violations[0];
    assert_eq!((fault.field.as_str(), fault.description.as_str()), ("records", "give 1 to 500 records"));
    assert_eq!(stage.bus.count(RECORDS).await, 500, "the batch before is stored, the refused one is not");
    stage.stop().await;
}

/// An API that is slow enough to be cut off in the middle of a file.
async fn slow(stage: &Stage) -> Proxy {
    let proxy = Proxy::to(stage.grpc).await;
    proxy.delay(Duration::from_millis(40));
    proxy
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_is_cut_in_the_middle_loses_nothing_and_the_import_goes_on_by_itself() {
    let stage = Stage::new().await;
    let proxy = slow(&stage).await;
    let mut import = Import::at(&stage);
    import.desk.port = proxy.port();
    let file = import.desk.file("export", spycloud(0..5000).join("\n"));
    let cuts = async {
        for stored in [500, 1500, 3000] {
            stage.bus.until_at_least(RECORDS, stored).await;
            proxy.cut();
        }
    };
    let ((said, outcomes), ()) = tokio::join!(import.file(&file), cuts);
    let (accepted, duplicates, rejected) = said.counts();
    assert_eq!((accepted, duplicates, rejected), (5000, 0, 0), "a remembered answer is the first answer");
    assert!(said.files[0].repeated_batches > 0, "a batch whose answer was cut off was sent again: {said:?}");
    let lines: BTreeSet<_> = outcomes.iter().map(|o| o.line).collect();
    assert_eq!(lines, (1..=5000).collect());
    assert_eq!(stage.bus.count(RECORDS).await, 5000);
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_import_waits_for_an_api_that_is_being_replaced() {
    let stage = Stage::new().await;
    let proxy = slow(&stage).await;
    let mut import = Import::at(&stage);
    import.desk.port = proxy.port();
    let file = import.desk.file("export", spycloud(0..2000).join("\n"));
    let replaced = async {
        stage.bus.until_at_least(RECORDS, 500).await;
        proxy.close();
        proxy.until_refused(3).await;
        proxy.open();
    };
    let ((said, _), ()) = tokio::join!(import.file(&file), replaced);
    assert_eq!(said.counts(), (2000, 0, 0));
    assert_eq!(stage.bus.count(RECORDS).await, 2000);
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_cannot_be_read_are_named_once_and_do_not_keep_the_others_out() {
    let stage = Stage::new().await;
    let import = Import::at(&stage);
    let good = import.desk.file("good", spycloud(0..10).join("\n"));
    let bad = import.desk.file("bad", "\u{0}\u{1}\u{2}".repeat(100));
    let cut = import.desk.file("cut", "{\"a\":");
    let line = format!("feed import missing.json {} {} {}", bad.display(), cut.display(), good.display());
    let (code, said) = import.desk.fails(&line).await;
    assert_eq!(code, 1);
    for part in
        ["missing.json: cannot open the file", "neither JSON nor text", "2 of 4 files did not come in"]
    {
        assert!(said.contains(part), "{part}: {said}");
    }
    assert_eq!(said.matches(&bad.display().to_string()).count(), 1, "{said}");
    assert_eq!(stage.bus.count(RECORDS).await, 10);
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_import_that_was_killed_in_the_middle_goes_on_where_it_was() {
    let stage = Stage::new().await;
    let proxy = slow(&stage).await;
    let mut import = Import::at(&stage);
    import.desk.port = proxy.port();
    let file = import.desk.file("export", spycloud(0..3000).join("\n"));
    let line = format!("feed import {}", file.display());
    let mut killed = import.desk.command(line.split_whitespace()).spawn().unwrap();
    stage.bus.until_at_least(RECORDS, 1000).await;
    killed.kill().await.unwrap();
    let before = stage.bus.count(RECORDS).await;
    assert!(before < 3000, "it was killed in the middle");
    proxy.delay(Duration::ZERO);
    let (said, _) = import.file(&file).await;
    assert_eq!(said.counts(), (3000, 0, 0));
    assert!(said.files[0].repeated_batches >= 2, "{said:?}");
    assert_eq!(stage.bus.count(RECORDS).await, 3000);
    stage.stop().await;
}
