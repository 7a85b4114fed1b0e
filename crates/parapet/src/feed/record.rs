//! The one record all feeds are turned into, and why a record is refused.

use std::fmt;

use shared::secret::SecretBytes;
use time::OffsetDateTime;

use super::date::Precision;

macro_rules! names {
    ($(#[$meta:meta])* $name:ident { $($(#[doc = $doc:literal])* $variant:ident = $text:literal,)* }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum $name { $($(#[doc = $doc])* $variant,)* }
        impl $name {
            /// The stable name, as sent to the API and shown to people.
            pub const fn as_str(self) -> &'static str { match self { $(Self::$variant => $text,)* } }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { f.write_str(self.as_str()) }
        }
    };
}

names! {
    /// Where a record comes from.
    Feed {
        /// Flare: credentials search, leaked-credential events, stealer logs.
        Flare = "flare",
        /// SpyCloud.
        SpyCloud = "spycloud",
        /// Recorded Future Identity: detections, credential lookups, playbook alerts.
        RecordedFuture = "recorded_future",
        /// Hudson Rock.
        HudsonRock = "hudson_rock",
        /// Have I Been Pwned, domain results.
        Hibp = "hibp",
        /// Lines of `url:login:password` or `login:password`.
        Combolist = "combolist",
    }
}
names! {
    /// What a record's secret is. Only `plaintext` and `cracked` can ever be tried.
    SecretForm {
        /// The password as its owner typed it.
        Plaintext = "plaintext",
        /// A password recovered from a hash: what the owner typed, or a collision.
        Cracked = "cracked",
        /// A hash.
        Hash = "hash",
        /// A part of the password.
        Hint = "hint",
        /// Hidden by the vendor.
        Masked = "masked",
        /// Nothing.
        None = "none",
    }
}
names! {
    /// How a record's source came by it.
    OriginKind {
        /// Malware on the owner's device.
        Stealer = "stealer",
        /// A breach of a site.
        Breach = "breach",
        /// A list combined from other leaks.
        Combolist = "combolist",
        /// Phishing.
        Phish = "phish",
        /// A paste.
        Paste = "paste",
    }
}

/// The leak a record belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The vendor's id of the leak, may be empty.
    pub id: String,
    /// Name for people, may be empty.
    pub name: String,
    /// How it was captured.
    pub kind: OriginKind,
}

/// A hash as the feed carries it. The value is as sensitive as a password: unsalted hashes can be looked up.
#[derive(Clone, Debug)]
pub struct HashedSecret {
    /// The algorithm as the feed names it, may be empty.
    pub algorithm: String,
    /// The hash, sealed like a password wherever it is stored.
    pub value: Option<SecretBytes>,
    /// Its beginning, where the feed gives no more.
    pub prefix: Option<SecretBytes>,
    /// Its salt.
    pub salt: Option<SecretBytes>,
}

impl HashedSecret {
    /// A whole hash.
    pub(super) fn whole(algorithm: String, value: SecretBytes) -> Self {
        Self { algorithm, value: Some(value), prefix: None, salt: None }
    }
}

/// A session cookie. Kept sealed, never tried.
#[derive(Clone, Debug)]
pub struct Cookie {
    /// The host it is sent to, without a leading dot, lower case.
    pub domain: String,
    /// Path.
    pub path: String,
    /// Name.
    pub name: String,
    /// Value.
    pub value: Option<SecretBytes>,
    /// When it expires.
    pub expires_at: Option<OffsetDateTime>,
}

/// One leaked credential, in one shape for all feeds. Absent means unknown.
#[derive(Clone, Debug)]
pub struct Record {
    /// Where it comes from.
    pub feed: Feed,
    /// The vendor's own id of the record. `None`: the vendor gives none, and the import derives one.
    pub external_id: Option<String>,
    /// Whom it is about, as the feed spells it.
    pub identity: String,
    /// The secret, byte for byte as leaked. Present only for `plaintext` and `cracked`.
    pub secret: Option<SecretBytes>,
    /// What the secret is.
    pub form: SecretForm,
    /// Hashes the feed carries. Left out when the password itself is known.
    pub hashes: Vec<HashedSecret>,
    /// A part of the password, of form `hint` only.
    pub hint: Option<SecretBytes>,
    /// What the feed says about the password, for example `AtLeast12Characters`.
    pub properties: Vec<String>,
    /// Session cookies.
    pub cookies: Vec<Cookie>,
    /// Earliest moment the secret can have been captured.
    pub captured_after: Option<OffsetDateTime>,
    /// Latest moment the secret can have been captured.
    pub captured_before: Option<OffsetDateTime>,
    /// When the leak became known.
    pub published_at: Option<OffsetDateTime>,
    /// When the feed first saw the record.
    pub first_seen_at: Option<OffsetDateTime>,
    /// How exact the capture date is.
    pub precision: Option<Precision>,
    /// The leak it belongs to.
    pub origin: Origin,
    /// Where the credential was used: URLs without user, query and fragment, or host names.
    pub targets: Vec<String>,
    /// 0 to 100.
    pub severity: Option<u8>,
}

/// Why something in a file is no record. The words never quote the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, thiserror::Error)]
pub enum Reject {
    /// Larger than any credential record.
    #[error("larger than {} MiB", super::scan::UNIT_LIMIT / (1024 * 1024))]
    TooLarge,
    /// Not JSON.
    #[error("not valid JSON")]
    Malformed,
    /// The file ends inside it.
    #[error("the file ends inside this record")]
    Truncated,
    /// Not UTF-8 where text is needed.
    #[error("not UTF-8")]
    NotUtf8,
    /// No known feed writes this.
    #[error("not a shape of a known feed")]
    Unrecognised,
    /// A Flare event of another type.
    #[error("an event that carries no credential")]
    OtherEvent,
    /// It says whom it concerns nowhere.
    #[error("no identity")]
    NoIdentity,
    /// The identity is longer than 320 bytes or contains control characters.
    #[error("the identity is too long or contains control characters")]
    BadIdentity,
    /// A text line without a colon.
    #[error("no `:` between login and password")]
    NoSeparator,
    /// A line longer than 64 KiB.
    #[error("the line is longer than 64 KiB")]
    LineTooLong,
    /// HIBP gives only the part before the @.
    #[error("HIBP names no domain; say it with --domain")]
    NoDomain,
    /// The vendor's id is longer than 256 bytes.
    #[error("the record's id is too long")]
    BadId,
}

impl Reject {
    /// The stable name, for programs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::TooLarge => "too_large",
            Self::Malformed => "malformed",
            Self::Truncated => "truncated",
            Self::NotUtf8 => "not_utf8",
            Self::Unrecognised => "unrecognised",
            Self::OtherEvent => "other_event",
            Self::NoIdentity => "no_identity",
            Self::BadIdentity => "bad_identity",
            Self::NoSeparator => "no_separator",
            Self::LineTooLong => "line_too_long",
            Self::NoDomain => "no_domain",
            Self::BadId => "bad_id",
        }
    }
}

impl Record {
    /// A record of which nothing but its feed, its subject and its source is known.
    pub(super) fn new(feed: Feed, identity: String, origin: Origin) -> Self {
        Self {
            feed,
            external_id: None,
            identity,
            secret: None,
            form: SecretForm::None,
            hashes: Vec::new(),
            hint: None,
            properties: Vec::new(),
            cookies: Vec::new(),
            captured_after: None,
            captured_before: None,
            published_at: None,
            first_seen_at: None,
            precision: None,
            origin,
            targets: Vec::new(),
            severity: None,
        }
    }

    /// INVARIANT: only a plaintext or cracked record carries a secret, and it then carries no hash of it.
    pub(super) fn with_secret(mut self, form: SecretForm, secret: Option<SecretBytes>) -> Self {
        match (form, secret) {
            (SecretForm::Plaintext | SecretForm::Cracked, Some(secret)) => {
                self.form = form;
                self.secret = Some(secret);
                self.hashes.clear();
            }
            (SecretForm::Plaintext | SecretForm::Cracked, None) => self.form = SecretForm::None,
            (form, _) => self.form = form,
        }
        self
    }

    /// Takes the span in which the secret was captured.
    pub(super) fn captured(mut self, span: Option<super::date::Span>) -> Self {
        if let Some(span) = span {
            self.captured_after = Some(span.from);
            self.captured_before = Some(span.until);
            self.precision = Some(span.precision);
        }
        self
    }

    /// The last check of every shape.
    pub(super) fn checked(self) -> Result<Self, Reject> {
        if self.identity.is_empty() {
            return Err(Reject::NoIdentity);
        }
        if self.identity.len() > 320 || self.identity.chars().any(char::is_control) {
            return Err(Reject::BadIdentity);
        }
        if self.external_id.as_ref().is_some_and(|id| id.len() > 256) {
            return Err(Reject::BadId);
        }
        Ok(self)
    }
}
