//! The demo's feed files, and which of their passwords really work: computed from the directories and the files
//! alone, before anything is imported. Parapet never sees this knowledge; the judge holds it against the outcome.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    io::Write,
    path::{Path, PathBuf},
};

use anyhow::{Context, ensure};
use rand::{
    RngExt, SeedableRng,
    seq::{IndexedRandom, SliceRandom},
};
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};
use time::{Duration, OffsetDateTime};

use super::directory::{Account, rfc3339};

/// How many records the files hold together.
pub const RECORDS: usize = 20_000;
/// How many passwords in them really work.
pub const WORKING: usize = 120;
/// How many of these are the only testable candidate of their account.
const WORKING_ALONE: usize = 112;
const WRONG: usize = 120;
const STALE: usize = 6_000;
const MASKED: usize = 1_500;
const HASHED: usize = 1_500;
const UNTESTABLE: usize = 600;
const HISTORY: usize = 300;
const REPEATED_ELSEWHERE: usize = 60;
const DUPLICATES: usize = 1_000;

/// The four shapes the demo's files have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Shape {
    Flare,
    SpyCloud,
    RecordedFuture,
    Lines,
}

/// What a record's secret is.
#[derive(Clone, Debug)]
enum Secret {
    Plain(String),
    Masked,
    Hash(String),
}

#[derive(Clone, Debug)]
struct Leak {
    shape: Shape,
    identity: String,
    secret: Secret,
    captured: Option<OffsetDateTime>,
    first_seen: OffsetDateTime,
}

/// A working password that the run has to find.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Expected {
    /// Directory id.
    pub directory: String,
    /// Account object id.
    pub account: String,
    /// No other testable password of this account is in the files.
    pub only_candidate: bool,
}

/// The files and what is true about them.
#[derive(Debug)]
pub struct Feeds {
    /// The files, in the order of import.
    pub files: Vec<PathBuf>,
    /// Records over all files.
    pub records: usize,
    /// The passwords that work.
    pub expected: Vec<Expected>,
    /// Every plaintext password in the files and every true password they contain: what must never be found elsewhere.
    pub secrets: HashSet<String>,
}

/// A directory's accounts, and its id.
pub type Population<'a> = (&'a str, &'a [Account]);

/// Writes the files. `now` must lie after the accounts were synced: what a feed first saw earlier is history.
pub fn generate(
    folder: &Path,
    seed: u64,
    now: OffsetDateTime,
    populations: &[Population<'_>],
) -> anyhow::Result<Feeds> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut testable: Vec<(&str, &Account)> = Vec::new();
    let mut untestable: Vec<&Account> = Vec::new();
    let mut passwords = HashSet::new();
    for (directory, accounts) in populations {
        for account in *accounts {
            if let Some(password) = &account.password {
                ensure!(passwords.insert(password.clone()), "generated passwords must be unique");
            }
            // An old enough password leaves room for leaks before and after it was set.
            let old = account.password_changed.is_some_and(|at| now - at > Duration::days(40));
            if account.testable() && old {
                testable.push((directory, account));
            } else if !account.testable() {
                untestable.push(account);
            }
        }
    }
    testable.shuffle(&mut rng);
    // An administrator of each directory is among the first, whose passwords work: what is held for them is part of
    // every run.
    for (place, (directory, _)) in populations.iter().enumerate() {
        let of = |(other, account): &(&str, &Account)| other == directory && !account.roles.is_empty();
        let at = testable.iter().position(of).context("a directory has no administrator with a password")?;
        testable.swap(place, at);
    }
    ensure!(testable.len() > WORKING + WRONG + 1_000, "the directories have too few testable accounts");
    let mut made = Maker { rng, now, fresh: HashSet::new() };
    let (working, rest) = testable.split_at(WORKING);
    let (wrong, rest) = rest.split_at(WRONG);
    let mut leaks = Vec::with_capacity(RECORDS);

    let shapes = [Shape::Flare, Shape::SpyCloud, Shape::RecordedFuture, Shape::Lines].into_iter().cycle();
    for ((index, (_, account)), shape) in working.iter().enumerate().zip(shapes) {
        let password = account.password.clone().context("a testable account has a password")?;
        leaks.push(made.fresh_leak(shape, account, Secret::Plain(password.clone())));
        if index >= WORKING_ALONE {
            let other = made.password();
            leaks.push(made.fresh_leak(Shape::SpyCloud, account, Secret::Plain(other)));
        } else if index < REPEATED_ELSEWHERE {
            // The same credential in another feed costs nothing more.
            let other = if shape == Shape::Flare { Shape::SpyCloud } else { Shape::Flare };
            leaks.push(made.fresh_leak(other, account, Secret::Plain(password)));
        }
    }
    for (_, account) in wrong {
        let password = made.password();
        let shape = made.dated_shape();
        leaks.push(made.fresh_leak(shape, account, Secret::Plain(password)));
    }
    // One account has at most three leaks of the remaining kinds, as in real feeds.
    let mut known = rest.iter().map(|(_, account)| *account).cycle();
    let mut next = move || known.next().context("no account left");
    for _ in 0..STALE {
        let account = next()?;
        let password = made.password();
        leaks.push(made.stale_leak(account, password)?);
    }
    for _ in 0..MASKED {
        leaks.push(made.fresh_leak(Shape::SpyCloud, next()?, Secret::Masked));
    }
    for _ in 0..HASHED {
        let hash = format!("$2b$12${}", made.text(53));
        let shape = if made.rng.random_bool(0.5) { Shape::Flare } else { Shape::SpyCloud };
        leaks.push(made.fresh_leak(shape, next()?, Secret::Hash(hash)));
    }
    for index in 0..UNTESTABLE {
        let account = untestable.get(index % untestable.len()).context("no untestable account")?;
        let password = made.password();
        let shape = made.dated_shape();
        leaks.push(made.fresh_leak(shape, account, Secret::Plain(password)));
    }
    for _ in 0..HISTORY {
        let password = made.password();
        let mut leak = made.fresh_leak(Shape::Flare, next()?, Secret::Plain(password));
        leak.first_seen = now - Duration::days(200);
        leak.captured = Some(now - Duration::days(201));
        leaks.push(leak);
    }
    while leaks.len() < RECORDS - DUPLICATES {
        leaks.push(made.stranger());
    }
    leaks.shuffle(&mut made.rng);
    let expected = expect(populations, working, &leaks, now);
    write(folder, &leaks, &mut made, expected)
}

/// Which passwords work: by the directories' truth and the leaks alone.
fn expect(
    populations: &[Population<'_>],
    working: &[(&str, &Account)],
    leaks: &[Leak],
    now: OffsetDateTime,
) -> Vec<Expected> {
    let by_login: HashMap<String, (&str, &Account)> = populations
        .iter()
        .flat_map(|(directory, accounts)| {
            accounts.iter().map(move |a| (a.login.to_lowercase(), (*directory, a)))
        })
        .collect();
    let mut candidates: BTreeMap<(&str, &str), HashSet<&str>> = BTreeMap::new();
    for leak in leaks {
        let Some((directory, account)) = by_login.get(&leak.identity.to_lowercase()) else { continue };
        let Secret::Plain(password) = &leak.secret else { continue };
        let history = leak.first_seen < now - Duration::hours(1);
        let stale =
            leak.captured.is_some_and(|at| account.password_changed.is_some_and(|changed| at < changed));
        if account.testable() && !history && !stale {
            candidates.entry((directory, &account.id)).or_default().insert(password);
        }
    }
    let mut expected: Vec<Expected> = working
        .iter()
        .filter_map(|(directory, account)| {
            let tried = candidates.get(&(*directory, account.id.as_str()))?;
            tried.contains(account.password.as_deref()?).then(|| Expected {
                directory: (*directory).to_owned(),
                account: account.id.clone(),
                only_candidate: tried.len() == 1,
            })
        })
        .collect();
    expected.sort();
    expected
}

struct Maker {
    rng: ChaCha8Rng,
    now: OffsetDateTime,
    fresh: HashSet<String>,
}

impl Maker {
    fn text(&mut self, length: usize) -> String {
        const LETTERS: &[u8] = b"ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz23456789";
        (0..length).filter_map(|_| LETTERS.choose(&mut self.rng).copied()).map(char::from).collect()
    }

    /// A password nobody has: 16 characters, unique over the run.
    fn password(&mut self) -> String {
        loop {
            let text = format!("{}#{}", self.text(9), self.text(6));
            if self.fresh.insert(text.clone()) {
                return text;
            }
        }
    }

    fn dated_shape(&mut self) -> Shape {
        match self.rng.random_range(0..3) {
            0 => Shape::Flare,
            1 => Shape::SpyCloud,
            _ => Shape::RecordedFuture,
        }
    }

    /// Captured after the password was set, seen by the feed today.
    fn fresh_leak(&mut self, shape: Shape, account: &Account, secret: Secret) -> Leak {
        let captured = self.now - Duration::minutes(self.rng.random_range(60 * 24 * 3..60 * 24 * 30));
        Leak {
            shape,
            identity: account.login.clone(),
            secret,
            captured: (shape != Shape::Lines).then_some(captured),
            first_seen: self.now,
        }
    }

    /// Captured before the password was set.
    fn stale_leak(&mut self, account: &Account, password: String) -> anyhow::Result<Leak> {
        let changed = account.password_changed.context("a testable account has a date")?;
        let captured = changed - Duration::minutes(self.rng.random_range(60 * 24 * 2..60 * 24 * 400));
        Ok(Leak {
            shape: self.dated_shape(),
            identity: account.login.clone(),
            secret: Secret::Plain(password),
            captured: Some(captured),
            first_seen: self.now,
        })
    }

    /// Somebody none of the tenants knows.
    fn stranger(&mut self) -> Leak {
        let domain = match self.rng.random_range(0..4) {
            0 => "elsewhere.example",
            1 => "mail.example",
            2 => "northwind.example",
            _ => "fabrikam.example",
        };
        let shape = if self.rng.random_bool(0.25) { Shape::Lines } else { self.dated_shape() };
        let (name, password) = (self.text(12).to_lowercase(), self.password());
        Leak {
            shape,
            identity: format!("nobody.{name}@{domain}"),
            secret: Secret::Plain(password),
            captured: (shape != Shape::Lines).then(|| self.now - Duration::days(9)),
            first_seen: self.now,
        }
    }
}

fn write(folder: &Path, leaks: &[Leak], made: &mut Maker, expected: Vec<Expected>) -> anyhow::Result<Feeds> {
    std::fs::create_dir_all(folder)?;
    let mut shaped: BTreeMap<Shape, Vec<String>> = BTreeMap::new();
    for (id, leak) in leaks.iter().enumerate() {
        shaped.entry(leak.shape).or_default().push(render(id, leak)?);
    }
    // Feeds repeat themselves: some JSON records occur twice, word for word.
    let mut repeated = 0;
    while repeated < DUPLICATES {
        for shape in [Shape::Flare, Shape::SpyCloud, Shape::RecordedFuture] {
            let records = shaped.entry(shape).or_default();
            let pick = made.rng.random_range(0..records.len());
            if let Some(record) = records.get(pick).cloned() {
                records.push(record);
                repeated += 1;
            }
        }
    }
    let mut records: usize = shaped.values().map(Vec::len).sum();
    // The three shapes are repeated in turn, so the last round may overshoot.
    while records > RECORDS {
        shaped.entry(Shape::Flare).or_default().pop();
        records -= 1;
    }
    let mut files = Vec::new();
    for (shape, records) in &shaped {
        let (name, open, between, close) = match shape {
            Shape::Flare => ("flare-credentials.json", "{\"items\":[\n", ",\n", "\n],\"next\":null}\n"),
            Shape::SpyCloud => ("spycloud.ndjson", "", "\n", "\n"),
            Shape::RecordedFuture => ("recorded-future-detections.json", "[\n", ",\n", "\n]\n"),
            Shape::Lines => ("combolist.txt", "", "\n", "\n"),
        };
        let path = folder.join(name);
        let mut file = std::io::BufWriter::new(std::fs::File::create(&path)?);
        file.write_all(open.as_bytes())?;
        for (index, record) in records.iter().enumerate() {
            if index > 0 {
                file.write_all(between.as_bytes())?;
            }
            file.write_all(record.as_bytes())?;
        }
        file.write_all(close.as_bytes())?;
        file.flush()?;
        files.push(path);
    }
    let secrets = leaks
        .iter()
        .filter_map(|leak| match &leak.secret {
            Secret::Plain(password) => Some(password.clone()),
            Secret::Hash(hash) => Some(hash.clone()),
            Secret::Masked => None,
        })
        .collect();
    Ok(Feeds { files, records, expected, secrets })
}

fn render(id: usize, leak: &Leak) -> anyhow::Result<String> {
    let first_seen = rfc3339(leak.first_seen)?;
    let captured = leak.captured.map(rfc3339).transpose()?;
    let domain = leak.identity.split('@').nth(1).unwrap_or_default();
    // Stealers caught these at the directories' own sign-in pages.
    let page =
        if domain.starts_with("fabrikam.") { "fabrikam.okta.com" } else { "login.microsoftonline.com" };
    let record: Value = match leak.shape {
        Shape::Flare => {
            let (hash, kind) = match &leak.secret {
                Secret::Plain(password) => (password.as_str(), "Plaintext"),
                Secret::Hash(hash) => (hash.as_str(), "bcrypt"),
                Secret::Masked => ("********", "unknown"),
            };
            json!({
                "id": 9_000_000 + id, "identity_name": leak.identity, "domain": domain, "source_id": "stealer-2026",
                "imported_at": first_seen, "hash": hash, "hash_type": kind,
                "source": {"id": "stealer-2026", "name": "Stealer logs 2026", "breached_at": captured,
                    "leaked_at": first_seen, "hash_type": kind},
                "urls": [format!("https://{page}/")],
            })
        }
        Shape::SpyCloud => {
            let mut record = json!({
                "document_id": uuid::Uuid::new_v5(&uuid::Uuid::NAMESPACE_OID, format!("demo-{id}").as_bytes()),
                "source_id": 4711, "spycloud_publish_date": first_seen, "email": leak.identity,
                "email_domain": domain, "infected_time": captured, "severity": 25,
                "target_url": format!("https://{page}/"), "user_os": "Windows 11",
            });
            let fields = match &leak.secret {
                Secret::Plain(password) => {
                    json!({"password": password, "password_type": "plaintext", "password_plaintext": password})
                }
                Secret::Masked => {
                    json!({"password": "********", "password_type": "plaintext", "password_plaintext": "********"})
                }
                Secret::Hash(hash) => json!({"password": hash, "password_type": "bcrypt"}),
            };
            if let (Some(record), Some(fields)) = (record.as_object_mut(), fields.as_object()) {
                record.extend(fields.clone());
            }
            record
        }
        Shape::RecordedFuture => {
            let Secret::Plain(password) = &leak.secret else {
                anyhow::bail!("the demo gives Recorded Future records a clear password")
            };
            json!({
                "id": format!("detection-{id}"), "organization_id": [], "novel": true, "type": "Workforce",
                "subject": leak.identity,
                "password": {"type": "clear", "hashes": [], "properties": ["Letter", "AtLeast12Characters"],
                    "cleartext_hint": password.chars().take(2).collect::<String>(), "cleartext": password},
                "authorization_service": {"url": format!("https://{page}/"), "domain": page},
                "malware_family": {"id": "mf1", "name": "RedLine"},
                "dump": {"name": "Stealer dump", "source": "stealer", "downloaded": first_seen,
                    "compromise": {"exfiltration_date": captured}},
                "created": first_seen,
            })
        }
        Shape::Lines => {
            let Secret::Plain(password) = &leak.secret else { anyhow::bail!("lines carry clear passwords") };
            return Ok(format!("https://{page}/signin:{}:{password}", leak.identity));
        }
    };
    Ok(record.to_string())
}
