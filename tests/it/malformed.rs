//! Ten thousand calls and ten thousand messages that nobody should send, at the running services of a local stack.

use std::{
    collections::BTreeMap,
    io::Write as _,
    path::Path,
    time::{Duration, Instant},
};

use futures::{StreamExt as _, stream};
use lapin::{
    BasicProperties, Channel,
    options::{BasicPublishOptions, ConfirmSelectOptions, QueueDeclareOptions},
    types::{AMQPValue, FieldTable},
};
use parapet::{
    servers::{SUPERUSER, broker_config, superuser_options},
    stack::{DATABASE, SERVICES, VHOST},
};
use rand::{Rng as _, RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use reqwest::Method;
use shared::{outbox::Topic, queue::dead_letter_queue};
use sqlx::ConnectOptions as _;
use uuid::Uuid;

use crate::stack::{Stack, all_ready, process};

const CALLS: usize = 10_000;
const MESSAGES: usize = 10_000;
/// Sent before anything is measured: what a service allocates once.
const FIRST: usize = 1_000;
/// Under way at once.
const AT_ONCE: usize = 50;
/// Nothing that is refused may take longer.
const PATIENCE: Duration = Duration::from_secs(20);
const LIST: &str = "/parapet.v1.IntegrationService/ListIntegrations";

fn noise(nth: usize, longest: usize) -> Vec<u8> {
    let mut dice = ChaCha8Rng::seed_from_u64(nth as u64);
    let mut bytes = vec![0; dice.random_range(0..=longest)];
    dice.fill_bytes(&mut bytes);
    bytes
}

fn frame(flag: u8, length: u32, body: &[u8]) -> Vec<u8> {
    [&[flag][..], &length.to_be_bytes(), body].concat()
}

struct Api {
    client: reqwest::Client,
    /// `https://localhost:PORT`.
    url: String,
    token: String,
    tenant: String,
}

impl Api {
    fn post(&self, path: &str) -> reqwest::RequestBuilder {
        self.client
            .request(Method::POST, format!("{}{path}", self.url))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
    }

    /// Whether a call was refused, and said so.
    async fn refused(request: reqwest::RequestBuilder) -> bool {
        match request.send().await {
            // gRPC says it in a header when nothing else is said.
            Ok(answer) => {
                let status = answer.headers().get("grpc-status").and_then(|s| s.to_str().ok()?.parse().ok());
                !answer.status().is_success() || status.is_some_and(|status: i32| status != 0)
            }
            Err(error) => !(error.is_timeout() || error.is_builder() || error.is_connect()),
        }
    }

    /// Sends one call that is wrong in some way, and returns whether it was refused.
    async fn refuses(&self, nth: usize) -> bool {
        let known =
            |path: &str| self.post(path).bearer_auth(&self.token).header("x-parapet-tenant", &self.tenant);
        let request = match nth % 10 {
            0 => self.post(LIST).body(frame(0, 0, &[])),
            1 => self.post(LIST).bearer_auth(hex::encode(noise(nth, 200))).body(frame(0, 0, &[])),
            2 => {
                let body = [&[0x0a, 0xff, 0xff, 0x03][..], &noise(nth, 100)].concat();
                known(LIST).body(frame(0, u32::try_from(body.len()).unwrap(), &body))
            }
            3 => known(LIST).body(frame(0, u32::MAX, &noise(nth, 500))),
            4 => known(LIST).body(frame(1, 20, &noise(nth, 20))),
            5 => known("/parapet.v1.NoService/NoMethod").body(frame(0, 0, &[])),
            6 => known(LIST).header("x-parapet-tenant", hex::encode(noise(nth, 40))).body(frame(0, 0, &[])),
            7 => known(LIST).header("x-noise", "n".repeat(40_000)).body(frame(0, 0, &[])),
            8 => known(LIST).header("content-type", "text/plain").body(noise(nth, 500)),
            _ => return self.noise(nth).await,
        };
        Self::refused(request).await
    }

    /// Not even TLS.
    async fn noise(&self, nth: usize) -> bool {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let Ok(mut stream) = tokio::net::TcpStream::connect(self.url.trim_start_matches("https://")).await
        else {
            return false;
        };
        stream.write_all(&noise(nth, 300)).await.ok();
        stream.shutdown().await.ok();
        let mut answer = Vec::new();
        tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await.is_ok()
    }

    async fn flood(&self, calls: std::ops::Range<usize>) {
        let accepted: Vec<usize> = stream::iter(calls)
            .map(|nth| async move { (!self.refuses(nth).await).then_some(nth) })
            .buffer_unordered(AT_ONCE)
            .filter_map(std::future::ready)
            .collect()
            .await;
        assert!(accepted.is_empty(), "not refused: {:?}", &accepted[..accepted.len().min(10)]);
    }
}

/// One message that is wrong in some way, to each queue in turn.
async fn send(channel: &Channel, nth: usize) {
    let topic = Topic::ALL[nth % Topic::ALL.len()];
    let id = Uuid::now_v7().to_string();
    let properties = BasicProperties::default().with_content_type(topic.content_type().into());
    let named = properties.clone().with_message_id(id.clone().into());
    let text = |value: &str| AMQPValue::LongString(value.into());
    let (properties, body) = match nth / Topic::ALL.len() % 8 {
        0 => (named, [&[0xff; 3][..], &noise(nth, 300)].concat()),
        1 => (named, b"\x0a\x03abc\x12\x03\xff\xfe\xfd".to_vec()),
        2 => (named, b"\x0a\x24not-a-uuid-not-a-uuid-not-a-uuid-not".to_vec()),
        3 => (properties, Vec::new()),
        4 => (properties.with_message_id(Uuid::new_v4().to_string().into()), Vec::new()),
        5 => (named.with_content_type("text/plain".into()), noise(nth, 100)),
        6 => (named, vec![0x0a; 65 * 1024]),
        _ => {
            let mut headers = FieldTable::default();
            headers.insert("parapet-tenant".into(), text("'; DROP TABLE parked; --"));
            (named.with_headers(headers), Vec::new())
        }
    };
    let sent = channel.basic_publish(
        "".into(),
        topic.as_str().into(),
        BasicPublishOptions::default(),
        &body,
        properties,
    );
    sent.await.unwrap().await.unwrap();
}

/// Resident memory in MiB and open descriptors of each service.
fn held(pids: &BTreeMap<&'static str, u64>) -> BTreeMap<&'static str, (u64, usize)> {
    let of = |pid: &u64| {
        let dir = Path::new("/proc").join(pid.to_string());
        let statm = std::fs::read_to_string(dir.join("statm")).unwrap();
        let pages: u64 = statm.split(' ').nth(1).unwrap().parse().unwrap();
        (
            pages * rustix::param::page_size() as u64 / (1 << 20),
            std::fs::read_dir(dir.join("fd")).unwrap().count(),
        )
    };
    pids.iter().map(|(name, pid)| (*name, of(pid))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_wrong_calls_and_messages_cost_no_memory_and_disturb_no_good_work() {
    let stack = Stack::new();
    let supervisor = stack.up();
    let status = stack.until("the stack comes up", all_ready).await;
    let pids: BTreeMap<_, _> =
        SERVICES.iter().map(|s| (s.name, process(&status, s.name)["pid"].as_u64().unwrap())).collect();
    let sample = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/local");
    let types = |arguments: &[&str]| {
        let done = stack.parapet(arguments);
        assert!(done.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&done.stderr));
        String::from_utf8(done.stdout).unwrap()
    };
    types(&["bootstrap", &format!("{sample}/bootstrap.toml")]);
    let token = stack.token("admin").await;
    let endpoints = stack.endpoints();
    let authority = std::fs::read(endpoints.api_ca.unwrap()).unwrap();
    let authority = reqwest::Certificate::from_pem(&authority).unwrap();
    let client = reqwest::Client::builder().tls_certs_only([authority]).no_proxy().timeout(PATIENCE);
    let tenant = parapet::bootstrap::ids::tenant("acme", "acme-entra").to_string();
    let api = Api { client: client.build().unwrap(), url: endpoints.api, token, tenant };
    // Control: what is right is not refused, so that a refusal means something.
    let right = api.post(LIST).bearer_auth(&api.token).header("x-parapet-tenant", &api.tenant);
    assert!(!Api::refused(right.body(frame(0, 0, &[]))).await);
    let broker = stack.data().join("rabbitmq");
    let ca = stack.data().join("tls/ca.pem");
    let port = std::fs::read_to_string(broker.join("ports")).unwrap();
    let port = port.split_whitespace().next().unwrap().parse().unwrap();
    let connection =
        broker_config(port, VHOST, SUPERUSER, &broker.join("password"), &ca).connect("noise").await.unwrap();
    let channel = connection.create_channel().await.unwrap();
    channel.confirm_select(ConfirmSelectOptions::default()).await.unwrap();
    let postgres = stack.data().join("postgres");
    let read = |name: &str| std::fs::read_to_string(postgres.join(name)).unwrap();
    let options =
        superuser_options(read("port").trim().parse().unwrap(), read("password").trim(), DATABASE, &ca);
    let mut database = options.connect().await.unwrap();

    let flood = async |calls: std::ops::Range<usize>, messages: std::ops::Range<usize>| {
        let messages = async {
            stream::iter(messages).for_each_concurrent(AT_ONCE, |nth| send(&channel, nth)).await;
        };
        tokio::join!(api.flood(calls), messages);
    };
    flood(0..FIRST, 0..FIRST).await;
    all_parked(&mut database, FIRST).await;
    let before = held(&pids);

    let mut leak = tempfile::NamedTempFile::new_in(stack.data()).unwrap();
    writeln!(leak, "https://login.example/:ann@acme.example:Sunny2024!").unwrap();
    let good = async {
        // While the noise goes on: a feed is taken in, and what happened is found in the audit log.
        let leak = leak.path().to_str().unwrap();
        tokio::task::block_in_place(|| {
            types(&["feed", "import", leak, "--as", "feeds", "--tenant", "acme-entra"])
        });
    };
    tokio::join!(flood(0..CALLS, 0..MESSAGES), good);
    all_parked(&mut database, FIRST + MESSAGES).await;

    let deadline = Instant::now() + Duration::from_mins(1);
    let flat = |(name, (memory, descriptors)): (&&'static str, &(u64, usize))| {
        let (was, had) = before[name];
        *memory <= was + was / 4 + 8 && *descriptors <= had + 8
    };
    while !held(&pids).iter().all(flat) {
        assert!(Instant::now() < deadline, "MiB and descriptors before {before:?}, after {:?}", held(&pids));
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    for topic in Topic::ALL {
        let look = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
        let dead =
            channel.queue_declare(dead_letter_queue(*topic).as_str().into(), look, FieldTable::default());
        assert_eq!(dead.await.unwrap().message_count(), 0, "{topic}");
    }
    let now = stack.until("the stack is as it was", all_ready).await;
    for (name, pid) in &pids {
        assert_eq!(process(&now, name)["pid"].as_u64(), Some(*pid), "{name} was started again");
    }
    types(&["audit", "verify", "--as", "auditor", "--tenant", "acme-entra"]);

    assert!(stack.parapet(&["down"]).status.success());
    supervisor.wait().await;
    assert!(stack.parapet(&["clean"]).status.success());
}

/// Waits until so many messages are parked, each with its reason.
async fn all_parked(database: &mut sqlx::PgConnection, expected: usize) {
    let schemas: Vec<String> =
        sqlx::query_scalar("SELECT schemaname::text FROM pg_tables WHERE tablename = 'parked' ORDER BY 1")
            .fetch_all(&mut *database)
            .await
            .unwrap();
    let each = schemas.iter().map(|s| format!("SELECT reason FROM {s}.parked"));
    let count = format!(
        "SELECT count(*) FROM ({}) AS p WHERE reason <> ''",
        each.collect::<Vec<_>>().join(" UNION ALL ")
    );
    let deadline = Instant::now() + Duration::from_mins(3);
    loop {
        let parked: i64 =
            sqlx::query_scalar(sqlx::AssertSqlSafe(count.clone())).fetch_one(&mut *database).await.unwrap();
        if parked == i64::try_from(expected).unwrap() {
            return;
        }
        assert!(Instant::now() < deadline, "{parked} of {expected} messages are parked");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
