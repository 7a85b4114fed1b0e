//! The filter and search expressions of user lists: comparisons joined by `and` and `or` (okta.md §3.1).

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::Org;
use super::user::status;
use crate::model::Account;

/// A disjunction of conjunctions.
#[derive(Debug, PartialEq)]
pub struct Query(Vec<Vec<Term>>);

#[derive(Debug, PartialEq)]
struct Term {
    property: String,
    operator: Operator,
    value: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operator {
    Eq,
    Gt,
    Ge,
    Lt,
    Le,
    Sw,
    Co,
    Pr,
}

const OPERATORS: &[(&str, Operator)] = &[
    ("eq", Operator::Eq),
    ("gt", Operator::Gt),
    ("ge", Operator::Ge),
    ("lt", Operator::Lt),
    ("le", Operator::Le),
    ("sw", Operator::Sw),
    ("co", Operator::Co),
    ("pr", Operator::Pr),
];

/// Properties a filter or search of ours may name.
const PROPERTIES: &[&str] = &[
    "id",
    "status",
    "created",
    "statusChanged",
    "lastUpdated",
    "profile.login",
    "profile.email",
    "profile.firstName",
    "profile.lastName",
];

impl Query {
    /// Reads an expression. In a filter (`search` false) only dates are ordered, and nothing matches by its parts.
    pub fn parse(text: &str, search: bool) -> Option<Self> {
        let mut words = words(text)?.into_iter();
        let mut alternatives = vec![Vec::new()];
        loop {
            let property = words.next()?;
            if !PROPERTIES.contains(&property.as_str()) {
                return None;
            }
            let word = words.next()?;
            let operator = OPERATORS.iter().find(|row| row.0.eq_ignore_ascii_case(&word))?.1;
            let value = if operator == Operator::Pr { String::new() } else { words.next()? };
            let ordered = matches!(operator, Operator::Gt | Operator::Ge | Operator::Lt | Operator::Le);
            let dated = matches!(property.as_str(), "created" | "statusChanged" | "lastUpdated");
            if ordered && !dated || dated && operator != Operator::Pr && date(&value).is_none() {
                return None;
            }
            if !search && matches!(operator, Operator::Sw | Operator::Co | Operator::Pr) {
                return None;
            }
            alternatives.last_mut()?.push(Term { property, operator, value });
            match words.next().as_deref() {
                None => return Some(Self(alternatives)),
                Some("and") => {}
                Some("or") => alternatives.push(Vec::new()),
                Some(_) => return None,
            }
        }
    }

    /// The ids it asks for, when it asks for nothing else.
    pub fn ids(&self) -> Option<Vec<&str>> {
        let id = |terms: &'_ Vec<Term>| match terms.as_slice() {
            [Term { property, operator: Operator::Eq, .. }] => property == "id",
            _ => false,
        };
        let all = self.0.iter().all(id);
        all.then(|| self.0.iter().flatten().map(|term| term.value.as_str()).collect())
    }

    /// The instant after which (or at which) every account that matches was last updated, if the query names one.
    pub fn updated_from(&self) -> Option<OffsetDateTime> {
        let from = |terms: &Vec<Term>| terms.iter().filter_map(Term::updated_from).max();
        self.0.iter().map(from).min().flatten()
    }

    /// Whether an account matches.
    pub fn matches(&self, org: &Org, account: &Account, now: OffsetDateTime) -> bool {
        self.0.iter().any(|terms| terms.iter().all(|term| term.matches(org, account, now)))
    }
}

impl Term {
    fn updated_from(&self) -> Option<OffsetDateTime> {
        let from = matches!(self.operator, Operator::Gt | Operator::Ge | Operator::Eq);
        if self.property == "lastUpdated" && from { date(&self.value) } else { None }
    }

    fn matches(&self, org: &Org, account: &Account, now: OffsetDateTime) -> bool {
        let date = match self.property.as_str() {
            "created" => Some(account.created),
            "statusChanged" => Some(account.status_changed),
            "lastUpdated" => Some(account.updated),
            _ => None,
        };
        if let Some(has) = date {
            let Some(wanted) = self::date(&self.value) else { return self.operator == Operator::Pr };
            return match self.operator {
                Operator::Eq => has == wanted,
                Operator::Gt => has > wanted,
                Operator::Ge => has >= wanted,
                Operator::Lt => has < wanted,
                Operator::Le => has <= wanted,
                Operator::Sw | Operator::Co | Operator::Pr => false,
            };
        }
        let has = match self.property.as_str() {
            "id" => account.id.as_str(),
            "status" => status(org, account, now),
            "profile.login" => &account.login,
            "profile.email" => account.email.as_deref().unwrap_or_default(),
            "profile.firstName" => &account.given_name,
            _ => &account.family_name,
        };
        match self.operator {
            Operator::Eq => has == self.value,
            Operator::Sw => has.to_lowercase().starts_with(&self.value.to_lowercase()),
            Operator::Co => has.to_lowercase().contains(&self.value.to_lowercase()),
            Operator::Pr => !has.is_empty(),
            Operator::Gt | Operator::Ge | Operator::Lt | Operator::Le => false,
        }
    }
}

fn date(text: &str) -> Option<OffsetDateTime> {
    OffsetDateTime::parse(text, &Rfc3339).ok()
}

/// Words and quoted strings; `None` when a quote does not end.
pub fn words(text: &str) -> Option<Vec<String>> {
    let mut found = Vec::new();
    let mut rest = text.trim();
    while !rest.is_empty() {
        if let Some(quoted) = rest.strip_prefix('"') {
            let (value, after) = quoted.split_once('"')?;
            found.push(value.to_owned());
            rest = after.trim_start();
        } else {
            let (word, after) = rest.split_once(' ').unwrap_or((rest, ""));
            found.push(word.to_owned());
            rest = after.trim_start();
        }
    }
    Some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_tells_since_when_all_it_finds_was_updated_if_every_alternative_does() {
        let from = |text: &str| Query::parse(text, false).unwrap().updated_from();
        let at = |text: &str| OffsetDateTime::parse(text, &Rfc3339).ok();
        assert_eq!(from("lastUpdated gt \"2026-01-02T00:00:00.000Z\""), at("2026-01-02T00:00:00Z"));
        let either = "lastUpdated ge \"2026-01-02T00:00:00Z\" or lastUpdated gt \"2026-01-01T00:00:00Z\" and status eq \"ACTIVE\"";
        assert_eq!(from(either), at("2026-01-01T00:00:00Z"));
        assert_eq!(from("lastUpdated gt \"2026-01-02T00:00:00Z\" or status eq \"ACTIVE\""), None);
        assert_eq!(from("lastUpdated lt \"2026-01-02T00:00:00Z\""), None);
    }
}
