//! What leaks: breaches, combo lists, stealer logs and phishing kits, fresh, stale and posted again and again.

use credential_validator::triage::SecretForm;

use crate::{
    dice::Dice,
    numbers::{
        BREACH_DATES, BREACH_SECRETS, COLLECTIONS, COMBO_DATED, COMPLEX, COPY_DATED, DAY, ELSEWHERE_WORKS,
        EXPOSED, HOUR, LONG_EXPOSED, MASKED, ONE_MORE, OWN_PAGE, PHISHED_WORKS, POSTED_AGAIN, SOURCES,
        STOLEN_WORKS, UNUSABLE, WAS_ONCE,
    },
    population::{Account, Password, World},
};

/// Ids of passwords that the owner uses elsewhere.
const ELSEWHERE: u32 = 10_000;

/// Where a leak comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// Another site lost it.
    Breach,
    /// A list somebody put together.
    Combo,
    /// Malware on a device.
    Stealer,
    /// A phishing kit.
    Phish,
}

impl Source {
    /// The word of feeds for it.
    pub fn kind(self) -> &'static str {
        match self {
            Self::Breach => "breach",
            Self::Combo => "combolist",
            Self::Stealer => "stealer",
            Self::Phish => "phish",
        }
    }
}

/// One record about an account.
#[derive(Clone, Debug)]
pub struct Leak {
    /// When it arrives.
    pub arrives: i64,
    /// What the secret is, or stands for.
    pub password: Password,
    /// How it is given.
    pub form: SecretForm,
    /// It cannot be submitted faithfully.
    pub unusable: bool,
    /// When it was captured, as the record says.
    pub captured: Option<i64>,
    /// How exactly.
    pub precision: &'static str,
    /// When the feed saw it first.
    pub first_seen: Option<i64>,
    /// The record names the directory's sign-in page.
    pub own_page: bool,
    /// Where it comes from.
    pub source: Source,
}

impl Leak {
    /// There is a password that can be submitted.
    pub fn usable(&self) -> bool {
        self.form == SecretForm::Password && !self.unusable
    }
}

/// When the big collections of the month appear.
pub fn collections(world: &World) -> Vec<i64> {
    let mut dice = world.dice(u32::MAX, b'c');
    (0..COLLECTIONS).map(|_| dice.between(0, world.length)).collect()
}

/// Everything that leaks about an account, in the order of arrival.
pub fn leaks(world: &World, account: &Account, collections: &[i64]) -> Vec<Leak> {
    let mut dice = world.dice(account.index, b'l');
    if !dice.percent(EXPOSED) {
        return Vec::new();
    }
    let distinct =
        if dice.percent(LONG_EXPOSED) { dice.between(20, 51) } else { dice.repeated(ONE_MORE, 12) };
    let mut leaks = Vec::new();
    for nth in 0..distinct {
        let elsewhere = Password {
            id: ELSEWHERE + u32::try_from(nth).unwrap_or_default(),
            complex: dice.percent(COMPLEX),
        };
        leaks.extend(Origin::draw(&mut dice, world, account, elsewhere, collections).post(&mut dice, world));
    }
    leaks.sort_by_key(|leak| leak.arrives);
    leaks
}

/// A password that leaked once, and is then posted.
struct Origin {
    source: Source,
    own_page: bool,
    password: Password,
    captured: i64,
    posted: i64,
}

impl Origin {
    fn draw(
        dice: &mut Dice,
        world: &World,
        account: &Account,
        elsewhere: Password,
        collections: &[i64],
    ) -> Self {
        let source = match dice.pick(SOURCES) {
            0 => Source::Breach,
            1 => Source::Combo,
            2 => Source::Stealer,
            _ => Source::Phish,
        };
        let own_page = match source {
            Source::Phish => true,
            Source::Stealer => dice.percent(OWN_PAGE),
            Source::Breach | Source::Combo => false,
        };
        let collected = (source == Source::Combo && dice.percent(50))
            .then(|| dice.between(0, i64::try_from(collections.len()).unwrap_or(1)))
            .and_then(|nth| collections.get(usize::try_from(nth).unwrap_or_default()));
        let posted = match collected {
            Some(appears) => appears + dice.between(0, 6 * HOUR),
            None => dice.between(0, world.length),
        };
        let age = match source {
            Source::Stealer if dice.percent(60) => dice.between(DAY, 30 * DAY),
            Source::Stealer => dice.between(30 * DAY, 600 * DAY),
            Source::Phish => dice.between(DAY, 14 * DAY),
            Source::Breach | Source::Combo => dice.between(30 * DAY, 2_000 * DAY),
        };
        let mut captured = posted - age;
        let works = dice.per_myriad(match source {
            Source::Phish => PHISHED_WORKS,
            Source::Stealer if own_page => STOLEN_WORKS,
            Source::Stealer | Source::Breach | Source::Combo => ELSEWHERE_WORKS,
        });
        let once = || account.history.iter().rev().skip(1).nth(usize::from(age % 2 == 0));
        let password = if works {
            let password = account.planned_password(posted);
            // Typed at this very page: not before it was set. On other sites it may have leaked long before.
            if own_page {
                captured = captured.max(account.set_at(password).unwrap_or(captured)).min(posted);
            }
            password
        } else if let Some((since, password)) = once().filter(|_| own_page || dice.percent(WAS_ONCE)) {
            if own_page {
                let until = account.history.iter().map(|(at, _)| *at).find(|at| at > since).unwrap_or(*since);
                captured = dice.between(*since, until);
            }
            *password
        } else {
            elsewhere
        };
        Self { source, own_page, password, captured, posted }
    }

    /// The record, and its copies.
    fn post(self, dice: &mut Dice, world: &World) -> Vec<Leak> {
        let form = match self.source {
            Source::Breach => match dice.pick(BREACH_SECRETS) {
                0 | 1 => SecretForm::Password,
                2 => SecretForm::Hash,
                3 => SecretForm::Hint,
                _ => SecretForm::None,
            },
            _ if dice.per_mille(MASKED) => SecretForm::Masked,
            _ => SecretForm::Password,
        };
        let unusable = dice.per_mille(UNUSABLE);
        let (precision, grain) = match (self.source, dice.pick(BREACH_DATES)) {
            (Source::Breach, 1) => ("month", 30 * DAY),
            (Source::Breach, 2) => ("year", 365 * DAY),
            _ => ("day", DAY),
        };
        let dated = match self.source {
            Source::Breach | Source::Stealer => true,
            Source::Combo => dice.percent(COMBO_DATED),
            Source::Phish => dice.percent(50),
        };
        let mut arrives = self.posted;
        let mut copies = Vec::new();
        for nth in 0..dice.repeated(POSTED_AGAIN, 60) {
            if nth > 0 {
                arrives += dice.between(HOUR, 10 * DAY);
            }
            if arrives >= world.length {
                break;
            }
            let says = dated && (nth == 0 || dice.percent(COPY_DATED));
            copies.push(Leak {
                arrives,
                password: self.password,
                form,
                unusable,
                captured: says.then(|| self.captured.div_euclid(grain) * grain),
                precision: if says { precision } else { "unknown" },
                // A feed that knows its own copies says when it saw the first one.
                first_seen: (nth > 0 && dice.percent(50)).then_some(self.posted),
                own_page: self.own_page,
                source: self.source,
            });
        }
        copies
    }
}
