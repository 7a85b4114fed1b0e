//! What can be known about an exposure without submitting a password. Pure functions, cheapest first (design §6).
//!
//! Each rule looks at [`Facts`] and either decides, with its evidence, or leaves the exposure to the next. Run twice:
//! when an exposure comes in, on what was synced, and again just before an attempt, on what the directory says now. What
//! was tried before is known to the second only: an unseen change of the password would turn it into its opposite. Of
//! the other rules an old date decides less, never wrongly.

use std::collections::{BTreeMap, BTreeSet};

use shared::{
    provider::{AccountKind, AccountState, PasswordAuthority},
    triage::{Likelihood, Rule},
    verdict::{Reason, Verdict},
};
use time::{Duration, OffsetDateTime, format_description::well_known::Rfc3339};

/// Facts behind a verdict, by name. Never a secret.
pub type Evidence = BTreeMap<&'static str, String>;

/// A verdict and what it rests on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// The verdict.
    pub verdict: Verdict,
    /// Why.
    pub evidence: Evidence,
}

impl Decision {
    /// A verdict without evidence yet.
    pub fn new(verdict: Verdict) -> Self {
        Self { verdict, evidence: Evidence::new() }
    }
    /// A rule's verdict, counted.
    pub fn by(rule: Rule, verdict: Verdict) -> Self {
        metrics::counter!("parapet_triage_decisions_total", "rule" => rule.as_str()).increment(1);
        Self::new(verdict).because("rule", rule.as_str())
    }
    /// Adds a fact.
    #[must_use]
    pub fn because(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.evidence.insert(name, value.into());
        self
    }
    fn at(self, name: &'static str, instant: OffsetDateTime) -> Self {
        self.because(name, instant.format(&Rfc3339).unwrap_or_default())
    }
}

/// What the record carried as its secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SecretForm {
    /// A password in clear, or recovered from a hash.
    Password,
    /// A hash.
    Hash,
    /// A hint.
    Hint,
    /// Masked by the source.
    Masked,
    /// Nothing, or a form this version does not know.
    None,
}

impl SecretForm {
    /// From the stored name; what is unknown is never tried.
    pub fn parse(name: &str) -> Self {
        match name {
            "plaintext" | "cracked" => Self::Password,
            "hash" => Self::Hash,
            "hint" => Self::Hint,
            "masked" => Self::Masked,
            _ => Self::None,
        }
    }
}

/// The leaked secret, as far as it can be told without opening it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Secret {
    /// What it is.
    pub form: SecretForm,
    /// A sealed password is still there.
    pub kept: bool,
    /// It was destroyed when its retention ended.
    pub expired: bool,
    /// It cannot be submitted faithfully.
    pub unusable: bool,
    /// Keyed digest of account and password.
    pub digest: Option<Vec<u8>>,
    /// When it can have been captured at the latest.
    pub captured_until: OffsetDateTime,
    /// The record says that it was entered at this directory's own sign-in page.
    pub own_page: bool,
}

/// The account, as synced or as read just now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AccountFacts {
    /// State.
    pub state: AccountState,
    /// Member or guest.
    pub kind: AccountKind,
    /// Who checks the password.
    pub authority: PasswordAuthority,
    /// Mastered on premises.
    pub hybrid: bool,
    /// Since when every look at it showed that its passwords are under the directory's own rules. What was switched off
    /// and on again between two looks shows nowhere.
    pub under_policy_since: Option<OffsetDateTime>,
    /// When the password last changed, as the directory says.
    pub password_changed_at: Option<OffsetDateTime>,
    /// When the account was created in the directory.
    pub created_at: Option<OffsetDateTime>,
    /// No longer in the directory.
    pub removed: bool,
}

impl AccountFacts {
    /// When the password last changed, unless the date means something else: in hybrid directories it can be the
    /// time of the first sync (asks.md N3), which shows by being about the account's creation.
    pub fn trusted_password_change(&self) -> Option<OffsetDateTime> {
        let changed = self.password_changed_at?;
        let about_creation = self.created_at.is_some_and(|c| (changed - c).abs() <= Duration::DAY);
        (!(self.hybrid && about_creation)).then_some(changed)
    }
}

/// A password that was tried on the account, and what was proven.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tried {
    /// Keyed digest.
    pub digest: Vec<u8>,
    /// The proven verdict.
    pub verdict: Verdict,
    /// When.
    pub at: OffsetDateTime,
}

/// What passwords of the directory's own accounts must look like at least, and since when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PasswordPolicy {
    /// Characters at least.
    pub min_length: usize,
    /// Lower-case letters at least.
    pub min_lower: usize,
    /// Upper-case letters at least.
    pub min_upper: usize,
    /// Digits at least.
    pub min_digits: usize,
    /// Kinds of characters at least, of lower case, upper case, digits and symbols.
    pub min_classes: usize,
    /// In force since.
    pub since: OffsetDateTime,
}

/// Everything triage looks at.
#[derive(Clone, Debug)]
pub struct Facts {
    /// The leaked secret.
    pub secret: Secret,
    /// The account.
    pub account: AccountFacts,
    /// An administrator allows accounts whose password lives in Active Directory.
    pub allow_ad_backed: bool,
    /// Rules that an administrator switched off. Those that are always on decide all the same.
    pub off: BTreeSet<Rule>,
    /// What was tried on the account.
    pub tried: Vec<Tried>,
}

impl Facts {
    /// Whether a rule decides here.
    pub fn asks(&self, rule: Rule) -> bool {
        rule.always_on_because().is_some() || !self.off.contains(&rule)
    }

    /// A person insists since then: the rules that only save attempts do not stand in the way, but for what was proven
    /// since, which is the answer.
    pub fn overrule(&mut self, since: OffsetDateTime) {
        self.off.extend([Rule::ChangedSinceCapture, Rule::PolicyExcludes]);
        self.tried.retain(|tried| tried.at >= since);
    }
}

/// Decides, or leaves it to the next.
type Decide = fn(&Facts) -> Option<Decision>;

/// The rules that need no open password, in order.
const RULES: [(Rule, Decide); 6] = [
    (Rule::NoUsableSecret, no_usable_secret),
    (Rule::AccountState, account_state),
    (Rule::AuthorityElsewhere, authority_elsewhere),
    (Rule::AlreadyTried, already_tried),
    (Rule::OtherPasswordProven, other_password_proven),
    (Rule::ChangedSinceCapture, changed_since_capture),
];

/// The first rule that decides; `None` when only an attempt can tell.
pub fn triage(facts: &Facts) -> Option<Decision> {
    RULES.iter().filter(|(rule, _)| facts.asks(*rule)).find_map(|(_, decide)| decide(facts))
}

fn no_usable_secret(facts: &Facts) -> Option<Decision> {
    let secret = &facts.secret;
    let reason = match secret.form {
        SecretForm::Hash => Reason::SecretHashed,
        SecretForm::Hint => Reason::SecretHint,
        SecretForm::Masked => Reason::SecretMasked,
        SecretForm::None => Reason::NoSecret,
        SecretForm::Password if secret.expired => Reason::SecretExpired,
        SecretForm::Password if secret.unusable => Reason::SecretUnusable,
        SecretForm::Password if !secret.kept => Reason::NoSecret,
        SecretForm::Password => return None,
    };
    Some(Decision::by(Rule::NoUsableSecret, Verdict::NotTestable(reason)))
}

fn account_state(facts: &Facts) -> Option<Decision> {
    let account = &facts.account;
    let reason = match account.state {
        _ if account.removed => Reason::AccountGone,
        AccountState::Deprovisioned => Reason::AccountGone,
        AccountState::Disabled => Reason::AccountDisabled,
        AccountState::Locked => Reason::AccountLocked,
        AccountState::Pending => Reason::AccountState,
        AccountState::Active | AccountState::PasswordExpired => match account.kind {
            AccountKind::Guest => Reason::Guest,
            AccountKind::Member => return None,
        },
    };
    let decision = Decision::by(Rule::AccountState, Verdict::NotTestable(reason));
    Some(decision.because("account_state", account.state.as_str()))
}

fn authority_elsewhere(facts: &Facts) -> Option<Decision> {
    let reason = match facts.account.authority {
        PasswordAuthority::Cloud => return None,
        PasswordAuthority::Ad if facts.allow_ad_backed => return None,
        PasswordAuthority::Ad => Reason::AdBacked,
        PasswordAuthority::Federated => Reason::Federated,
        PasswordAuthority::None => Reason::Passwordless,
    };
    let decision = Decision::by(Rule::AuthorityElsewhere, Verdict::NotTestable(reason));
    Some(decision.because("password_authority", facts.account.authority.as_str()))
}

/// Still about today's password: it did not change since, as far as the directory tells.
fn still_holds(facts: &Facts, tried: &Tried) -> bool {
    facts.account.trusted_password_change().is_none_or(|changed| tried.at > changed)
}

fn already_tried(facts: &Facts) -> Option<Decision> {
    let digest = facts.secret.digest.as_deref()?;
    let tried = facts.tried.iter().filter(|t| still_holds(facts, t)).find(|t| t.digest == digest)?;
    // A password proven right is right for every exposure that carries it.
    let verdict = if tried.verdict.is_valid() { tried.verdict } else { Verdict::Stale(Reason::AlreadyTried) };
    let decision = Decision::by(Rule::AlreadyTried, verdict);
    Some(decision.because("tried_verdict", tried.verdict.name()).at("tried_at", tried.at))
}

fn other_password_proven(facts: &Facts) -> Option<Decision> {
    let digest = facts.secret.digest.as_deref()?;
    let proven = facts
        .tried
        .iter()
        .filter(|t| still_holds(facts, t))
        .find(|t| t.verdict.is_valid() && t.digest != digest)?;
    let verdict = Verdict::Stale(Reason::OtherPasswordProven);
    Some(Decision::by(Rule::OtherPasswordProven, verdict).at("proven_at", proven.at))
}

/// Whether the password changed after the latest moment the secret can have been captured.
fn changed_since(secret: &Secret, account: &AccountFacts) -> Option<OffsetDateTime> {
    account.trusted_password_change().filter(|changed| *changed > secret.captured_until)
}

/// Decides about what was entered at this directory only: a password that leaked elsewhere can have been chosen here
/// afterwards (asks.md N3), so of such a record it lowers the [`likelihood`].
fn changed_since_capture(facts: &Facts) -> Option<Decision> {
    let changed = changed_since(&facts.secret, &facts.account)?;
    facts.secret.own_page.then(|| {
        Decision::by(Rule::ChangedSinceCapture, Verdict::Stale(Reason::ChangedSinceCapture))
            .at("password_changed_at", changed)
            .at("captured_until", facts.secret.captured_until)
    })
}

/// The last rule; it needs the open password, so it runs just before an attempt. Decides only if today's password
/// was set under the policy: one set before may be weaker and still work (asks.md N4). Nor does it about a password that
/// came with the account, which nobody held against a policy, and one that another directory keeps or is master of.
pub fn policy_excludes(policy: &PasswordPolicy, account: &AccountFacts, password: &str) -> Option<Decision> {
    let changed = account.trusted_password_change()?;
    let since = account.under_policy_since?.max(policy.since);
    let came_along = account.created_at.is_none_or(|created| changed - created <= Duration::DAY);
    let elsewhere = account.hybrid || account.authority != PasswordAuthority::Cloud;
    if changed <= since || came_along || elsewhere || satisfies(policy, password) {
        return None;
    }
    let decision = Decision::by(Rule::PolicyExcludes, Verdict::Stale(Reason::PolicyExcludes));
    Some(decision.at("policy_since", since))
}

/// Counts generously where directories may count in their own way, because a wrong "cannot be" would hide an exposure:
/// the length in bytes, which no other unit exceeds, and a character outside ASCII as one of every kind.
fn satisfies(policy: &PasswordPolicy, password: &str) -> bool {
    let count = |wanted: fn(&char) -> bool| password.chars().filter(wanted).count();
    let any = |wanted: fn(&char) -> bool| password.chars().any(|c| !c.is_ascii() || wanted(&c));
    let symbol: fn(&char) -> bool = |c| !c.is_ascii_alphanumeric();
    let classes = [char::is_ascii_lowercase, char::is_ascii_uppercase, char::is_ascii_digit, symbol];
    password.len() >= policy.min_length
        && count(|c| c.is_lowercase()) >= policy.min_lower
        && count(|c| c.is_uppercase()) >= policy.min_upper
        && count(|c| c.is_numeric()) >= policy.min_digits
        && classes.into_iter().filter(|class| any(*class)).count() >= policy.min_classes
}

/// Whether a password can be submitted exactly as it leaked (entra.md §4.2). Eight asterisks are a mask by contract
/// (feeds.md), whatever the record says.
pub fn submittable(password: &[u8]) -> bool {
    std::str::from_utf8(password).is_ok_and(|text| {
        !text.is_empty() && text.trim() == text && !text.chars().any(char::is_control) && text != "********"
    })
}

/// How likely the password is to be right today: the order of what waits. `source_kind` is the feed's word for how the
/// credential got out.
pub fn likelihood(
    secret: &Secret,
    account: &AccountFacts,
    source_kind: &str,
    captured_before: Option<OffsetDateTime>,
    received_at: OffsetDateTime,
) -> Likelihood {
    if changed_since(secret, account).is_some() {
        return Likelihood::ChangedSince;
    }
    if secret.own_page {
        return Likelihood::OwnPage;
    }
    let stolen = matches!(source_kind, "stealer" | "phish");
    let collected = matches!(source_kind, "combolist" | "paste");
    match captured_before.map(|at| (received_at - at).whole_days()) {
        Some(366..) => Likelihood::Old,
        _ if collected => Likelihood::Collected,
        None => Likelihood::Undated,
        Some(..=30) if stolen => Likelihood::StolenLately,
        Some(..=30) => Likelihood::LeakedLately,
        Some(..=365) if stolen => Likelihood::StolenThisYear,
        Some(..=365) => Likelihood::LeakedThisYear,
    }
}

/// When a secret can have been captured at the latest: the earliest of the capture date, as exact as it is, and what
/// must lie after it. Arrival is always known.
pub fn captured_until(
    captured_before: Option<OffsetDateTime>,
    precision: Option<&str>,
    published_at: Option<OffsetDateTime>,
    first_seen_at: Option<OffsetDateTime>,
    received_at: OffsetDateTime,
) -> OffsetDateTime {
    let slack = match precision {
        Some("day") => Duration::DAY,
        Some("month") => Duration::days(31),
        Some("year") => Duration::days(366),
        _ => Duration::ZERO,
    };
    [captured_before.map(|at| at + slack), published_at, first_seen_at]
        .into_iter()
        .flatten()
        .min()
        .unwrap_or(received_at)
        .min(received_at)
}

#[cfg(test)]
#[path = "triage_tests.rs"]
mod tests;
