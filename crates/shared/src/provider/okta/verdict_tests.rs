use super::*;
use crate::provider::{AccountKind, PasswordAuthority};

/// One test per row, each with an answer as it comes over the wire.
macro_rules! rows {
    ($($name:ident: $status:literal $body:expr => $meaning:expr, $beyond:ident;)*) => {
        $(#[test]
        fn $name() {
            let reading = read($status, $body.as_bytes());
            assert_eq!((reading.meaning, reading.beyond), ($meaning, Beyond::$beyond));
        })*
        const CASES: &[(u16, &str)] = &[$(($status, $body)),*];
    };
}

const fn valid(verdict: Verdict) -> Meaning {
    Meaning::Proves(verdict)
}

const USER: &str = r#""_embedded":{"user":{"id":"00u1"}}"#;
const MFA: &str = r#"{"stateToken":"007","status":"MFA_REQUIRED","_embedded":{"user":{"id":"00u1"},"factors":[{"id":"ost1","factorType":"token:software:totp"}]}}"#;

rows! {
    success_is_valid:
        200 r#"{"status":"SUCCESS","sessionToken":"20111","_embedded":{"user":{"id":"00u1"}}}"#
        => valid(Verdict::Valid), Nothing;
    a_password_about_to_expire_is_valid:
        200 r#"{"status":"PASSWORD_WARN"}"# => valid(Verdict::Valid), Nothing;
    an_expired_password_is_valid_and_must_be_changed:
        200 r#"{"status":"PASSWORD_EXPIRED"}"# => valid(Verdict::ValidExpired), Nothing;
    a_second_factor_after_the_password_is_valid_second_factor:
        200 MFA => valid(Verdict::ValidSecondFactor), Nothing;
    enrolment_after_the_password_is_valid_second_factor:
        200 r#"{"status":"MFA_ENROLL","_embedded":{"user":{},"factors":[{"factorType":"sms"}]}}"#
        => valid(Verdict::ValidSecondFactor), Nothing;
    a_running_challenge_is_valid_second_factor:
        200 r#"{"status":"MFA_CHALLENGE","_embedded":{"user":{},"factor":{"factorType":"push"}}}"#
        => valid(Verdict::ValidSecondFactor), Nothing;
    an_enrolment_under_way_is_valid_second_factor:
        200 r#"{"status":"MFA_ENROLL_ACTIVATE","_embedded":{"user":{}}}"#
        => valid(Verdict::ValidSecondFactor), Nothing;
    locked_out_proves_nothing:
        200 r#"{"status":"LOCKED_OUT","_embedded":{}}"# => unclear(Reason::LockedOrBlocked), Locked;
    recovery_proves_nothing: 200 r#"{"status":"RECOVERY"}"# => unclear(Reason::Refused), Nothing;
    a_recovery_challenge_proves_nothing:
        200 r#"{"status":"RECOVERY_CHALLENGE"}"# => unclear(Reason::Refused), Nothing;
    a_password_reset_proves_nothing: 200 r#"{"status":"PASSWORD_RESET"}"# => unclear(Reason::Refused), Nothing;
    unauthenticated_proves_nothing: 200 r#"{"status":"UNAUTHENTICATED"}"# => unclear(Reason::Refused), Nothing;
    authentication_failed_is_a_refusal:
        401 r#"{"errorCode":"E0000004","errorSummary":"Authentication failed","errorCauses":[]}"#
        => Meaning::Refusal, Nothing;
    the_other_wording_of_a_wrong_password_is_a_refusal_too:
        401 r#"{"errorCode":"E0000207"}"# => Meaning::Refusal, Nothing;
    a_401_about_expiry_is_a_guess_and_proves_nothing:
        401 r#"{"errorCode":"E0000064"}"# => unclear(Reason::Refused), Nothing;
    a_401_about_a_missing_feature_is_configuration:
        401 r#"{"errorCode":"E0000015"}"# => unclear(Reason::Configuration), Configuration;
    a_blocked_address_proves_nothing:
        403 r#"{"errorCode":"E0000006"}"# => unclear(Reason::LockedOrBlocked), Locked;
    a_locked_factor_proves_nothing:
        403 r#"{"errorCode":"E0000069"}"# => unclear(Reason::LockedOrBlocked), Locked;
    a_policy_that_denies_access_proves_nothing:
        403 r#"{"errorCode":"E0000085"}"# => unclear(Reason::Refused), Nothing;
    a_breached_credential_that_could_not_be_expired_proves_nothing:
        403 r#"{"errorCode":"E0000259"}"# => unclear(Reason::Refused), Nothing;
    a_request_that_fails_validation_proves_nothing:
        400 r#"{"errorCode":"E0000001"}"# => unclear(Reason::Refused), Nothing;
    a_request_that_is_not_well_formed_proves_nothing:
        400 r#"{"errorCode":"E0000003"}"# => unclear(Reason::Refused), Nothing;
    an_unknown_path_is_configuration:
        404 r#"{"errorCode":"E0000008"}"# => unclear(Reason::Configuration), Configuration;
    a_refused_method_is_configuration:
        405 r#"{"errorCode":"E0000022"}"# => unclear(Reason::Configuration), Configuration;
    a_withdrawn_endpoint_is_configuration:
        410 r#"{"errorCode":"E0000215"}"# => unclear(Reason::Configuration), Configuration;
    a_throttle_is_not_a_verdict: 429 r#"{"errorCode":"E0000047"}"# => Meaning::Throttled, Nothing;
    an_array_is_no_answer: 200 r#"["SUCCESS",null]"# => unclear(Reason::UnreadableAnswer), Nothing;
    a_redirect_is_unreadable: 307 "" => unclear(Reason::UnreadableAnswer), Nothing;
    an_outage_leaves_it_unknown: 503 r#"{"errorCode":"E0000010"}"# => unclear(Reason::Unknown), Nothing;
}

#[test]
fn every_row_of_the_table_has_its_test() {
    for row in TABLE {
        let tested = CASES.iter().any(|(status, body)| match (row.status, row.code) {
            (Status::Is(is), Some(code)) => is == *status && body.contains(&format!(r#""{code}""#)),
            (Status::Is(is), None) => is == *status,
            (Status::Class(class), _) => status / 100 == class,
        });
        assert!(tested, "no test for {row:?}");
    }
}

#[test]
fn factors_before_the_password_prove_nothing() {
    for body in [
        r#"{"status":"MFA_REQUIRED","_embedded":{"user":{"id":"00u1"},"factors":[{"factorType":"password"}]}}"#,
        r#"{"status":"MFA_REQUIRED","_embedded":{"user":{"id":"00u1"},"factor":{"factorType":"password"}}}"#,
        r#"{"status":"MFA_REQUIRED","_embedded":{"factors":[{"factorType":"push"}]}}"#,
        r#"{"status":"MFA_REQUIRED"}"#,
        r#"{"status":"MFA_ENROLL","_embedded":{"user":null}}"#,
    ] {
        assert_eq!(read(200, body.as_bytes()).meaning, unclear(Reason::Refused), "{body}");
    }
}

#[test]
fn unknown_codes_are_inconclusive_and_counted_and_only_digits_of_them_are_kept() {
    let reading = read(403, br#"{"errorCode":"E0009999"}"#);
    assert_eq!((reading.meaning, reading.beyond), (unclear(Reason::UnknownCode), Beyond::UnknownCode));
    assert_eq!(reading.code.unwrap().to_string(), "E0009999");
    let body = format!(r#"{{"status":"HUNTER2",{USER}}}"#);
    let reading = read(200, body.as_bytes());
    assert_eq!((reading.beyond, reading.code), (Beyond::UnknownCode, None));
}

#[test]
fn a_code_under_another_status_is_not_believed() {
    assert_eq!(read(400, br#"{"errorCode":"E0000004"}"#).meaning, unclear(Reason::UnknownCode));
    assert_eq!(read(401, br#"{"status":"SUCCESS"}"#).meaning, unclear(Reason::UnreadableAnswer));
}

#[test]
fn an_answer_that_is_not_oktas_is_unreadable() {
    for (status, body) in [
        (200, "<html>Sign in</html>"),
        (200, r#"{"unexpected":["shape"]}"#),
        (401, ""),
        (404, r#"{"status":404,"message":"Resource not found"}"#),
    ] {
        assert_eq!(
            read(status, body.as_bytes()).meaning,
            unclear(Reason::UnreadableAnswer),
            "{status} {body}"
        );
    }
}

fn account(state: AccountState) -> Account {
    Account {
        object_id: "00u1".into(),
        login: "ann@example.com".into(),
        display_name: String::new(),
        addresses: Vec::new(),
        state,
        kind: AccountKind::Member,
        authority: PasswordAuthority::Cloud,
        hybrid: false,
        under_policy: None,
        is_admin: false,
        password_changed_at: None,
        last_sign_in_at: None,
        created_at: None,
        removed: false,
    }
}

#[test]
fn a_refusal_is_invalid_only_for_an_account_that_was_active_before_and_after() {
    use AccountState::{Active, Deprovisioned, Disabled, Locked, PasswordExpired, Pending};
    let states = [Active, Disabled, Locked, PasswordExpired, Pending, Deprovisioned];
    for before in states {
        for after in states {
            let (verdict, _) = refusal(&account(before), Some(&account(after)));
            assert_eq!(
                verdict == Verdict::Invalid,
                before == Active && after == Active,
                "{before:?} {after:?}"
            );
        }
        assert_ne!(refusal(&account(before), None).0, Verdict::Invalid);
    }
}

#[test]
fn the_log_can_take_a_proof_away_and_never_make_one() {
    let wrong = (Verdict::Invalid, Beyond::Nothing);
    for (reason, verdict) in [
        (None, Verdict::Invalid),
        (Some("INVALID_CREDENTIALS"), Verdict::Invalid),
        (Some("LOCKED_OUT"), Verdict::Inconclusive(Reason::LockedOrBlocked)),
        (Some("VERIFICATION_ERROR"), Verdict::Inconclusive(Reason::Refused)),
        (Some("SOMETHING_NEW"), Verdict::Inconclusive(Reason::Refused)),
    ] {
        assert_eq!(logged(wrong, reason).0, verdict, "{reason:?}");
        let unread = (Verdict::Inconclusive(Reason::StateUnread), Beyond::Nothing);
        assert_eq!(logged(unread, reason), unread);
    }
    assert_eq!(logged(wrong, Some("LOCKED_OUT")).1, Beyond::Locked);
}

#[test]
fn a_refusal_of_a_locked_account_is_reported_as_locked() {
    let (active, locked) = (account(AccountState::Active), account(AccountState::Locked));
    let expected = (Verdict::Inconclusive(Reason::LockedOrBlocked), Beyond::Locked);
    assert_eq!(refusal(&active, Some(&locked)), expected);
    assert_eq!(refusal(&locked, Some(&active)), expected);
}

#[test]
fn a_refusal_under_a_name_that_changed_meanwhile_proves_nothing() {
    let before = account(AccountState::Active);
    let after = Account { login: "ann.new@example.com".into(), ..before.clone() };
    assert_eq!(refusal(&before, Some(&after)).0, Verdict::Inconclusive(Reason::StateUnread));
}
