//! Every row of the verdict tables and every state of an account, as data: what the references say, not what the adapters do.

use serde_json::{Value, json};

/// What an answer to a password proves: verdict, its reason, and what it says beyond the account.
pub type Proof = (&'static str, Option<&'static str>, &'static str);

const LOCKED: Proof = ("inconclusive", Some("locked_or_blocked"), "locked");
const REFUSED: Proof = ("inconclusive", Some("refused"), "none");
const MISCONFIGURED: Proof = ("inconclusive", Some("configuration"), "configuration");
const UNKNOWN_CODE: Proof = ("inconclusive", Some("unknown_code"), "unknown_code");
const SECOND_FACTOR: Proof = ("valid_second_factor", None, "none");
const LATER: Proof = ("deferred", Some("unavailable"), "none");

/// AADSTS codes (entra.md §5).
const ENTRA_ID: &[(Proof, &[u32])] = &[
    (("invalid", None, "none"), &[50_126, 50_064]),
    (("valid_expired", None, "none"), &[50_055, 50_144, 50_135, 50_142]),
    (
        SECOND_FACTOR,
        &[
            50_076, 50_079, 50_072, 50_074, 50_078, 50_158, 53_003, 53_000, 53_001, 53_002, 530_002, 530_003,
            530_021, 530_031, 530_032, 50_131, 53_004, 50_125, 50_097, 50_129, 50_005, 50_105, 65_001,
            90_094, 90_095, 65_004, 80_012, 50_140, 50_199, 54_000,
        ],
    ),
    (LOCKED, &[50_053, 500_532]),
    (("not_testable", Some("passwordless"), "none"), &[50_056]),
    (("not_testable", Some("account_disabled"), "none"), &[50_057]),
    (("not_testable", Some("account_gone"), "none"), &[50_034, 51_004, 16_003]),
    (
        ("not_testable", Some("federated"), "none"),
        &[
            50_180, 50_107, 50_008, 20_001, 20_012, 20_033, 40_008, 40_009, 40_010, 40_011, 40_012, 40_013,
            40_014, 40_015,
        ],
    ),
    (("inconclusive", Some("external"), "none"), &[50_020, 500_208, 50_014, 90_072]),
    (
        REFUSED,
        &[50_155, 530_034, 530_035, 53_010, 53_011, 50_132, 50_133, 50_173, 50_161, 50_166, 50_170, 50_177],
    ),
    (
        MISCONFIGURED,
        &[
            50_059, 50_128, 7_000_215, 7_000_222, 7_000_218, 700_025, 700_027, 700_030, 50_012, 50_027,
            700_016, 700_011, 700_038, 7_000_112, 70_001, 90_002, 900_023, 90_038, 900_382, 900_432, 90_051,
            9_001_023, 90_124, 90_130, 50_194, 50_049, 70_003, 70_011, 28_002, 28_003, 70_002, 500_011,
            50_001, 650_052, 650_054, 650_056, 650_057, 900_144, 90_014, 90_013, 90_023, 9_002_313,
            1_002_012, 50_002, 500_021, 500_022, 500_212, 500_213, 1_000_031,
        ],
    ),
    (("deferred", Some("throttled"), "throttled"), &[50_196, 90_055]),
    (
        LATER,
        &[
            90_006, 90_012, 90_024, 90_033, 90_090, 90_091, 50_033, 50_000, 50_087, 50_088, 80_001, 80_002,
            80_005, 80_007, 80_010, 80_013, 80_014,
        ],
    ),
    (UNKNOWN_CODE, &[59_999, 5_012_600]),
];

/// Statuses of a transaction and error codes (okta.md §4).
const OKTA: &[(Proof, &[(u16, &str)])] = &[
    (("valid", None, "none"), &[(200, "SUCCESS"), (200, "PASSWORD_WARN")]),
    (("valid_expired", None, "none"), &[(200, "PASSWORD_EXPIRED")]),
    (
        SECOND_FACTOR,
        &[(200, "MFA_REQUIRED"), (200, "MFA_ENROLL"), (200, "MFA_CHALLENGE"), (200, "MFA_ENROLL_ACTIVATE")],
    ),
    (("invalid", None, "none"), &[(401, "E0000004"), (401, "E0000207")]),
    (LOCKED, &[(200, "LOCKED_OUT"), (403, "E0000006"), (403, "E0000069")]),
    (
        REFUSED,
        &[
            (200, "RECOVERY"),
            (200, "RECOVERY_CHALLENGE"),
            (200, "PASSWORD_RESET"),
            (200, "UNAUTHENTICATED"),
            (401, "E0000064"),
            (403, "E0000085"),
            (403, "E0000259"),
            (400, "E0000001"),
            (400, "E0000003"),
        ],
    ),
    (MISCONFIGURED, &[(401, "E0000015"), (404, "E0000008"), (405, "E0000022"), (410, "E0000215")]),
    (("inconclusive", Some("unknown"), "none"), &[(500, "E0000009"), (503, "E0000010")]),
    (UNKNOWN_CODE, &[(403, "E0009999"), (200, "SOMETHING_NEW")]),
];

/// Every row: how the simulator answers, and what that proves.
pub fn entra_id() -> Vec<(Value, Proof)> {
    let rows = ENTRA_ID.iter().flat_map(|(proof, codes)| codes.iter().map(move |code| (code, *proof)));
    rows.map(|(code, proof)| (json!({"code": {"code": code.to_string()}}), proof)).collect()
}

/// The same of Okta.
pub fn okta() -> Vec<(Value, Proof)> {
    let rows = OKTA.iter().flat_map(|(proof, codes)| codes.iter().map(move |code| (code, *proof)));
    let body = |status: u16, code: &str| match status {
        200 => {
            json!({"status": code, "_embedded": {"user": {"id": "00u1"}, "factors": [{"factorType": "push"}]}})
        }
        _ => json!({"errorCode": code, "errorSummary": "", "errorCauses": []}),
    };
    rows.map(|((status, code), proof)| {
        (json!({"answer": {"status": status, "json": body(*status, code)}}), proof)
    })
    .collect()
}

/// What becomes of revoking sessions, disabling and marking as compromised in a state.
pub type Ends = [&'static str; 3];

/// What is set at an account to bring it into a state, and how each action ends then (entra.md §12).
pub fn entra_id_states() -> Vec<(Value, Ends)> {
    vec![
        (json!({}), ["done", "done", "done"]),
        (json!({"status": "disabled"}), ["done", "done", "done"]),
        (json!({"lock": {"failures": 10, "locked": true}}), ["done", "done", "done"]),
        (json!({"password_expired": true}), ["done", "done", "done"]),
        (json!({"status": "deleted"}), ["account_gone", "account_gone", "done"]),
    ]
}

/// The same of Okta: only who is active, expired password or not, is suspended; sessions end in any state
/// (okta.md §5).
pub fn okta_states() -> Vec<(Value, Ends)> {
    vec![
        (json!({}), ["done", "done", "done"]),
        (json!({"status": "suspended"}), ["done", "done", "done"]),
        (json!({"lock": {"failures": 10, "locked": true}}), ["done", "wrong_state", "done"]),
        (json!({"password_expired": true}), ["done", "done", "done"]),
        (json!({"status": "staged"}), ["done", "wrong_state", "done"]),
        (json!({"status": "provisioned"}), ["done", "wrong_state", "done"]),
        (json!({"status": "recovery"}), ["done", "wrong_state", "done"]),
        (json!({"status": "deprovisioned"}), ["done", "wrong_state", "done"]),
        (json!({"status": "deleted"}), ["account_gone", "account_gone", "account_gone"]),
    ]
}
