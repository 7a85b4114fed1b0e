//! What an attempt costs beside the provider's own time when the machine is half loaded, and what more validators bring when
//! it is the provider that takes its time.

use std::{
    net::{SocketAddr, TcpListener},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context, ensure};
use serde_json::json;
use tokio::{
    process::{Child, Command},
    time::{Instant, sleep},
};

use crate::{
    directory::Tenant,
    report::Report,
    stage::{Stage, VALIDATOR, until},
    verdicts::{ask, decided, expose, validate},
};

/// The goal, in seconds, as the histogram's bucket is named.
const BOUND: &str = "0.025";
/// What every answer takes while validators are compared: as the goal says, and so long that one machine for all of them has
/// processors to spare, which shows whether anything but processors holds them up.
const ANSWERS: [Duration; 2] = [Duration::from_millis(100), Duration::from_millis(400)];
/// Validators beside the first.
const MORE: usize = 3;

/// Has attempts fall due one by one, at half of the rate that was measured, and reports how many of them cost less than the
/// bound beside the provider's time.
pub async fn half(
    stage: &Stage,
    report: &mut Report,
    tenant: &Tenant,
    logins: &[&str],
    rate: f64,
) -> anyhow::Result<()> {
    let exposures = expose(stage, tenant, logins).await?;
    let mut db = stage.database().await?;
    // Asked for while nothing may be tried, they wait; then each has its time.
    let stop = "INSERT INTO budget.stop (stop_id, reason, actor_id, actor_name) VALUES (gen_random_uuid(), 'x', 'x', 'x')";
    sqlx::raw_sql(stop).execute(&mut db).await?;
    ask(stage, tenant, &exposures).await?;
    let deferred = "SELECT count(*) FROM validator.exposures WHERE tenant_id = $1 AND verdict = 'deferred'";
    until(&mut db, deferred, Some(tenant.id), i64::try_from(exposures.len())?).await?;
    sqlx::raw_sql("DELETE FROM budget.stop").execute(&mut db).await?;
    let before = overhead(stage).await?;
    sqlx::query(
        "UPDATE validator.work w SET due_at = clock_timestamp() + n.place * $2 * interval '1 second'
         FROM (SELECT work_id, row_number() OVER () AS place FROM validator.work WHERE tenant_id = $1) n
         WHERE w.work_id = n.work_id",
    )
    .bind(tenant.id)
    .bind(2.0 / rate)
    .execute(&mut db)
    .await?;
    decided(stage, tenant).await?;
    let after = overhead(stage).await?;
    let (quick, all) = (after.0 - before.0, after.1 - before.1);
    #[expect(clippy::cast_precision_loss, reason = "at most a few thousand")]
    let asked = exposures.len() as f64;
    ensure!(all >= asked, "the validator counted {all} attempts of {asked}");
    report.add(
        "attempts below 25 ms beside the provider's time, at half load",
        "%",
        quick / all * 100.0,
        99.0,
    );
    Ok(())
}

/// Attempts that cost at most the bound beside the provider's time, and all of them, since the validator started.
async fn overhead(stage: &Stage) -> anyhow::Result<(f64, f64)> {
    let text = stage.http.get(stage.plain(VALIDATOR)?.join("/metrics")?).send().await?.text().await?;
    let value = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|value| value.trim().parse::<f64>().ok()).unwrap_or_default()
    };
    let bucket = format!("parapet_attempt_overhead_seconds_bucket{{le=\"{BOUND}\"}}");
    Ok((value(&bucket), value("parapet_attempt_overhead_seconds_count")))
}

/// Verdicts of four validators beside those of one, as shipped, at a provider that takes its time. Several accounts' turns
/// must be there for each place that a validator has.
pub async fn scale(
    stage: &Stage,
    report: &mut Report,
    tenant: &Tenant,
    logins: &[&str],
) -> anyhow::Result<()> {
    // An eighth for each of the first two, two to warm the others, and four.
    let mut parts = logins.chunks(logins.len() / 8);
    let mut next = |eighths: usize| parts.by_ref().take(eighths).flatten().copied().collect::<Vec<_>>();
    let mut one = Vec::new();
    for answer in ANSWERS {
        one.push(at_answers_of(answer, stage, tenant, &next(1)).await?);
    }
    let mut others = Vec::new();
    for _ in 0..MORE {
        others.push(another(stage).await?);
    }
    // Their connections know no statement yet; those of the first one do.
    at_answers_of(Duration::ZERO, stage, tenant, &next(2)).await?;
    for (answer, one) in ANSWERS.into_iter().zip(one) {
        let four = at_answers_of(answer, stage, tenant, &next(2)).await?;
        let name =
            format!("verdicts of four validators, beside one, at answers of {} ms", answer.as_millis());
        report.add(&name, "1/s", four, one);
    }
    for mut other in others {
        other.kill().await?;
    }
    Ok(())
}

/// Verdicts per second while every answer of the tenant's directory takes so long.
async fn at_answers_of(
    answer: Duration,
    stage: &Stage,
    tenant: &Tenant,
    logins: &[&str],
) -> anyhow::Result<f64> {
    let exposures = expose(stage, tenant, logins).await?;
    let fault = json!({ "directory": tenant.directory, "operation": "*", "times": u32::MAX,
        "effect": { "delay": { "ms": answer.as_millis() } } });
    stage.control.fault(&fault).await?;
    let rate = validate(stage, tenant, &exposures).await;
    stage.control.clear_faults().await?;
    rate
}

/// One more validator with the configuration of the first and ports of its own.
async fn another(stage: &Stage) -> anyhow::Result<Child> {
    let port = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0)))?.local_addr()?;
    let child = Command::new(std::env::current_exe()?.with_file_name(VALIDATOR))
        .arg("--config")
        .arg(stage.configuration(VALIDATOR))
        .env("PARAPET__COMMON__HTTP__LISTEN", port.to_string())
        .env("PARAPET__COMMON__GRPC__LISTEN", "127.0.0.1:0")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .context("cannot start another validator")?;
    let deadline = Instant::now() + Duration::from_mins(1);
    while !stage.http.get(format!("http://{port}/readyz")).send().await.is_ok_and(|a| a.status().is_success())
    {
        ensure!(Instant::now() < deadline, "another validator does not become ready");
        sleep(Duration::from_millis(50)).await;
    }
    Ok(child)
}
