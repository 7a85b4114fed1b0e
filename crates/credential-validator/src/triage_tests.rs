use time::macros::datetime;

use super::*;

const LEAK: OffsetDateTime = datetime!(2026-06-01 00:00 UTC);
const BEFORE: OffsetDateTime = datetime!(2026-05-01 00:00 UTC);
const AFTER: OffsetDateTime = datetime!(2026-07-01 00:00 UTC);
const LATER: OffsetDateTime = datetime!(2026-08-01 00:00 UTC);

fn facts() -> Facts {
    Facts {
        secret: Secret {
            form: SecretForm::Password,
            kept: true,
            expired: false,
            unusable: false,
            digest: Some(vec![1]),
            captured_until: LEAK,
            own_page: true,
        },
        account: AccountFacts {
            state: AccountState::Active,
            kind: AccountKind::Member,
            authority: PasswordAuthority::Cloud,
            hybrid: false,
            under_policy_since: Some(datetime!(2020-01-01 00:00 UTC)),
            password_changed_at: Some(BEFORE),
            created_at: Some(datetime!(2020-01-01 00:00 UTC)),
            removed: false,
        },
        allow_ad_backed: false,
        off: BTreeSet::new(),
        tried: Vec::new(),
    }
}

fn tried(digest: u8, verdict: Verdict, at: OffsetDateTime) -> Tried {
    Tried { digest: vec![digest], verdict, at }
}

fn verdict(change: impl FnOnce(&mut Facts)) -> Option<Verdict> {
    let mut facts = facts();
    change(&mut facts);
    triage(&facts).map(|d| d.verdict)
}

#[test]
fn a_usable_password_for_an_active_account_needs_an_attempt() {
    assert_eq!(verdict(|_| ()), None);
}

#[test]
fn a_secret_that_is_no_password_is_never_tried() {
    for (form, reason) in [
        (SecretForm::Hash, Reason::SecretHashed),
        (SecretForm::Hint, Reason::SecretHint),
        (SecretForm::Masked, Reason::SecretMasked),
        (SecretForm::None, Reason::NoSecret),
    ] {
        assert_eq!(verdict(|f| f.secret.form = form), Some(Verdict::NotTestable(reason)));
    }
    assert_eq!(verdict(|f| f.secret.kept = false), Some(Verdict::NotTestable(Reason::NoSecret)));
    assert_eq!(verdict(|f| f.secret.expired = true), Some(Verdict::NotTestable(Reason::SecretExpired)));
    assert_eq!(verdict(|f| f.secret.unusable = true), Some(Verdict::NotTestable(Reason::SecretUnusable)));
}

#[test]
fn an_account_that_cannot_sign_in_is_never_tried() {
    for (state, expected) in [
        (AccountState::Active, None),
        (AccountState::PasswordExpired, None),
        (AccountState::Disabled, Some(Reason::AccountDisabled)),
        (AccountState::Locked, Some(Reason::AccountLocked)),
        (AccountState::Pending, Some(Reason::AccountState)),
        (AccountState::Deprovisioned, Some(Reason::AccountGone)),
    ] {
        assert_eq!(verdict(|f| f.account.state = state), expected.map(Verdict::NotTestable), "{state:?}");
    }
    assert_eq!(verdict(|f| f.account.removed = true), Some(Verdict::NotTestable(Reason::AccountGone)));
    assert_eq!(verdict(|f| f.account.kind = AccountKind::Guest), Some(Verdict::NotTestable(Reason::Guest)));
}

#[test]
fn a_password_that_lives_elsewhere_is_tried_only_where_an_administrator_opted_in() {
    for (authority, opted_in, expected) in [
        (PasswordAuthority::Cloud, false, None),
        (PasswordAuthority::Ad, false, Some(Reason::AdBacked)),
        (PasswordAuthority::Ad, true, None),
        (PasswordAuthority::Federated, true, Some(Reason::Federated)),
        (PasswordAuthority::None, true, Some(Reason::Passwordless)),
    ] {
        let found = verdict(|f| {
            f.account.authority = authority;
            f.allow_ad_backed = opted_in;
        });
        assert_eq!(found, expected.map(Verdict::NotTestable), "{authority:?} {opted_in}");
    }
}

#[test]
fn a_password_that_was_tried_is_answered_from_memory_until_the_account_s_password_changes() {
    let memory = |verdict| move |f: &mut Facts| f.tried = vec![tried(1, verdict, AFTER)];
    assert_eq!(verdict(memory(Verdict::Invalid)), Some(Verdict::Stale(Reason::AlreadyTried)));
    assert_eq!(verdict(memory(Verdict::ValidSecondFactor)), Some(Verdict::ValidSecondFactor));
    let changed = verdict(|f| {
        f.tried = vec![tried(1, Verdict::Invalid, AFTER)];
        f.account.password_changed_at = Some(LATER);
        f.secret.captured_until = LATER + Duration::DAY;
    });
    assert_eq!(changed, None);
}

#[test]
fn one_proven_password_makes_every_other_one_stale_until_the_next_change() {
    let other = verdict(|f| f.tried = vec![tried(2, Verdict::Valid, AFTER)]);
    assert_eq!(other, Some(Verdict::Stale(Reason::OtherPasswordProven)));
    assert_eq!(verdict(|f| f.tried = vec![tried(2, Verdict::Invalid, AFTER)]), None);
    let changed = verdict(|f| {
        f.tried = vec![tried(2, Verdict::Valid, AFTER)];
        f.account.password_changed_at = Some(LATER);
        f.secret.captured_until = LATER + Duration::DAY;
    });
    assert_eq!(changed, None);
}

/// How likely a password of this source, so many days old, is right.
fn likely(source: &str, own_page: bool, changed: OffsetDateTime, age: Option<i64>) -> Likelihood {
    let mut facts = facts();
    facts.secret.own_page = own_page;
    facts.account.password_changed_at = Some(changed);
    likelihood(&facts.secret, &facts.account, source, age.map(|days| LATER - Duration::days(days)), LATER)
}

#[test]
fn a_change_after_a_leak_elsewhere_proves_nothing_and_puts_it_last() {
    let elsewhere = |f: &mut Facts| {
        f.account.password_changed_at = Some(AFTER);
        f.secret.own_page = false;
    };
    assert_eq!(verdict(elsewhere), None);
    for source in ["stealer", "breach", "combolist"] {
        assert_eq!(likely(source, false, AFTER, Some(3)), Likelihood::ChangedSince, "{source}");
    }
}

#[test]
fn the_own_page_comes_first_then_the_young_and_what_was_stolen_before_what_leaked_before_what_was_collected()
{
    for (source, own_page, age, expected) in [
        ("combolist", true, Some(3_000), Likelihood::OwnPage),
        ("stealer", false, Some(3), Likelihood::StolenLately),
        ("phish", false, Some(30), Likelihood::StolenLately),
        ("breach", false, Some(30), Likelihood::LeakedLately),
        ("", false, Some(3), Likelihood::LeakedLately),
        ("stealer", false, Some(31), Likelihood::StolenThisYear),
        ("breach", false, Some(365), Likelihood::LeakedThisYear),
        ("stealer", false, None, Likelihood::Undated),
        ("breach", false, None, Likelihood::Undated),
        ("combolist", false, Some(3), Likelihood::Collected),
        ("paste", false, None, Likelihood::Collected),
        ("stealer", false, Some(366), Likelihood::Old),
        ("combolist", false, Some(3_000), Likelihood::Old),
    ] {
        assert_eq!(likely(source, own_page, BEFORE, age), expected, "{source} {own_page} {age:?}");
    }
}

#[test]
fn a_rule_that_is_switched_off_leaves_what_it_would_decide_to_the_next() {
    let off = |f: &mut Facts, rule| f.off = BTreeSet::from([rule]);
    let changed = |f: &mut Facts| f.account.password_changed_at = Some(AFTER);
    let tried_before = |f: &mut Facts| f.tried = vec![tried(1, Verdict::Invalid, AFTER)];
    let proven_before = |f: &mut Facts| f.tried = vec![tried(2, Verdict::Valid, AFTER)];
    for (decided, rule) in [
        (&changed as &dyn Fn(&mut Facts), Rule::ChangedSinceCapture),
        (&tried_before, Rule::AlreadyTried),
        (&proven_before, Rule::OtherPasswordProven),
    ] {
        let both = |switch: bool| {
            let mut facts = facts();
            decided(&mut facts);
            if switch {
                off(&mut facts, rule);
            }
            triage(&facts).map(|d| d.evidence["rule"].clone())
        };
        assert_eq!((both(false).as_deref(), both(true)), (Some(rule.as_str()), None));
    }
}

#[test]
fn what_protects_people_decides_even_if_somebody_wrote_it_into_the_settings_as_off() {
    let mut facts = facts();
    facts.off = Rule::ALL.iter().copied().collect();
    facts.account.state = AccountState::Locked;
    assert_eq!(triage(&facts).unwrap().evidence["rule"], "account_state");
    assert!(facts.asks(Rule::NoUsableSecret) && facts.asks(Rule::AuthorityElsewhere));
    assert!(!facts.asks(Rule::PolicyExcludes));
}

#[test]
fn a_person_who_insists_overrules_what_only_saves_attempts_but_not_what_was_proven_since_nor_a_protection() {
    let insisted = |change: &dyn Fn(&mut Facts)| {
        let mut facts = facts();
        change(&mut facts);
        facts.overrule(LATER);
        (triage(&facts).map(|d| d.verdict), facts.asks(Rule::PolicyExcludes))
    };
    assert_eq!(insisted(&|f| f.account.password_changed_at = Some(AFTER)), (None, false));
    assert_eq!(insisted(&|f| f.tried = vec![tried(1, Verdict::Invalid, AFTER)]).0, None);
    assert_eq!(insisted(&|f| f.tried = vec![tried(2, Verdict::Valid, AFTER)]).0, None);
    let since = insisted(&|f| f.tried = vec![tried(1, Verdict::Invalid, LATER)]).0;
    assert_eq!(since, Some(Verdict::Stale(Reason::AlreadyTried)));
    let locked = insisted(&|f| f.account.state = AccountState::Locked).0;
    assert_eq!(locked, Some(Verdict::NotTestable(Reason::AccountLocked)));
}

#[test]
fn a_password_changed_after_the_capture_is_stale_and_one_changed_before_is_not() {
    assert_eq!(
        verdict(|f| f.account.password_changed_at = Some(AFTER)),
        Some(Verdict::Stale(Reason::ChangedSinceCapture))
    );
    assert_eq!(verdict(|f| f.account.password_changed_at = Some(LEAK)), None);
    assert_eq!(verdict(|f| f.account.password_changed_at = None), None);
}

#[test]
fn a_hybrid_account_s_change_date_about_its_creation_proves_nothing() {
    let hybrid = |created: OffsetDateTime| {
        verdict(|f| {
            f.account.hybrid = true;
            f.account.password_changed_at = Some(AFTER);
            f.account.created_at = Some(created);
        })
    };
    assert_eq!(hybrid(AFTER - Duration::hours(1)), None);
    assert_eq!(hybrid(BEFORE), Some(Verdict::Stale(Reason::ChangedSinceCapture)));
}

#[test]
fn the_cheapest_rule_decides_first_and_leaves_its_evidence() {
    let mut facts = facts();
    facts.secret.form = SecretForm::Hash;
    facts.account.state = AccountState::Disabled;
    let decision = triage(&facts).unwrap();
    assert_eq!(decision.verdict, Verdict::NotTestable(Reason::SecretHashed));
    assert_eq!(decision.evidence["rule"], "no_usable_secret");
    facts.secret.form = SecretForm::Password;
    let decision = triage(&facts).unwrap();
    assert_eq!(decision.evidence["account_state"], "disabled");
}

/// As Okta's policies are read.
const OKTA: PasswordPolicy = PasswordPolicy {
    min_length: 8,
    min_lower: 1,
    min_upper: 1,
    min_digits: 1,
    min_classes: 0,
    since: BEFORE,
};
/// Microsoft's fixed rule.
const ENTRA: PasswordPolicy = PasswordPolicy {
    min_length: 8,
    min_lower: 0,
    min_upper: 0,
    min_digits: 0,
    min_classes: 3,
    since: BEFORE,
};

fn changed(change: impl FnOnce(&mut AccountFacts)) -> AccountFacts {
    let mut account = AccountFacts { password_changed_at: Some(AFTER), ..facts().account };
    change(&mut account);
    account
}

#[test]
fn a_policy_excludes_only_passwords_that_were_set_under_it() {
    let excluded = |change: fn(&mut AccountFacts)| policy_excludes(&OKTA, &changed(change), "short1A");
    let decision = excluded(|_| ()).unwrap();
    assert_eq!(decision.verdict, Verdict::Stale(Reason::PolicyExcludes));
    assert_eq!(decision.evidence["policy_since"], "2026-05-01T00:00:00Z");
    assert!(policy_excludes(&OKTA, &changed(|_| ()), "longenough1A").is_none());
    for (why, change) in [
        ("when it changed is not known", (|a| a.password_changed_at = None) as fn(&mut AccountFacts)),
        ("it was set before", |a| a.password_changed_at = Some(BEFORE)),
        ("it came with the account", |a| a.created_at = Some(AFTER)),
        ("when the account was made is not known", |a| a.created_at = None),
        ("another directory's policy applied", |a| a.authority = PasswordAuthority::Ad),
        ("another directory is its master", |a| a.hybrid = true),
        ("the account was not seen under it, or is not now", |a| a.under_policy_since = None),
        ("the account was seen under it since that moment only", |a| a.under_policy_since = Some(AFTER)),
    ] {
        assert_eq!(excluded(change), None, "{why}");
    }
    let later = excluded(|a| a.under_policy_since = Some(LEAK)).unwrap();
    assert_eq!(later.evidence["policy_since"], "2026-06-01T00:00:00Z", "the later of the two counts");
}

#[test]
fn a_password_needs_eight_characters_and_three_kinds_of_them_at_entra_counted_generously() {
    for (password, possible) in [
        ("Abcde12", false),
        ("Abcdef12", true),
        ("harbour12", false),
        ("Harbour12", true),
        ("harbour-12", true),
        ("harbour 12", true),
        ("HARBOUR-TOWN", false),
        ("1234567890", false),
        ("12345678-_", false),
        ("Blue-Harbour", true),
        // In other units and classes than ours it may be enough.
        ("h\u{e4}rbour", true),
        ("\u{6e2f}\u{6e2f}\u{6e2f}", true),
        ("\u{6e2f}\u{6e2f}", false),
    ] {
        assert_eq!(policy_excludes(&ENTRA, &changed(|_| ()), password).is_none(), possible, "{password}");
    }
}

#[test]
fn only_what_can_be_submitted_byte_for_byte_is_submitted() {
    for (password, expected) in [
        ("Passw0rd!".as_bytes(), true),
        ("pässwörd".as_bytes(), true),
        ("with space inside".as_bytes(), true),
        (b"".as_slice(), false),
        (b" leading", false),
        (b"trailing\t", false),
        (b"nul\0l", false),
        (b"\xff\xfe", false),
        (b"********", false),
        (b"*********", true),
    ] {
        assert_eq!(submittable(password), expected, "{password:?}");
    }
}

#[test]
fn the_latest_capture_moment_respects_precision_and_never_lies_after_arrival() {
    let until = |before, precision| captured_until(before, precision, None, None, LATER);
    assert_eq!(until(Some(BEFORE), Some("day")), BEFORE + Duration::DAY);
    assert_eq!(until(Some(BEFORE), Some("instant")), BEFORE);
    assert_eq!(until(None, None), LATER);
    assert_eq!(until(Some(LATER + Duration::DAY), None), LATER);
    assert_eq!(captured_until(None, None, Some(LEAK), Some(AFTER), LATER), LEAK);
    assert_eq!(captured_until(None, None, None, Some(AFTER), LATER), AFTER);
}
