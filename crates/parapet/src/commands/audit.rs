//! `parapet audit`

use anyhow::bail;
use shared::wire::v1::{self as api, audit_service_client::AuditServiceClient};

use super::{ROWS, instant, integration_id, output};
use crate::{cli::Global, client};

/// What was done, by whom, with which outcome
#[derive(Debug, clap::Subcommand)]
pub enum Audit {
    /// Search the audit log, newest first
    Search(Box<Search>),
    /// Re-derive the hash chain and check its signed checkpoints
    Verify {
        /// The installation's own chain instead of the tenant's
        #[arg(long)]
        installation: bool,
    },
}

/// Which events.
#[derive(Debug, clap::Args)]
pub struct Search {
    /// At or after: 2026-01-31, or 12h
    #[arg(long, value_parser = instant)]
    since: Option<prost_types::Timestamp>,
    /// Before
    #[arg(long, value_parser = instant)]
    until: Option<prost_types::Timestamp>,
    /// Event types; `validation.*` matches a prefix
    #[arg(long = "type", value_delimiter = ',')]
    types: Vec<String>,
    /// Integration (name or id)
    #[arg(long)]
    integration: Option<String>,
    /// Who did it: the actor's id
    #[arg(long, default_value = "")]
    actor: String,
    /// The directory user concerned: sign-in name or object id
    #[arg(long, default_value = "")]
    user: String,
    /// Everything that followed from one request or record
    #[arg(long, default_value = "")]
    cause: String,
    /// The object concerned (id)
    #[arg(long, default_value = "")]
    object: String,
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
        let api = client::connect(global).await?;
        let mut client = AuditServiceClient::new(api.clone()).max_decoding_message_size(16 * 1024 * 1024);
        let search = match self {
            Self::Verify { installation } => {
                let request = api::VerifyAuditChainRequest { installation };
                let verified = client.verify_audit_chain(request).await?.into_inner();
                output::show(global, &output::json("VerifyAuditChainResponse", &verified)?)?;
                if !verified.intact {
                    bail!("the chain does not verify: {}", verified.fault);
                }
                return Ok(());
            }
            Self::Search(search) => search,
        };
        let integration_id = match &search.integration {
            Some(named) => integration_id(&api, named).await?,
            None => String::new(),
        };
        let mut request = api::SearchAuditEventsRequest {
            from: search.since,
            until: search.until,
            types: search.types,
            integration_id,
            actor: search.actor,
            user: search.user,
            cause_id: search.cause,
            object_id: search.object,
            installation: search.installation,
            ..Default::default()
        };
        let mut rows = Vec::new();
        loop {
            let left = search.limit.saturating_sub(u32::try_from(rows.len())?).min(500);
            if left == 0 {
                break;
            }
            request.page_size = i32::try_from(left)?;
            let page = client.search_audit_events(request.clone()).await?.into_inner();
            for event in &page.events {
                rows.push(output::json("AuditEvent", event)?);
            }
            if page.next_page_token.is_empty() {
                break;
            }
            request.page_token = page.next_page_token;
        }
        let columns = [
            ("WHEN", "occurred_at"),
            ("EVENT", "type"),
            ("OUTCOME", "outcome"),
            ("BY", "actor.id"),
            ("USER", "user_name"),
            ("WHAT", "message"),
            ("SEQ", "sequence"),
        ];
        output::list(global, &columns, &rows, "no events")
    }
}
