//! How far a request for mitigations is.

use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use shared::wire::v1::{self as api, mitigation_service_client::MitigationServiceClient};

use super::output;
use crate::{cli::Global, client::Api};

const COUNTS: [output::Column; 3] = [("STATE", "state"), ("BECAUSE", "reason"), ("HOW MANY", "count")];
const EVERY: Duration = Duration::from_secs(1);
/// After so long without another mitigation a request is taken to be planned, although it has fewer than expected.
const PLANNED_WITHIN: Duration = Duration::from_secs(15);

/// Prints it once, or until nothing moves any more.
pub(super) async fn run(
    global: &Global,
    mut client: MitigationServiceClient<Api>,
    request_id: String,
    wait: bool,
) -> anyhow::Result<()> {
    let bar = if global.json || !wait { ProgressBar::hidden() } else { ProgressBar::new_spinner() };
    bar.set_style(ProgressStyle::with_template("{spinner} {msg}")?);
    let (mut planned, mut since) = (0, Instant::now());
    let progress = loop {
        let request = api::GetMitigationProgressRequest { request_id: request_id.clone() };
        let progress = client.get_mitigation_progress(request).await?.into_inner();
        if progress.planned != planned {
            (planned, since) = (progress.planned, Instant::now());
        }
        if !wait || is_over(&progress, since.elapsed()) {
            break progress;
        }
        bar.set_message(said(&progress));
        bar.tick();
        tokio::time::sleep(EVERY).await;
    };
    bar.finish_and_clear();
    if global.json {
        return output::show(global, &output::json("GetMitigationProgressResponse", &progress)?);
    }
    println!("{}\n", said(&progress));
    output::list(
        global,
        &COUNTS,
        &output::rows("MitigationCount", &progress.counts)?,
        "nothing is planned yet",
    )?;
    if held(&progress) > 0 {
        eprintln!("\nwhat is held waits for a second person: parapet approval list");
    }
    Ok(())
}

fn held(progress: &api::GetMitigationProgressResponse) -> i64 {
    progress.counts.iter().filter(|count| count.state == "held").map(|count| count.count).sum()
}

/// How many mitigations a request becomes, as far as that can be told before they are planned.
fn expected(request: &api::MitigationRequest) -> i64 {
    let whole = |length: usize| i64::try_from(length).unwrap_or(i64::MAX);
    if request.undo {
        whole(request.mitigation_ids.len())
    } else {
        request.accounts.saturating_mul(whole(request.actions.len()))
    }
}

/// Everything is planned, and decided or held.
fn is_over(progress: &api::GetMitigationProgressResponse, unchanged: Duration) -> bool {
    let expected = progress.request.as_ref().map_or(0, expected).max(1);
    let all_planned = progress.planned >= expected || (progress.planned > 0 && unchanged >= PLANNED_WITHIN);
    all_planned && progress.finished + held(progress) >= progress.planned
}

fn said(progress: &api::GetMitigationProgressResponse) -> String {
    let held = match held(progress) {
        0 => String::new(),
        held => format!(", {held} held for a second person"),
    };
    format!("{} of {} planned mitigations are decided{held}", progress.finished, progress.planned)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn progress(states: &[(&str, i64)]) -> api::GetMitigationProgressResponse {
        let decided = |state: &str| state == "verified" || state == "refused";
        api::GetMitigationProgressResponse {
            request: Some(api::MitigationRequest { accounts: 4, actions: vec![1], ..Default::default() }),
            planned: states.iter().map(|(_, count)| count).sum(),
            finished: states.iter().filter(|(state, _)| decided(state)).map(|(_, count)| count).sum(),
            counts: states
                .iter()
                .map(|(state, count)| api::MitigationCount {
                    state: (*state).into(),
                    count: *count,
                    ..Default::default()
                })
                .collect(),
        }
    }

    #[test]
    fn a_request_is_waited_for_until_it_is_planned_and_nothing_of_it_moves() {
        let now = Duration::ZERO;
        assert!(!is_over(&progress(&[]), PLANNED_WITHIN), "nothing is planned yet");
        assert!(!is_over(&progress(&[("verified", 3)]), now), "one is missing");
        assert!(
            is_over(&progress(&[("verified", 3)]), PLANNED_WITHIN),
            "it was asked for by another request"
        );
        assert!(!is_over(&progress(&[("verified", 3), ("acting", 1)]), now));
        assert!(is_over(&progress(&[("verified", 2), ("refused", 1), ("held", 1)]), now));
        let text = said(&progress(&[("verified", 3), ("held", 1)]));
        assert_eq!(text, "3 of 4 planned mitigations are decided, 1 held for a second person");
    }
}
