//! `parapet login`: a token for the other commands.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use serde::{Deserialize, Serialize};
use time::{Duration, OffsetDateTime};

use crate::cli::Global;
use crate::client::Endpoints;
use crate::data::DataDir;
use crate::issuer::callers::{self, Callers};
use crate::issuer::request_token;
use crate::servers::{private_dir, write_private};

/// A token that lives shorter than this is renewed.
const MARGIN: Duration = Duration::minutes(2);

/// `parapet login`
#[derive(Debug, clap::Args)]
pub struct Login {
    /// Print the token instead of keeping it
    #[arg(long)]
    print: bool,
    /// Another issuer than the local stack's
    #[arg(long, env = "PARAPET_ISSUER", value_name = "URL", requires_all = ["client_id", "client_secret_file"])]
    issuer: Option<String>,
    /// The client to log in as at that issuer
    #[arg(long, env = "PARAPET_CLIENT_ID", value_name = "ID", requires = "issuer")]
    client_id: Option<String>,
    /// A file with that client's secret
    #[arg(long, env = "PARAPET_CLIENT_SECRET_FILE", value_name = "FILE", requires = "issuer")]
    client_secret_file: Option<PathBuf>,
}

/// A token as it is kept.
#[derive(Debug, Deserialize, Serialize)]
struct Kept {
    caller: String,
    /// Whether the local issuer gave it, and so can give the next one.
    local: bool,
    access_token: String,
    #[serde(with = "time::serde::rfc3339")]
    expires_at: OffsetDateTime,
}

impl Login {
    /// Gets the token and keeps or prints it.
    pub async fn run(self, global: &Global) -> anyhow::Result<()> {
        let data = global.data()?;
        let kept = match (&self.issuer, &self.client_id, &self.client_secret_file) {
            (Some(issuer), Some(id), Some(file)) => {
                let secret = std::fs::read_to_string(file)
                    .with_context(|| format!("cannot read {}", file.display()))?;
                fetch(issuer, id, secret.trim_end(), false).await?
            }
            _ => fetch_local(global, &data, global.caller.as_deref().unwrap_or("admin")).await?,
        };
        if self.print {
            println!("{}", kept.access_token);
            return Ok(());
        }
        keep(&data, &kept)?;
        write_private(&current(&data), kept.caller.as_bytes())?;
        if global.json {
            println!(
                "{}",
                serde_json::json!({ "caller": kept.caller, "expires_at": kept.expires_at.unix_timestamp() })
            );
        } else {
            println!("logged in as {}", kept.caller);
        }
        Ok(())
    }
}

/// The token with which this command calls: from the file that `PARAPET_TOKEN_FILE` names, else the kept one, renewed
/// at the local issuer when it is old.
pub async fn token(global: &Global) -> anyhow::Result<String> {
    if let Some(file) = std::env::var_os("PARAPET_TOKEN_FILE").map(PathBuf::from) {
        let token =
            std::fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
        return Ok(token.trim().to_owned());
    }
    let data = global.data()?;
    let (caller, named) = match &global.caller {
        Some(caller) => (caller.clone(), true),
        None => match std::fs::read_to_string(current(&data)) {
            Ok(caller) => (caller, false),
            Err(_) => bail!(NotLoggedIn("not logged in; `parapet login --as CALLER` gets a token")),
        },
    };
    let kept = load(&file(&data, &caller));
    if let Some(kept) = &kept
        && kept.expires_at - OffsetDateTime::now_utc() > MARGIN
    {
        return Ok(kept.access_token.clone());
    }
    if !named && !kept.is_some_and(|kept| kept.local) {
        bail!(NotLoggedIn("the access token has expired; `parapet login` gets a new one"));
    }
    let fresh = fetch_local(global, &data, &caller).await?;
    keep(&data, &fresh)?;
    Ok(fresh.access_token)
}

/// A token must be got first.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct NotLoggedIn(&'static str);

async fn fetch_local(global: &Global, data: &DataDir, caller: &str) -> anyhow::Result<Kept> {
    let endpoints = Endpoints::load(global)?;
    let callers = Callers::load(&callers::file(&data.issuer()))?;
    let Some(known) = callers.find(caller) else {
        let known: Vec<&str> = callers.ids().collect();
        bail!("the local issuer knows no caller {caller}; it knows {}", known.join(", "));
    };
    fetch(&endpoints.issuer, caller, &known.secret, true).await
}

async fn fetch(issuer: &str, caller: &str, secret: &str, local: bool) -> anyhow::Result<Kept> {
    let token = request_token(issuer, caller, secret).await?;
    let expires_at = OffsetDateTime::now_utc() + Duration::seconds(token.expires_in);
    Ok(Kept { caller: caller.to_owned(), local, access_token: token.access_token, expires_at })
}

fn keep(data: &DataDir, kept: &Kept) -> anyhow::Result<()> {
    private_dir(&data.tokens())?;
    write_private(&file(data, &kept.caller), &serde_json::to_vec(kept)?)
}

fn load(file: &Path) -> Option<Kept> {
    serde_json::from_slice(&std::fs::read(file).ok()?).ok()
}

/// Named by a digest: a client id may hold any character.
fn file(data: &DataDir, caller: &str) -> PathBuf {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, caller.as_bytes());
    data.tokens().join(format!("{}.json", hex::encode(digest.as_ref().get(..8).unwrap_or_default())))
}

fn current(data: &DataDir) -> PathBuf {
    data.tokens().join("current")
}
