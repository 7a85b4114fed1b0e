//! From a verdict to the provider's answer at fifty mitigations a second, what a plan of many accounts takes, and how fast
//! they are taken back. The directory answers at once and has no limits, so that what is measured is ours.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use lapin::{
    BasicProperties, Confirmation,
    options::{BasicPublishOptions, ConfirmSelectOptions},
    types::{AMQPValue, FieldTable},
};
use prost::Message as _;
use shared::{
    outbox::Topic,
    wire::{
        events::MitigationRequested,
        v1::{self as api, mitigation_service_client::MitigationServiceClient},
    },
};
use sqlx::{Connection as _, PgConnection};
use uuid::Uuid;

use crate::{
    directory::Tenant,
    report::Report,
    stage::{Stage, rate, until},
};

/// Verdicts a second, as the goal says.
const VERDICTS_PER_SECOND: f64 = 50.0;
/// Accounts of a plan, as the goal says.
const PLANNED: i64 = 10_000;
/// How long an undo may take at the most.
const PATIENCE: Duration = Duration::from_mins(20);

/// Plans, contains and gives back these accounts.
pub async fn round(
    stage: &Stage,
    report: &mut Report,
    tenant: &Tenant,
    logins: &[&str],
) -> anyhow::Result<()> {
    let mut db = stage.database().await?;
    switch(&mut db, tenant, true).await?;
    let mut mitigations = MitigationServiceClient::new(stage.api(tenant.id).await?);
    let policy = api::MitigationPolicy {
        protected: Some(api::ProtectedAccounts { administrators_unprotected: true, ..Default::default() }),
        approval: Some(api::ApprovalRules {
            more_than_accounts: 100_000,
            first_run_unapproved: true,
            ..Default::default()
        }),
        brake: Some(api::BrakeLimits {
            accounts_per_hour: 10_000,
            percent_of_accounts: 100,
            share_from_accounts: 10_000,
            administrators_per_hour: 10_000,
            feed_times_usual: 1000,
            feed_from_exposures: 1_000_000,
        }),
        // Accounts that are mastered elsewhere are as good as others here: nothing syncs the directory.
        disable_ad_mastered: true,
        ..Default::default()
    };
    let update = api::UpdatePolicyRequest {
        policy: Some(policy),
        version: 0,
        reason: "benchmark".into(),
        idempotency_key: Uuid::new_v4().to_string(),
    };
    mitigations.update_policy(update).await?;
    plan(&mut db, report, tenant, &mut mitigations).await?;
    contain(stage, &mut db, report, tenant, logins).await?;
    give_back(report, tenant, &mut mitigations, &mut db, logins.len()).await?;
    switch(&mut db, tenant, false).await
}

type Mitigations = MitigationServiceClient<parapet::client::Api>;

/// Past the API, which would test the connection anew: what automated mitigations need was tested with the first sync.
async fn switch(db: &mut PgConnection, tenant: &Tenant, automated: bool) -> anyhow::Result<()> {
    let switched =
        "UPDATE api.integrations SET settings = jsonb_set(settings, '{mitigation,disable_account}',
                        jsonb_build_object('automated', $2::boolean, 'manual', true)) WHERE tenant_id = $1";
    sqlx::query(switched).bind(tenant.id).bind(automated).execute(db).await?;
    Ok(())
}

async fn plan(
    db: &mut PgConnection,
    report: &mut Report,
    tenant: &Tenant,
    mitigations: &mut Mitigations,
) -> anyhow::Result<()> {
    let some =
        "SELECT account_id::text FROM sync.accounts WHERE tenant_id = $1 AND removed_at IS NULL LIMIT $2";
    let account_ids: Vec<String> =
        sqlx::query_scalar(some).bind(tenant.id).bind(PLANNED).fetch_all(&mut *db).await?;
    let accounts = account_ids.len();
    let request = api::PlanMitigationRequest {
        account_ids,
        actions: vec![api::MitigationAction::DisableAccount.into()],
        max_items: 10_000,
        ..Default::default()
    };
    let began = Instant::now();
    let planned = mitigations.plan_mitigation(request).await?.into_inner().plan.context("no plan")?;
    let took = began.elapsed();
    ensure!(
        usize::try_from(planned.accounts)? == accounts,
        "{} of {accounts} accounts planned",
        planned.accounts
    );
    report.add(&format!("plan of {accounts} accounts, beside the goal"), "ms", millis(took), 2000.0);
    Ok(())
}

async fn contain(
    stage: &Stage,
    db: &mut PgConnection,
    report: &mut Report,
    tenant: &Tenant,
    logins: &[&str],
) -> anyhow::Result<()> {
    let broker = stage.broker().await?;
    let channel = broker.create_channel().await?;
    channel.confirm_select(ConfirmSelectOptions::default()).await?;
    let began = tokio::time::Instant::now();
    for (nth, login) in (0_u32..).zip(logins) {
        tokio::time::sleep_until(began + Duration::from_secs_f64(1.0 / VERDICTS_PER_SECOND) * nth).await;
        let exposure = Uuid::now_v7();
        let proven = sqlx::query(
            "INSERT INTO validator.exposures (tenant_id, exposure_id, record_id, batch_id, feed, account_id, identifier_id,
                 integration_id, provider, directory_id, object_id, login_at_match, source, secret_form, received_at,
                 history, wanted, verdict, verdict_at, state)
             SELECT tenant_id, $1, $1, $1, 'bench', account_id, $1, integration_id, provider, directory_id, object_id, login,
                 '{}', 'plaintext', clock_timestamp(), false, true, 'valid', clock_timestamp(), 'decided'
             FROM sync.accounts WHERE tenant_id = $2 AND login = $3",
        )
        .bind(exposure)
        .bind(tenant.id)
        .bind(login);
        let mut tx = db.begin().await?;
        ensure!(proven.execute(&mut *tx).await?.rows_affected() == 1, "{login} is not synced");
        tx.commit().await?;
        let message = MitigationRequested {
            tenant_id: tenant.id.to_string(),
            exposure_id: exposure.to_string(),
            ..Default::default()
        };
        let mut headers = FieldTable::default();
        headers.insert("parapet-tenant".into(), AMQPValue::LongString(tenant.id.to_string().into()));
        let properties = BasicProperties::default()
            .with_message_id(Uuid::now_v7().to_string().into())
            .with_content_type(Topic::MitigationRequested.content_type().into())
            .with_delivery_mode(2)
            .with_headers(headers);
        let queue = Topic::MitigationRequested.as_str().into();
        let body = message.encode_to_vec();
        let sent = channel.basic_publish("".into(), queue, BasicPublishOptions::default(), &body, properties);
        ensure!(matches!(sent.await?.await?, Confirmation::Ack(None)), "the broker did not take a message");
    }
    let over = "SELECT count(*) FROM mitigation.mitigations
                WHERE tenant_id = $1 AND state NOT IN ('planned', 'acting', 'unknown')";
    until(db, over, Some(tenant.id), i64::try_from(logins.len())?).await?;
    let not =
        "SELECT string_agg(DISTINCT state || ' ' || coalesce(reason, ''), ', ') FROM mitigation.mitigations
               WHERE tenant_id = $1 AND state NOT IN ('done', 'verified')";
    let not: Option<String> = sqlx::query_scalar(not).bind(tenant.id).fetch_one(&mut *db).await?;
    ensure!(not.is_none(), "not every account was contained: {}", not.unwrap_or_default());
    let p99 = "SELECT percentile_cont(0.99) WITHIN GROUP (ORDER BY extract(epoch FROM l.settled_at - e.verdict_at))::float8
               FROM mitigation.mitigations m JOIN mitigation.ledger l USING (tenant_id, mitigation_id)
               JOIN validator.exposures e USING (tenant_id, exposure_id) WHERE m.tenant_id = $1";
    let seconds: f64 = sqlx::query_scalar(p99).bind(tenant.id).fetch_one(db).await?;
    report.add(
        "from verdict to the provider's answer, 99 % of mitigations at 50 a second, beside the goal",
        "ms",
        seconds * 1000.0,
        2000.0,
    );
    Ok(())
}

async fn give_back(
    report: &mut Report,
    tenant: &Tenant,
    mitigations: &mut Mitigations,
    db: &mut PgConnection,
    count: usize,
) -> anyhow::Result<()> {
    // Not before the last check of the containment: its work would wait for the undo's.
    let verified = "SELECT count(*) FROM mitigation.mitigations WHERE tenant_id = $1 AND state = 'verified'";
    until(db, verified, Some(tenant.id), i64::try_from(count)?).await?;
    let request = api::UndoRequest {
        automated_since: Some(prost_types::Timestamp::default()),
        reason: "benchmark".into(),
        idempotency_key: Uuid::new_v4().to_string(),
        ..Default::default()
    };
    let began = Instant::now();
    let undo = mitigations.undo(request).await?.into_inner().request.context("no request")?;
    loop {
        let request = api::GetMitigationProgressRequest { request_id: undo.id.clone() };
        let progress = mitigations.get_mitigation_progress(request).await?.into_inner();
        if usize::try_from(progress.finished)? >= count {
            break;
        }
        ensure!(began.elapsed() < PATIENCE, "{} of {count} undone: {:?}", progress.finished, progress.counts);
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let undone = rate(count, began.elapsed());
    report.add(
        "mitigations undone a second and verified, beside the pace of the containment",
        "1/s",
        undone,
        VERDICTS_PER_SECOND,
    );
    Ok(())
}

fn millis(of: Duration) -> f64 {
    of.as_secs_f64() * 1000.0
}
