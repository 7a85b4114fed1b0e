//! RFC 4180, for spreadsheets.

use std::fmt::Debug;

use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use uuid::Uuid;

use crate::chain::Link;

pub(super) const HEAD: &str = "sequence,id,occurred_at,stored_at,type,outcome,actor_kind,actor_id,actor_name,cause_id,\
                               integration_id,object_kind,object_id,user_object_id,user_name,message,details,\
                               previous_hash,hash\r\n";

pub(super) fn event(link: &Link) -> String {
    let event = &link.event;
    let id = |id: Option<Uuid>| id.map(|id| id.to_string()).unwrap_or_default();
    let hex = |hash: &dyn Debug| format!("{hash:?}");
    let cells = [
        link.sequence.to_string(),
        event.event_id.to_string(),
        time(event.occurred_at),
        time(link.stored_at),
        event.kind.clone(),
        event.outcome.clone(),
        event.actor_kind.clone(),
        event.actor_id.clone(),
        event.actor_name.clone(),
        id(event.cause_id),
        id(event.integration_id),
        event.object_kind.clone(),
        event.object_id.clone(),
        event.user_object_id.clone(),
        event.user_name.clone(),
        event.message.clone(),
        serde_json::json!(event.details).to_string(),
        hex(&link.previous),
        hex(&link.hash),
    ];
    let mut line = cells.map(|text| cell(&text)).join(",");
    line.push_str("\r\n");
    line
}

fn time(at: OffsetDateTime) -> String {
    at.format(&Rfc3339).unwrap_or_default()
}

/// A cell. Names and reasons are other people's words: none of them is a formula.
fn cell(text: &str) -> String {
    let formula = text.starts_with(['=', '+', '-', '@', '\t', '\r']);
    let text = if formula { format!("'{text}") } else { text.to_owned() };
    if text.contains(['"', ',', '\r', '\n']) { format!("\"{}\"", text.replace('"', "\"\"")) } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_separators_and_formulas_stay_within_their_cell() {
        assert_eq!(cell("plain"), "plain");
        assert_eq!(cell("a,b"), "\"a,b\"");
        assert_eq!(cell("say \"no\"\n"), "\"say \"\"no\"\"\n\"");
        assert_eq!(cell("=HYPERLINK(1,2)"), "\"'=HYPERLINK(1,2)\"");
        assert_eq!(cell("@sum"), "'@sum");
    }
}
