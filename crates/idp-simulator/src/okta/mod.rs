//! Okta over the wire: token endpoint, users, life cycle, sign-in, policies, System Log.
//!
//! What is not documented is answered as follows, and no client may depend on it: a `limit` above 200 counts as 200; a
//! suspended, staged, federated or passwordless user's sign-in answers 401 like a wrong password; a successful sign-in
//! forgets wrong tries and moves `lastLogin`; acting on an administrator without being a super administrator is 403
//! E0000006; permissions are checked before the user is looked for; the path of a DPoP proof is compared decoded; a user's
//! risk in an org without Identity Threat Protection is 401 E0000015; groups are listed by name only; a deprovisioned user
//! is updated with 403 E0000038.

mod access;
mod authn;
mod directory;
mod dpop;
mod errors;
mod groups;
mod hooks;
mod iam;
mod journal;
mod jwt;
mod keys;
mod lifecycle;
mod provision;
mod query;
mod rate;
mod risk;
mod ropc;
mod selfcheck;
mod settings;
#[cfg(test)]
mod tests;
mod token;
mod transaction;
mod user;
mod users;

use std::sync::Arc;

use bytes::Bytes;
use http::header::CONTENT_LENGTH;
use http::{Method, Response, StatusCode};

pub use authn::wrong_password;
pub use directory::max_attempts;
pub use errors::error as refusal;
pub use journal::{moved, noticed, outside};
pub use settings::{App, Authn, Binding, Buckets, CustomRole, Dpop, Pipeline, Policy, ResourceSet, Settings};

use crate::faults::{Fault, http_date};
use crate::model::{Directory, Settings as AnySettings};
use crate::wire::{self, Answer, Request, Surface};
use crate::world::World;
use rate::Bucket;

/// What all orgs share in the running simulator.
#[derive(Debug, Default)]
pub struct State {
    keys: keys::Keys,
    rates: rate::Rates,
    journal: journal::Journal,
    hooks: hooks::Hooks,
    transactions: transaction::Transactions,
}

impl State {
    /// Forgets everything.
    pub fn clear(&self) {
        self.keys.clear();
        self.rates.clear();
        self.journal.clear();
        self.hooks.clear();
        self.transactions.clear();
    }
}

/// An org together with its settings as they are for one request.
struct Org {
    directory: Arc<Directory>,
    settings: Settings,
}

impl Org {
    fn of(directory: Arc<Directory>) -> Option<Self> {
        let settings = match &*directory.settings() {
            AnySettings::Okta(settings) => settings.clone(),
            AnySettings::EntraId(_) => return None,
        };
        Some(Self { directory, settings })
    }
}

/// Where a request goes.
enum Route<'a> {
    Token,
    SignIn,
    Cancel,
    RevokeTokens,
    Revoke,
    Users,
    Groups,
    Group(&'a str),
    Members(&'a str),
    GroupsOf(&'a str),
    Risk(&'a str),
    RolesOf(&'a str),
    Lockout,
    User(&'a str),
    Blocks(&'a str),
    Sessions(&'a str),
    Lifecycle(&'a str, &'a str),
    Policies,
    Administrators,
    ClientRoles(&'a str),
    CreateUser,
    WriteUser(&'a str),
    Hooks,
    Hook(&'a str),
    HookStep(&'a str, &'a str),
    Grants(&'a str),
    RateLimits,
    Iam(iam::Part<'a>),
    Logs,
    Organization,
    WellKnown(&'a str),
    Keys,
    Nowhere,
}

impl<'a> Route<'a> {
    fn of(segments: &[&'a str]) -> Self {
        match segments {
            ["oauth2", "v1", "token"] => Self::Token,
            ["oauth2", "v1", "clients", id, "roles"] => Self::ClientRoles(id),
            ["oauth2", "v1", "keys"] => Self::Keys,
            [".well-known", document] => Self::WellKnown(document),
            ["oauth2", "v1", "revoke"] => Self::Revoke,
            ["oauth2", "v1", "global-token-revocation"] => Self::RevokeTokens,
            ["api", "v1", "authn"] => Self::SignIn,
            ["api", "v1", "authn", "cancel"] => Self::Cancel,
            ["api", "v1", "org"] => Self::Organization,
            ["api", "v1", "users"] => Self::Users,
            ["api", "v1", "groups"] => Self::Groups,
            ["api", "v1", "groups", id] => Self::Group(id),
            ["api", "v1", "groups", id, "users"] => Self::Members(id),
            ["api", "v1", "users", id] => Self::User(id),
            ["api", "v1", "users", id, "blocks"] => Self::Blocks(id),
            ["api", "v1", "users", id, "groups"] => Self::GroupsOf(id),
            ["api", "v1", "users", id, "risk"] => Self::Risk(id),
            ["api", "v1", "users", id, "roles"] => Self::RolesOf(id),
            ["api", "v1", "users", id, "sessions"] => Self::Sessions(id),
            ["api", "v1", "users", id, "lifecycle", step] => Self::Lifecycle(id, step),
            ["api", "v1", "policies"] => Self::Policies,
            ["api", "v1", "iam", "assignees", "users"] => Self::Administrators,
            ["api", "v1", "iam", "roles"] => Self::Iam(iam::Part::Roles),
            ["api", "v1", "iam", "roles", id] => Self::Iam(iam::Part::Role(id)),
            ["api", "v1", "iam", "roles", id, "permissions"] => Self::Iam(iam::Part::Permissions(id)),
            ["api", "v1", "iam", "resource-sets", rest @ ..] => match rest {
                [] => Self::Iam(iam::Part::Sets),
                [id] => Self::Iam(iam::Part::Set(id)),
                [id, "resources"] => Self::Iam(iam::Part::Resources(id)),
                [id, "bindings"] => Self::Iam(iam::Part::Bindings(id)),
                [id, "bindings", role, "members"] => Self::Iam(iam::Part::Members(id, role)),
                _ => Self::Nowhere,
            },
            ["api", "v1", "eventHooks"] => Self::Hooks,
            ["api", "v1", "eventHooks", id] => Self::Hook(id),
            ["api", "v1", "eventHooks", id, "lifecycle", step] => Self::HookStep(id, step),
            ["api", "v1", "apps", id, "grants"] => Self::Grants(id),
            ["api", "v1", "principal-rate-limits"] => Self::RateLimits,
            ["api", "v1", "logs"] => Self::Logs,
            ["attack-protection", "api", "v1", "user-lockout-settings"] => Self::Lockout,
            _ => Self::Nowhere,
        }
    }

    /// Where a path leads under a method: writing a user counts elsewhere than reading one.
    fn under(self, method: &Method) -> Self {
        match self {
            Self::Users if method == Method::POST => Self::CreateUser,
            Self::User(id) if [Method::POST, Method::PUT, Method::DELETE].contains(method) => {
                Self::WriteUser(id)
            }
            route => route,
        }
    }

    /// The name faults wait for, the user it is about, and the bucket it counts in.
    fn kind(&self) -> (&'static str, Option<&'a str>, Option<Bucket>) {
        match *self {
            Self::Token => ("okta.token", None, Some(Bucket::Token)),
            Self::SignIn => ("okta.password", None, Some(Bucket::Authn)),
            Self::Users => ("okta.users.list", None, Some(Bucket::Users)),
            Self::Revoke => ("okta.other", None, Some(Bucket::Token)),
            Self::Cancel => ("okta.other", None, Some(Bucket::Authn)),
            Self::RevokeTokens => ("okta.users.sessions", None, Some(Bucket::Token)),
            Self::Groups | Self::Group(_) | Self::Members(_) => ("okta.groups", None, Some(Bucket::Other)),
            Self::User(id) | Self::Blocks(id) => ("okta.users.get", Some(id), Some(Bucket::User)),
            Self::GroupsOf(id) | Self::RolesOf(id) => ("okta.users.get", Some(id), Some(Bucket::Other)),
            Self::Risk(id) => ("okta.users.risk", Some(id), Some(Bucket::Other)),
            Self::Sessions(id) => ("okta.users.sessions", Some(id), Some(Bucket::UserWrite)),
            Self::Lifecycle(id, _) => ("okta.users.lifecycle", Some(id), Some(Bucket::UserWrite)),
            Self::CreateUser => ("okta.users.write", None, Some(Bucket::Users)),
            Self::WriteUser(id) => ("okta.users.write", Some(id), Some(Bucket::UserWrite)),
            Self::Hooks | Self::Hook(_) | Self::HookStep(..) => ("okta.hooks", None, Some(Bucket::Other)),
            Self::Policies => ("okta.policies", None, Some(Bucket::Other)),
            Self::Logs => ("okta.logs", None, Some(Bucket::Logs)),
            Self::Administrators
            | Self::ClientRoles(_)
            | Self::Grants(_)
            | Self::RateLimits
            | Self::Iam(_)
            | Self::Organization
            | Self::Lockout
            | Self::Nowhere => ("okta.other", None, Some(Bucket::Other)),
            Self::WellKnown(_) | Self::Keys => ("okta.other", None, None),
        }
    }
}

/// Answers one request to an org's host.
pub async fn answer(world: &Arc<World>, request: &Request) -> Answer {
    let Surface::Okta(subdomain) = &request.surface else {
        return wire::empty(StatusCode::MISDIRECTED_REQUEST).into();
    };
    let Some(org) = world.okta(subdomain).and_then(Org::of) else {
        return unknown_org().into();
    };
    world.settle();
    let segments = request.segments();
    let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
    let route = Route::of(&segments).under(&request.method);
    let (operation, user, bucket) = route.kind();
    let standing = bucket
        .and_then(|bucket| world.okta.rates.count(&org, bucket, access::principal(request), world.now()));
    let throttled = standing.is_some_and(|standing| standing.exceeded);
    let mut answer = if let Route::SignIn = route {
        authn::answer(world, &org, request, throttled)
    } else if matches!(route, Route::Token) && ropc::is_meant(request) {
        ropc::answer(world, &org, request, throttled)
    } else if throttled {
        errors::error("E0000047").into()
    } else {
        let id = user.and_then(|key| org.directory.accounts.find(key)).map(|account| account.id);
        let fault = world.faults.take(&org.directory.id, operation, id.as_deref());
        let response = if fault.as_ref().is_none_or(Fault::evaluates) {
            carry_out(world, &org, request, &route).await
        } else {
            wire::empty(StatusCode::OK)
        };
        Answer { response, fault }
    };
    if org.settings.causes_as_object {
        errors::causes_as_object(&mut answer.response);
    }
    let headers = answer.response.headers();
    if let Some(standing) = standing
        && !headers.contains_key("x-rate-limit-limit")
    {
        standing.write(&mut answer.response);
    }
    let id = uuid::Uuid::new_v4().simple().to_string();
    wire::set_header(&mut answer.response, "x-okta-request-id", &id);
    wire::set_header(&mut answer.response, "date", &http_date(world.now()));
    answer
}

async fn carry_out(world: &Arc<World>, org: &Org, request: &Request, route: &Route<'_>) -> Response<Bytes> {
    let writes = request.method == Method::POST || request.method == Method::PUT;
    if writes && request.body.is_empty() && !request.headers.contains_key(CONTENT_LENGTH) {
        return wire::empty(StatusCode::LENGTH_REQUIRED);
    }
    let get = request.method == Method::GET;
    let outcome = match *route {
        Route::Token => Ok(token::answer(world, org, request).await),
        Route::WellKnown(document) if get => Ok(directory::well_known(org, request, document)),
        Route::Keys if get => Ok(wire::json(StatusCode::OK, &world.tokens.jwks())),
        Route::Organization if get => directory::organization(world, org, request),
        Route::Users if get => users::list(world, org, request),
        Route::Groups if get => groups::list(world, org, request),
        Route::Group(id) if get => groups::get(world, org, request, id),
        Route::GroupsOf(key) if get => groups::of_user(world, org, request, key),
        Route::RolesOf(key) if get => directory::roles(world, org, request, key),
        Route::Risk(key) if get => risk::get(world, org, request, key),
        Route::Risk(key) if request.method == Method::PUT => risk::put(world, org, request, key),
        Route::Lockout if get => directory::lockout(world, org, request),
        // Tokens of people open nothing here, so there is nothing to end.
        Route::Revoke if request.method == Method::POST => Ok(wire::empty(StatusCode::OK)),
        Route::Cancel if request.method == Method::POST => transaction::cancel(world, org, request),
        Route::RevokeTokens if request.method == Method::POST => {
            lifecycle::revoke_tokens(world, org, request)
        }
        Route::Members(group) if get => users::members(world, org, request, group),
        Route::User(key) if get => users::get(world, org, request, key),
        Route::Blocks(key) if get => users::blocks(world, org, request, key),
        Route::Sessions(key) if request.method == Method::DELETE => {
            lifecycle::clear_sessions(world, org, request, key)
        }
        Route::Lifecycle(key, step) if request.method == Method::POST => {
            lifecycle::step(world, org, request, key, step)
        }
        Route::Policies if get => directory::policies(world, org, request),
        Route::Administrators if get => directory::administrators(world, org, request),
        Route::ClientRoles(id) if get => directory::client_roles(world, org, request, id),
        Route::CreateUser => provision::create(world, org, request),
        Route::WriteUser(key) if request.method == Method::DELETE => {
            provision::delete(world, org, request, key)
        }
        Route::WriteUser(key) => provision::update(world, org, request, key),
        Route::Hooks if get || request.method == Method::POST => hooks::all(world, org, request),
        Route::Hook(id) if get || request.method == Method::PUT || request.method == Method::DELETE => {
            hooks::one(world, org, request, id)
        }
        Route::HookStep(id, step) if request.method == Method::POST => {
            hooks::step(world, org, request, id, step).await
        }
        Route::Grants(id) if get => selfcheck::grants(world, org, request, id),
        Route::RateLimits if get => selfcheck::rate_limits(world, org, request),
        Route::Iam(part) if get => iam::get(world, org, request, part),
        Route::Logs if get => journal::answer(world, org, request),
        Route::SignIn | Route::Nowhere => Err(errors::error("E0000008")),
        _ => Err(errors::error("E0000022")),
    };
    match outcome {
        Ok(response) | Err(response) => response,
    }
}

/// The wildcard name of an org that does not exist.
fn unknown_org() -> Response<Bytes> {
    let mut response = Response::new(Bytes::from_static(b"<!doctype html><title>Page not found</title>"));
    *response.status_mut() = StatusCode::NOT_FOUND;
    wire::set_header(&mut response, "content-type", "text/html");
    response
}
