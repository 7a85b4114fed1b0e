//! Everything the simulator knows: directories, the clock, the log, waiting faults and its signing key.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, RwLock};

use anyhow::Context as _;
use serde_json::{Value, json};
use time::{Duration, OffsetDateTime};

use crate::faults::Faults;
use crate::log::{Change, Event, Log, Submission};
use crate::model::{Account, Directory, DirectorySpec, Settings, Status};
use crate::sync::{lock, read, write};
use crate::tokens::Issuer;

/// Operations faults can wait for, by provider surface; `GET /` of the control port lists them.
pub const OPERATIONS: &[&str] = &[
    "entra.discovery",
    "entra.token",
    "entra.password",
    "graph.users.list",
    "graph.users.get",
    "graph.users.delta",
    "graph.users.update",
    "graph.users.revoke_sessions",
    "graph.users.delete",
    "graph.risky_users.get",
    "graph.risky_users.confirm",
    "graph.risky_users.dismiss",
    "graph.sign_ins",
    "graph.audits",
    "graph.organization",
    "graph.licences",
    "graph.application",
    "graph.service_principal",
    "graph.groups",
    "graph.groups.write",
    "graph.app_roles.write",
    "graph.roles.write",
    "graph.batch",
    "graph.other",
    "okta.token",
    "okta.password",
    "okta.users.list",
    "okta.users.get",
    "okta.users.write",
    "okta.users.sessions",
    "okta.users.lifecycle",
    "okta.users.risk",
    "okta.groups",
    "okta.policies",
    "okta.logs",
    "okta.hooks",
    "okta.other",
];

/// The whole state.
#[derive(Debug)]
pub struct World {
    /// Every submission and change.
    pub log: Log,
    /// Waiting faults.
    pub faults: Faults,
    /// Mints and checks access tokens.
    pub tokens: Issuer,
    /// Client for what a directory fetches itself (an application's JWKS), trusting the extra CA.
    pub http: reqwest::Client,
    /// What Okta orgs remember between requests.
    pub okta: crate::okta::State,
    /// What applications used of their Graph quotas.
    pub meters: crate::entra::Meters,
    directories: RwLock<Vec<Arc<Directory>>>,
    ahead_ms: AtomicI64,
    /// Assertions already used → when they expire, in epoch seconds.
    used: Mutex<HashMap<String, i64>>,
    /// Last call of paced operations.
    paced: Mutex<HashMap<String, OffsetDateTime>>,
    /// When the window of counted operations began, and their calls in it.
    counted: Mutex<HashMap<String, (OffsetDateTime, u32)>>,
    /// Writes that a later synchronisation undoes.
    reverts: Mutex<Vec<Revert>>,
}

#[derive(Debug)]
struct Revert {
    at: OffsetDateTime,
    directory: String,
    account: String,
    status: Status,
}

impl World {
    /// An empty world.
    pub fn new(log: Log, extra_ca: Option<&PathBuf>) -> anyhow::Result<Self> {
        let mut http = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .timeout(std::time::Duration::from_secs(5));
        if let Some(path) = extra_ca {
            let pem = std::fs::read(path).with_context(|| format!("CA file {}", path.display()))?;
            http = http.tls_certs_merge(reqwest::Certificate::from_pem_bundle(&pem)?);
        }
        Ok(Self {
            log,
            faults: Faults::default(),
            tokens: Issuer::generate()?,
            http: http.build()?,
            okta: crate::okta::State::default(),
            meters: crate::entra::Meters::default(),
            directories: RwLock::default(),
            ahead_ms: AtomicI64::new(0),
            used: Mutex::default(),
            paced: Mutex::default(),
            counted: Mutex::default(),
            reverts: Mutex::default(),
        })
    }

    /// The simulator's time: the machine's, moved by the control port.
    pub fn now(&self) -> OffsetDateTime {
        OffsetDateTime::now_utc() + Duration::milliseconds(self.ahead_ms.load(Ordering::Relaxed))
    }

    /// Moves the clock; a negative amount moves it back.
    pub fn advance(&self, by: Duration) {
        let ms = i64::try_from(by.whole_milliseconds()).unwrap_or(0);
        self.ahead_ms.fetch_add(ms, Ordering::Relaxed);
    }

    /// Creates a directory, or replaces the one with the same id.
    pub fn put(&self, spec: DirectorySpec) -> anyhow::Result<Arc<Directory>> {
        let built = Arc::new(Directory::build(spec, self.now())?);
        let mut directories = write(&self.directories);
        directories.retain(|d| d.id != built.id);
        directories.push(Arc::clone(&built));
        Ok(built)
    }

    /// Removes a directory; false when there is none.
    pub fn remove(&self, id: &str) -> bool {
        let mut directories = write(&self.directories);
        let before = directories.len();
        directories.retain(|d| d.id != id);
        directories.len() < before
    }

    /// All directories.
    pub fn directories(&self) -> Vec<Arc<Directory>> {
        read(&self.directories).clone()
    }

    /// The directory a key names: id, name, subdomain or verified domain.
    pub fn directory(&self, key: &str) -> Option<Arc<Directory>> {
        read(&self.directories).iter().find(|d| d.answers_to(key)).cloned()
    }

    /// The Okta org with this subdomain.
    pub fn okta(&self, name: &str) -> Option<Arc<Directory>> {
        let is = |d: &&Arc<Directory>| {
            matches!(&*d.settings(), Settings::Okta(o) if o.subdomain.eq_ignore_ascii_case(name)
                || o.custom_domain.as_ref().is_some_and(|domain| domain.eq_ignore_ascii_case(name)))
        };
        read(&self.directories).iter().find(is).cloned()
    }

    /// Logs a password submission.
    pub fn submitted(&self, directory: &Directory, submission: Submission) {
        self.append(directory, Event::Submission(submission));
    }

    /// Logs a change of an account.
    pub fn changed(&self, directory: &Directory, account: &str, action: &str, actor: &str, detail: Value) {
        let change = Change {
            account: account.to_owned(),
            action: action.to_owned(),
            actor: actor.to_owned(),
            detail,
        };
        self.append(directory, Event::Change(change));
    }

    /// Remembers a one-time token until it expires (epoch seconds); true when it was used before.
    pub fn replayed(&self, token: &str, expires: i64) -> bool {
        let now = self.now().unix_timestamp();
        let mut used = lock(&self.used);
        used.retain(|_, expires| *expires >= now);
        used.insert(token.to_owned(), expires).is_some()
    }

    /// Whether the last permitted call under this key is long enough ago; if so, this one counts.
    pub fn paced(&self, key: &str, spacing: Duration) -> bool {
        let now = self.now();
        let mut paced = lock(&self.paced);
        let free = paced.get(key).is_none_or(|last| now - *last >= spacing);
        if free {
            paced.insert(key.to_owned(), now);
        }
        free
    }

    /// Counts a call under this key; false beyond so many in a window of this length.
    pub fn counted(&self, key: &str, most: u32, window: Duration) -> bool {
        let now = self.now();
        let mut counted = lock(&self.counted);
        let (began, calls) = counted.entry(key.to_owned()).or_insert((now, 0));
        if now - *began >= window {
            (*began, *calls) = (now, 0);
        }
        *calls += 1;
        *calls <= most
    }

    /// Puts an account's present status back after a while, as the next synchronisation from AD does.
    pub fn revert_later(&self, directory: &Directory, account: &Account, after: Duration) {
        let revert = Revert {
            at: self.now() + after,
            directory: directory.id.clone(),
            account: account.id.clone(),
            status: account.status,
        };
        lock(&self.reverts).push(revert);
    }

    /// Carries out what time has brought since the last request.
    pub fn settle(&self) {
        let now = self.now();
        let due: Vec<Revert> = lock(&self.reverts).extract_if(.., |revert| revert.at <= now).collect();
        for Revert { directory, account, status, .. } in due {
            let Some(directory) = self.directory(&directory) else { continue };
            directory.accounts.update(&account, now, |account| account.set_status(status, now));
            let detail = json!({"status": status, "why": "synchronised from AD"});
            self.changed(&directory, &account, "reverted", "directory", detail);
        }
    }

    /// Forgets directories, faults, log and the clock's offset.
    pub fn reset(&self) {
        write(&self.directories).clear();
        self.faults.clear();
        self.okta.clear();
        self.meters.clear();
        self.log.clear();
        lock(&self.used).clear();
        lock(&self.paced).clear();
        lock(&self.counted).clear();
        lock(&self.reverts).clear();
        self.ahead_ms.store(0, Ordering::Relaxed);
    }

    fn append(&self, directory: &Directory, event: Event) {
        self.log.append(self.now(), &directory.id, directory.settings().provider(), event);
    }
}
