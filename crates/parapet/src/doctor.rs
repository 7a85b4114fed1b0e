//! `parapet doctor`: what is wrong with an installation, and what to do about it.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use anyhow::bail;
use serde::Serialize;
use sqlx::{AssertSqlSafe, ConnectOptions as _, PgConnection};
use time::OffsetDateTime;

use crate::{
    cli::Global,
    commands::table_of,
    migrate,
    stack::{self, Snapshot, State},
};

const SCHEMAS: [&str; 5] = ["api", "sync", "validator", "mitigation", "audit"];
/// The oldest PostgreSQL whose `NULLS NOT DISTINCT` and `security_invoker` the migrations use.
const OLDEST_POSTGRES: i32 = 15;
/// A message that waits for so long is not on its way any more.
const STUCK: Duration = Duration::from_mins(2);
const CLOCKS_APART: f64 = 2.0;
const PATIENCE: Duration = Duration::from_secs(5);

/// Check an installation: dependencies, versions, clocks, keys, queues, migrations; says what to do, changes nothing
#[derive(Debug, clap::Args)]
pub struct Doctor {
    /// A file with the URL of the database, as for `parapet migrate`; its user has to be its owner [default: the local
    /// stack's database]
    #[arg(long, value_name = "FILE", env = "PARAPET_DATABASE_URL_FILE")]
    url_file: Option<PathBuf>,
    /// The plain port of a service, for example http://10.0.0.7:8081; may be given several times
    #[arg(long = "service", value_name = "URL")]
    services: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Verdict {
    Passed,
    Warning,
    Failed,
}

#[derive(Debug, Serialize)]
struct Finding {
    check: String,
    result: Verdict,
    found: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    advice: String,
}

/// What was found so far.
#[derive(Debug, Default)]
struct Findings(Vec<Finding>);

impl Findings {
    fn passed(&mut self, check: &str, found: impl Into<String>) {
        self.add(check, Verdict::Passed, found, "");
    }

    fn add(&mut self, check: &str, result: Verdict, found: impl Into<String>, advice: &str) {
        let (check, found, advice) = (check.to_owned(), found.into(), advice.to_owned());
        self.0.push(Finding { check, result, found, advice });
    }
}

impl Doctor {
    /// Runs it. Whatever failed makes the command fail, after all was told.
    pub async fn run(self, global: &Global) -> anyhow::Result<()> {
        let mut found = Findings::default();
        match self.connect(global, &mut found).await {
            Ok(mut db) => look(&mut db, &mut found).await?,
            Err(error) => found.add(
                "database",
                Verdict::Failed,
                format!("{error:#}"),
                "start it, or check the URL, its password and its certificate",
            ),
        }
        for url in &self.services {
            service(url, &mut found).await;
        }
        let failed = found.0.iter().filter(|f| f.result == Verdict::Failed).count();
        let rows = found.0.iter().map(serde_json::to_value).collect::<Result<Vec<_>, _>>()?;
        if global.json {
            println!("{}", serde_json::to_string_pretty(&rows)?);
        } else {
            let columns =
                [("CHECK", "check"), ("RESULT", "result"), ("FOUND", "found"), ("WHAT TO DO", "advice")];
            println!("{}", table_of(&columns, &rows));
        }
        match failed {
            0 => Ok(()),
            1 => bail!("1 check failed"),
            _ => bail!("{failed} checks failed"),
        }
    }

    async fn connect(&self, global: &Global, found: &mut Findings) -> anyhow::Result<PgConnection> {
        if let Some(file) = &self.url_file {
            return Ok(migrate::target_in(file)?.connect().await?);
        }
        let data = global.data()?;
        anyhow::ensure!(stack::is_running(&data), "the local stack is down; `parapet up` starts it");
        processes(&Snapshot::load(&data.state())?, found);
        stack::superuser(&data).await
    }
}

/// The processes of the local stack.
fn processes(snapshot: &Snapshot, found: &mut Findings) {
    for entry in &snapshot.processes {
        let check = format!("process {}", entry.name);
        match entry.state {
            State::Ready => found.passed(&check, "ready"),
            State::Waiting | State::Starting => {
                found.add(&check, Verdict::Warning, "is starting", "wait, then look again");
            }
            State::Unready | State::Restarting | State::Stopped => {
                let advice = format!("parapet logs {}", entry.name);
                found.add(&check, Verdict::Failed, "does not run, or lacks something it needs", &advice);
            }
        }
    }
}

async fn look(db: &mut PgConnection, found: &mut Findings) -> anyhow::Result<()> {
    let version: i32 = sqlx::query_scalar("SELECT current_setting('server_version_num')::integer / 10000")
        .fetch_one(&mut *db)
        .await?;
    if version >= OLDEST_POSTGRES {
        found.passed("database", format!("PostgreSQL {version}"));
    } else {
        let advice = format!("upgrade it to PostgreSQL {OLDEST_POSTGRES} or newer");
        found.add("database", Verdict::Failed, format!("PostgreSQL {version}"), &advice);
    }
    clock(db, found).await?;
    if !migrations(db, found).await? {
        return Ok(()); // what follows asks tables that may not be there
    }
    roles(db, found).await?;
    gate(db, found).await?;
    keys(db, found).await?;
    queues(db, found).await
}

async fn clock(db: &mut PgConnection, found: &mut Findings) -> anyhow::Result<()> {
    let before = OffsetDateTime::now_utc();
    let theirs: OffsetDateTime = sqlx::query_scalar("SELECT clock_timestamp()").fetch_one(db).await?;
    let after = OffsetDateTime::now_utc();
    let trip: time::Duration = after - before;
    let apart: time::Duration = theirs - (before + trip / 2);
    let apart = apart.as_seconds_f64();
    let said = format!("the database's clock is {apart:+.1} s from this machine's");
    if apart.abs() <= CLOCKS_APART + trip.as_seconds_f64() / 2.0 {
        found.passed("clocks", said);
    } else {
        let advice = "the database's clock decides about attempts: synchronise both with NTP";
        found.add("clocks", Verdict::Failed, said, advice);
    }
    Ok(())
}

async fn migrations(db: &mut PgConnection, found: &mut Findings) -> anyhow::Result<bool> {
    let needed = shared::db::required_schema();
    let applied: Result<Option<i64>, _> =
        sqlx::query_scalar("SELECT max(version) FROM public._sqlx_migrations WHERE success")
            .fetch_one(db)
            .await;
    let applied = applied.ok().flatten().unwrap_or(0);
    let said = format!("the schema is at {applied}, this program is of {needed}");
    match applied.cmp(&needed) {
        std::cmp::Ordering::Equal => found.passed("migrations", said),
        std::cmp::Ordering::Less => {
            found.add("migrations", Verdict::Failed, said, "run `parapet migrate` of the release that runs");
        }
        std::cmp::Ordering::Greater => {
            found.add("migrations", Verdict::Warning, said, "use the `parapet` of the release that runs");
        }
    }
    Ok(applied >= needed)
}

async fn roles(db: &mut PgConnection, found: &mut Findings) -> anyhow::Result<()> {
    let above: Vec<String> = sqlx::query_scalar(
        "SELECT rolname::text FROM pg_roles WHERE rolname LIKE 'parapet\\_%' AND rolcanlogin
           AND (rolsuper OR rolbypassrls OR rolcreaterole)",
    )
    .fetch_all(db)
    .await?;
    if above.is_empty() {
        found.passed("roles", "no service stands above row security");
    } else {
        let advice = "ALTER ROLE … NOSUPERUSER NOBYPASSRLS NOCREATEROLE: tenants are not apart otherwise";
        found.add("roles", Verdict::Failed, above.join(", "), advice);
    }
    Ok(())
}

async fn gate(db: &mut PgConnection, found: &mut Findings) -> anyhow::Result<()> {
    let closed: Option<(Option<String>, OffsetDateTime)> = sqlx::query_as(
        "SELECT reason, closed_until FROM budget.gate_state() WHERE closed_until > clock_timestamp()",
    )
    .fetch_optional(db)
    .await?;
    match closed {
        None => found.passed("attempt gate", "open"),
        Some((reason, until)) => {
            let said = format!("closed until {until} ({})", reason.unwrap_or_default());
            let advice = "no password is tried until then; `parapet attempts gate` tells why";
            found.add("attempt gate", Verdict::Warning, said, advice);
        }
    }
    Ok(())
}

async fn keys(db: &mut PgConnection, found: &mut Findings) -> anyhow::Result<()> {
    for schema in ["sync", "validator", "mitigation"] {
        let check = format!("keys of {schema}");
        let (holders, lacks): (i64, Option<String>) = sqlx::query_as(AssertSqlSafe(format!(
            "SELECT count(*), string_agg(DISTINCT purpose || ' lacks ' || lacks, ', ') FILTER (WHERE lacks IS NOT NULL)
             FROM {schema}.key_holders WHERE opens AND seen_at > clock_timestamp() - interval '5 minutes'"
        )))
        .fetch_one(&mut *db)
        .await?;
        match (holders, lacks) {
            (0, _) => {
                let advice = "start the service, and give it its top key (keys.integration, keys.leak)";
                found.add(
                    &check,
                    Verdict::Failed,
                    "no process that holds a top key was seen for 5 minutes",
                    advice,
                );
            }
            (_, Some(lacks)) => {
                found.add(
                    &check,
                    Verdict::Failed,
                    lacks,
                    "give the key to every replica; `parapet keys status`",
                );
            }
            (holders, None) => found.passed(&check, format!("{holders} seen")),
        }
    }
    Ok(())
}

async fn queues(db: &mut PgConnection, found: &mut Findings) -> anyhow::Result<()> {
    let mut parked = BTreeMap::new();
    for schema in SCHEMAS.iter().chain(["budget"].iter()) {
        let (waiting, oldest): (i64, Option<f64>) = sqlx::query_as(AssertSqlSafe(format!(
            "SELECT count(*), extract(epoch FROM clock_timestamp() - min(created_at))::float8
             FROM (SELECT created_at FROM {schema}.outbox ORDER BY ready_at, seq LIMIT 10000) waiting"
        )))
        .fetch_one(&mut *db)
        .await?;
        let check = format!("outbox of {schema}");
        match oldest {
            Some(seconds) if seconds > STUCK.as_secs_f64() => {
                let said = format!("{waiting} messages wait, the oldest for {seconds:.0} s");
                let advice =
                    "its service is down or cannot publish: look at RabbitMQ and at the service's /readyz";
                found.add(&check, Verdict::Failed, said, advice);
            }
            _ => found.passed(&check, format!("{waiting} waiting")),
        }
        if *schema != "budget" {
            let count: i64 = sqlx::query_scalar(AssertSqlSafe(format!(
                "SELECT (SELECT count(*) FROM {schema}.parked) + (SELECT count(*) FROM {schema}.work WHERE state = 'parked')"
            )))
            .fetch_one(&mut *db)
            .await?;
            parked.insert(*schema, count);
        }
    }
    parked.retain(|_, count| *count > 0);
    if parked.is_empty() {
        found.passed("parked", "nothing");
    } else {
        let said: Vec<_> = parked.iter().map(|(schema, count)| format!("{schema}: {count}")).collect();
        let advice =
            "what could not be done waits with its reason in the tables parked and work of the schema";
        found.add("parked", Verdict::Warning, said.join(", "), advice);
    }
    Ok(())
}

async fn service(url: &str, found: &mut Findings) {
    let check = format!("service {url}");
    let answers = async {
        let http = reqwest::Client::builder().timeout(PATIENCE).build()?;
        let base = url.trim_end_matches('/');
        let ready = http.get(format!("{base}/readyz")).send().await?.text().await?;
        let metrics = http.get(format!("{base}/metrics")).send().await?.text().await?;
        Ok::<_, reqwest::Error>((ready, metrics))
    };
    let (ready, metrics) = match answers.await {
        Ok(answers) => answers,
        Err(error) => {
            let advice = "is it started, and is this its plain port (common.http)?";
            return found.add(&check, Verdict::Failed, format!("does not answer: {error}"), advice);
        }
    };
    let faults =
        serde_json::from_str::<serde_json::Value>(&ready).ok().and_then(|told| told.get("faults").cloned());
    if faults.as_ref().and_then(|f| f.as_array()).is_none_or(|faults| !faults.is_empty()) {
        let said = faults.unwrap_or_default().to_string();
        return found.add(&check, Verdict::Failed, said, "it says what it lacks; its log tells more");
    }
    let built = metrics.lines().find(|line| line.starts_with("parapet_build_info{"));
    let version =
        built.and_then(|line| line.split("version=\"").nth(1)?.split('"').next()).unwrap_or_default();
    if version == env!("CARGO_PKG_VERSION") {
        found.passed(&check, format!("ready, version {version}"));
    } else {
        let said = format!("ready, version {version}; this program is of {}", env!("CARGO_PKG_VERSION"));
        found.add(&check, Verdict::Warning, said, "bring all programs to one release");
    }
}
