//! Every reader of Microsoft's answers, for the fuzz targets.

use super::{Facts, account, graph, listing, ropc, sign_ins};
use crate::provider::{fuzz::is_object, http::Answer};

pub fn answer(answer: &Answer) {
    for federated in [false, true] {
        let attempted = ropc::judge(answer, federated);
        let proven = attempted.verdict.is_proven();
        assert!(!proven || is_object(&answer.body), "{:?} proven by what is no object", attempted.verdict);
        assert!(!proven || matches!(answer.status, 200 | 400..=499), "proven by status {}", answer.status);
    }
    assert!(!format!("{:?}", graph::error(answer)).is_empty());
    for user in listing::fuzzed(answer) {
        let account = user.into_account(&Facts::default());
        assert!(account.addresses.len() <= answer.body.len(), "more addresses than bytes");
    }
    sign_ins::fuzzed(answer);
    account::date(std::str::from_utf8(&answer.body).ok());
}
