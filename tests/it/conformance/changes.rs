//! What somebody else did to an account, as the directory's log tells it.

use idp_simulator::control::changed_by_somebody;
use serde_json::{Value, json};
use shared::provider::{Action, Asked, Change, ProviderError};
use time::{Duration, OffsetDateTime};

use super::subject::{Granted, Stage, Subject, people};

fn directory(of: &Subject) -> Value {
    json!({"accounts": people(of)})
}

fn somebody(stage: &Stage, name: &str, status: &str) {
    let account = stage.directory.accounts.get(&stage.id(name)).unwrap();
    let world = &stage.idp.simulator.world;
    changed_by_somebody(world, &stage.directory, &account, &json!({ "status": status })).unwrap();
}

async fn told(
    stage: &Stage,
    name: &str,
    since: OffsetDateTime,
) -> Result<Option<Option<Change>>, ProviderError> {
    let asked = Asked { since, at: OffsetDateTime::now_utc() };
    stage.provider.changed_by_others(&stage.id(name), Action::DisableAccount, asked).await
}

pub async fn what_somebody_else_did_since_is_told_with_their_name_and_ours_is_not(of: &'static Subject) {
    let stage = Stage::with(of, directory(of), Granted::All).await;
    let began = OffsetDateTime::now_utc() - Duration::SECOND;
    for name in ["p0", "p1"] {
        stage.provider.act(Action::DisableAccount, &stage.id(name)).await.unwrap();
        stage.provider.undo(Action::DisableAccount, &stage.id(name)).await.unwrap();
        stage.provider.act(Action::DisableAccount, &stage.id(name)).await.unwrap();
    }
    assert_eq!(told(&stage, "p0", began).await.unwrap(), Some(None), "all of it was ours");
    somebody(&stage, "p0", "active");
    somebody(&stage, "p0", of.disabled);
    let change = told(&stage, "p0", began).await.unwrap().unwrap().unwrap();
    assert_eq!(change.by, "helpdesk@acme.example");
    assert!(change.at >= began);
    assert_eq!(told(&stage, "p1", began).await.unwrap(), Some(None), "another account");
    let after = change.at + Duration::SECOND;
    assert_eq!(told(&stage, "p0", after).await.unwrap(), Some(None), "it was before");
}

pub async fn a_log_of_changes_that_may_not_be_read_tells_nothing(of: &'static Subject) {
    let stage = Stage::with(of, directory(of), Granted::ReadingOnly).await;
    let began = OffsetDateTime::now_utc() - Duration::SECOND;
    somebody(&stage, "p0", of.disabled);
    assert_eq!(told(&stage, "p0", began).await.unwrap(), None, "which is not: nobody did anything");
}

pub async fn a_log_of_changes_that_does_not_answer_is_an_error(of: &'static Subject) {
    let stage = Stage::with(of, directory(of), Granted::All).await;
    let began = OffsetDateTime::now_utc() - Duration::SECOND;
    somebody(&stage, "p0", of.disabled);
    somebody(&stage, "p0", "active");
    stage.fault(of.changes, &json!({ "status": { "status": 503 } }));
    assert!(matches!(told(&stage, "p0", began).await, Err(ProviderError::Unavailable { .. })));
    assert!(told(&stage, "p0", began).await.unwrap().unwrap().is_some(), "and then it answers");
}
