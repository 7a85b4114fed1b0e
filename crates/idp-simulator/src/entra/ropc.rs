//! The password grant: smart lockout, the first factor and everything behind it, in the vendor's order (entra.md §4.3).

use http::StatusCode;
use serde_json::Value;
use time::{Duration, OffsetDateTime};

use super::settings::{Agents, RiskPolicy, Settings};
use super::{Tenant, errors, login, sign_in};
use crate::control::lock_detail;
use crate::log::{self, Submission, sha256_hex};
use crate::model::{Account, Authority, By, SecondFactor, Status};
use crate::wire::{self, Answer, Form, Request};
use crate::world::World;

/// What the directory makes of one submission.
struct Ruling {
    /// AADSTS code; `None` = signed in.
    code: Option<u32>,
    /// This submission locked the account.
    locked: bool,
}

impl From<u32> for Ruling {
    fn from(code: u32) -> Self {
        Self { code: Some(code), locked: false }
    }
}

/// Answers a password grant. The submission is logged before anything else happens to the answer.
pub(super) fn answer(world: &World, request: &Request, tenant: &Tenant, form: &Form) -> Answer {
    let directory = &tenant.directory;
    let username = form.get("username").unwrap_or_default();
    let password = form.get("password").unwrap_or_default();
    let account = directory.accounts.by_login(username);
    let id = account.as_ref().map(|account| account.id.clone());
    let fault = world.faults.take(&directory.id, "entra.password", id.as_deref());
    let evaluated = fault.as_ref().is_none_or(crate::faults::Fault::evaluates);

    let mut locked = false;
    let response = if evaluated {
        preconditions(world, request, tenant, form).map_or_else(
            |refusal| refusal,
            |()| {
                let ruling = rule(world, tenant, account.as_ref(), password);
                locked = ruling.locked;
                match (ruling.code, &account) {
                    (None, Some(account)) => sign_in::tokens(world, request, tenant, form, account),
                    (code, _) => errors::oauth(request, world.now(), code.unwrap_or(50034), ""),
                }
            },
        )
    } else {
        wire::empty(StatusCode::OK)
    };

    let answer = match &fault {
        Some(_) if !evaluated => "not evaluated".to_owned(),
        _ => describe(&response),
    };
    world.submitted(
        directory,
        Submission {
            account: id.clone(),
            username: username.to_owned(),
            correct: account.as_ref().and_then(|a| a.password.as_ref()).map(|right| right == password),
            answer,
            fault: fault.as_ref().map(crate::faults::Fault::name),
            password_sha256: sha256_hex(password),
            client_id: form.get("client_id").map(str::to_owned),
            source: log::source(request.peer),
            by: By::Wire,
            locked,
        },
    );
    if let (true, Some(id)) = (locked, &id)
        && let Some(after) = directory.accounts.get(id)
    {
        world.changed(directory, id, "lock", "wire", lock_detail(&after));
    }
    Answer { response, fault }
}

/// Step 1: client, credential, scope. The password is not looked at.
fn preconditions(
    world: &World,
    request: &Request,
    tenant: &Tenant,
    form: &Form,
) -> Result<(), http::Response<bytes::Bytes>> {
    login::client(world, request, tenant, form)?;
    for name in ["scope", "username", "password"] {
        if form.get(name).is_none() {
            return Err(errors::oauth(request, world.now(), 900_144, name));
        }
    }
    Ok(())
}

/// Steps 2 to 7.
fn rule(world: &World, tenant: &Tenant, account: Option<&Account>, password: &str) -> Ruling {
    let settings = &tenant.settings;
    let now = world.now();
    let Some(account) = account else { return 50034.into() };
    if account.guest {
        return 50020.into();
    }
    if settings.address_blocked || account.lock.holds(now) {
        return 50053.into(); // whatever the password
    }
    match account.authority {
        Authority::Federated => return 50126.into(), // the password is never checked
        Authority::PassThrough if settings.agents == Agents::Down => return 80001.into(),
        _ => {}
    }
    let Some(right) = &account.password else { return 50056.into() };
    // Passwords with white space at either end are not supported by this grant (entra.md §4.2).
    let correct = right == password && password.trim() == password;
    let accounts = &tenant.directory.accounts;
    let mut locked = false;
    if !correct {
        let wrong = |a: &mut Account| wrong_password(settings, a, password, By::Wire, now);
        locked = accounts.update_quietly(&account.id, wrong).unwrap_or(false);
    }
    if account.authority == Authority::PassThrough {
        match settings.agents {
            Agents::TimingOut => return Ruling { code: Some(80002), locked },
            Agents::Slow => return Ruling { code: Some(80014), locked },
            Agents::Up | Agents::Down => {}
        }
    }
    if !correct {
        return Ruling { code: Some(50126), locked };
    }
    if let Some(code) = behind_the_password(settings, account) {
        return code.into();
    }
    accounts.update_quietly(&account.id, |account| {
        account.last_sign_in = Some(now);
        account.lock.clear();
    });
    Ruling { code: None, locked: false }
}

/// Steps 5 to 7: everything that is only looked at once the password was right.
fn behind_the_password(settings: &Settings, account: &Account) -> Option<u32> {
    if account.password_expired {
        return Some(if account.authority == Authority::PassThrough { 50144 } else { 50055 });
    }
    if account.status == Status::Disabled {
        return Some(50057);
    }
    if account.risk.level == "high" {
        match settings.risk_policy {
            RiskPolicy::None => {}
            RiskPolicy::Block => return Some(53003),
            RiskPolicy::ChangePassword => return Some(50142),
        }
    }
    if let Some(code) = account.gate.as_ref().and_then(|gate| gate.parse().ok()) {
        return Some(code);
    }
    match account.second_factor {
        SecondFactor::None => None,
        SecondFactor::Required => Some(50076),
        SecondFactor::Unregistered => Some(50079),
    }
}

/// Counts a wrong password by the rules of smart lockout (entra.md §6); true when this one locked the account.
pub fn wrong_password(
    settings: &Settings,
    account: &mut Account,
    password: &str,
    by: By,
    now: OffsetDateTime,
) -> bool {
    if account.lock.holds(now) {
        return false;
    }
    let hash = sha256_hex(password);
    if account.authority != Authority::PassThrough {
        if account.lock.recent.contains(&hash) {
            return false; // the last three wrong passwords are remembered, and cost nothing when repeated
        }
        account.lock.recent.push(hash);
        if account.lock.recent.len() > 3 {
            account.lock.recent.remove(0);
        }
    }
    account.count_failure(by);
    // After a lock has run out one more failure locks again, for longer.
    if account.lock.locks == 0 && account.lock.failures < settings.threshold() {
        return false;
    }
    let doubled = settings.lockout.duration_s << account.lock.locks.min(10);
    account.lock.locked = true;
    account.lock.locks += 1;
    account.lock.until = Some(now + Duration::seconds(doubled));
    true
}

/// `400 AADSTS50126`, or `200` for a token.
fn describe(response: &http::Response<bytes::Bytes>) -> String {
    let status = response.status().as_u16();
    let body: Value = serde_json::from_slice(response.body()).unwrap_or_default();
    match body.pointer("/error_codes/0").and_then(Value::as_u64) {
        Some(code) => format!("{status} AADSTS{code}"),
        None => status.to_string(),
    }
}
