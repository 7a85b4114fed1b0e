//! Events in the Open Cybersecurity Schema Framework, version 1.6.0 (<https://schema.ocsf.io/1.6.0>).
//!
//! | events | class |
//! |---|---|
//! | `exposure.*`, `limit.*`, `alert.*` | Detection Finding (2004) |
//! | `mitigation.performed`, `.verified`, `.reverted` | Account Change (3001) |
//! | `validation.attempt` | Authentication (3002) |
//! | all others | API Activity (6003) |
//!
//! What OCSF has no attribute for is in `unmapped`, with the place in the chain and both hashes; `metadata.uid` is the
//! event's id and `metadata.correlation_uid` its cause. An intent has status "Other": it says that something is about
//! to happen.

use serde_json::{Map, Value, json};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use crate::chain::{Chain, Link};

const VERSION: &str = "1.6.0";

/// A class, as far as it concerns us.
struct Class {
    category: i64,
    category_name: &'static str,
    uid: i64,
    name: &'static str,
    activity: i64,
    activity_name: &'static str,
}

const fn finding(activity: i64, activity_name: &'static str) -> Class {
    let (category_name, name) = ("Findings", "Detection Finding");
    Class { category: 2, category_name, uid: 2004, name, activity, activity_name }
}
const fn account(activity: i64, activity_name: &'static str) -> Class {
    let (category_name, name) = ("Identity & Access Management", "Account Change");
    Class { category: 3, category_name, uid: 3001, name, activity, activity_name }
}
const fn logon() -> Class {
    let (category_name, name) = ("Identity & Access Management", "Authentication");
    Class { category: 3, category_name, uid: 3002, name, activity: 1, activity_name: "Logon" }
}
const fn api(activity: i64, activity_name: &'static str) -> Class {
    let (category_name, name) = ("Application Activity", "API Activity");
    Class { category: 6, category_name, uid: 6003, name, activity, activity_name }
}

fn class(link: &Link) -> Class {
    let event = &link.event;
    let (area, what) = event.kind.split_once('.').unwrap_or((event.kind.as_str(), ""));
    match (area, what) {
        ("exposure", "verdict") => finding(2, "Update"),
        ("exposure" | "limit" | "alert", _) => finding(1, "Create"),
        ("validation", "attempt") => logon(),
        ("mitigation", "performed" | "verified" | "reverted") => {
            let undone = event.details.contains_key("undoes");
            match event.details.get("mitigation_action").map(String::as_str) {
                Some("disable_account") if undone => account(2, "Enable"),
                Some("disable_account") => account(5, "Disable"),
                _ => account(99, "Other"),
            }
        }
        (_, "created") => api(1, "Create"),
        (_, "updated" | "settings_changed" | "package_changed" | "time_zone_changed") => api(3, "Update"),
        (_, "deleted") => api(4, "Delete"),
        ("audit", _) => api(2, "Read"),
        _ => api(99, "Other"),
    }
}

/// The event's line.
pub(super) fn event(chain: Chain, link: &Link) -> String {
    let class = class(link);
    let event = &link.event;
    let mut out = base(chain, link, &class);
    let mut put = |name: &str, value: Value| {
        out.insert(name.to_owned(), value);
    };
    match class.uid {
        2004 => {
            let title = &event.message;
            put("finding_info", json!({ "uid": event.object_id, "title": title, "types": [event.kind] }));
        }
        3001 => put("user", user(link)),
        3002 => {
            put("user", user(link));
            put("service", json!({ "name": "identity provider" }));
        }
        _ => {
            put("api", json!({ "operation": event.kind }));
            put("src_endpoint", json!({ "svc_name": "parapet" }));
        }
    }
    let mut text = Value::Object(out).to_string();
    text.push('\n');
    text
}

fn base(chain: Chain, link: &Link, class: &Class) -> Map<String, Value> {
    let event = &link.event;
    let (status_id, status) = match event.outcome.as_str() {
        "success" => (1, "Success"),
        "failure" | "refused" => (2, "Failure"),
        "unknown" | "info" => (0, "Unknown"),
        _ => (99, "Other"),
    };
    let alert = event.kind.starts_with("alert.") || event.kind.starts_with("limit.");
    let (severity_id, severity) = if alert { (4, "High") } else { (1, "Informational") };
    let mut actor = json!({ "app_name": event.actor_id });
    if event.actor_kind == "person" {
        actor = json!({ "user": { "uid": event.actor_id, "name": event.actor_name } });
    }
    let mut metadata = json!({
        "version": VERSION,
        "product": { "name": "Parapet", "vendor_name": "Parapet" },
        "uid": event.event_id,
        "event_code": event.kind,
        "logged_time": millis(link.stored_at),
        "original_time": event.occurred_at.format(&Rfc3339).unwrap_or_default(),
        "sequence": link.sequence,
        "tenant_uid": chain.to_string(),
    });
    if let (Some(cause), Some(metadata)) = (event.cause_id, metadata.as_object_mut()) {
        metadata.insert("correlation_uid".to_owned(), json!(cause));
    }
    let base = json!({
        "category_uid": class.category,
        "category_name": class.category_name,
        "class_uid": class.uid,
        "class_name": class.name,
        "activity_id": class.activity,
        "activity_name": class.activity_name,
        "type_uid": class.uid * 100 + class.activity,
        "severity_id": severity_id,
        "severity": severity,
        "status_id": status_id,
        "status": status,
        "status_detail": event.outcome,
        "time": millis(event.occurred_at),
        "message": event.message,
        "actor": actor,
        "metadata": metadata,
        "unmapped": {
            "actor_kind": event.actor_kind,
            "integration_id": event.integration_id,
            "object_kind": event.object_kind,
            "object_id": event.object_id,
            "user_object_id": event.user_object_id,
            "user_name": event.user_name,
            "details": event.details,
            "previous_hash": format!("{:?}", link.previous),
            "hash": format!("{:?}", link.hash),
        },
    });
    match base {
        Value::Object(base) => base,
        _ => Map::new(),
    }
}

fn user(link: &Link) -> Value {
    json!({ "uid": link.event.user_object_id, "name": link.event.user_name })
}

fn millis(at: OffsetDateTime) -> i64 {
    i64::try_from(at.unix_timestamp_nanos().div_euclid(1_000_000)).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chain::{Hash, tests::event as sample};

    fn of(kind: &str, change: impl FnOnce(&mut crate::chain::Event)) -> Value {
        let mut event = sample("done");
        event.kind = kind.to_owned();
        change(&mut event);
        let link = Link::new(Chain::INSTALLATION, 3, OffsetDateTime::UNIX_EPOCH, Hash::ZERO, event);
        serde_json::from_str(&super::event(Chain::INSTALLATION, &link)).unwrap()
    }

    #[test]
    fn each_event_is_of_the_class_that_fits_and_its_type_is_class_and_activity() {
        let disabled = |event: &mut crate::chain::Event| {
            event.details.insert("mitigation_action".into(), "disable_account".into());
        };
        let undone = |event: &mut crate::chain::Event| {
            disabled(event);
            event.details.insert("undoes".into(), "x".into());
        };
        for (event, type_uid) in [
            (of("exposure.received", |_| {}), 200_401),
            (of("exposure.verdict", |_| {}), 200_402),
            (of("validation.attempt", |_| {}), 300_201),
            (of("mitigation.performed", disabled), 300_105),
            (of("mitigation.performed", undone), 300_102),
            (of("mitigation.performed", |_| {}), 300_199),
            (of("integration.created", |_| {}), 600_301),
            (of("integration.deleted", |_| {}), 600_304),
            (of("audit.exported", |_| {}), 600_302),
            (of("sync.finished", |_| {}), 600_399),
        ] {
            assert_eq!(event["type_uid"], type_uid, "{event}");
            assert_eq!(event["type_uid"].as_i64().unwrap() / 100, event["class_uid"].as_i64().unwrap());
        }
    }

    #[test]
    fn what_every_class_requires_is_there_and_the_chain_s_fields_are_kept() {
        let event = of("integration.created", |_| {});
        for required in ["category_uid", "severity_id", "time", "metadata", "actor", "api", "src_endpoint"] {
            assert!(!event[required].is_null(), "{required}");
        }
        assert_eq!(event["metadata"]["version"], "1.6.0");
        assert_eq!(event["metadata"]["sequence"], 3);
        assert_eq!(event["unmapped"]["hash"].as_str().unwrap().len(), 64);
        assert_eq!(of("alert.mitigation_held", |_| {})["severity_id"], 4);
        assert!(!of("exposure.received", |_| {})["finding_info"]["title"].is_null());
        assert!(!of("validation.attempt", |_| {})["user"].is_null());
    }
}
