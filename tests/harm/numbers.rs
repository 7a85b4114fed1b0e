//! Every distribution of the simulation, in one place, with its source or the word "assumed".
//!
//! Nobody publishes how one organization's leaks arrive and how its people sign in; what is assumed is chosen so that it
//! is not kind to Parapet: where a provider's behaviour is undocumented the worse reading is taken (`directory`), the
//! memory of tried passwords begins empty, and one account in fifty has dozens of leaked passwords.

use crate::dice::Weights;

/// Seconds.
pub const MINUTE: i64 = 60;
/// Seconds.
pub const HOUR: i64 = 60 * MINUTE;
/// Seconds.
pub const DAY: i64 = 24 * HOUR;

/// Wrong tries that the owner can make after all of Parapet's without being locked: both directories lock at the tenth
/// failure, and Parapet may spend five (design I2: at least three).
pub const OWNER_RESERVE: u32 = 4;

// ---------------------------------------------------------------------------------------------------------- accounts
// Shares of accounts, assumed; 16 to 26 % cannot or may not be tested.

/// Okta: person, administrator, service, delegated to AD, federated, passwordless, guest, disabled.
pub const OKTA_KINDS: Weights<8> = Weights([78, 1, 3, 6, 3, 3, 0, 6]);
/// Entra ID: the same; guests live in most tenants.
pub const ENTRA_KINDS: Weights<8> = Weights([70, 1, 3, 0, 5, 4, 10, 7]);
/// Passwords that a second factor follows, in percent (assumed). Without one our own success shows as a sign-in.
pub const SECOND_FACTOR: u32 = 70;
/// Entra ID accounts mastered on premises, whose first date of a password change is that of the first sync (asks.md N3).
pub const HYBRID: u32 = 40;
/// Accounts that change their password every 90 days, in percent; the others when they want to (assumed).
pub const ROTATING: u32 = 30;
/// Days after which a password that need not rotate is changed, mean (assumed).
pub const PASSWORD_AGE_DAYS: f64 = 500.0;
/// Days before the simulation in which accounts were created, at most.
pub const OLDEST_ACCOUNT_DAYS: i64 = 3000;
/// Since how many days passwords must have three kinds of characters. Older ones need not.
pub const POLICY_DAYS: i64 = 1500;
/// Since how many days Parapet has been reading the policies of the directory.
pub const CONNECTED_DAYS: i64 = 700;

// ------------------------------------------------------------------------------------------------------------ people
// How often an owner types the password: every working day, twice a week, every two weeks, not within the month. Okta asks
// whenever a session ends; Entra ID's refresh tokens live for 90 days while they are used. Shares are assumed.

/// Okta.
pub const OKTA_TYPES: Weights<4> = Weights([60, 25, 10, 5]);
/// Entra ID.
pub const ENTRA_TYPES: Weights<4> = Weights([20, 30, 30, 20]);
/// Sign-ins that begin with a wrong password, per mille. At Dropbox 3 % of the users failed on one day because of three
/// simple typos alone (Chatterjee et al., "pASSWORD tYPOS", 2016).
pub const MISTYPES: u32 = 50;
/// How many wrong tries there are then: 1 to 6 (assumed).
pub const WRONG_TRIES: Weights<6> = Weights([68, 20, 7, 3, 1, 1]);
/// The first sign-in after a change begins with the old password, in percent (assumed).
pub const OLD_AFTER_CHANGE: u32 = 30;
/// A device goes on with the old password after a change, per mille (assumed).
pub const FORGOTTEN_DEVICE: u32 = 20;
/// Away for 5 to 16 days within the month, in percent; the whole month, in percent (assumed).
pub const HOLIDAY: u32 = 30;
pub const LEAVE: u32 = 2;
/// Forgets the password on a holiday, in percent; then 3 to 12 tries until the help desk resets it (assumed).
pub const FORGETS: u32 = 8;
/// The help desk resets the password when it unlocks, in percent (assumed).
pub const RESET_WITH_UNLOCK: u32 = 30;
/// Hours until the help desk has unlocked: 1 to 24 (assumed).
pub const HELP_DESK_HOURS: i64 = 24;

// ------------------------------------------------------------------------------------------------------------- leaks

/// Accounts with any exposure within the month, in percent (assumed).
pub const EXPOSED: u32 = 35;
/// Distinct leaked passwords of an exposed account: 1 and then as often one more, in percent (mean 2.5, assumed) ...
pub const ONE_MORE: u32 = 60;
/// ... and one exposed account in fifty has 20 to 50.
pub const LONG_EXPOSED: u32 = 2;
/// A leaked password is posted once and then as often once more, in percent (mean 5, assumed). Copies are the rule: 23
/// billion rows of stealer logs held 493 million pairs of address and site, 47 rows for each (Hunt, Have I Been Pwned,
/// February 2025); 52 % of the passwords of a corpus of 2025 had been seen before (Hunt, November 2025).
pub const POSTED_AGAIN: u32 = 80;
/// Third-party breach, combo list, stealer log, phishing kit (assumed).
pub const SOURCES: Weights<4> = Weights([32, 55, 12, 1]);
/// What a breach carries: password, cracked, hash, hint, nothing (assumed; most sites keep hashes).
pub const BREACH_SECRETS: Weights<5> = Weights([15, 15, 50, 5, 15]);
/// How exactly a breach is dated: to the day, the month, the year (assumed).
pub const BREACH_DATES: Weights<3> = Weights([4, 4, 2]);
/// Passwords of the other sources that are masked, or cannot be submitted faithfully, per mille each (assumed).
pub const MASKED: u32 = 20;
pub const UNUSABLE: u32 = 5;
/// Stealer logs that name the directory's own sign-in page, in percent (assumed).
pub const OWN_PAGE: u32 = 30;
/// Passwords caught at the directory's own page by a stealer and by a phishing kit that work, per ten thousand: 12 % of
/// the victims of keyloggers and 25 % of those of phishing kits had their current password exposed (Thomas et al., "Data
/// breaches, phishing, or malware?", Google, 2017).
pub const STOLEN_WORKS: u32 = 1_200;
pub const PHISHED_WORKS: u32 = 2_500;
/// Passwords that leaked elsewhere and work, per ten thousand: what is left of the 1 % of all exposures that really work.
/// Google found 7 % of one's own password there, before policies and rotation.
pub const ELSEWHERE_WORKS: u32 = 34;
/// Of those that do not work, the ones that were the account's password once, in percent (assumed).
pub const WAS_ONCE: u32 = 40;
/// Leaked passwords of other sites that satisfy what organizations require, in percent: 230 of 1,089 million (Specops,
/// Breached Password Report, 2025).
pub const COMPLEX: u32 = 21;
/// Combo lists that say when they were captured, in percent (assumed).
pub const COMBO_DATED: u32 = 10;
/// Copies of a dated leak that still say when it was captured, in percent (assumed).
pub const COPY_DATED: u32 = 50;
/// Big collections that appear within the month; half of the combo lists come in one of them (assumed).
pub const COLLECTIONS: usize = 4;
