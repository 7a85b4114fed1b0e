//! Microsoft Entra ID and Microsoft Graph over the wire.
//!
//! What is not documented is answered as the reference the crate was written from observed it, and noted where it is an
//! assumption: a replayed client assertion answers 700027, the sixty-first id of a risk call 400, and the wrong password
//! that locks an account answers 50126 itself (the next one 50053). Queries of users that Graph knows and the simulator does
//! not (`$search`, `$orderby`, `$expand`) are refused, never ignored. A member of a mail-enabled group is refused with 400;
//! `DELETE …/members/{id}` without `/$ref` deletes users only, never groups and applications; an app role the resource does
//! not define is 400; a deleted user can be restored for 30 days.

mod access;
mod application;
mod assertion;
mod audit_log;
mod batch;
mod deleted;
mod delta;
mod directory;
mod discovery;
mod errors;
mod graph;
mod group_delta;
mod groups;
mod login;
mod members;
mod meter;
mod mitigation;
mod principals;
mod query;
mod risk;
mod roles;
mod ropc;
mod settings;
mod sign_in;
mod sign_in_log;
mod user;
mod users;

pub use errors::{graph_refusal, oauth_refusal as refusal};
pub use graph::answer as graph;
pub use login::answer as login;
pub use meter::Meters;
pub use ropc::wrong_password;
pub use settings::{
    Agents, App, AppRole, Cloud, Domain, HybridWrites, Licence, Lockout, NotAMember, PrincipalKind,
    RiskPolicy, Secret, Settings,
};

use crate::model::{Directory, Settings as AnySettings};
use std::sync::Arc;

/// Whether a host name is the login host of a cloud.
pub fn is_login_host(name: &str) -> bool {
    Cloud::ALL.iter().any(|cloud| cloud.login_hosts().contains(&name))
}

/// Whether a host name is the Graph host of a cloud.
pub fn is_graph_host(name: &str) -> bool {
    Cloud::ALL.iter().any(|cloud| cloud.graph_host() == name)
}

/// A tenant together with its settings as they are for one request.
struct Tenant {
    directory: Arc<Directory>,
    settings: Settings,
}

impl Tenant {
    /// `None` when the directory is not an Entra ID tenant.
    fn of(directory: Arc<Directory>) -> Option<Self> {
        let settings = match &*directory.settings() {
            AnySettings::EntraId(settings) => settings.clone(),
            AnySettings::Okta(_) => return None,
        };
        Some(Self { directory, settings })
    }
}
