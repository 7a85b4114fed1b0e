//! Accounts derived from a seed and an index: the same seed gives the same directory, and any account is found from its
//! id or its login without a table.

mod dice;
mod names;

use anyhow::Context as _;
use serde::{Deserialize, Serialize};
use time::{Duration, OffsetDateTime};

use crate::model::{Account, Authority, SecondFactor, Settings, Status};
use dice::Dice;

/// How to generate the accounts of a directory.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Generated {
    /// The same seed gives the same accounts.
    pub seed: u64,
    /// How many.
    pub count: u64,
    /// All dates lie before this instant.
    #[serde(default = "default_as_of", with = "time::serde::rfc3339")]
    pub as_of: OffsetDateTime,
    /// Shares of the special kinds.
    #[serde(default)]
    pub mix: Mix,
}

fn default_as_of() -> OffsetDateTime {
    OffsetDateTime::UNIX_EPOCH + Duration::seconds(1_767_225_600) // 2026-01-01
}

/// Shares of the special kinds, in accounts per thousand. Kinds a provider does not know are ignored.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Mix {
    /// Mastered in AD (Entra ID).
    pub hybrid: u16,
    /// Guests of other directories (Entra ID).
    pub guest: u16,
    /// In a federated domain, if the directory has one; FEDERATION at Okta.
    pub federated: u16,
    /// In a pass-through domain, if the directory has one; ACTIVE_DIRECTORY at Okta.
    pub delegated: u16,
    /// Disabled at Entra ID; suspended at Okta.
    pub disabled: u16,
    /// STAGED, PROVISIONED or DEPROVISIONED at Okta.
    pub inactive: u16,
    /// A second factor is asked for.
    pub mfa: u16,
    /// A second factor must be registered first.
    pub mfa_unregistered: u16,
    /// The password must be changed.
    pub expired: u16,
    /// No password is set.
    pub passwordless: u16,
    /// Holds an administrator role.
    pub admin: u16,
    /// May have a weak password (Entra ID): `DisableStrongPassword`.
    pub weak: u16,
}

impl Default for Mix {
    fn default() -> Self {
        Self {
            hybrid: 200,
            guest: 40,
            federated: 40,
            delegated: 40,
            disabled: 40,
            inactive: 40,
            mfa: 350,
            mfa_unregistered: 20,
            expired: 15,
            passwordless: 20,
            admin: 5,
            weak: 0,
        }
    }
}

/// A specification made ready to derive accounts from.
#[derive(Clone, Debug)]
pub struct Plan {
    generated: Generated,
    style: Style,
}

#[derive(Clone, Debug)]
enum Style {
    Entra { managed: Vec<String>, federated: Vec<String>, pass_through: Vec<String>, initial: String },
    Okta { domain: String },
}

const ENTRA_ADMIN_ROLES: [&str; 6] = [
    "Global Administrator",
    "User Administrator",
    "Helpdesk Administrator",
    "Security Administrator",
    "Privileged Role Administrator",
    "Reports Reader",
];
const OKTA_ADMIN_ROLES: [&str; 3] = ["SUPER_ADMIN", "ORG_ADMIN", "HELP_DESK_ADMIN"];

impl Plan {
    /// Checks that the settings can carry generated accounts.
    pub fn new(generated: Generated, settings: &Settings) -> anyhow::Result<Self> {
        anyhow::ensure!(u32::try_from(generated.count).is_ok(), "at most 2^32 generated accounts");
        let style = match settings {
            Settings::EntraId(entra) => {
                let named = |authority: Authority| -> Vec<String> {
                    let of = entra.domains.iter().filter(|d| d.authority == authority);
                    of.map(|d| d.name.clone()).collect()
                };
                let managed = named(Authority::Cloud);
                let initial = managed.first().context("generated accounts need a managed domain")?.clone();
                Style::Entra {
                    managed,
                    federated: named(Authority::Federated),
                    pass_through: named(Authority::PassThrough),
                    initial,
                }
            }
            Settings::Okta(okta) => Style::Okta { domain: okta.mail_domain.clone() },
        };
        Ok(Self { generated, style })
    }

    /// How many accounts there are.
    pub fn count(&self) -> u64 {
        self.generated.count
    }

    /// All dates of the accounts lie before this instant.
    pub fn as_of(&self) -> OffsetDateTime {
        self.generated.as_of
    }

    /// Immutable id of the account with this index.
    pub fn id(&self, index: u64) -> String {
        let scrambled = dice::scramble(self.generated.seed, u32::try_from(index).unwrap_or(u32::MAX));
        let mut tail = Dice::new(self.generated.seed ^ ID_STREAM, index);
        match self.style {
            Style::Entra { .. } => guid(scrambled, &mut tail),
            Style::Okta { .. } => okta_id("00u", scrambled, &mut tail),
        }
    }

    /// Index of the account with this id.
    pub fn index_of(&self, id: &str) -> Option<u64> {
        let scrambled = match self.style {
            Style::Entra { .. } => u32::from_str_radix(id.get(..8)?, 16).ok()?,
            Style::Okta { .. } => base62_decode(id.strip_prefix("00u")?.get(..6)?)?,
        };
        let index = u64::from(dice::unscramble(self.generated.seed, scrambled));
        (index < self.count() && self.id(index) == id).then_some(index)
    }

    /// The account with this id.
    pub fn by_id(&self, id: &str) -> Option<Account> {
        self.index_of(id).map(|index| self.account(index))
    }

    /// The account with this login (lower case).
    pub fn by_login(&self, login: &str) -> Option<Account> {
        // The index is one of the runs of digits in the local part.
        login.split(|c: char| !c.is_ascii_digit()).filter_map(|run| run.parse::<u64>().ok()).find_map(
            |index| {
                let account = (index < self.count()).then(|| self.account(index))?;
                (account.login.to_lowercase() == login).then_some(account)
            },
        )
    }

    /// Derives one account.
    pub fn account(&self, index: u64) -> Account {
        let Generated { seed, as_of, ref mix, .. } = self.generated;
        let mut dice = Dice::new(seed, index);
        let given = dice.pick(&names::GIVEN);
        let family = dice.pick(&names::FAMILY);
        let local = format!("{}.{}{index}", given.to_lowercase(), family.to_lowercase());

        let guest = dice.share(mix.guest);
        let federated = dice.share(mix.federated);
        let delegated = dice.share(mix.delegated);
        let hybrid = dice.share(mix.hybrid);
        let (login, email, authority, guest, hybrid) = match &self.style {
            Style::Entra { managed, federated: fed, pass_through, initial } => {
                if guest {
                    let home = dice.pick(&names::GUEST_DOMAINS);
                    let upn = format!("{local}_{home}#EXT#@{initial}");
                    (upn, format!("{local}@{home}"), Authority::Cloud, true, false)
                } else {
                    let (domains, authority) = if federated && !fed.is_empty() {
                        (fed, Authority::Federated)
                    } else if delegated && !pass_through.is_empty() {
                        (pass_through, Authority::PassThrough)
                    } else {
                        (managed, Authority::Cloud)
                    };
                    let domain = domains.get(dice.below(domains.len() as u64)).unwrap_or(initial);
                    let login = format!("{local}@{domain}");
                    // AD stands behind federated and pass-through domains.
                    (login.clone(), login, authority, false, hybrid || authority != Authority::Cloud)
                }
            }
            Style::Okta { domain } => {
                let login = format!("{local}@{domain}");
                let authority = match (federated, delegated) {
                    (true, _) => Authority::Federated,
                    (false, true) => Authority::ActiveDirectory,
                    (false, false) => Authority::Cloud,
                };
                (login.clone(), login, authority, false, authority == Authority::ActiveDirectory)
            }
        };

        let created =
            as_of - Duration::days(dice.between(200, 2500)) - Duration::seconds(dice.between(0, 86_400));
        let mut account = Account::new(self.id(index), login, created);
        let since_created = (as_of - created).whole_seconds();
        let password_changed = created + Duration::seconds(dice.between(60, since_created - 3600));
        let last_sign_in =
            password_changed + Duration::seconds(dice.between(0, (as_of - password_changed).whole_seconds()));

        account.email = Some(email);
        account.display_name = format!("{given} {family}");
        given.clone_into(&mut account.given_name);
        family.clone_into(&mut account.family_name);
        account.department = Some(dice.pick(&names::DEPARTMENTS).to_owned());
        account.job_title = Some(dice.pick(&names::TITLES).to_owned());
        if dice.share(300) && !guest {
            let domain = account.login.rsplit_once('@').map_or("", |(_, domain)| domain);
            let initial = given.chars().take(1).collect::<String>().to_lowercase();
            account.aliases = vec![format!("{initial}.{}{index}@{domain}", family.to_lowercase())];
        }
        if dice.share(80) {
            account.other_emails = vec![format!("{local}@{}", dice.pick(&names::PRIVATE_DOMAINS))];
        }
        account.guest = guest;
        account.authority = authority;
        account.hybrid = hybrid;
        account.status = self.status(&mut dice, mix);
        account.second_factor = match (dice.share(mix.mfa), dice.share(mix.mfa_unregistered)) {
            (true, _) => SecondFactor::Required,
            (false, true) => SecondFactor::Unregistered,
            (false, false) => SecondFactor::None,
        };
        let passwordless = dice.share(mix.passwordless) || guest;
        let expired = dice.share(mix.expired);
        let password = dice::password(seed, index);
        if !passwordless {
            account.password = Some(password);
            account.password_changed = Some(password_changed);
            account.password_expired = expired;
        }
        account.last_sign_in = dice.share(900).then_some(last_sign_in);
        if dice.share(mix.admin) && !guest {
            let role = match self.style {
                Style::Entra { .. } => dice.pick(&ENTRA_ADMIN_ROLES),
                Style::Okta { .. } => dice.pick(&OKTA_ADMIN_ROLES),
            };
            account.roles = vec![role.to_owned()];
        }
        // Drawn last, so that the accounts of a seed stay what they were.
        let weak = dice.share(mix.weak) && matches!(self.style, Style::Entra { .. });
        account.password_policies = weak.then(|| "DisableStrongPassword".to_owned());
        account.updated = password_changed;
        account.status_changed = created;
        account.sessions_valid_from = password_changed;
        account
    }

    fn status(&self, dice: &mut Dice, mix: &Mix) -> Status {
        let disabled = dice.share(mix.disabled);
        let inactive = dice.share(mix.inactive);
        let which = dice.below(3);
        match (&self.style, disabled, inactive, which) {
            (Style::Entra { .. }, true, _, _) => Status::Disabled,
            (Style::Okta { .. }, true, _, _) => Status::Suspended,
            (Style::Okta { .. }, false, true, 0) => Status::Staged,
            (Style::Okta { .. }, false, true, 1) => Status::Provisioned,
            (Style::Okta { .. }, false, true, _) => Status::Deprovisioned,
            _ => Status::Active,
        }
    }
}

/// Keeps the ids' random part apart from the accounts' own dice.
const ID_STREAM: u64 = 0x1d5f_00d5_7e11_a5ed;

/// An id in the provider's style for an account told by name.
pub fn fresh_id(settings: &Settings, login: &str) -> String {
    let mut dice = Dice::of_text(login);
    let head = dice.word();
    match settings {
        Settings::EntraId(_) => guid(head, &mut dice),
        Settings::Okta(_) => okta_id("00u", head, &mut dice),
    }
}

/// A GUID that always belongs to this text.
pub fn derived_guid(text: &str) -> String {
    let mut dice = Dice::of_text(text);
    guid(dice.word(), &mut dice)
}

/// Who checks the password of an account with this login.
pub fn authority_of(settings: &Settings, login: &str) -> Authority {
    match settings {
        Settings::EntraId(entra) => entra.authority_of(login),
        Settings::Okta(_) => Authority::Cloud,
    }
}

fn guid(head: u32, dice: &mut Dice) -> String {
    let (a, b, c) = (dice.word(), dice.word(), dice.word());
    let (mid, high) = (a >> 16, a & 0xfff);
    let (variant, low) = (0x8000 | ((b >> 16) & 0x3fff), b & 0xffff);
    format!("{head:08x}-{mid:04x}-4{high:03x}-{variant:04x}-{low:04x}{c:08x}")
}

const BASE62: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

fn okta_id(prefix: &str, head: u32, dice: &mut Dice) -> String {
    let mut id = String::from(prefix);
    let mut value = u64::from(head);
    let mut digits = [0_u8; 6];
    for digit in digits.iter_mut().rev() {
        *digit = base62(value % 62);
        value /= 62;
    }
    id.extend(digits.iter().map(|d| char::from(*d)));
    id.extend((0..8).map(|_| char::from(base62(dice.below(62) as u64))));
    id + "5d7"
}

fn base62(digit: u64) -> u8 {
    usize::try_from(digit).ok().and_then(|d| BASE62.get(d)).copied().unwrap_or(b'0')
}

fn base62_decode(text: &str) -> Option<u32> {
    let value = text.bytes().try_fold(0_u64, |value, byte| {
        let digit = BASE62.iter().position(|b| *b == byte)?;
        Some(value * 62 + digit as u64)
    })?;
    u32::try_from(value).ok()
}

#[cfg(test)]
mod tests;
