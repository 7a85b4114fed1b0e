//! `parapet audit`

use anyhow::bail;
use shared::wire::v1::{self as api, audit_service_client::AuditServiceClient};

use super::{ROWS, instant, integration_id_or_any, output, pages, words::Outcome};
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
    /// Everything that followed from one request or record
    #[arg(long, default_value = "", hide_default_value = true)]
    cause: String,
    /// The object concerned (id)
    #[arg(long, default_value = "", hide_default_value = true)]
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
        let wanted = api::SearchAuditEventsRequest {
            from: search.since,
            until: search.until,
            types: search.types,
            integration_id: integration_id_or_any(&api, search.integration.as_deref()).await?,
            actor: search.actor,
            user: search.user,
            outcomes: search.outcome.into_iter().map(Outcome::wire).collect(),
            cause_id: search.cause,
            object_id: search.object,
            installation: search.installation,
            ..Default::default()
        };
        let rows = pages(search.limit, async |page_size, page_token| {
            let request = api::SearchAuditEventsRequest { page_size, page_token, ..wanted.clone() };
            let page = client.search_audit_events(request).await?.into_inner();
            Ok((output::rows("AuditEvent", &page.events)?, page.next_page_token))
        })
        .await?;
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
