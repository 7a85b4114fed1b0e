use super::*;

const NOW: OffsetDateTime = time::macros::datetime!(2026-01-05 10:00 UTC);

fn refusal(codes: &[u32]) -> Vec<u8> {
    serde_json::to_vec(&serde_json::json!({"error": "invalid_grant", "error_codes": codes,
        "error_description": "AADSTS99999: text that must not be read", "trace_id": "x"}))
    .unwrap()
}

fn ruled(codes: &[u32]) -> Ruling {
    rule(400, &refusal(codes), None, false, NOW)
}

/// The table again, written from entra.md §5 by section: one line for each row, so that a row that moves is noticed.
#[rustfmt::skip]
#[expect(clippy::unreadable_literal, reason = "these are names, read digit by digit")]
const EXPECTED: &[(&str, Option<&str>, &[u32])] = &[
    ("invalid", None, &[50126, 50064]),
    ("valid_expired", None, &[50055, 50144, 50135, 50142]),
    ("valid_second_factor", None, &[
        50076, 50079, 50072, 50074, 50078, 50158, 53003, 53000, 53001, 53002, 530002, 530003, 530021, 530031, 530032,
        50131, 53004, 50125, 50097, 50129, 50005, 50105, 65001, 90094, 90095, 65004, 80012, 50140, 50199, 54000,
    ]),
    ("not_testable", Some("passwordless"), &[50056]),
    ("not_testable", Some("account_disabled"), &[50057]),
    ("not_testable", Some("account_gone"), &[50034, 51004, 16003]),
    ("not_testable", Some("federated"), &[
        50180, 50107, 50008, 20001, 20012, 20033, 40008, 40009, 40010, 40011, 40012, 40013, 40014, 40015,
    ]),
    ("inconclusive", Some("external"), &[50020, 500208, 50014, 90072]),
    ("inconclusive", Some("refused"), &[
        50155, 530034, 530035, 53010, 53011, 50132, 50133, 50173, 50161, 50166, 50170, 50177,
    ]),
    ("inconclusive", Some("locked_or_blocked"), &[50053, 500532]),
    ("inconclusive", Some("configuration"), &[
        50059, 50128, 7000215, 7000222, 7000218, 700025, 700027, 700030, 50012, 50027, 700016, 700011, 700038, 7000112,
        70001, 90002, 900023, 90038, 900382, 900432, 90051, 9001023, 90124, 90130, 50194, 50049, 70003, 70011, 28002,
        28003, 70002, 500011, 50001, 650052, 650054, 650056, 650057, 900144, 90014, 90013, 90023, 9002313, 1002012,
        50002, 500021, 500022, 500212, 500213, 1000031,
    ]),
    ("deferred", Some("throttled"), &[50196, 90055]),
    ("deferred", Some("unavailable"), &[
        90006, 90012, 90024, 90033, 90090, 90091, 50033, 50000, 50087, 50088, 80001, 80002, 80005, 80007, 80010, 80013,
        80014,
    ]),
];

#[test]
fn every_row_of_the_reference_is_decided_as_the_design_reads_it() {
    for (verdict, reason, codes) in EXPECTED {
        for code in *codes {
            let found = ruled(&[*code]);
            assert_eq!(found.verdict.name(), *verdict, "AADSTS{code}");
            assert_eq!(found.verdict.reason().map(Reason::as_str), *reason, "AADSTS{code}");
            assert_eq!(found.code, Some(*code));
        }
    }
}

#[test]
fn the_table_holds_every_code_once_and_none_beyond_the_reference() {
    let mut expected: Vec<u32> = EXPECTED.iter().flat_map(|(_, _, codes)| codes.iter().copied()).collect();
    let mut held: Vec<u32> = TABLE.iter().map(|(code, _)| *code).collect();
    expected.sort_unstable();
    held.sort_unstable();
    assert_eq!(held, expected);
}

#[test]
fn a_token_is_the_only_plain_valid() {
    let granted = br#"{"token_type":"Bearer","access_token":"a.b.c","id_token":"d","expires_in":3599}"#;
    assert_eq!(rule(200, granted, None, false, NOW).verdict, Verdict::Valid);
    let arrays: [&[u8]; 2] = [br#"["a.b.c"]"#, br#"[{"access_token":"a.b.c"}]"#];
    let broken: &[u8] = b"{\"access_token\":\"a.b.c\",\"scope\":\"\xff\"}";
    for body in [&b"{}"[..], b"<html>", b"", b"[]", broken].into_iter().chain(arrays) {
        let verdict = rule(200, body, None, false, NOW).verdict;
        assert_eq!(verdict, Verdict::Inconclusive(Reason::UnreadableAnswer));
    }
}

#[test]
fn a_wrong_password_in_a_federated_domain_proves_nothing() {
    let verdict = rule(400, &refusal(&[50126]), None, true, NOW).verdict;
    assert_eq!(verdict, Verdict::NotTestable(Reason::Federated));
}

#[test]
fn codes_are_whole_numbers_and_never_prefixes() {
    assert_eq!(ruled(&[530_031]).verdict, Verdict::ValidSecondFactor);
    assert_eq!(ruled(&[530_035]).verdict, Verdict::Inconclusive(Reason::Refused));
    assert_eq!(ruled(&[5_305]).verdict, Verdict::Inconclusive(Reason::UnknownCode));
    let described = br#"{"error":"invalid_grant","error_description":"AADSTS500532: locked. Trace ID: 1"}"#;
    assert_eq!(rule(400, described, None, false, NOW).code, Some(500_532));
}

#[test]
fn the_wrapper_gives_way_to_the_code_beside_it() {
    assert_eq!(ruled(&[70002, 50126]).verdict, Verdict::Invalid);
    assert_eq!(ruled(&[70002]).signal, Signal::Configuration);
}

#[test]
fn among_several_codes_our_own_fault_and_locks_come_before_any_proof() {
    assert_eq!(ruled(&[50126, 7_000_215]).verdict, Verdict::Inconclusive(Reason::Configuration));
    assert_eq!(ruled(&[50126, 50053]).verdict, Verdict::Inconclusive(Reason::LockedOrBlocked));
    assert_eq!(ruled(&[50126, 50076]).verdict, Verdict::ValidSecondFactor);
}

#[test]
fn unknown_codes_are_inconclusive_and_counted() {
    let found = ruled(&[399_218]);
    assert_eq!(found.verdict, Verdict::Inconclusive(Reason::UnknownCode));
    assert_eq!((found.signal, found.code), (Signal::UnknownCode, Some(399_218)));
}

#[test]
fn throttles_and_outages_are_deferred_with_their_hint() {
    let hinted = rule(429, b"", Some(Duration::from_secs(40)), false, NOW);
    assert_eq!(hinted.verdict, Verdict::Deferred(NOW + Duration::from_secs(40), Reason::Throttled));
    assert_eq!(hinted.signal, Signal::Throttled(Duration::from_secs(40)));
    assert_eq!(rule(429, b"", None, false, NOW).signal, Signal::Throttled(SLOW_DOWN));
    for status in [500, 502, 503, 504] {
        let verdict = rule(status, b"<html>", None, false, NOW).verdict;
        assert_eq!(verdict, Verdict::Deferred(NOW + LATER, Reason::Unavailable));
    }
    let busy = br#"{"error":"temporarily_unavailable"}"#;
    assert_eq!(rule(400, busy, None, false, NOW).verdict.name(), "deferred");
}

#[test]
fn only_codes_that_prove_it_ever_become_invalid() {
    let proving: Vec<u32> = TABLE.iter().filter(|(_, m)| *m == Invalid).map(|(code, _)| *code).collect();
    for code in 0..100_000 {
        let invalid = ruled(&[code]).verdict == Verdict::Invalid;
        assert_eq!(invalid, proving.contains(&code), "AADSTS{code}");
    }
    for (status, body) in [(302, &b""[..]), (400, b""), (401, b"{}"), (403, b"<html>"), (418, b"[1]")] {
        assert_eq!(
            rule(status, body, None, false, NOW).verdict,
            Verdict::Inconclusive(Reason::UnreadableAnswer)
        );
    }
}
