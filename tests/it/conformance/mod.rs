//! What every provider adapter must do, said once and run against each: through the traits only, against the
//! simulator, with real names, real TLS and real permits. What only one provider has is tested in its own module.

mod changes;
mod memberships;
mod rows;
mod subject;

use std::collections::{BTreeSet, HashSet};

use e2e::{Permits, walk};
use serde_json::{Value, json};
use shared::integration::SyncScope;
use shared::limiter::{Answer, Denial};
use shared::provider::{
    Account, AccountState, Acted, Action, Capability, Containment, Cursor, Listing, Next, Provider,
    ProviderError, Signal, http::Egress,
};
use shared::verdict::{Reason, Verdict};

use changes::{
    a_log_of_changes_that_does_not_answer_is_an_error, a_log_of_changes_that_may_not_be_read_tells_nothing,
    what_somebody_else_did_since_is_told_with_their_name_and_ours_is_not,
};
use memberships::{
    a_membership_that_may_not_be_read_is_an_error_that_names_what_to_grant,
    an_account_has_those_of_the_groups_and_roles_asked_for_that_are_its_own,
    asking_for_nothing_costs_no_call, everybody_who_has_a_group_or_role_is_listed_and_too_many_are_an_error,
    members_that_may_not_be_read_are_an_error_each,
};
use subject::{ENTRA_ID, Granted, OKTA, RIGHT, Stage, Subject, directory, people};

/// One function for each sentence, one test for each sentence and provider.
macro_rules! conformance {
    ($($sentence:ident),* $(,)?) => {
        mod entra_id { $(#[tokio::test] async fn $sentence() { super::$sentence(&super::ENTRA_ID).await })* }
        mod okta { $(#[tokio::test] async fn $sentence() { super::$sentence(&super::OKTA).await })* }
    };
}

conformance!(
    the_connection_test_reports_every_capability_and_harms_nobody,
    a_capability_that_is_not_granted_is_named_and_the_others_pass,
    a_full_listing_shows_every_account_once_in_pages_of_bounded_size,
    a_listing_outlives_its_token_and_another_adapter_goes_on_where_one_stopped,
    changes_begin_where_the_full_listing_ended,
    a_scope_covers_the_members_of_its_groups_and_another_scope_starts_again,
    a_scope_that_cannot_be_read_is_named_and_never_taken_for_an_empty_one,
    spoilt_listings_are_errors_of_their_kind_and_no_redirect_is_followed,
    an_account_has_those_of_the_groups_and_roles_asked_for_that_are_its_own,
    a_membership_that_may_not_be_read_is_an_error_that_names_what_to_grant,
    asking_for_nothing_costs_no_call,
    everybody_who_has_a_group_or_role_is_listed_and_too_many_are_an_error,
    members_that_may_not_be_read_are_an_error_each,
    each_password_gets_the_verdict_its_answer_proves,
    each_answer_proves_what_the_reference_says,
    a_locked_account_is_never_called_wrong_and_never_tried_again,
    spoilt_answers_to_a_password_cost_one_submission_and_prove_nothing,
    a_throttled_password_is_deferred_and_nothing_more_is_spent,
    an_answer_that_does_not_come_in_time_is_unknown_and_counted,
    a_sign_in_host_that_cannot_be_reached_costs_no_submission,
    each_action_takes_effect_shows_and_may_be_repeated,
    each_action_ends_in_each_state_as_the_reference_says,
    an_account_that_is_gone_is_refused_with_that_reason,
    what_somebody_else_did_since_is_told_with_their_name_and_ours_is_not,
    a_log_of_changes_that_may_not_be_read_tells_nothing,
    a_log_of_changes_that_does_not_answer_is_an_error,
);

// --- connection test ------------------------------------------------------------------------------------------------

async fn the_connection_test_reports_every_capability_and_harms_nobody(of: &'static Subject) {
    let stage = Stage::people(of).await;
    let report = stage.provider.test(&Capability::ALL.into()).await;
    let tested: BTreeSet<_> = report.capabilities.iter().map(|test| test.capability).collect();
    assert_eq!(tested, Capability::ALL.into());
    for test in &report.capabilities {
        let offered = stage.provider.capabilities().contains(&test.capability);
        match &test.result {
            Ok(()) => assert!(offered, "{test:?}"),
            Err(missing) => assert!(!offered && missing.reason == "not_offered", "{test:?}"),
        }
    }
    assert_eq!(report.directory_id.as_deref(), Some(of.directory_id));
    assert_eq!(stage.provider.directory_id().await.unwrap(), of.directory_id);
    assert!(stage.idp.changes().is_empty());
    let probes = stage.idp.submissions();
    assert!(probes.iter().all(|probe| probe.account.is_none()), "somebody's name was used: {probes:?}");
}

async fn a_capability_that_is_not_granted_is_named_and_the_others_pass(of: &'static Subject) {
    let stage = Stage::with(of, json!({ "accounts": people(of) }), Granted::ReadingOnly).await;
    let wanted = stage.provider.capabilities().iter().copied().collect();
    for test in stage.provider.test(&wanted).await.capabilities {
        match test.capability {
            Capability::Read | Capability::Validate => assert!(test.result.is_ok(), "{test:?}"),
            _ => {
                let missing = test.result.unwrap_err();
                assert!(missing.not_granted && !missing.message.is_empty(), "{missing:?}");
            }
        }
    }
    for action in stage.actions() {
        let acted = stage.provider.act(action, &stage.id("p0")).await.unwrap();
        assert!(matches!(acted, Acted::Refused { reason: "permission_missing", .. }), "{acted:?}");
    }
    assert!(stage.idp.changes().is_empty());
}

// --- reading --------------------------------------------------------------------------------------------------------

async fn a_full_listing_shows_every_account_once_in_pages_of_bounded_size(of: &'static Subject) {
    let accounts = of.page + 101;
    let generated = json!({"generated": {"seed": 7, "count": accounts}});
    let stage = Stage::with(of, generated, Granted::All).await;
    let (mut seen, mut total, mut pages, mut at) = (HashSet::new(), 0, 0, None);
    loop {
        let page = stage.provider.accounts(Listing::Full, at.as_ref()).await.unwrap();
        assert!(page.accounts.len() <= of.page, "a page of {}", page.accounts.len());
        total += page.accounts.len();
        seen.extend(page.accounts.into_iter().map(|account| account.object_id));
        pages += 1;
        match page.next {
            Next::Page(cursor) => at = Some(cursor),
            Next::End(_) => break,
        }
    }
    assert_eq!((total, seen.len()), (accounts, accounts));
    assert!(pages > 1);
}

async fn a_listing_outlives_its_token_and_another_adapter_goes_on_where_one_stopped(of: &'static Subject) {
    let accounts = 3 * of.page + 1;
    let generated = json!({
        "generated": {"seed": 7, "count": accounts},
        "provider": {of.kind.as_str(): {"token_life_s": 60}},
    });
    let stage = Stage::with(of, generated, Granted::All).await;
    let page = async |provider: &dyn Provider, at: Option<&Cursor>| {
        let page = provider.accounts(Listing::Full, at).await.unwrap();
        let Next::Page(cursor) = page.next else { panic!("no further page") };
        (page.accounts, cursor)
    };
    let (first, at) = page(&*stage.provider, None).await;
    stage.idp.simulator.world.advance(time::Duration::seconds(90));
    let (second, at) = page(&*stage.provider, Some(&at)).await;
    let (rest, _) = walk(&*stage.scoped(&[]), Listing::Full, Some(at)).await.unwrap();
    let seen: HashSet<_> = [first, second, rest].concat().into_iter().map(|a| a.object_id).collect();
    assert_eq!(seen.len(), accounts);
}

async fn changes_begin_where_the_full_listing_ended(of: &'static Subject) {
    // Generated accounts are old: what changed within Okta's overlap would be listed again.
    let generated = json!({"generated": {"seed": 7, "count": 20}});
    let stage = Stage::with(of, generated, Granted::All).await;
    let (all, cursor) = walk(&*stage.provider, Listing::Full, None).await.unwrap();
    let changed = &all[3].object_id;
    let now = stage.idp.simulator.world.now();
    stage.directory.accounts.patch(changed, &json!({"display_name": "Changed"}), now).unwrap().unwrap();
    let changes = stage.provider.accounts(Listing::Changes, Some(&cursor)).await.unwrap();
    let seen: Vec<_> = changes.accounts.iter().map(|a| (&a.object_id, a.display_name.as_str())).collect();
    assert_eq!(seen, [(changed, "Changed")]);
}

async fn a_scope_covers_the_members_of_its_groups_and_another_scope_starts_again(of: &'static Subject) {
    let [pilot, nested, everybody] = of.groups;
    let accounts = 3 * of.page + 100;
    let directory = json!({"generated": {"seed": 7, "count": accounts, "mix": {"inactive": 0}}, "groups": [
        {"id": pilot, "name": "Pilot", "every": 3},
        {"id": nested, "name": "Nested", "every": 5},
        {"id": everybody, "name": "Everybody", "every": 1},
    ]});
    let stage = Stage::with(of, directory, Granted::All).await;
    let scoped = stage.scoped(&[pilot, nested]);
    let (all, cursor) = walk(&*scoped, Listing::Full, None).await.unwrap();
    let every = |n: usize| accounts.div_ceil(n);
    assert_eq!(all.len(), every(3) + every(5), "whoever is in both groups comes twice");
    let seen: HashSet<_> = all.iter().map(|account| account.object_id.as_str()).collect();
    assert_eq!(seen.len(), every(3) + every(5) - every(15));

    // Changes begin where the listing began, whoever they are about.
    let changed = &all[3].object_id;
    let now = stage.idp.simulator.world.now();
    stage.directory.accounts.patch(changed, &json!({"display_name": "Changed"}), now).unwrap().unwrap();
    let (changes, _) = walk(&*scoped, Listing::Changes, Some(cursor)).await.unwrap();
    assert!(changes.iter().any(|account| account.object_id == *changed && account.display_name == "Changed"));

    // A place in one scope is no place in another.
    let Next::Page(place) = scoped.accounts(Listing::Full, None).await.unwrap().next else { panic!() };
    assert!(scoped.accounts(Listing::Full, Some(&place)).await.is_ok());
    for other in [stage.scoped(&[everybody]), stage.scoped(&[])] {
        let refused = other.accounts(Listing::Full, Some(&place)).await;
        assert!(matches!(refused, Err(ProviderError::CursorExpired)), "{refused:?}");
    }
    let Next::Page(place) = stage.provider.accounts(Listing::Full, None).await.unwrap().next else {
        panic!()
    };
    let refused = scoped.accounts(Listing::Full, Some(&place)).await;
    assert!(matches!(refused, Err(ProviderError::CursorExpired)), "{refused:?}");
}

async fn a_scope_that_cannot_be_read_is_named_and_never_taken_for_an_empty_one(of: &'static Subject) {
    let [pilot, missing, _] = of.groups;
    let directory = json!({"accounts": people(of), "groups": [{"id": pilot, "name": "Pilot"}]});
    let wanted = BTreeSet::from([Capability::Read]);
    let stage = Stage::with(of, directory.clone(), Granted::All).await;
    let reading = async |provider: &dyn Provider| provider.test(&wanted).await.capabilities.remove(0).result;
    assert!(reading(&*stage.scoped(&[pilot])).await.is_ok(), "a group may be empty");
    let gone = stage.scoped(&[pilot, missing]);
    let told = reading(&*gone).await.unwrap_err();
    assert!(told.reason == "group_missing" && told.message.contains(missing), "{told:?}");
    let listed = walk(&*gone, Listing::Full, None).await;
    assert!(matches!(&listed, Err(ProviderError::Refused(m)) if m.reason == "group_missing"), "{listed:?}");

    let stage = Stage::with(of, directory, Granted::ReadingOnly).await;
    let told = reading(&*stage.scoped(&[pilot])).await.unwrap_err();
    assert!(told.not_granted && told.message.to_lowercase().contains("group"), "{told:?}");
}

async fn spoilt_listings_are_errors_of_their_kind_and_no_redirect_is_followed(of: &'static Subject) {
    type Expected = fn(&ProviderError) -> bool;
    let stage = Stage::people(of).await;
    let cases: [(Value, Expected); 9] = [
        (json!({"status": {"status": 503}}), |e| matches!(e, ProviderError::Unavailable { status: 503 })),
        (json!("html"), |e| matches!(e, ProviderError::Protocol(_))),
        (json!("wrong_json"), |e| matches!(e, ProviderError::Protocol(_))),
        (json!("reset"), |e| matches!(e, ProviderError::Lost(_))),
        (json!({"redirect": {"location": of.listing_url}}), |e| matches!(e, ProviderError::Protocol(_))),
        (json!({"oversized": {"bytes": 20_000_000}}), |e| matches!(e, ProviderError::Protocol(_))),
        (
            json!({"throttle": {"hint": (of.hint)(17)}}),
            |e| matches!(e, ProviderError::Throttled { retry_after: Some(wait) } if (16..=19).contains(&wait.as_secs())),
        ),
        (
            json!({"status": {"status": 503, "hint": {"http_date": 30}}}),
            |e| matches!(e, ProviderError::Throttled { retry_after: Some(wait) } if (28..=31).contains(&wait.as_secs())),
        ),
        (json!({"throttle": {}}), |e| matches!(e, ProviderError::Throttled { .. })),
    ];
    for (effect, expected) in cases {
        let provider = stage.scoped(&[]);
        // What an adapter reads about the directory first is not this sentence's matter.
        provider.accounts(Listing::Full, None).await.unwrap();
        stage.fault(of.listing, &effect);
        let error = provider.accounts(Listing::Full, None).await.unwrap_err();
        assert!(expected(&error), "{effect}: {error:?}");
        assert!(stage.idp.simulator.world.faults.unfired().is_empty(), "{effect}");
        if matches!(error, ProviderError::Throttled { .. }) {
            let next = provider.accounts(Listing::Full, None).await;
            assert!(matches!(next, Err(ProviderError::Paced { .. })), "nothing is sent meanwhile: {next:?}");
        }
    }
    assert_eq!(stage.provider.account(of.nobody).await.unwrap(), None);
}

// --- password check -------------------------------------------------------------------------------------------------

async fn each_password_gets_the_verdict_its_answer_proves(of: &'static Subject) {
    let (stage, permits) = (Stage::people(of).await, Permits::start().await);
    for (name, password, verdict) in [
        ("p0", RIGHT, Verdict::Valid),
        ("p1", "wrong horse battery", Verdict::Invalid),
        ("p2", "Right horse battery", Verdict::Invalid),
        ("mfa", RIGHT, Verdict::ValidSecondFactor),
        ("old", RIGHT, Verdict::ValidExpired),
        ("off", RIGHT, of.disabled_verdict),
    ] {
        let before = stage.account(name).await;
        let attempted = stage.verify(&permits, &before, password).await;
        assert_eq!((attempted.verdict, attempted.signal), (verdict, Signal::None), "{name} {password}");
        assert!(attempted.status.is_some(), "{name}");
    }
    assert_eq!(permits.used().await, 6);
}

async fn each_answer_proves_what_the_reference_says(of: &'static Subject) {
    let (stage, permits) = (Stage::people(of).await, Permits::start().await);
    let before = stage.account("p0").await;
    for (n, (effect, proof)) in (of.answers)().into_iter().enumerate() {
        stage.fault(of.password, &effect);
        // A payer of its own for each: the spacing of one account is not this sentence's matter.
        let payer = Account { object_id: format!("payer-{n}"), ..before.clone() };
        let attempted = stage.verify_for(&permits, &payer, &before, RIGHT).await;
        let signal = match attempted.signal {
            Signal::None => "none",
            Signal::Locked => "locked",
            Signal::Throttled(_) => "throttled",
            Signal::Configuration => "configuration",
            Signal::UnknownCode => "unknown_code",
        };
        let found = (attempted.verdict.name(), attempted.verdict.reason().map(Reason::as_str), signal);
        assert_eq!(found, proof, "{effect}");
    }
}

async fn a_locked_account_is_never_called_wrong_and_never_tried_again(of: &'static Subject) {
    let (stage, permits) = (Stage::people(of).await, Permits::start().await);
    for (name, password) in [("p0", RIGHT), ("p1", "wrong horse battery")] {
        let before = stage.account(name).await;
        // The owner locks it between our reading and our attempt.
        let until = stage.idp.simulator.world.now() + time::Duration::hours(1);
        let until = until.format(&time::format_description::well_known::Rfc3339).unwrap();
        stage.patch(
            name,
            &json!({"lock": {"failures": 10, "failures_owner": 10, "locked": true, "until": until}}),
        );
        let attempted = stage.verify(&permits, &before, password).await;
        let seen = (attempted.verdict, attempted.signal);
        assert_eq!(seen, (Verdict::Inconclusive(Reason::LockedOrBlocked), Signal::Locked), "{password}");
        let again = permits.ask(of.kind, of.directory_id, &before).await.unwrap_err();
        assert!(matches!(again, Answer::Denied { reason: Denial::Cooling, .. }), "{again:?}");
    }
    assert_eq!(stage.idp.submissions().len(), 2);
}

async fn spoilt_answers_to_a_password_cost_one_submission_and_prove_nothing(of: &'static Subject) {
    let (stage, permits) = (Stage::people(of).await, Permits::start().await);
    for (n, (effect, reason)) in [
        (json!("reset"), Reason::Unknown),
        (json!({"status": {"status": 503}}), of.outage),
        (json!("wrong_json"), Reason::UnreadableAnswer),
        (json!("html"), Reason::UnreadableAnswer),
        (json!({"oversized": {"bytes": 1_000_000}}), Reason::UnreadableAnswer),
        (json!({"redirect": {"location": of.sign_in_url}}), Reason::UnreadableAnswer),
    ]
    .into_iter()
    .enumerate()
    {
        let before = stage.account(&format!("p{n}")).await;
        stage.fault(of.password, &effect);
        let attempted = stage.verify(&permits, &before, RIGHT).await;
        assert_eq!(attempted.verdict.reason(), Some(reason), "{effect}: {attempted:?}");
        assert!(matches!(attempted.verdict, Verdict::Inconclusive(_) | Verdict::Deferred(..)), "{effect}");
        assert!(stage.idp.simulator.world.faults.unfired().is_empty(), "{effect}");
    }
}

async fn a_throttled_password_is_deferred_and_nothing_more_is_spent(of: &'static Subject) {
    let (stage, permits) = (Stage::people(of).await, Permits::start().await);
    for (name, hint) in [("p0", Some(20)), ("p1", None)] {
        let before = stage.account(name).await;
        stage.fault(of.password, &json!({"throttle": {"hint": hint.map(of.hint)}}));
        let attempted = stage.verify(&permits, &before, RIGHT).await;
        assert!(matches!(attempted.verdict, Verdict::Deferred(_, Reason::Throttled)), "{attempted:?}");
        let Signal::Throttled(wait) = attempted.signal else { panic!("{attempted:?}") };
        match hint {
            Some(seconds) => assert!((seconds - 1..=seconds + 2).contains(&wait.as_secs()), "{wait:?}"),
            None => assert!(wait.as_secs() >= 1, "{wait:?}"),
        }
    }
    assert_eq!(stage.idp.submissions().len(), 2);
}

async fn an_answer_that_does_not_come_in_time_is_unknown_and_counted(of: &'static Subject) {
    let (stage, permits) = (Stage::people(of).await, Permits::start().await);
    let before = stage.account("p0").await;
    stage.fault(of.password, &json!({"delay": {"ms": 120_000}}));
    let attempted = stage.verify(&permits, &before, RIGHT).await;
    assert_eq!(attempted.verdict, Verdict::Inconclusive(Reason::Unknown));
    assert_eq!(attempted.status, None);
    assert_eq!((stage.idp.submissions().len(), permits.used().await), (1, 1));
}

async fn a_sign_in_host_that_cannot_be_reached_costs_no_submission(of: &'static Subject) {
    let stage = Stage::people(of).await;
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let (mut nobody_listens, mut stranger) = (stage.idp.egress_config(), stage.idp.egress_config());
    nobody_listens.resolve.iter_mut().for_each(|fixed| fixed.address = closed);
    stranger.extra_ca = None;
    for config in [nobody_listens, stranger] {
        let egress = Egress::new(&config).unwrap();
        let elsewhere = directory(of, Granted::All).1(egress, SyncScope::default());
        let refused = elsewhere.verifier().unwrap().connect().await;
        assert!(matches!(refused, Err(ProviderError::NotSent(_))), "{refused:?}");
    }
    assert!(stage.idp.submissions().is_empty());
}

// --- containment ----------------------------------------------------------------------------------------------------

async fn each_action_takes_effect_shows_and_may_be_repeated(of: &'static Subject) {
    let stage = Stage::people(of).await;
    stage.patch("p0", &json!({"sessions_valid_from": "2026-01-01T00:00:00Z"}));
    let id = stage.id("p0");
    let seen = async |action| stage.provider.containment(&id, action).await.unwrap().unwrap();
    for action in stage.actions() {
        let before = seen(action).await;
        for _ in 0..2 {
            let acted = stage.provider.act(action, &id).await.unwrap();
            assert!(matches!(acted, Acted::Done { request_id: Some(_) }), "{action:?}: {acted:?}");
            let after = seen(action).await;
            match action {
                Action::RevokeSessions if of.tells_sessions => {
                    assert!(after.sessions_valid_from > before.sessions_valid_from, "{after:?}");
                }
                Action::RevokeSessions => assert_eq!(after.sessions_valid_from, None),
                Action::DisableAccount => assert_eq!(after.state, AccountState::Disabled),
                Action::MarkCompromised => assert_eq!(after.compromised, Some(true)),
            }
        }
        let changes = stage.idp.changes();
        assert!(changes.iter().all(|change| change.account == id), "{changes:?}");
        for _ in 0..2 {
            let undone = stage.provider.undo(action, &id).await.unwrap();
            match action {
                Action::RevokeSessions => {
                    assert!(matches!(undone, Acted::Refused { reason: "not_undoable", .. }), "{undone:?}");
                }
                Action::DisableAccount | Action::MarkCompromised => {
                    assert!(matches!(undone, Acted::Done { .. }), "{action:?}: {undone:?}");
                    // When it changed is not what it was: undoing is a change too.
                    assert_eq!(Containment { changed_at: before.changed_at, ..seen(action).await }, before);
                }
            }
        }
    }
    for action in Action::ALL.into_iter().filter(|action| !stage.actions().any(|offered| offered == *action))
    {
        for acted in [stage.provider.act(action, &id).await, stage.provider.undo(action, &id).await] {
            assert!(matches!(acted, Ok(Acted::Refused { reason: "not_offered", .. })), "{acted:?}");
        }
    }
    assert!(stage.idp.submissions().is_empty());
}

async fn each_action_ends_in_each_state_as_the_reference_says(of: &'static Subject) {
    for (state, ends) in (of.states)() {
        for (action, end) in Action::ALL.into_iter().zip(ends) {
            let stage = Stage::people(of).await;
            let id = stage.id("p0");
            stage.patch("p0", &state);
            let found = match stage.provider.act(action, &id).await.unwrap() {
                Acted::Done { .. } => "done",
                Acted::Refused { reason, .. } => reason,
            };
            assert_eq!(found, end, "{action:?} {state}");
        }
    }
}

async fn an_account_that_is_gone_is_refused_with_that_reason(of: &'static Subject) {
    let stage = Stage::people(of).await;
    for action in stage.actions() {
        assert_eq!(stage.provider.containment(of.nobody, action).await.unwrap(), None);
    }
    for action in [Action::RevokeSessions, Action::DisableAccount] {
        let acted = stage.provider.act(action, of.nobody).await.unwrap();
        assert!(matches!(acted, Acted::Refused { reason: "account_gone", .. }), "{action:?}: {acted:?}");
    }
    assert!(stage.idp.changes().is_empty());
}
