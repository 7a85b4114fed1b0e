use std::collections::HashSet;

use super::*;
use crate::entra;

fn plan(seed: u64, count: u64) -> Plan {
    let settings = Settings::EntraId(entra::Settings::example());
    let generated = Generated { seed, count, as_of: default_as_of(), mix: Mix::default() };
    Plan::new(generated, &settings).unwrap()
}

#[test]
fn the_same_seed_gives_the_same_accounts() {
    for index in [0, 1, 77, 4999] {
        assert_eq!(plan(7, 5000).account(index), plan(7, 5000).account(index));
        assert_ne!(plan(7, 5000).account(index).id, plan(8, 5000).account(index).id);
    }
}

#[test]
fn accounts_that_may_have_weak_passwords_differ_from_the_same_seed_s_in_nothing_else() {
    let settings = Settings::EntraId(entra::Settings::example());
    let mix = Mix { weak: 500, ..Mix::default() };
    let weak = Plan::new(Generated { seed: 7, count: 200, as_of: default_as_of(), mix }, &settings).unwrap();
    let marked = (0..200).filter(|index| {
        let mut account = weak.account(*index);
        let policies = account.password_policies.take();
        assert_eq!(account, plan(7, 200).account(*index));
        policies.as_deref() == Some("DisableStrongPassword")
    });
    assert!((60..140).contains(&marked.count()));
}

#[test]
fn an_account_is_found_by_id_and_by_login_in_a_directory_of_a_million() {
    let plan = plan(3, 1_000_000);
    for index in (0..1_000_000).step_by(9973) {
        let account = plan.account(index);
        assert_eq!(plan.index_of(&account.id), Some(index));
        assert_eq!(plan.by_login(&account.login.to_lowercase()).unwrap().id, account.id);
    }
    assert_eq!(plan.index_of("00000000-0000-4000-8000-000000000000"), None);
}

#[test]
fn ids_logins_and_passwords_are_unique() {
    let plan = plan(11, 20_000);
    let accounts: Vec<Account> = (0..20_000).map(|i| plan.account(i)).collect();
    let distinct = |f: fn(&Account) -> String| accounts.iter().map(f).collect::<HashSet<_>>().len();
    assert_eq!(distinct(|a| a.id.clone()), 20_000);
    assert_eq!(distinct(|a| a.login.to_lowercase()), 20_000);
    let passwords: Vec<&String> = accounts.iter().filter_map(|a| a.password.as_ref()).collect();
    assert_eq!(passwords.iter().collect::<HashSet<_>>().len(), passwords.len());
    assert!(passwords.iter().all(|p| p.chars().count() >= 12));
}

#[test]
fn every_kind_of_account_occurs_and_dates_are_in_order() {
    let plan = plan(5, 5000);
    let accounts: Vec<Account> = (0..5000).map(|i| plan.account(i)).collect();
    assert!(accounts.iter().any(|a| a.guest));
    assert!(accounts.iter().any(|a| a.hybrid));
    assert!(accounts.iter().any(|a| a.authority == Authority::Federated));
    assert!(accounts.iter().any(|a| a.authority == Authority::PassThrough));
    assert!(accounts.iter().any(|a| a.status == Status::Disabled));
    assert!(accounts.iter().any(|a| a.second_factor == SecondFactor::Required));
    assert!(accounts.iter().any(|a| !a.roles.is_empty()));
    for account in &accounts {
        assert!(
            account
                .password_changed
                .is_none_or(|changed| changed > account.created && changed < default_as_of())
        );
        assert!(account.last_sign_in.is_none_or(|signed_in| signed_in <= default_as_of()));
    }
}
