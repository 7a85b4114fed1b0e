//! The least that reads a directory into the tables a sync fills: one program that drains the same pages and, while the
//! next page travels, COPYs the rows of this one into tables of the same definition. One transaction, nothing remembered,
//! nothing compared, nobody told.

use std::{
    collections::HashSet,
    fmt::Write as _,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use aws_lc_rs::{rand::SystemRandom, rsa::KeyPair, signature::RSA_PKCS1_SHA256};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, json};
use shared::{identifier, provider::entra::USER_PROPERTIES};
use sqlx::{Connection, PgConnection};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::{
    directory::{Directory, ENTRA_CLIENT, ENTRA_SECRET, Kind, OKTA_BARE_CLIENT},
    stage::Stage,
};

/// Accounts that are copied together: small pages would cost a COPY each.
const BATCH: usize = 900;
/// The tables, with indexes, checks and the trigger that keeps the lookup, and without their rows.
const TABLES: &str = "
    CREATE SCHEMA IF NOT EXISTS bench;
    CREATE TABLE IF NOT EXISTS bench.accounts (LIKE sync.accounts INCLUDING ALL);
    CREATE TABLE IF NOT EXISTS bench.identities (LIKE sync.identities INCLUDING ALL);
    CREATE TABLE IF NOT EXISTS bench.identifiers (LIKE sync.identifiers INCLUDING ALL);
    CREATE TABLE IF NOT EXISTS bench.identifier_lookup (LIKE sync.identifier_lookup INCLUDING ALL);
    CREATE OR REPLACE FUNCTION bench.added() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        INSERT INTO bench.identifier_lookup (value, tenant_id, identifier_id)
            SELECT value, tenant_id, identifier_id FROM added;
        RETURN NULL;
    END $$;
    CREATE OR REPLACE TRIGGER added AFTER INSERT ON bench.identifiers
        REFERENCING NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION bench.added();";
const THROW_AWAY: &str =
    "TRUNCATE bench.accounts, bench.identities, bench.identifiers, bench.identifier_lookup";

/// Accounts, identities and identifiers.
type Rows = (i64, i64, i64);

/// What the program did.
#[derive(Debug)]
pub struct Copied {
    /// The time it took.
    pub took: Duration,
    rows: Rows,
}

/// Drains and copies a directory. What it leaves behind is thrown away and the server has written all it holds back, so
/// that neither autovacuum nor a checkpoint of its rows is charged to what is measured next.
pub async fn run(stage: &Stage, directory: &Directory) -> anyhow::Result<Copied> {
    let mut db = stage.database().await?;
    sqlx::raw_sql(TABLES).execute(&mut db).await?;

    let began = Instant::now();
    let token = token(stage, directory).await?;
    let mut tx = Connection::begin(&mut db).await?;
    let mut listings = match directory.kind {
        Kind::Entra => {
            vec![format!("https://graph.microsoft.com/v1.0/users?$select={USER_PROPERTIES}&$top=999")]
        }
        Kind::Okta => {
            let users = format!("https://{}.okta.com/api/v1/users?limit=200", directory.name);
            vec![format!("{users}&filter=status+eq+%22DEPROVISIONED%22"), users]
        }
    };
    let (mut next, mut waiting) = (listings.pop(), Vec::new());
    while let Some(url) = next {
        let rows = if waiting.len() < BATCH { Vec::new() } else { std::mem::take(&mut waiting) };
        let (copied, fetched) =
            tokio::join!(copy(&mut tx, directory, &rows), fetch(stage, directory.kind, &url, &token));
        copied?;
        let page = fetched?;
        waiting.extend(page.users);
        next = page.next.or_else(|| listings.pop());
    }
    copy(&mut tx, directory, &waiting).await?;
    tx.commit().await?;
    let took = began.elapsed();

    let counts = "SELECT (SELECT count(*) FROM bench.accounts), (SELECT count(*) FROM bench.identities),
                         (SELECT count(*) FROM bench.identifiers)";
    let rows = sqlx::query_as(counts).fetch_one(&mut db).await?;
    sqlx::raw_sql(THROW_AWAY).execute(&mut db).await?;
    sqlx::raw_sql("CHECKPOINT").execute(&mut db).await?;
    Ok(Copied { took, rows })
}

/// Fails unless the bare program made the rows that the sync made.
pub async fn check(stage: &Stage, directory: &Directory, copied: &Copied) -> anyhow::Result<()> {
    let mut db = stage.database().await?;
    let counts = "SELECT (SELECT count(*) FROM sync.accounts WHERE tenant_id = $1),
                         (SELECT count(*) FROM sync.identities WHERE tenant_id = $1),
                         (SELECT count(*) FROM sync.identifiers WHERE tenant_id = $1)";
    let ours: Rows = sqlx::query_as(counts).bind(directory.tenant).fetch_one(&mut db).await?;
    let bare = copied.rows;
    ensure!(ours == bare, "accounts, identities and identifiers: {ours:?} were synced, {bare:?} copied");
    Ok(())
}

async fn token(stage: &Stage, directory: &Directory) -> anyhow::Result<String> {
    #[derive(Deserialize)]
    struct Token {
        access_token: String,
    }
    let (url, grant) = match directory.kind {
        Kind::Entra => (
            format!("https://login.microsoftonline.com/{}/oauth2/v2.0/token", directory.id),
            vec![
                ("scope", "https://graph.microsoft.com/.default".to_owned()),
                ("client_id", ENTRA_CLIENT.to_owned()),
                ("client_secret", ENTRA_SECRET.to_owned()),
            ],
        ),
        Kind::Okta => {
            let url = format!("https://{}.okta.com/oauth2/v1/token", directory.name);
            let assertion = assertion(directory, &url)?;
            let kind = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";
            let grant = vec![
                ("scope", "okta.users.read".to_owned()),
                ("client_assertion_type", kind.to_owned()),
                ("client_assertion", assertion),
            ];
            (url, grant)
        }
    };
    let grant: Vec<_> = grant.into_iter().chain([("grant_type", "client_credentials".to_owned())]).collect();
    let answer = stage.http.post(url).form(&grant).send().await?;
    Ok(answer.error_for_status()?.json::<Token>().await?.access_token)
}

fn assertion(directory: &Directory, audience: &str) -> anyhow::Result<String> {
    let pair = KeyPair::from_pkcs8(directory.key.pkcs8.expose()).context("the key is one of ours")?;
    let encode = |value: Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let head = encode(json!({"alg": "RS256", "kid": directory.key.kid}));
    let claims = encode(json!({"iss": OKTA_BARE_CLIENT, "sub": OKTA_BARE_CLIENT, "aud": audience,
        "exp": OffsetDateTime::now_utc().unix_timestamp() + 300, "jti": Uuid::new_v4()}));
    let input = format!("{head}.{claims}");
    let mut signature = vec![0; pair.public_modulus_len()];
    pair.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), input.as_bytes(), &mut signature)
        .map_err(|_| anyhow::anyhow!("the assertion cannot be signed"))?;
    Ok(format!("{input}.{}", URL_SAFE_NO_PAD.encode(signature)))
}

struct Page {
    users: Vec<User>,
    next: Option<String>,
}

/// A user of either provider, as far as the tables hold it.
struct User {
    id: String,
    login: String,
    name: String,
    addresses: Vec<String>,
    state: &'static str,
    guest: bool,
    hybrid: bool,
    password_changed: Option<String>,
    last_sign_in: Option<String>,
    created: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct EntraUser {
    id: String,
    user_principal_name: String,
    display_name: String,
    mail: Option<String>,
    other_mails: Vec<String>,
    proxy_addresses: Vec<String>,
    account_enabled: bool,
    user_type: String,
    on_premises_sync_enabled: Option<bool>,
    last_password_change_date_time: Option<String>,
    created_date_time: Option<String>,
}

impl From<EntraUser> for User {
    fn from(user: EntraUser) -> Self {
        let proxies = user.proxy_addresses.iter();
        let proxies = proxies.filter_map(|p| p.split_once(':').map(|(_, address)| address.to_owned()));
        Self {
            addresses: user.mail.into_iter().chain(proxies).chain(user.other_mails).collect(),
            id: user.id,
            login: user.user_principal_name,
            name: user.display_name,
            state: if user.account_enabled { "active" } else { "disabled" },
            guest: user.user_type == "Guest",
            hybrid: user.on_premises_sync_enabled == Some(true),
            password_changed: user.last_password_change_date_time,
            last_sign_in: None,
            created: user.created_date_time,
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct OktaUser {
    id: String,
    status: String,
    created: Option<String>,
    last_login: Option<String>,
    password_changed: Option<String>,
    profile: OktaProfile,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct OktaProfile {
    login: String,
    email: Option<String>,
    second_email: Option<String>,
    display_name: String,
}

impl From<OktaUser> for User {
    fn from(user: OktaUser) -> Self {
        Self {
            id: user.id,
            login: user.profile.login,
            name: user.profile.display_name,
            addresses: user.profile.email.into_iter().chain(user.profile.second_email).collect(),
            state: match user.status.as_str() {
                "ACTIVE" => "active",
                "PASSWORD_EXPIRED" => "password_expired",
                "SUSPENDED" => "disabled",
                "DEPROVISIONED" => "deprovisioned",
                _ => "pending",
            },
            guest: false,
            hybrid: false,
            password_changed: user.password_changed,
            last_sign_in: user.last_login,
            created: user.created,
        }
    }
}

async fn fetch(stage: &Stage, kind: Kind, url: &str, token: &str) -> anyhow::Result<Page> {
    #[derive(Deserialize)]
    struct Users {
        value: Vec<EntraUser>,
        #[serde(rename = "@odata.nextLink")]
        next: Option<String>,
    }
    let answer = stage.http.get(url).bearer_auth(token).send().await?.error_for_status()?;
    if kind == Kind::Entra {
        let Users { value, next } = read(answer).await?;
        return Ok(Page { users: value.into_iter().map(User::from).collect(), next });
    }
    let next =
        answer.headers().get_all("link").iter().filter_map(|line| line.to_str().ok()).find_map(|line| {
            let (target, rel) = line.strip_prefix('<')?.split_once('>')?;
            rel.contains("next").then(|| target.to_owned())
        });
    let users: Vec<OktaUser> = read(answer).await?;
    Ok(Page { users: users.into_iter().map(User::from).collect(), next })
}

async fn read<T: DeserializeOwned>(answer: reqwest::Response) -> anyhow::Result<T> {
    Ok(serde_json::from_slice(&answer.bytes().await?)?)
}

async fn copy(db: &mut PgConnection, directory: &Directory, users: &[User]) -> anyhow::Result<()> {
    if users.is_empty() {
        return Ok(());
    }
    let provider = if directory.kind == Kind::Entra { "entra_id" } else { "okta" };
    let (mut accounts, mut identities, mut identifiers) = (String::new(), String::new(), String::new());
    let tenant = directory.tenant;
    for user in users {
        let (account, identity) = (Uuid::now_v7(), Uuid::now_v7());
        let null = |text: &Option<String>| text.clone().unwrap_or_else(|| "\\N".to_owned());
        let key = identifier::normalise(&user.login).unwrap_or_default();
        writeln!(
            accounts,
            "{tenant}\t{account}\t{tenant}\t{provider}\t{}\t{}\t{}\t{key}\t{}\t{{{}}}\t{}\t{}\tcloud\tf\t{}\t{}\t{}\t{}\t{identity}",
            directory.id,
            user.id,
            user.login,
            user.name,
            user.addresses.join(","),
            user.state,
            if user.guest { "guest" } else { "member" },
            user.hybrid,
            null(&user.password_changed),
            null(&user.last_sign_in),
            null(&user.created),
        )?;
        writeln!(identities, "{tenant}\t{identity}\t{}", user.name)?;
        let mut seen = HashSet::new();
        let others = user.addresses.iter().filter_map(|address| identifier::normalise(address));
        for value in std::iter::once(key).chain(others) {
            let kind = if seen.is_empty() { "login" } else { "email" };
            if !seen.contains(&value) {
                writeln!(
                    identifiers,
                    "{tenant}\t{}\t{identity}\t{account}\t{value}\t{kind}",
                    Uuid::now_v7()
                )?;
                seen.insert(value);
            }
        }
    }
    for (statement, rows) in [
        (
            "COPY bench.accounts (tenant_id, account_id, integration_id, provider, directory_id, object_id, login,
                login_key, display_name, addresses, state, kind, authority, is_admin, hybrid, password_changed_at,
                last_sign_in_at, created_at_directory, identity_id) FROM STDIN",
            accounts,
        ),
        ("COPY bench.identities (tenant_id, identity_id, display_name) FROM STDIN", identities),
        (
            "COPY bench.identifiers (tenant_id, identifier_id, identity_id, account_id, value, kind) FROM STDIN",
            identifiers,
        ),
    ] {
        let mut copy = db.copy_in_raw(statement).await?;
        copy.send(rows.into_bytes()).await?;
        copy.finish().await?;
    }
    Ok(())
}
