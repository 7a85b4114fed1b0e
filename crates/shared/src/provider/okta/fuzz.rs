//! Every reader of Okta's answers, for the fuzz targets.

use super::{failure, listing, log, policies, rate, sign_ins, user::User, verdict};
use crate::{
    integration::SyncScope,
    provider::{Account, fuzz::is_object, http::Answer},
    verdict::Verdict,
};

pub fn answer(answer: &Answer) {
    let read = verdict::read(answer.status, &answer.body);
    let proves = |v: Verdict| v.is_proven();
    if let verdict::Meaning::Proves(v) = read.meaning
        && proves(v)
    {
        assert!(is_object(&answer.body), "{v:?} proven by what is no object");
        assert_eq!(answer.status, 200, "{v:?} proven by another status");
    }
    assert!(!format!("{:?}{:?}", failure::of(answer), failure::of_token(answer)).is_empty());
    assert!(rate::throttled_for(answer) <= std::time::Duration::from_hours(1));
    listing::next_link(answer);
    if let Ok(users) = answer.json::<Vec<User>>() {
        let accounts: Vec<Account> = users.into_iter().map(Account::from).collect();
        assert!(accounts.iter().all(|account| account.addresses.len() <= answer.body.len()));
    }
    log::fuzzed(answer, &SyncScope { group_ids: vec!["00gpilot000000000001".into()] });
    sign_ins::fuzzed(answer);
    policies::fuzzed(answer);
}
