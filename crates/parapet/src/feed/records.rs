//! A file as a stream of canonical records.

use std::{
    collections::VecDeque,
    io::{self, Read},
    sync::Arc,
};

use zeroize::Zeroizing;

use super::{
    lines,
    record::{Record, Reject},
    scan::{Scanner, UNIT_LIMIT, Unit},
    shapes::{self, Context, Found, Hints},
    source::{Position, Source},
};

/// How a file is laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// JSON values, arrays or envelopes.
    Json,
    /// One JSON object per line.
    JsonLines,
    /// One text credential per line.
    Text,
}

impl Format {
    /// For people.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Json => "JSON",
            Self::JsonLines => "NDJSON",
            Self::Text => "text",
        }
    }
}

/// A file cannot be read at all.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The file is compressed.
    #[error("the file is compressed; unpack it first")]
    Compressed,
    /// The file is UTF-16.
    #[error("the file is UTF-16; convert it to UTF-8 first (iconv -f utf-16 -t utf-8)")]
    Utf16,
    /// The file is binary.
    #[error("the file is neither JSON nor text")]
    Binary,
    /// It holds nothing.
    #[error("the file is empty")]
    Empty,
    /// It cannot be read.
    #[error("cannot read the file: {0}")]
    Io(#[from] io::Error),
}

/// One entry of a file: a record, or why there is none.
#[derive(Debug)]
pub struct Entry {
    /// Counts the file's entries from 0, refused ones included: the same in every reading.
    pub ordinal: u64,
    /// Where it begins.
    pub at: Position,
    /// The record.
    pub record: Result<Record, Reject>,
}

/// What was noticed beside the entries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Cookies of stealer logs that belong to the site of no credential in the log.
    pub cookies_left_out: u64,
    /// The last envelope names a further page: the export is not complete.
    pub continues: bool,
}

enum Cutter<R> {
    Json(Scanner<R>),
    Lines(Source<R>),
}

/// The entries of a file, in order.
pub struct Records<R> {
    cutter: Cutter<R>,
    format: Format,
    hints: Hints,
    ready: VecDeque<(Position, Result<Record, Reject>)>,
    /// The envelope read last, so that its records do not each read it again.
    envelope: Option<(Arc<Zeroizing<Vec<u8>>>, Context)>,
    ordinal: u64,
    stats: Stats,
}

impl<R: Read> Records<R> {
    /// Looks at the beginning and decides what the file is. `domain` completes HIBP's aliases.
    pub fn open(inner: R, domain: Option<&str>) -> Result<Self, OpenError> {
        let mut source = Source::new(inner);
        let beginning = source.beginning()?;
        if beginning.starts_with(&[0x1f, 0x8b])
            || beginning.starts_with(b"PK\x03\x04")
            || beginning.starts_with(&[0x28, 0xb5, 0x2f, 0xfd])
        {
            return Err(OpenError::Compressed);
        }
        if beginning.starts_with(&[0xff, 0xfe]) || beginning.starts_with(&[0xfe, 0xff]) {
            return Err(OpenError::Utf16);
        }
        let byte_order_mark = beginning.starts_with(&[0xef, 0xbb, 0xbf]);
        let text = if byte_order_mark { beginning.get(3..).unwrap_or_default() } else { beginning };
        if text.iter().take(512).any(|b| *b == 0) {
            return Err(OpenError::Binary);
        }
        let start = text.iter().position(|b| !b.is_ascii_whitespace()).ok_or(OpenError::Empty)?;
        let format = format(text.get(start..).unwrap_or_default());
        if byte_order_mark {
            for _ in 0..3 {
                source.peek()?;
                source.advance();
            }
        }
        let cutter = match format {
            Format::Json => Cutter::Json(Scanner::new(source)),
            Format::JsonLines | Format::Text => Cutter::Lines(source),
        };
        Ok(Self {
            cutter,
            format,
            hints: Hints { domain: domain.map(Arc::from) },
            ready: VecDeque::new(),
            envelope: None,
            ordinal: 0,
            stats: Stats::default(),
        })
    }

    /// How the file is laid out.
    pub fn format(&self) -> Format {
        self.format
    }

    /// How far the file was read.
    pub fn position(&self) -> Position {
        match &self.cutter {
            Cutter::Json(scanner) => scanner.source.position(),
            Cutter::Lines(source) => source.position(),
        }
    }

    /// What was noticed so far.
    pub fn stats(&self) -> Stats {
        let mut stats = self.stats;
        if let Cutter::Json(Scanner { last_envelope: Some(members), .. }) = &self.cutter {
            stats.continues |= Context::read(members).continues;
        }
        stats
    }

    /// The next entry; `None` at the end.
    pub fn next_entry(&mut self) -> io::Result<Option<Entry>> {
        while self.ready.is_empty() {
            if !self.read_on()? {
                return Ok(None);
            }
        }
        Ok(self.ready.pop_front().map(|(at, record)| {
            let ordinal = self.ordinal;
            self.ordinal += 1;
            Entry { ordinal, at, record }
        }))
    }

    fn read_on(&mut self) -> io::Result<bool> {
        match &mut self.cutter {
            Cutter::Json(scanner) => match scanner.next()? {
                Some(unit) => self.unit(unit),
                None => return Ok(false),
            },
            Cutter::Lines(source) => {
                let limit = if self.format == Format::Text { lines::LINE_LIMIT } else { UNIT_LIMIT };
                match lines::next_line(source, limit)? {
                    None => return Ok(false),
                    Some((at, None)) => {
                        let fault =
                            if self.format == Format::Text { Reject::LineTooLong } else { Reject::TooLarge };
                        self.ready.push_back((at, Err(fault)));
                    }
                    Some((at, Some(line))) if self.format == Format::Text => {
                        self.ready.push_back((at, lines::parse(&line)));
                    }
                    Some((at, Some(line))) => self.json(at, &line, &Context::default(), 0),
                }
            }
        }
        Ok(true)
    }

    fn unit(&mut self, unit: Unit) {
        let Unit { at, text, envelope, fault, piece } = unit;
        if let Some(fault) = fault {
            if piece == 0 {
                self.ready.push_back((at, Err(fault)));
            }
            return;
        }
        let Some(envelope) = envelope else { return self.json(at, &text, &Context::default(), piece) };
        let context = match self.envelope.take() {
            Some((last, context)) if Arc::ptr_eq(&last, &envelope) => context,
            _ => Context::read(&envelope),
        };
        self.json(at, &text, &context, piece);
        self.envelope = Some((envelope, context));
    }

    fn json(&mut self, at: Position, text: &[u8], context: &Context, piece: u32) {
        let Ok(text) = std::str::from_utf8(text) else {
            self.ready.push_back((at, Err(Reject::NotUtf8)));
            return;
        };
        let mut found = Found::default();
        shapes::read(text, context, piece, &self.hints, &mut found);
        self.stats.cookies_left_out += found.cookies_left_out;
        self.ready.extend(found.records.into_iter().map(|record| (at, record)));
    }
}

/// Text unless it begins like JSON; one object per line if the first line is a complete object and more follows.
fn format(text: &[u8]) -> Format {
    if !matches!(text.first(), Some(b'{' | b'[')) {
        return Format::Text;
    }
    let mut lines = text.splitn(2, |b| *b == b'\n');
    let (first, rest) = (lines.next().unwrap_or_default(), lines.next().unwrap_or_default());
    let next = rest.iter().find(|b| !b.is_ascii_whitespace());
    let complete = text.first() == Some(&b'{')
        && next == Some(&b'{')
        && serde_json::from_slice::<serde::de::IgnoredAny>(first).is_ok();
    if complete { Format::JsonLines } else { Format::Json }
}
