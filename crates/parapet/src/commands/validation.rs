//! `parapet validate` and `validation`: finding out which leaked passwords work.

use anyhow::bail;
use shared::wire::v1::{self as api, validation_service_client::ValidationServiceClient};

use super::{ROWS, exposure::Filter, idempotency_key, integration_id, output, pages};
use crate::{cli::Global, client};

/// Find out whether leaked passwords work today: of one exposure, or of many by filter
#[derive(Debug, clap::Args)]
pub struct Validate {
    /// The exposure (id); without it, all that the filter selects
    exposure: Option<String>,
    /// Try although a verdict stands that was decided without an attempt; what protects accounts still holds
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    filter: Filter,
}

impl Validate {
    /// Runs it.
    pub async fn run(self, global: &Global) -> anyhow::Result<()> {
        let api = client::connect(global).await?;
        let mut client = ValidationServiceClient::new(api.clone());
        let (force, idempotency_key) = (self.force, idempotency_key());
        let everything = self.filter == Filter::default();
        let validation = match self.exposure {
            Some(_) if !everything => bail!("name an exposure, or filter; not both"),
            Some(exposure_id) => {
                let request = api::ValidateRequest { exposure_id, force, idempotency_key };
                client.validate(request).await?.into_inner().validation
            }
            None if everything => {
                bail!("name an exposure, or select some with a filter such as --verdict not-testable")
            }
            None => {
                let filter = self.filter.resolve(&api).await?;
                let selection = Some(api::bulk_validate_request::Selection::Filter(filter));
                let request = api::BulkValidateRequest { selection, force, idempotency_key };
                client.bulk_validate(request).await?.into_inner().validation
            }
        };
        let validation = validation.unwrap_or_default();
        output::show(global, &output::json("Validation", &validation)?)?;
        if !global.json {
            eprintln!("\nfollow it with: parapet validation show {}", validation.id);
        }
        Ok(())
    }
}

/// Requests to find out whether leaked passwords work; `parapet validate` makes one
#[derive(Debug, clap::Subcommand)]
pub enum Validation {
    /// List the requests, newest first
    List {
        /// At most so many
        #[arg(long, default_value_t = ROWS)]
        limit: u32,
    },
    /// Show one with its progress and what became of each exposure
    Show {
        /// Id
        id: String,
        /// At most so many of its exposures
        #[arg(long, default_value_t = ROWS)]
        limit: u32,
    },
    /// Let one wait until it is resumed
    Pause {
        /// Id
        id: String,
    },
    /// Let a paused one go on
    Resume {
        /// Id
        id: String,
    },
    /// End one; what it did not decide yet stays as it was before
    Cancel {
        /// Id
        id: String,
    },
    /// What became of an integration's exposures: how many each rule of triage decided without an attempt, how many an
    /// attempt did, and how many wait
    Rules {
        /// The integration (name or id)
        integration: String,
    },
}

const REQUESTS: [output::Column; 7] = [
    ("ID", "id"),
    ("STATE", "state"),
    ("KIND", "kind"),
    ("EXPOSURES", "total"),
    ("FORCE", "force"),
    ("BY", "requester_name"),
    ("WHEN", "created_at"),
];

const RULES: [output::Column; 4] =
    [("RULE", "rule"), ("SWITCH", "switch"), ("DECIDED", "decided"), ("WHAT IT DECIDES", "meaning")];

const RESULTS: [output::Column; 5] = [
    ("LOGIN", "login"),
    ("VERDICT", "verdict.kind"),
    ("REASON", "verdict.reason"),
    ("ATTEMPTS", "attempts"),
    ("EXPOSURE", "exposure_id"),
];

impl Validation {
    /// Runs it.
    pub async fn run(self, global: &Global) -> anyhow::Result<()> {
        let api = client::connect(global).await?;
        let mut client = ValidationServiceClient::new(api.clone());
        let validation = match self {
            Self::Rules { integration } => {
                let integration_id = integration_id(&api, &integration).await?;
                let request = api::GetTriageStatisticsRequest { integration_id };
                return rules(global, &client.get_triage_statistics(request).await?.into_inner());
            }
            Self::Pause { id } => {
                client.pause_validation(api::PauseValidationRequest { id }).await?.into_inner().validation
            }
            Self::Resume { id } => {
                client.resume_validation(api::ResumeValidationRequest { id }).await?.into_inner().validation
            }
            Self::Cancel { id } => {
                client.cancel_validation(api::CancelValidationRequest { id }).await?.into_inner().validation
            }
            Self::List { limit } => {
                let rows = pages(limit, async |page_size, page_token| {
                    let request = api::ListValidationsRequest { page_size, page_token };
                    let page = client.list_validations(request).await?.into_inner();
                    Ok((output::rows("Validation", &page.validations)?, page.next_page_token))
                })
                .await?;
                return output::list(global, &REQUESTS, &rows, "no validation was asked for by a person");
            }
            Self::Show { id, limit } => {
                let mut validation = api::Validation::default();
                // The request itself is wanted even when none of its exposures is.
                let results = pages(limit.max(1), async |page_size, page_token| {
                    let request = api::GetValidationRequest { id: id.clone(), page_size, page_token };
                    let page = client.get_validation(request).await?.into_inner();
                    validation = page.validation.unwrap_or_default();
                    Ok((output::rows("ValidationResult", &page.results)?, page.next_page_token))
                })
                .await?;
                let validation = output::json("Validation", &validation)?;
                if global.json {
                    let both = serde_json::json!({"validation": validation, "results": results});
                    return output::show(global, &both);
                }
                output::show(global, &validation)?;
                println!();
                return output::list(global, &RESULTS, &results, "no exposures");
            }
        };
        output::show(global, &output::json("Validation", &validation.unwrap_or_default())?)
    }
}

fn rules(global: &Global, statistics: &api::GetTriageStatisticsResponse) -> anyhow::Result<()> {
    if global.json {
        return output::show(global, &output::json("GetTriageStatisticsResponse", statistics)?);
    }
    let api::GetTriageStatisticsResponse { rules, attempted, waiting, excluded_by_budget, expired, idle } =
        statistics;
    let mut rows = output::rows("TriageRuleStatistics", rules)?;
    for (row, rule) in rows.iter_mut().zip(rules) {
        if let Some(row) = row.as_object_mut() {
            row.insert("decided".into(), rule.decided.into());
        }
    }
    output::list(global, &RULES, &rows, "this version of the API has no rules")?;
    println!();
    let rest = serde_json::json!({
        "decided by an attempt": attempted,
        "excluded by the budget": excluded_by_budget,
        "secret expired": expired,
        "wanted by nobody": idle,
        "waiting": waiting,
    });
    output::show(global, &rest)
}
