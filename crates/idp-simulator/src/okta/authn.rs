//! `/api/v1/authn`: anonymous primary authentication, its counter and its many answers (okta.md §4).

use bytes::Bytes;
use http::{Method, Response, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};
use time::{Duration, OffsetDateTime};

use super::journal::{Outcome, Record};
use super::settings::{Authn, Settings};
use super::users::named;
use super::{Org, directory, errors, rate, transaction};
use crate::control::lock_detail;
use crate::faults::Fault;
use crate::log::{self, Submission, sha256_hex};
use crate::model::{Account, Authority, By, SecondFactor, Status};
use crate::wire::{self, Answer, Request};
use crate::world::World;

#[derive(Default, Deserialize)]
#[serde(default)]
struct Body {
    username: String,
    password: String,
    #[serde(rename = "stateToken")]
    state_token: String,
}

/// What the org makes of one submission.
pub struct Ruling {
    /// The answer.
    pub response: Response<Bytes>,
    /// This submission locked the account.
    pub locked: bool,
    /// Reason in the System Log; `None` = success.
    pub reason: Option<&'static str>,
}

/// Answers a sign-in. The submission is logged before anything else happens to the answer.
pub fn answer(world: &World, org: &Org, request: &Request, throttled: bool) -> Answer {
    if request.method != Method::POST {
        return errors::error("E0000022").into();
    }
    let Ok(Body { username, password, state_token }) = serde_json::from_slice::<Body>(&request.body) else {
        return errors::error("E0000003").into();
    };
    if username.is_empty() && password.is_empty() && !state_token.is_empty() {
        return transaction::resume(world, org, &state_token).into();
    }
    let missing = username.is_empty() || password.is_empty();
    let attempt = Attempt { username, password, client_id: None, throttled };
    submit(world, org, request, attempt, |attempt, account| {
        if missing {
            let cause = ["username and password are required"];
            return plain(errors::because("E0000001", "authentication", &cause));
        }
        if world.okta.rates.too_fast(org, &attempt.username, world.now()) {
            return plain(rate::name_throttled(world.now()));
        }
        let ruling = rule(world, org, request, account, &attempt.password);
        record(world, org, request, account, &attempt.username, &ruling);
        ruling
    })
}

/// A password as it was submitted.
pub struct Attempt {
    /// Name.
    pub username: String,
    /// Password.
    pub password: String,
    /// The application that asked, where the protocol has one.
    pub client_id: Option<String>,
    /// The bucket of the endpoint is empty.
    pub throttled: bool,
}

/// Logs a submission, whatever becomes of it, and answers as `judge` rules unless a fault or a limit comes first.
pub fn submit(
    world: &World,
    org: &Org,
    request: &Request,
    attempt: Attempt,
    judge: impl FnOnce(&Attempt, Option<&Account>) -> Ruling,
) -> Answer {
    let account = named(org, &attempt.username);
    let id = account.as_ref().map(|account| account.id.clone());
    let fault = world.faults.take(&org.directory.id, "okta.password", id.as_deref());
    let evaluated = !attempt.throttled && fault.as_ref().is_none_or(Fault::evaluates);
    let ruling = if attempt.throttled {
        plain(errors::error("E0000047"))
    } else if !evaluated {
        plain(wire::empty(StatusCode::OK))
    } else {
        judge(&attempt, account.as_ref())
    };
    let answer = if evaluated { describe(&ruling.response) } else { "not evaluated".to_owned() };
    let right = account.as_ref().and_then(|account| account.password.as_ref());
    world.submitted(
        &org.directory,
        Submission {
            account: id.clone(),
            correct: right.map(|right| *right == attempt.password),
            username: attempt.username,
            answer,
            fault: fault.as_ref().map(Fault::name),
            password_sha256: sha256_hex(&attempt.password),
            client_id: attempt.client_id,
            source: log::source(request.peer),
            by: By::Wire,
            locked: ruling.locked,
        },
    );
    if let (true, Some(after)) = (ruling.locked, id.and_then(|id| org.directory.accounts.get(&id))) {
        world.changed(&org.directory, &after.id, "lock", "wire", lock_detail(&after));
    }
    Answer { response: ruling.response, fault }
}

/// An answer that is no verdict on the password.
pub fn plain(response: Response<Bytes>) -> Ruling {
    Ruling { response, locked: false, reason: Some("GENERAL_NONSUCCESS") }
}

fn refused(reason: &'static str) -> Ruling {
    Ruling { response: errors::error("E0000004"), locked: false, reason: Some(reason) }
}

fn rule(world: &World, org: &Org, request: &Request, account: Option<&Account>, password: &str) -> Ruling {
    match org.settings.authn {
        Authn::Withdrawn => return plain(errors::error("E0000215")),
        Authn::Blocked => return plain(errors::error("E0000006")),
        Authn::Denied => return refused("VERIFICATION_ERROR"),
        Authn::FactorsFirst => {
            let factors =
                json!([{"id": "pwd1", "factorType": "password", "provider": "OKTA", "vendorName": "OKTA"}]);
            return plain(transaction::begin(
                world,
                org,
                request,
                "MFA_REQUIRED",
                account,
                json!({"factors": factors}),
            ));
        }
        Authn::Available => {}
    }
    judge(world, org, request, account, password)
}

/// What the password and the account's state deserve, at any endpoint.
pub fn judge(
    world: &World,
    org: &Org,
    request: &Request,
    account: Option<&Account>,
    password: &str,
) -> Ruling {
    let settings = &org.settings;
    let now = world.now();
    let Some(account) = account else { return refused("UNKNOWN_USER") };
    let usable = account.status == Status::Active && account.authority != Authority::Federated;
    let (true, Some(right)) = (usable, &account.password) else {
        return refused("PASSWORD_BASED_LOGIN_DISALLOWED");
    };
    if account.lock.holds(now) {
        // Whatever the password.
        if settings.show_lockout_failures && !settings.unknown_device_lockout {
            let links = json!({"next": {"name": "unlock", "href": request.link("/api/v1/authn/recovery/unlock"),
                "hints": {"allow": ["POST"]}}});
            let body = json!({"status": "LOCKED_OUT", "_embedded": {}, "_links": links});
            return Ruling { reason: Some("LOCKED_OUT"), ..plain(wire::json(StatusCode::OK, &body)) };
        }
        return refused("LOCKED_OUT");
    }
    if right != password {
        let accounts = &org.directory.accounts;
        let limit = directory::max_attempts(&org.directory, settings, account);
        let counted =
            accounts.update_quietly(&account.id, |a| wrong_password(settings, limit, a, By::Wire, now));
        let locked = counted.unwrap_or(false);
        if locked {
            // The status changed, which readers see.
            accounts.update(&account.id, now, |account| account.status_changed = now);
        }
        return Ruling { locked, ..refused("INVALID_CREDENTIALS") };
    }
    right_password(world, org, request, account)
}

/// What stands behind a right password. Users with a factor meet it before an expired password (okta.md §4.1).
fn right_password(world: &World, org: &Org, request: &Request, account: &Account) -> Ruling {
    let now = world.now();
    let answer = |status, embedded| Ruling {
        response: transaction::begin(world, org, request, status, Some(account), embedded),
        locked: false,
        reason: None,
    };
    if let Some(gate) = &account.gate {
        if gate.starts_with("E0") {
            return plain(errors::error(gate));
        }
        let expiry =
            || json!({"policy": {"expiration": {"passwordExpireDays": 5}, "complexity": {"minLength": 8}}});
        return answer(gate, if gate == "PASSWORD_WARN" { expiry() } else { json!({}) });
    }
    match account.second_factor {
        SecondFactor::Required => {
            return answer(
                "MFA_REQUIRED",
                json!({"factors": [{"id": "ost1", "factorType": "token:software:totp",
                "provider": "OKTA", "vendorName": "OKTA", "profile": {"credentialId": account.login},
                "_links": {"verify": {"href": request.link("/api/v1/authn/factors/ost1/verify"),
                    "hints": {"allow": ["POST"]}}}}],
                "policy": {"allowRememberDevice": true, "rememberDeviceLifetimeInMinutes": 0,
                    "rememberDeviceByDefault": false}}),
            );
        }
        SecondFactor::Unregistered => {
            return answer(
                "MFA_ENROLL",
                json!({"factors": [{"factorType": "sms", "provider": "OKTA",
                "status": "NOT_SETUP", "enrollment": "OPTIONAL"}]}),
            );
        }
        SecondFactor::None => {}
    }
    if account.password_expired {
        return answer("PASSWORD_EXPIRED", json!({"policy": {"complexity": {"minLength": 8}}}));
    }
    org.directory.accounts.update_quietly(&account.id, |account| {
        account.lock.clear();
        account.last_sign_in = Some(now);
    });
    answer("SUCCESS", json!({}))
}

/// Counts a wrong password; true when this one locked the account, which `max_attempts` do (0 = none ever).
pub fn wrong_password(
    settings: &Settings,
    max_attempts: u32,
    account: &mut Account,
    by: By,
    now: OffsetDateTime,
) -> bool {
    if account.lock.holds(now) {
        return false;
    }
    if account.lock.locked {
        account.lock.clear(); // the lock has run out, and its count with it
    }
    account.count_failure(by);
    if max_attempts == 0 || account.lock.failures < max_attempts {
        return false;
    }
    account.lock.locked = true;
    account.lock.locks += 1;
    let minutes = i64::from(settings.auto_unlock_minutes);
    account.lock.until = (minutes > 0).then(|| now + Duration::minutes(minutes));
    true
}

/// Writes the System Log. Every sign-in is in it, and a lock besides.
pub fn record(
    world: &World,
    org: &Org,
    request: &Request,
    account: Option<&Account>,
    username: &str,
    ruling: &Ruling,
) {
    let id = account.map_or("unknown", |account| account.id.as_str());
    let outcome = Outcome { success: ruling.reason.is_none(), reason: ruling.reason };
    let actor = (id, "User", username);
    let journal = &world.okta.journal;
    let start = Record { event: "user.session.start", actor, target: account, outcome };
    journal.record(world.now(), org, request, &start);
    if ruling.locked {
        let outcome = Outcome { success: true, reason: None };
        let lock = Record { event: "user.account.lock", actor, target: account, outcome };
        journal.record(world.now(), org, request, &lock);
    }
}

/// `200 MFA_REQUIRED`, `401 E0000004`.
fn describe(response: &Response<Bytes>) -> String {
    let body: Value = serde_json::from_slice(response.body()).unwrap_or_default();
    let word = ["status", "errorCode", "error"].iter().find_map(|name| body.get(name)?.as_str());
    format!("{} {}", response.status().as_u16(), word.unwrap_or_default()).trim_end().to_owned()
}
