//! No leaked password and no client secret lies in clear in anything that a stack leaves behind, whatever fails meanwhile
//! (I8, reliability.md §4.3); and whatever would lie there is found.

use std::{
    cell::RefCell,
    collections::{BTreeSet, HashSet},
    fs::{self, File},
    io::Write as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use lapin::{
    BasicProperties,
    options::{BasicPublishOptions, ConfirmSelectOptions, QueueDeclareOptions},
    types::{AMQPValue, FieldTable},
};
use opentelemetry_proto::tonic::{
    collector::trace::v1::{ExportTraceServiceRequest, trace_service_client::TraceServiceClient},
    common::v1::{AnyValue, KeyValue, any_value::Value as Attribute},
    trace::v1::{ResourceSpans, ScopeSpans, Span},
};
use parapet::{
    canary::{self, Finding, PLANTED, Scanner, Spelling},
    client::Endpoints,
    data::DataDir,
    demo::directory::Control,
    servers::{SUPERUSER, broker_config},
    stack::{SERVICES, VHOST, superuser},
};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::stack::{Stack, all_ready, kill, process};

const DIRECTORY: &str = "9a4d1c80-2f6e-4b1d-8c55-0e7b3f9a6d21";
const CLIENT: &str = "3f0b6c1e-77d2-4a8e-9a41-5c2d8e0f1b63";

/// A secret like no other text, with what has to be escaped somewhere.
fn secret() -> String {
    format!(
        "{}/\"K\\ey'&é+{}",
        hex::encode(rand::random::<[u8; 5]>()),
        hex::encode(rand::random::<[u8; 3]>())
    )
}

/// A stack, the secrets that went into it, and what its commands said.
struct World {
    stack: Stack,
    /// Outside the stack's directory: what goes in may hold secrets, what comes of it may not.
    input: tempfile::TempDir,
    secrets: RefCell<Vec<String>>,
    said: RefCell<Vec<u8>>,
}

impl World {
    fn data(&self) -> DataDir {
        DataDir::find(Some(&self.stack.data())).unwrap()
    }

    /// A new password that nobody may find.
    fn canary(&self) -> String {
        self.hidden(secret())
    }

    /// A new client secret that nobody may find: these are ASCII.
    fn client_secret(&self) -> String {
        self.hidden(secret().replace('é', "~"))
    }

    fn hidden(&self, secret: String) -> String {
        self.secrets.borrow_mut().push(secret.clone());
        secret
    }

    fn file(&self, name: &str, content: &str) -> String {
        let path = self.input.path().join(name);
        fs::write(&path, content).unwrap();
        path.to_str().unwrap().to_owned()
    }

    /// A feed of one leaked password for each login.
    fn feed(&self, name: &str, leaks: &[(&str, &str)]) -> String {
        let lines = leaks.iter().map(|(login, secret)| format!("https://shop.example/in:{login}:{secret}\n"));
        self.file(name, &lines.collect::<String>())
    }

    /// Types a command; whether it succeeded, and its answer.
    fn tries(&self, line: &str) -> (bool, String) {
        let line = format!("--json --tenant acme-entra {line}");
        let done = self.stack.parapet(&line.split_whitespace().collect::<Vec<_>>());
        self.said.borrow_mut().extend([&done.stdout[..], &done.stderr].concat());
        (done.status.success(), String::from_utf8(done.stdout).unwrap())
    }

    fn types(&self, line: &str) -> String {
        let (succeeded, said) = self.tries(line);
        assert!(succeeded, "{line}: {said} {}", String::from_utf8_lossy(&self.said.borrow()));
        said
    }

    /// Waits until so many exposures have a verdict, and returns the verdicts.
    async fn decided(&self, expected: usize) -> Vec<String> {
        let verdicts = || {
            let listed: Value =
                serde_json::from_str(&self.tries("exposure list --as analyst").1).unwrap_or_default();
            let kinds = listed.as_array().into_iter().flatten();
            let kinds = kinds.filter_map(|exposure| exposure["verdict"]["kind"].as_str().map(str::to_owned));
            kinds.filter(|kind| kind != "VERDICT_KIND_PENDING").collect::<Vec<_>>()
        };
        e2e::until("every exposure has its verdict", || async { verdicts().len() >= expected }).await;
        verdicts()
    }
}

/// Everything goes in that may leak, while everything fails that may fail.
async fn life(world: &World, control: &Control) {
    let (right, wrong) = (world.client_secret(), world.client_secret());
    let passwords: Vec<String> = (0..6).map(|_| world.canary()).collect();
    let accounts: Vec<Value> = ["ada", "ben", "cid"]
        .into_iter()
        .zip(&passwords)
        .map(|(name, password)| json!({"login": format!("{name}@canary.example"), "password": password}))
        .collect();
    let made = json!({"name": "canary", "provider": {"entra_id": {
        "tenant_id": DIRECTORY, "domains": [{"name": "canary.example"}], "licences": ["P1", "P2"],
        "apps": [{"client_id": CLIENT, "name": "Parapet", "secrets": [{"value": right}],
            "permissions": ["User.Read.All", "Directory.Read.All", "AuditLog.Read.All", "User.RevokeSessions.All",
                "User.EnableDisableAccount.All"]}],
    }}, "accounts": accounts});
    control.put(&made).await.unwrap();
    world.types(concat!(
        "--as operator bootstrap ",
        env!("CARGO_MANIFEST_DIR"),
        "/../deploy/local/bootstrap.toml"
    ));

    // An integration with a wrong client secret, then with the right one.
    let wrong = world.file("wrong", &wrong);
    let add = format!(
        "--as admin integration add entra --name canary --directory {DIRECTORY} --client-id {CLIENT}"
    );
    world.types(&format!("{add} --validate --mitigate revoke-sessions --secret-file {wrong}"));
    assert!(!world.tries("--as admin integration test canary").0, "a wrong secret passes");
    let right = world.file("right", &right);
    world.types(&format!("--as admin integration update canary --secret-file {right}"));
    world.types("--as admin integration test canary");
    world.types("--as admin sync watch canary");

    // Feeds: a right and a wrong password, somebody unknown, and lines that nobody can read.
    let [ada, ben] = ["ada@canary.example", "ben@canary.example"];
    let leaks =
        [(ada, passwords[0].as_str()), (ben, &passwords[3]), ("who@elsewhere.example", &passwords[4])];
    let feed = world.feed("leaks.txt", &leaks);
    control
        .fault(&json!({"operation": "*", "times": 2, "effect": {"status": {"status": 502}}}))
        .await
        .unwrap();
    world.types(&format!("--as feeds feed import {feed}"));
    let torn = [
        ("torn.json", format!(r#"{{"items":[{{"identity_name":"{ada}","hash":"{}" oops"#, world.canary())),
        ("torn.ndjson", format!(r#"{{"email":"{ada}","password":{}}}"#, json!([world.canary()]))),
        ("noise.txt", format!("{}\n\u{1}:{}\n", world.canary(), world.canary())),
    ];
    for (name, content) in torn {
        let file = world.file(name, &content);
        world.tries(&format!("--as feeds feed import {file}"));
    }

    // Killed, aborted, without a broker: and work comes in meanwhile.
    let status = world.stack.until("ready", all_ready).await;
    let pid = |name: &str| process(&status, name)["pid"].as_u64().unwrap();
    kill(pid("rabbitmq"), Signal::TERM);
    kill(pid("credential-validator"), Signal::ABORT);
    kill(pid("identity-sync-worker"), Signal::KILL);
    let feed = world.feed("more.txt", &[("cid@canary.example", &passwords[2]), (ada, &passwords[5])]);
    world.types(&format!("--as feeds feed import {feed}"));
    let healed = |status: &Value| {
        all_ready(status)
            && ["rabbitmq", "credential-validator", "identity-sync-worker"]
                .iter()
                .all(|name| process(status, name)["restarts"].as_u64() >= Some(1))
    };
    world.stack.until("what was ended comes back", healed).await;
    let verdicts = world.decided(4).await;
    assert!(verdicts.iter().any(|kind| kind == "VERDICT_KIND_VALID"), "no password was tried: {verdicts:?}");
}

/// Leaks one secret in every spelling into everything that the search looks into; returns where.
async fn leak(world: &World) -> Vec<(&'static str, PathBuf)> {
    let (data, leaks) = (world.data(), canary::leaks(PLANTED));
    let lines: Vec<u8> = leaks.iter().flat_map(|(_, text)| [text, &b"\n"[..]].concat()).collect();
    let log = data.log("credential-validator");
    File::options().append(true).open(&log).unwrap().write_all(&lines).unwrap();
    let core = data.path().join("core.4711");
    fs::write(&core, &lines).unwrap();

    let mut database = superuser(&data).await.unwrap();
    sqlx::raw_sql("CREATE TABLE public.planted (leak bytea)").execute(&mut database).await.unwrap();
    for (_, text) in &leaks {
        let insert = sqlx::query("INSERT INTO public.planted VALUES ($1)").bind(text);
        insert.execute(&mut database).await.unwrap();
    }

    let port = fs::read_to_string(data.rabbitmq().join("ports")).unwrap();
    let port = port.split_whitespace().next().unwrap().parse().unwrap();
    let password = data.rabbitmq().join("password");
    let broker = broker_config(port, VHOST, SUPERUSER, &password, &data.tls().join("ca.pem"));
    let channel = broker.connect("planted").await.unwrap().create_channel().await.unwrap();
    channel.confirm_select(ConfirmSelectOptions::default()).await.unwrap();
    let mut quorum = FieldTable::default();
    quorum.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
    let durable = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    channel.queue_declare("planted".into(), durable, quorum).await.unwrap();
    for (_, text) in &leaks {
        let (options, properties) = (BasicPublishOptions::default(), BasicProperties::default());
        let sent = channel.basic_publish("".into(), "planted".into(), options, text, properties).await;
        sent.unwrap().await.unwrap();
    }

    let config: toml::Table = fs::read_to_string(data.config("audit-writer")).unwrap().parse().unwrap();
    let collector = config["common"]["telemetry"]["otlp_endpoint"].as_str().unwrap().to_owned();
    let attribute = |text: &Vec<u8>| KeyValue {
        key: "leak".into(),
        value: Some(AnyValue { value: Some(Attribute::BytesValue(text.clone())) }),
        ..KeyValue::default()
    };
    let span =
        Span { attributes: leaks.iter().map(|(_, text)| attribute(text)).collect(), ..Span::default() };
    let spans = ScopeSpans { spans: vec![span], ..ScopeSpans::default() };
    let resource_spans = vec![ResourceSpans { scope_spans: vec![spans], ..ResourceSpans::default() }];
    let mut collector = TraceServiceClient::connect(collector).await.unwrap();
    collector.export(ExportTraceServiceRequest { resource_spans }).await.unwrap();

    // One more service, whose metrics have labels that nobody should give them.
    let label = |text: &[u8]| {
        let escaped: Vec<u8> = text
            .iter()
            .flat_map(|byte| match byte {
                b'\\' | b'"' => vec![b'\\', *byte],
                b'\n' => b"\\n".to_vec(),
                byte => vec![*byte],
            })
            .collect();
        [b"leaks_total{who=\"", &escaped[..], b"\"} 1\n"].concat()
    };
    let body: Vec<u8> = leaks.iter().flat_map(|(_, text)| label(text)).collect();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let config = format!("[common.http]\nlisten = \"{}\"\n", listener.local_addr().unwrap());
    fs::write(data.config("planted"), config).unwrap();
    let app = axum::Router::new().route("/metrics", axum::routing::get(async move || body));
    tokio::spawn(async move { axum::serve(listener, app).await });

    vec![
        ("a log line", log),
        ("a crash file", core),
        ("a row", "public.planted".into()),
        ("the server's files", data.postgres()),
        ("a message", data.rabbitmq()),
        ("a span", data.spans()),
        ("a metric's label", data.metrics().join("planted")),
    ]
}

fn spellings(found: &HashSet<Finding>, place: &Path) -> BTreeSet<Spelling> {
    found.iter().filter(|f| Path::new(&f.place).starts_with(place)).map(|f| f.spelling).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn no_secret_is_found_in_what_a_stack_leaves_behind_and_every_planted_one_is() {
    let world = World {
        stack: Stack::new(),
        input: tempfile::tempdir().unwrap(),
        secrets: RefCell::default(),
        said: RefCell::default(),
    };
    let supervisor = world.stack.up_with(&["--keep-spans"]);
    world.stack.until("the stack comes up", all_ready).await;
    let endpoints: Endpoints = serde_json::from_slice(&fs::read(world.data().endpoints()).unwrap()).unwrap();
    let control = endpoints.simulator_control.trim_start_matches("http://").parse().unwrap();
    life(&world, &Control::new(control).unwrap()).await;

    let secrets = world.secrets.borrow().clone();
    assert!(secrets.len() >= 10, "{} secrets", secrets.len());
    let scanner = Arc::new(Scanner::new(secrets.iter().map(String::as_str)).unwrap());
    let mut found = canary::search(&world.data(), &scanner, &[]).await.unwrap();

    // Positive control: a leak in each kind of place and in each spelling.
    let planted = Arc::new(Scanner::new([PLANTED]).unwrap());
    let every: BTreeSet<Spelling> =
        canary::leaks(PLANTED).into_iter().map(|(spelling, _)| spelling).collect();
    let places = leak(&world).await;
    let seen = canary::search(&world.data(), &planted, &[]).await.unwrap();
    for (place, path) in places {
        assert_eq!(spellings(&seen, &path), every, "{place}, {}", path.display());
    }

    // What is only written at the end: the last spans, the last lines.
    assert!(world.stack.parapet(&["down"]).status.success());
    supervisor.wait().await;
    found.extend(canary::files(&world.data(), &scanner, &[]).await.unwrap());
    scanner.bytes("what the supervisor says", &fs::read(world.stack.log()).unwrap(), &mut found);
    scanner.bytes("what the commands say", &world.said.borrow(), &mut found);
    assert!(found.is_empty(), "{found:#?}");

    // Every service was asked, and has told its spans.
    let spans = fs::read(world.data().spans()).unwrap();
    for service in &SERVICES {
        let told = |text: &[u8]| text.windows(service.name.len()).any(|part| part == service.name.as_bytes());
        assert!(told(&spans), "no span of {}", service.name);
        assert!(told(&fs::read(world.data().metrics().join(service.name)).unwrap()), "{}", service.name);
    }
    assert!(world.stack.parapet(&["clean"]).status.success());
}
