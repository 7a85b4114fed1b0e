//! `parapet audit`

use std::{
    fs::File,
    io::{BufReader, Write as _},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail};
use audit_writer::offline;
use serde_json::json;
use shared::wire::v1::{self as api, audit_service_client::AuditServiceClient};

use super::{
    ROWS, instant, integration_id_or_any, output, pages,
    words::{ExportFormat, Outcome},
};
use crate::{
    cli::Global,
    client::{self, Api},
};

type Client = AuditServiceClient<Api>;

/// What was done, by whom, with which outcome
#[derive(Debug, clap::Subcommand)]
pub enum Audit {
    /// Search the audit log, newest first
    Search(Box<Search>),
    /// The catalogue of events: names, meanings, details (all of it with --json)
    Types,
    /// Export a part of the log, in order
    Export(Export),
    /// Follow the log as it grows
    Tail {
        /// Events after this place in the chain; without it, those from now on
        #[arg(long)]
        after: Option<i64>,
        /// The installation's own log instead of the tenant's
        #[arg(long)]
        installation: bool,
    },
    /// Re-derive the hash chain and check its signed checkpoints, in the installation or of an export
    Verify(Verify),
}

/// Which part, and how.
#[derive(Debug, clap::Args)]
pub struct Export {
    /// How events are written; only ndjson can be verified
    #[arg(long, value_enum, default_value = "ndjson")]
    format: ExportFormat,
    /// Events stored at or after: 2026-01-31, or 12h
    #[arg(long, visible_alias = "from", value_parser = instant, value_name = "WHEN")]
    since: Option<prost_types::Timestamp>,
    /// Events stored before
    #[arg(long, visible_alias = "to", value_parser = instant, value_name = "WHEN")]
    until: Option<prost_types::Timestamp>,
    /// The installation's own log instead of the tenant's
    #[arg(long)]
    installation: bool,
    /// Into this file, which appears when the export is complete; without it, to the output
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
}

/// What is verified.
#[derive(Debug, clap::Args)]
pub struct Verify {
    /// The installation's own chain instead of the tenant's
    #[arg(long, conflicts_with = "file")]
    installation: bool,
    /// An NDJSON export, without asking the installation
    #[arg(long, requires = "keys")]
    file: Option<PathBuf>,
    /// A public key that signed its checkpoints (hex), as `parapet audit verify` tells it; may be repeated
    #[arg(long = "key", requires = "file", value_name = "HEX")]
    keys: Vec<String>,
}

/// Which events.
#[derive(Debug, clap::Args)]
pub struct Search {
    /// At or after: 2026-01-31, or 12h; without it, the last 7 days, or all of what followed from --cause
    #[arg(long, value_parser = instant, value_name = "WHEN")]
    since: Option<prost_types::Timestamp>,
    /// Before
    #[arg(long, value_parser = instant, value_name = "WHEN")]
    until: Option<prost_types::Timestamp>,
    /// Event types; `validation.*` matches a prefix
    #[arg(long = "type", value_delimiter = ',')]
    types: Vec<String>,
    /// With these outcomes
    #[arg(long, value_enum, value_delimiter = ',')]
    outcome: Vec<Outcome>,
    /// Integration (name or id)
    #[arg(long)]
    integration: Option<String>,
    /// Who did it: the actor's id
    #[arg(long, default_value = "", hide_default_value = true)]
    actor: String,
    /// The directory user concerned: sign-in name or object id
    #[arg(long, default_value = "", hide_default_value = true)]
    user: String,
    /// Everything that followed from one request, record or exposure (id), and what led there
    #[arg(long, default_value = "", hide_default_value = true)]
    cause: String,
    /// The object concerned (id)
    #[arg(long, default_value = "", hide_default_value = true)]
    object: String,
    /// Words of the message; "two words" stand together, -word is not there
    #[arg(long, default_value = "", hide_default_value = true)]
    text: String,
    /// The account concerned (id)
    #[arg(long, default_value = "", hide_default_value = true, conflicts_with = "user")]
    account: String,
    /// The installation's own log instead of the tenant's
    #[arg(long)]
    installation: bool,
    /// At most so many
    #[arg(long, default_value_t = ROWS)]
    limit: u32,
}

impl Audit {
    /// Runs it.
    pub async fn run(self, global: &Global) -> anyhow::Result<()> {
        if let Self::Verify(Verify { file: Some(file), keys, .. }) = &self {
            return verify_file(global, file, keys);
        }
        let api = client::connect(global).await?;
        let mut client = AuditServiceClient::new(api.clone()).max_decoding_message_size(16 * 1024 * 1024);
        match self {
            Self::Search(wanted) => search(global, &api, &mut client, *wanted).await,
            Self::Types => types(global, &mut client).await,
            Self::Export(wanted) => export(&mut client, wanted).await,
            Self::Tail { after, installation } => tail(global, &mut client, after, installation).await,
            Self::Verify(Verify { installation, .. }) => {
                let request = api::VerifyAuditChainRequest { installation };
                let verified = client.verify_audit_chain(request).await?.into_inner();
                output::show(global, &output::json("VerifyAuditChainResponse", &verified)?)?;
                if !verified.intact {
                    bail!("the chain does not verify: {}", verified.fault);
                }
                Ok(())
            }
        }
    }
}

const COLUMNS: [output::Column; 7] = [
    ("WHEN", "occurred_at"),
    ("EVENT", "type"),
    ("OUTCOME", "outcome"),
    ("BY", "actor.id"),
    ("USER", "user_name"),
    ("WHAT", "message"),
    ("SEQ", "sequence"),
];

async fn search(global: &Global, api: &Api, client: &mut Client, search: Search) -> anyhow::Result<()> {
    let wanted = api::SearchAuditEventsRequest {
        from: search.since,
        until: search.until,
        types: search.types,
        integration_id: integration_id_or_any(api, search.integration.as_deref()).await?,
        actor: search.actor,
        user: search.user,
        outcomes: search.outcome.into_iter().map(Outcome::wire).collect(),
        cause_id: search.cause,
        object_id: search.object,
        installation: search.installation,
        text: search.text,
        account_id: search.account,
        ..Default::default()
    };
    let (mut older, mut since) = (false, None);
    let rows = pages(search.limit, async |page_size, page_token| {
        let request = api::SearchAuditEventsRequest { page_size, page_token, ..wanted.clone() };
        let page = client.search_audit_events(request).await?.into_inner();
        (older, since) = (page.older_events, page.searched_from);
        Ok((output::rows("AuditEvent", &page.events)?, page.next_page_token))
    })
    .await?;
    output::list(global, &COLUMNS, &rows, "no events")?;
    // Not on the output, which may be read by a program.
    if let Some(since) = since.filter(|_| older && u32::try_from(rows.len()).is_ok_and(|n| n < search.limit))
    {
        let day = time::OffsetDateTime::from_unix_timestamp(since.seconds)?.date();
        eprintln!("searched since {day}; there are older events (--since 90d)");
    }
    Ok(())
}

async fn types(global: &Global, client: &mut Client) -> anyhow::Result<()> {
    let answer = client.list_audit_event_types(api::ListAuditEventTypesRequest {}).await?.into_inner();
    let rows = output::rows("AuditEventType", &answer.types)?;
    output::list(global, &[("EVENT", "name"), ("MEANING", "meaning")], &rows, "no types")
}

async fn export(client: &mut Client, wanted: Export) -> anyhow::Result<()> {
    let request = api::ExportAuditEventsRequest {
        format: wanted.format.wire(),
        from: wanted.since,
        until: wanted.until,
        installation: wanted.installation,
    };
    let mut pieces = client.export_audit_events(request).await?.into_inner();
    let Some(path) = wanted.output else {
        let mut out = std::io::stdout().lock();
        while let Some(piece) = pieces.message().await? {
            out.write_all(&piece.data)?;
        }
        return Ok(out.flush()?);
    };
    // Under its name there is never half an export.
    let mut partial = path.clone().into_os_string();
    partial.push(".partial");
    let partial = PathBuf::from(partial);
    let mut file =
        File::create(&partial).with_context(|| format!("{}: cannot be written", partial.display()))?;
    while let Some(piece) = pieces.message().await? {
        file.write_all(&piece.data).with_context(|| format!("{}: cannot be written", partial.display()))?;
    }
    file.sync_all()?;
    std::fs::rename(&partial, &path).with_context(|| format!("{}: cannot be written", path.display()))?;
    eprintln!("exported to {}", path.display());
    Ok(())
}

async fn tail(
    global: &Global,
    client: &mut Client,
    mut after_sequence: Option<i64>,
    installation: bool,
) -> anyhow::Result<()> {
    // Each stream ends after a while; the next one goes on where it was.
    loop {
        let request = api::TailAuditEventsRequest { after_sequence, installation };
        let mut events = client.tail_audit_events(request).await?.into_inner();
        while let Some(some) = events.message().await? {
            after_sequence = some.events.last().map(|last| last.sequence).or(after_sequence);
            for row in output::rows("AuditEvent", &some.events)? {
                let cell = |path| output::text(&row, path);
                if global.json {
                    println!("{row}");
                } else {
                    println!(
                        "{:>8}  {}  {}  {}  {}  {}",
                        cell("sequence"),
                        row.get("occurred_at").and_then(serde_json::Value::as_str).unwrap_or_default(),
                        cell("type"),
                        cell("outcome"),
                        cell("actor.id"),
                        cell("message"),
                    );
                }
            }
        }
    }
}

fn verify_file(global: &Global, path: &Path, keys: &[String]) -> anyhow::Result<()> {
    let keys: Vec<Vec<u8>> = keys
        .iter()
        .map(|key| hex::decode(key).ok().filter(|key| key.len() == 32).context("--key: 32 bytes in hex"))
        .collect::<Result<_, _>>()?;
    let file = File::open(path).with_context(|| format!("{}: cannot be read", path.display()))?;
    let shown = offline::verify(BufReader::new(file), &keys)?;
    let report = json!({
        "chain": shown.chain,
        "first": shown.first,
        "events": shown.events,
        "checkpoints": shown.checkpoints,
        "signed_to": shown.signed_to,
        "intact": shown.fault.is_none(),
    });
    output::show(global, &report)?;
    match shown.fault {
        Some(fault) => bail!("the export does not verify: {fault}"),
        None => Ok(()),
    }
}
