//! `parapet policy`: what follows a valid verdict, what waits for a second person, and who is never touched.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::Read as _,
    path::PathBuf,
};

use anyhow::{Context as _, bail};
use serde_json::{Map, Value, json};
use shared::wire::v1::{
    self as api, identity_service_client::IdentityServiceClient,
    mitigation_service_client::MitigationServiceClient,
};

use super::{ROWS, idempotency_key, output, plan};
use crate::{
    cli::Global,
    client::{self, Api},
};

/// What follows a valid verdict, what waits for a second person, and who is never touched
///
/// Which actions are on at all is a matter of each integration: `parapet integration update --help`.
#[derive(Debug, clap::Subcommand)]
pub enum Policy {
    /// Show the policy in force, with every default filled in
    Show,
    /// Replace the policy by a file; what the file leaves out gets its default
    ///
    /// A file is JSON or TOML, as `parapet --json policy show` prints it. With the version in it, as printed, a change that
    /// somebody made meanwhile is noticed.
    Set {
        /// The file; `-` for standard input
        file: PathBuf,
        /// Why, for the audit log
        #[arg(long)]
        reason: String,
    },
    /// Change the policy in your editor ($VISUAL or $EDITOR)
    Edit {
        /// Why, for the audit log
        #[arg(long)]
        reason: String,
    },
    /// Protect an account: nothing is done to it without a second person
    Protect {
        /// The account: its sign-in name or id
        account: String,
        /// It is the way back in when nothing else works: what follows a verdict is refused at once, with an alert
        #[arg(long)]
        break_glass: bool,
        /// Why it is protected
        #[arg(long, default_value = "", hide_default_value = true)]
        note: String,
        /// Why, for the audit log
        #[arg(long)]
        reason: String,
    },
    /// Protect an account no longer
    Unprotect {
        /// The account: its sign-in name or id
        account: String,
        /// Why, for the audit log
        #[arg(long)]
        reason: String,
    },
    /// Show what another policy would have done with the verdicts of the last days, and do nothing
    Simulate {
        /// A file as for `set`; without it the policy in force
        file: Option<PathBuf>,
        /// Valid verdicts of so many last days
        #[arg(long, default_value_t = 30)]
        days: i32,
        /// Show at most so many planned actions one by one; all are counted
        #[arg(long, default_value_t = ROWS, value_parser = clap::value_parser!(u32).range(1..=i64::from(plan::MOST_ITEMS)))]
        limit: u32,
    },
}

/// A policy as it was read.
struct Read {
    policy: api::MitigationPolicy,
    version: i32,
}

impl Policy {
    /// Runs it.
    pub async fn run(self, global: &Global) -> anyhow::Result<()> {
        let api = client::connect(global).await?;
        let mut client = MitigationServiceClient::new(api.clone());
        match self {
            Self::Show => show(global, &mut client).await,
            Self::Simulate { file, days, limit } => simulate(global, client, file, days, limit).await,
            Self::Set { file, reason } => {
                let before = read(&mut client).await?;
                let (policy, version) = from_text(&content(&file)?)?;
                set(global, client, &before, policy, version, reason).await
            }
            Self::Edit { reason } => {
                let before = read(&mut client).await?;
                let policy = edited(&before.policy)?;
                set(global, client, &before, policy, None, reason).await
            }
            Self::Protect { account, break_glass, note, reason } => {
                let before = read(&mut client).await?;
                let account_id = account_id(&api, &before.policy, &account).await?;
                let mut policy = before.policy.clone();
                let accounts = &mut policy.protected.get_or_insert_default().accounts;
                accounts.retain(|protected| protected.account_id != account_id);
                accounts.push(api::ProtectedAccount { account_id, break_glass, note, ..Default::default() });
                set(global, client, &before, policy, None, reason).await
            }
            Self::Unprotect { account, reason } => {
                let before = read(&mut client).await?;
                let mut policy = before.policy.clone();
                let accounts = &mut policy.protected.get_or_insert_default().accounts;
                let all = accounts.len();
                accounts.retain(|protected| !is(protected, &account));
                if accounts.len() == all {
                    bail!("{account} is not protected by name; `parapet policy show` tells who is");
                }
                set(global, client, &before, policy, None, reason).await
            }
        }
    }
}

async fn read(client: &mut MitigationServiceClient<Api>) -> anyhow::Result<Read> {
    let found = client.get_policy(api::GetPolicyRequest {}).await?.into_inner();
    Ok(Read { policy: found.policy.unwrap_or_default(), version: found.version })
}

async fn show(global: &Global, client: &mut MitigationServiceClient<Api>) -> anyhow::Result<()> {
    let found = client.get_policy(api::GetPolicyRequest {}).await?.into_inner();
    let mut shown = output::json("GetPolicyResponse", &found)?;
    if global.json {
        return output::show(global, &shown);
    }
    if let (Some(fields), Some(policy)) = (shown.as_object_mut(), &found.policy) {
        fields.remove("policy");
        fields.insert("version".into(), found.version.into());
        output::show(global, &for_people(policy)?)?;
        println!();
    }
    output::show(global, &shown)
}

async fn simulate(
    global: &Global,
    client: MitigationServiceClient<Api>,
    file: Option<PathBuf>,
    days: i32,
    limit: u32,
) -> anyhow::Result<()> {
    let policy = file.map(|file| from_text(&content(&file)?)).transpose()?.map(|(policy, _)| policy);
    let max_items = plan::items_to_ask_for(global, limit);
    let mut client = client.max_decoding_message_size(plan::MOST_BYTES);
    let request = api::SimulatePolicyRequest { policy, days, max_items };
    let simulated = client.simulate_policy(request).await?.into_inner();
    if global.json {
        return output::show(global, &output::json("SimulatePolicyResponse", &simulated)?);
    }
    let api::SimulatePolicyResponse { plan, verdicts, carried_out } = simulated;
    println!(
        "The last {days} days had {verdicts} valid verdicts. {carried_out} automated mitigations were carried out then.\n"
    );
    print!("{}", plan::simulated(&plan.unwrap_or_default(), limit)?);
    println!("\nNothing was done and the policy is as it was.");
    Ok(())
}

async fn set(
    global: &Global,
    mut client: MitigationServiceClient<Api>,
    before: &Read,
    policy: api::MitigationPolicy,
    version: Option<i32>,
    reason: String,
) -> anyhow::Result<()> {
    let request = api::UpdatePolicyRequest {
        policy: Some(policy),
        version: version.unwrap_or(before.version),
        reason,
        idempotency_key: idempotency_key(),
    };
    let made = client.update_policy(request).await?.into_inner();
    if global.json {
        return output::show(global, &output::json("UpdatePolicyResponse", &made)?);
    }
    let changes = changes(&before.policy, &made.policy.unwrap_or_default())?;
    if changes.is_empty() {
        println!("nothing changed; version {} stays in force", made.version);
        return Ok(());
    }
    println!("version {} is in force:", made.version);
    for change in changes {
        println!("  {change}");
    }
    Ok(())
}

/// A policy by field, protected accounts by their sign-in names.
fn for_people(policy: &api::MitigationPolicy) -> anyhow::Result<Value> {
    let mut shown = output::json("MitigationPolicy", policy)?;
    let protected = policy.protected.clone().unwrap_or_default();
    let mut accounts = Map::new();
    for api::ProtectedAccount { account_id, break_glass, note, login } in protected.accounts {
        let kind = if break_glass { "break-glass" } else { "protected" };
        let told = if note.is_empty() { kind.to_owned() } else { format!("{kind}: {note}") };
        accounts.insert(if login.is_empty() { account_id } else { login }, told.into());
    }
    let approval = policy.approval.unwrap_or_default();
    if let Some(fields) = shown.as_object_mut() {
        fields.insert("disable_ad_mastered".into(), policy.disable_ad_mastered.into());
        fields.insert(
            "protected".into(),
            json!({
                "administrators": !protected.administrators_unprotected,
                "accounts": accounts,
                "group_ids": protected.group_ids,
                "roles": protected.roles,
            }),
        );
        fields.insert(
            "approval".into(),
            json!({
                "more_than_accounts": approval.more_than_accounts,
                "first_run": !approval.first_run_unapproved,
                "expires_after_hours": approval.expires_after_hours,
            }),
        );
    }
    Ok(shown)
}

/// What differs, a line for each field.
fn changes(before: &api::MitigationPolicy, after: &api::MitigationPolicy) -> anyhow::Result<Vec<String>> {
    let by_path = |policy| -> anyhow::Result<BTreeMap<String, String>> {
        Ok(output::lines(&for_people(policy)?).into_iter().collect())
    };
    let (before, after) = (by_path(before)?, by_path(after)?);
    let value = |side: &BTreeMap<String, String>, path: &String| match side.get(path).map(String::as_str) {
        None | Some("") => "nothing".to_owned(),
        Some(value) => value.to_owned(),
    };
    let paths: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
    Ok(paths
        .into_iter()
        .map(|path| (path, value(&before, path), value(&after, path)))
        .filter(|(_, old, new)| old != new)
        .map(|(path, old, new)| format!("{path}: {old} -> {new}"))
        .collect())
}

fn content(file: &PathBuf) -> anyhow::Result<String> {
    if file.as_os_str() == "-" {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text).context("cannot read standard input")?;
        return Ok(text);
    }
    std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))
}

/// A policy as JSON or TOML, by itself or in what `policy show` prints, and the version that goes with it.
fn from_text(text: &str) -> anyhow::Result<(api::MitigationPolicy, Option<i32>)> {
    let parsed: Value = if text.trim_start().starts_with('{') {
        serde_json::from_str(text).context("the policy is not JSON")?
    } else {
        toml::from_str(text).context("the policy is not TOML")?
    };
    let Value::Object(mut fields) = parsed else { bail!("the policy is not an object") };
    let version = match fields.remove("version") {
        None => None,
        Some(version) => Some(
            version
                .as_i64()
                .and_then(|v| i32::try_from(v).ok())
                .context("`version` is not a whole number")?,
        ),
    };
    let (by, at) = (fields.remove("updated_by"), fields.remove("updated_at"));
    let policy = match fields.remove("policy") {
        Some(Value::Object(policy)) => {
            fields.remove("warnings");
            if let Some(name) = fields.keys().next() {
                bail!("`{name}` is not part of what `policy show` prints");
            }
            // Nobody has changed the defaults yet: JSON leaves the version 0 out.
            return Ok((typed(policy)?, version.or(by.is_none().then_some(0))));
        }
        Some(_) => bail!("`policy` is not an object"),
        None if by.is_some() || at.is_some() => bail!("`policy` is missing"),
        None => fields,
    };
    Ok((typed(policy)?, version))
}

// Actions and verdicts may be written as the tables print them.
fn typed(mut policy: Map<String, Value>) -> anyhow::Result<api::MitigationPolicy> {
    for (field, prefix) in [("order", "MITIGATION_ACTION_"), ("verdicts", "VERDICT_KIND_")] {
        for word in policy.get_mut(field).and_then(Value::as_array_mut).into_iter().flatten() {
            if let Some(text) = word.as_str().filter(|text| !text.starts_with(prefix)) {
                *word = format!("{prefix}{}", text.replace('-', "_").to_uppercase()).into();
            }
        }
    }
    output::message("MitigationPolicy", Value::Object(policy)).context("the policy cannot be read")
}

/// Has a person edit a policy.
fn edited(policy: &api::MitigationPolicy) -> anyhow::Result<api::MitigationPolicy> {
    let editor = ["VISUAL", "EDITOR"].into_iter().find_map(|name| std::env::var(name).ok());
    let editor = editor.filter(|editor| !editor.trim().is_empty()).context(
        "no editor is named in VISUAL or EDITOR; use `parapet --json policy show` and `parapet policy set FILE`",
    )?;
    let folder = std::env::temp_dir().join(format!("parapet-{}", uuid::Uuid::now_v7()));
    std::fs::create_dir(&folder)?;
    let outcome = (|| {
        let file = folder.join("policy.json");
        std::fs::write(&file, serde_json::to_string_pretty(&output::json("MitigationPolicy", policy)?)?)?;
        let mut words = editor.split_whitespace();
        let program = words.next().unwrap_or_default();
        let status = std::process::Command::new(program)
            .args(words)
            .arg(&file)
            .status()
            .with_context(|| format!("cannot start the editor {program}"))?;
        anyhow::ensure!(status.success(), "the editor ended with {status}; nothing was changed");
        Ok(from_text(&std::fs::read_to_string(&file)?)?.0)
    })();
    std::fs::remove_dir_all(&folder)?;
    outcome
}

fn is(protected: &api::ProtectedAccount, named: &str) -> bool {
    protected.account_id == named || protected.login.eq_ignore_ascii_case(named)
}

/// The id of the account with this id or sign-in name.
async fn account_id(api: &Api, policy: &api::MitigationPolicy, named: &str) -> anyhow::Result<String> {
    if named.parse::<uuid::Uuid>().is_ok() {
        return Ok(named.to_owned());
    }
    let protected = policy.protected.iter().flat_map(|protected| &protected.accounts);
    if let Some(already) = protected.clone().find(|protected| is(protected, named)) {
        return Ok(already.account_id.clone());
    }
    let request = api::ListIdentitiesRequest { identifier: named.to_owned(), ..Default::default() };
    let found = IdentityServiceClient::new(api.clone()).list_identities(request).await?.into_inner();
    let mut ids: Vec<String> = found
        .identities
        .into_iter()
        .flat_map(|identity| identity.accounts)
        .filter(|account| account.login.eq_ignore_ascii_case(named) && account.removed_at.is_none())
        .map(|account| account.id)
        .collect();
    match ids.len() {
        0 => bail!(
            "no account signs in as {named}; `parapet identity list --identifier` finds accounts, or give its id"
        ),
        1 => ids.pop().context("no account"),
        _ => bail!("several accounts sign in as {named}: {}; name one by its id", ids.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_is_read_as_people_write_it_and_as_it_was_printed() {
        let toml = "order = ['disable-account', 'revoke_sessions', 'mark_compromised']\nverdicts = ['valid']\n\
                    [brake]\naccounts_per_hour = 5\n";
        let (policy, version) = from_text(toml).unwrap();
        assert_eq!(policy.order[0], i32::from(api::MitigationAction::DisableAccount));
        assert_eq!(policy.verdicts, [i32::from(api::VerdictKind::Valid)]);
        assert_eq!((policy.brake.unwrap().accounts_per_hour, version), (5, None));

        let printed = api::GetPolicyResponse {
            policy: Some(policy.clone()),
            version: 3,
            updated_by: "Ann".into(),
            updated_at: Some(prost_types::Timestamp::default()),
            warnings: vec!["role Tier 0: no directory knows one of that name".into()],
        };
        let text = output::json("GetPolicyResponse", &printed).unwrap().to_string();
        assert_eq!(from_text(&text).unwrap(), (policy.clone(), Some(3)));
        let unchanged = api::GetPolicyResponse { policy: Some(policy.clone()), ..Default::default() };
        let text = output::json("GetPolicyResponse", &unchanged).unwrap().to_string();
        assert_eq!(from_text(&text).unwrap(), (policy, Some(0)));

        for wrong in [
            "{\"brakes\": {}}",
            "brake = 5",
            "verdicts = ['works']",
            "warnings = []",
            "[1]",
            "{\"policy\": {}, \"order\": []}",
        ] {
            assert!(from_text(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_change_is_told_field_by_field_with_the_names_of_accounts() {
        let before = api::MitigationPolicy {
            brake: Some(api::BrakeLimits { accounts_per_hour: 20, ..Default::default() }),
            ..Default::default()
        };
        let after = api::MitigationPolicy {
            brake: Some(api::BrakeLimits { accounts_per_hour: 5, ..Default::default() }),
            protected: Some(api::ProtectedAccounts {
                accounts: vec![api::ProtectedAccount {
                    account_id: "id".into(),
                    login: "ceo@x.example".into(),
                    break_glass: true,
                    note: "the safe".into(),
                }],
                ..Default::default()
            }),
            ..Default::default()
        };
        assert_eq!(
            changes(&before, &after).unwrap(),
            [
                "brake.accounts_per_hour: 20 -> 5",
                "protected.accounts.ceo@x.example: nothing -> break-glass: the safe"
            ]
        );
        assert_eq!(changes(&after, &after).unwrap(), Vec::<String>::new());
    }
}
