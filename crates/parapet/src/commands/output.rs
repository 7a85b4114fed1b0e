//! One way to print: tables for people, the API's messages in protobuf's own JSON for programs.

use std::io::IsTerminal as _;

use anyhow::Context;
use comfy_table::{Cell, Color, Table, presets};
use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage, MessageDescriptor, SerializeOptions};
use serde_json::Value;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use crate::cli::Global;

/// A message of the public API as JSON, in protobuf's JSON mapping with the field names of the protos.
pub fn json<M: Message>(name: &str, message: &M) -> anyhow::Result<Value> {
    let dynamic = DynamicMessage::decode(descriptor(name)?, message.encode_to_vec().as_slice())?;
    let options = SerializeOptions::new().use_proto_field_name(true).skip_default_fields(true);
    Ok(dynamic.serialize_with_options(serde_json::value::Serializer, &options)?)
}

/// A message of the public API from its JSON; fields that it does not have are refused.
pub fn message<M: Message + Default>(name: &str, json: Value) -> anyhow::Result<M> {
    let dynamic = DynamicMessage::deserialize(descriptor(name)?, json)?;
    Ok(M::decode(dynamic.encode_to_vec().as_slice())?)
}

fn descriptor(name: &str) -> anyhow::Result<MessageDescriptor> {
    let pool = DescriptorPool::decode(shared::wire::DESCRIPTORS)?;
    pool.get_message_by_name(&format!("parapet.v1.{name}")).with_context(|| format!("no message {name}"))
}

/// Messages of the public API as rows.
pub fn rows<M: Message>(name: &str, messages: &[M]) -> anyhow::Result<Vec<Value>> {
    messages.iter().map(|message| json(name, message)).collect()
}

/// A column: its heading, and the path of the field it shows (`verdict.kind`).
pub type Column = (&'static str, &'static str);

/// Prints a list.
pub fn list(global: &Global, columns: &[Column], rows: &[Value], empty: &str) -> anyhow::Result<()> {
    if global.json {
        println!("{}", serde_json::to_string_pretty(rows)?);
        return Ok(());
    }
    if rows.is_empty() {
        println!("{empty}");
    } else {
        println!("{}", table(columns, rows));
    }
    Ok(())
}

/// A table for people.
pub fn table(columns: &[Column], rows: &[Value]) -> String {
    painted(columns, rows, colours())
}

fn painted(columns: &[Column], rows: &[Value], colours: bool) -> String {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    table.set_header(columns.iter().map(|(heading, _)| *heading));
    for row in rows {
        table.add_row(columns.iter().map(|(_, path)| coloured(cell(at(row, path).as_ref()), colours)));
    }
    if colours {
        table.enforce_styling();
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table.to_string().lines().map(str::trim_end).collect::<Vec<_>>().join("\n")
}

/// Whether whoever reads our output is a person at a terminal who has not asked for plain text (no-color.org).
fn colours() -> bool {
    std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// A cell whose word tells good news, bad news, or that something waits.
fn coloured(text: String, colours: bool) -> Cell {
    let colour = match text.as_str() {
        "active" | "working" | "passed" | "verified" | "done" => Some(Color::Green),
        "error"
        | "failed"
        | "not_granted"
        | "valid"
        | "valid_second_factor"
        | "valid_expired"
        | "reverted" => Some(Color::Red),
        "disabled" | "untested" | "held" | "waiting" | "deferred" | "unknown" => Some(Color::Yellow),
        _ => None,
    };
    match colour.filter(|_| colours) {
        Some(colour) => Cell::new(text).fg(colour),
        None => Cell::new(text),
    }
}

/// Prints one object, field by field.
pub fn show(global: &Global, object: &Value) -> anyhow::Result<()> {
    if global.json {
        println!("{}", serde_json::to_string_pretty(object)?);
    } else {
        let lines = lines(object);
        let width = lines.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
        for (name, value) in lines {
            println!("{name:<width$}  {value}");
        }
    }
    Ok(())
}

/// The fields of an object by path, as a person reads them.
pub fn lines(object: &Value) -> Vec<(String, String)> {
    let mut lines = Vec::new();
    flatten("", object, &mut lines);
    lines
}

fn flatten(prefix: &str, value: &Value, lines: &mut Vec<(String, String)>) {
    let name = |key: &str| if prefix.is_empty() { key.to_owned() } else { format!("{prefix}.{key}") };
    match value {
        Value::Object(fields) => fields.iter().for_each(|(key, value)| flatten(&name(key), value, lines)),
        Value::Array(items) if items.iter().any(Value::is_object) => {
            items.iter().enumerate().for_each(|(i, item)| flatten(&name(&(i + 1).to_string()), item, lines));
        }
        value => lines.push((prefix.to_owned(), cell(Some(value)))),
    }
}

/// What is found at a path, in which `*` stands for every item of a list.
fn at(value: &Value, path: &str) -> Option<Value> {
    let (key, rest) = path.split_once('.').map_or((path, None), |(key, rest)| (key, Some(rest)));
    let found = |value: &Value| match rest {
        Some(rest) => at(value, rest),
        None => Some(value.clone()),
    };
    match (key, value) {
        ("*", Value::Array(items)) => Some(Value::Array(items.iter().filter_map(found).collect())),
        _ => found(value.get(key)?),
    }
}

/// A field of a row as a person reads it.
pub fn text(row: &Value, path: &str) -> String {
    cell(at(row, path).as_ref())
}

/// A value as a person reads it: enum names without their prefix, instants relative to now.
fn cell(value: Option<&Value>) -> String {
    match value {
        None | Some(Value::Null) => "-".to_owned(),
        Some(Value::String(text)) => word(text).or_else(|| moment(text)).unwrap_or_else(|| text.clone()),
        Some(Value::Array(items)) => items.iter().map(|i| cell(Some(i))).collect::<Vec<_>>().join(", "),
        Some(other) => other.to_string(),
    }
}

const PREFIXES: [&str; 34] = [
    "CLIENT_KEY_STATE_",
    "CLIENT_KEY_STEP_",
    "APPROVAL_STATE_",
    "PLAN_OUTCOME_",
    "TRIAGE_RULE_SWITCH_",
    "TRIAGE_RULE_",
    "ATTEMPT_GATE_REASON_",
    "VALIDATION_STATE_",
    "DAILY_MAX_REQUEST_STATE_",
    "ATTEMPT_STOP_SCOPE_",
    "VERDICT_KIND_",
    "PROVIDER_KIND_",
    "INTEGRATION_STATUS_",
    "CONNECTION_RESULT_",
    "CAPABILITY_STATE_",
    "CAPABILITY_",
    "MITIGATION_ACTION_",
    "SECRET_FORM_",
    "LEAK_SOURCE_KIND_",
    "SYNC_PHASE_",
    "VALIDATION_KIND_",
    "AUDIT_OUTCOME_",
    "ACCOUNT_STATE_",
    "ACCOUNT_KIND_",
    "PASSWORD_AUTHORITY_",
    "IDENTIFIER_KIND_",
    "ENTRA_CLOUD_",
    "DATE_PRECISION_",
    "FEED_SCOPE_",
    "IDENTITY_KIND_",
    "RECORD_OUTCOME_KIND_",
    "REMOVAL_PLAN_STATE_",
    "REMOVAL_PLAN_REASON_",
    "ROLE_",
];

fn word(text: &str) -> Option<String> {
    let shouted = text.chars().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_');
    let rest = PREFIXES.iter().find_map(|prefix| text.strip_prefix(prefix))?;
    shouted.then(|| rest.to_lowercase())
}

fn moment(text: &str) -> Option<String> {
    OffsetDateTime::parse(text, &Rfc3339).ok().map(distance)
}

/// An instant as its distance from now.
pub fn distance(at: OffsetDateTime) -> String {
    let seconds = (OffsetDateTime::now_utc() - at).whole_seconds();
    if seconds >= 0 { format!("{} ago", span(seconds)) } else { format!("in {}", span(-seconds)) }
}

fn span(seconds: i64) -> String {
    match seconds {
        s if s < 60 => format!("{s} s"),
        s if s < 3600 => format!("{} min", s / 60),
        s if s < 2 * 86_400 => format!("{} h", s / 3600),
        s => format!("{} days", s / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use shared::wire::v1 as api;

    #[test]
    fn a_table_is_coloured_for_a_terminal_only_and_aligned_either_way() {
        let rows = [
            json!({"name": "contoso", "status": "INTEGRATION_STATUS_ERROR", "warnings": [{"reason": "a"}, {"reason": "b"}]}),
        ];
        let columns = [("NAME", "name"), ("STATUS", "status"), ("WARNINGS", "warnings.*.reason")];
        assert_eq!(painted(&columns, &rows, false), "NAME     STATUS  WARNINGS\ncontoso  error   a, b");
        let coloured = painted(&columns, &rows, true);
        assert!(coloured.contains("\x1b[38;5;9merror") && !coloured.contains("9mcontoso"), "{coloured:?}");
    }

    #[test]
    fn an_enum_is_a_word_and_an_instant_is_a_distance_for_people() {
        let exposure = api::Exposure {
            id: "x".into(),
            verdict: Some(api::Verdict {
                kind: api::VerdictKind::ValidSecondFactor.into(),
                ..Default::default()
            }),
            created_at: Some(prost_types::Timestamp { seconds: 0, nanos: 0 }),
            ..Default::default()
        };
        let json = json("Exposure", &exposure).unwrap();
        assert_eq!(cell(at(&json, "verdict.kind").as_ref()), "valid_second_factor");
        assert!(cell(at(&json, "created_at").as_ref()).ends_with("days ago"));
        assert_eq!(cell(at(&json, "login").as_ref()), "-");
    }
}
