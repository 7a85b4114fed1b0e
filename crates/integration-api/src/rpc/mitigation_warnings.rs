//! What an integration's mitigations want a person to look at.

use shared::wire::v1::ConnectionWarning;

use crate::store::mitigations::Attention;

/// As warnings of the integration.
pub(super) fn warnings(of: &Attention) -> Vec<ConnectionWarning> {
    let accounts = |count: i64| if count == 1 { "1 account".to_owned() } else { format!("{count} accounts") };
    let told = [
        (
            of.break_glass,
            "break_glass_exposed",
            "kept as the way back in had a leaked password that works, this week; it was not acted on: change the password",
        ),
        (
            of.held,
            "mitigations_held",
            "exposed or asked about: what is to be done waits for a second person (ListPendingApprovals, `parapet approval list`)",
        ),
        (
            of.reverted,
            "mitigations_reverted",
            "contained this week, and somebody or a directory sync took it back (ListMitigations, `parapet mitigation list --state reverted`)",
        ),
    ];
    let told = told.into_iter().filter(|(count, ..)| *count > 0);
    told.map(|(count, reason, text)| ConnectionWarning {
        reason: reason.to_owned(),
        message: format!("{} {text}", accounts(count)),
    })
    .collect()
}
