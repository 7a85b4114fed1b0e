//! `parapet attempts`: the kill switches of password attempts, their gate and their auditor.

use anyhow::bail;
use time::OffsetDateTime;

use shared::wire::v1::{
    self as api, installation_service_client::InstallationServiceClient, stop_attempts_request::Scope,
    validation_service_client::ValidationServiceClient,
};

use super::{ROWS, integration_id, output, pages};
use crate::{cli::Global, client};

/// Stop password attempts at once and let them go on; see that no limit was exceeded
#[derive(Debug, clap::Subcommand)]
pub enum Attempts {
    /// Submit no password any more: for the tenant, at one directory, for one account, or for the installation
    Stop {
        /// At the directory of this integration (name or id), whichever tenant asks
        #[arg(long, conflicts_with_all = ["account", "installation"])]
        integration: Option<String>,
        /// For this account (id), whichever tenant asks
        #[arg(long, conflicts_with = "installation")]
        account: Option<String>,
        /// For every tenant; needs the operator's role
        #[arg(long)]
        installation: bool,
        /// Why, for the audit log and for whoever wonders
        #[arg(long)]
        reason: String,
    },
    /// End a stop; what waited goes on
    Resume {
        /// The stop (id, see `parapet attempts stops`)
        #[arg(required_unless_present = "installation", conflicts_with = "installation")]
        id: Option<String>,
        /// The installation's; needs the operator's role
        #[arg(long)]
        installation: bool,
        /// Why, for the audit log
        #[arg(long)]
        reason: String,
    },
    /// List what is stopped, newest first
    Stops {
        /// At most so many
        #[arg(long, default_value_t = ROWS)]
        limit: u32,
    },
    /// Tell whether the attempt budget's database can be believed; needs the operator's role
    ///
    /// After a failover that may have lost commits, after a restore, or when its clock jumped forward, no password is
    /// submitted for 25 h 15 min. Nobody can shorten that.
    Gate {
        /// Close it: a snapshot of the database was put back while no validator was running
        #[arg(long, requires = "reason")]
        close: bool,
        /// Why, for the audit log
        #[arg(long, requires = "close")]
        reason: Option<String>,
    },
    /// Compute every window again from the ledger of attempts; fails if a limit was ever exceeded. Needs the operator's role
    ///
    /// The last week is compared with the directories' own logs as well, where they may be read. What shows in a log alone
    /// stops no attempt, and fails until it is a week old.
    Audit {
        /// Only the last so many days; 0: all that the ledger has
        #[arg(long, default_value_t = 0)]
        days: u32,
    },
}

const STOPS: [output::Column; 7] = [
    ("ID", "id"),
    ("SCOPE", "scope"),
    ("DIRECTORY", "directory_id"),
    ("ACCOUNT", "object_id"),
    ("REASON", "reason"),
    ("BY", "stopper_name"),
    ("SINCE", "stopped_at"),
];

impl Attempts {
    /// Runs it.
    pub async fn run(self, global: &Global) -> anyhow::Result<()> {
        let api = client::connect(global).await?;
        let mut tenant = ValidationServiceClient::new(api.clone());
        let mut installation = InstallationServiceClient::new(api.clone());
        match self {
            Self::Stop { installation: true, reason, .. } => {
                let request = api::StopAllAttemptsRequest { reason };
                let stopped = installation.stop_all_attempts(request).await?.into_inner();
                output::show(global, &output::json("StopAllAttemptsResponse", &stopped)?)
            }
            Self::Stop { integration, account, reason, installation: false } => {
                let scope = match (integration, account) {
                    (Some(name), _) => Some(Scope::IntegrationId(integration_id(&api, &name).await?)),
                    (None, Some(account)) => Some(Scope::AccountId(account)),
                    (None, None) => None,
                };
                let request = api::StopAttemptsRequest { scope, reason };
                let stop = tenant.stop_attempts(request).await?.into_inner().stop.unwrap_or_default();
                output::show(global, &output::json("AttemptStop", &stop)?)?;
                if !global.json {
                    eprintln!("\nend it with: parapet attempts resume {} --reason …", stop.id);
                }
                Ok(())
            }
            Self::Resume { id, reason, .. } => {
                match id {
                    Some(id) => {
                        tenant.resume_attempts(api::ResumeAttemptsRequest { id, reason }).await?;
                    }
                    None => {
                        installation.resume_all_attempts(api::ResumeAllAttemptsRequest { reason }).await?;
                    }
                }
                output::show(global, &serde_json::json!({"resumed": true}))
            }
            Self::Stops { limit } => {
                let rows = pages(limit, async |page_size, page_token| {
                    let request = api::ListAttemptStopsRequest { page_size, page_token };
                    let page = tenant.list_attempt_stops(request).await?.into_inner();
                    Ok((output::rows("AttemptStop", &page.stops)?, page.next_page_token))
                })
                .await?;
                output::list(global, &STOPS, &rows, "nothing is stopped")
            }
            Self::Gate { close, reason } => {
                let gate = if close {
                    let reason = reason.unwrap_or_default();
                    installation
                        .close_attempt_gate(api::CloseAttemptGateRequest { reason })
                        .await?
                        .into_inner()
                        .gate
                } else {
                    installation.get_attempt_gate(api::GetAttemptGateRequest {}).await?.into_inner().gate
                };
                output::show(global, &output::json("AttemptGate", &gate.unwrap_or_default())?)
            }
            Self::Audit { days } => {
                let audit =
                    installation.audit_attempts(api::AuditAttemptsRequest { days }).await?.into_inner();
                output::show(global, &output::json("AuditAttemptsResponse", &audit)?)?;
                if let Some(wrong) = wrong(&audit.findings, OffsetDateTime::now_utc()) {
                    bail!("{wrong}");
                }
                if !global.json {
                    let logs = match audit.sign_ins {
                        0 => "the directories' logs were not read, or have nothing of ours".to_owned(),
                        entries => format!("{entries} entries of the directories' logs agree"),
                    };
                    eprintln!(
                        "{} attempts on {} accounts: no limit was exceeded; {logs}",
                        audit.attempts, audit.accounts
                    );
                }
                Ok(())
            }
        }
    }
}

/// Why an audit fails, if it does: for what shows in the ledger always, and for what shows in a log alone, where anybody may
/// write who knows a public client id, for a week.
fn wrong(findings: &[api::AttemptFinding], now: OffsetDateTime) -> Option<&'static str> {
    let week_ago = (now - time::Duration::weeks(1)).unix_timestamp();
    if findings.iter().any(|finding| !finding.only_told) {
        Some("attempts were made beyond a limit; all attempts are stopped until an operator resumes them")
    } else if findings.iter().any(|finding| finding.at.is_some_and(|at| at.seconds > week_ago)) {
        Some("directories' logs show submissions of ours that the ledger does not explain; attempts go on")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use time::Duration;

    use super::*;

    #[test]
    fn what_shows_in_the_ledger_fails_for_good_and_what_shows_in_a_log_for_a_week() {
        let now = OffsetDateTime::UNIX_EPOCH + Duration::weeks(2_000);
        let finding = |only_told, age: Duration| api::AttemptFinding {
            only_told,
            at: Some(prost_types::Timestamp { seconds: (now - age).unix_timestamp(), nanos: 0 }),
            ..Default::default()
        };
        assert_eq!(wrong(&[], now), None);
        assert!(wrong(&[finding(false, Duration::weeks(52))], now).unwrap().contains("beyond a limit"));
        let almost = Duration::weeks(1) - Duration::SECOND;
        assert!(wrong(&[finding(true, almost)], now).unwrap().contains("logs"));
        assert_eq!(wrong(&[finding(true, Duration::weeks(1))], now), None);
        let both = [finding(true, almost), finding(false, Duration::weeks(52))];
        assert!(wrong(&both, now).unwrap().contains("stopped"), "the worse one is told");
    }
}
