//! Cuts a JSON file of any size into records: single objects, sequences (NDJSON), arrays, and the envelopes of
//! vendors' APIs, page after page. Only one record and a bounded part of its envelope are in memory.
//!
//! The cutter balances brackets and strings; whether a cut is JSON is decided by whoever reads it. Whatever cannot
//! be cut becomes a faulty unit, never silence.

use std::{
    collections::VecDeque,
    io::{self, Read},
    sync::Arc,
};

use zeroize::Zeroizing;

use super::{
    record::Reject,
    source::{Cut, Position, Source},
};

/// The largest record, and the most of an envelope that is held back to learn what follows its records.
pub(super) const UNIT_LIMIT: usize = 4 * 1024 * 1024;

/// Members that hold records when they are arrays: `items` (Flare), `results` (SpyCloud), `credentials` (Hudson
/// Rock, Recorded Future, stealer logs), `detections` (Recorded Future) and what wrappers around them use.
pub(super) const ENVELOPES: [&str; 8] =
    ["items", "results", "credentials", "detections", "records", "data", "alerts", "stealers"];

/// One record's text.
pub(super) struct Unit {
    pub(super) at: Position,
    pub(super) text: Zeroizing<Vec<u8>>,
    /// The envelope's other members, as one object, as far as they were seen.
    pub(super) envelope: Option<Arc<Zeroizing<Vec<u8>>>>,
    pub(super) fault: Option<Reject>,
    /// Counts the further pieces of an object that is too large to be one record but is cut between its members.
    pub(super) piece: u32,
}

impl Unit {
    fn faulty(at: Position, fault: Reject) -> Self {
        Self { at, text: Zeroizing::default(), envelope: None, fault: Some(fault), piece: 0 }
    }
    fn whole(at: Position, text: Zeroizing<Vec<u8>>, piece: u32) -> Self {
        Self { at, text, envelope: None, fault: None, piece }
    }
}

/// A top-level object while it is being cut.
struct Object {
    at: Position,
    /// The members that are not records, as the beginning of an object.
    members: Cut,
    /// Records whose envelope is not complete yet.
    held: VecDeque<Unit>,
    held_bytes: usize,
    has_records: bool,
    in_records: bool,
    piece: u32,
}

impl Object {
    fn new(at: Position) -> Self {
        Self {
            at,
            members: Self::no_members(),
            held: VecDeque::new(),
            held_bytes: 0,
            has_records: false,
            in_records: false,
            piece: 0,
        }
    }
    fn no_members() -> Cut {
        let mut members = Cut::new(UNIT_LIMIT);
        members.push(b'{');
        members
    }
    fn add(&mut self, key: &[u8], value: &[u8]) {
        if self.members.len() > 1 {
            self.members.push(b',');
        }
        self.members.extend(key);
        self.members.push(b':');
        self.members.extend(value);
    }
    /// Hands the held records on, with the envelope as far as it is known.
    fn release(&mut self, ready: &mut VecDeque<Unit>) {
        let mut envelope = Zeroizing::new(Vec::with_capacity(self.members.len() + 1));
        envelope.extend_from_slice(self.members.bytes());
        envelope.push(b'}');
        let envelope = Arc::new(envelope);
        for mut unit in self.held.drain(..) {
            unit.envelope = Some(Arc::clone(&envelope));
            ready.push_back(unit);
        }
        self.held_bytes = 0;
    }
}

enum State {
    Top,
    Array,
    Object(Box<Object>),
}

/// How cutting a value ended.
enum Ended {
    Whole,
    TooLarge,
    /// A raw line break inside a string, or something that cannot start a value.
    Malformed,
    Truncated,
}

/// The units of a JSON file.
pub(super) struct Scanner<R> {
    pub(super) source: Source<R>,
    state: State,
    ready: VecDeque<Unit>,
    /// The members after the records of the envelope that ended last.
    pub(super) last_envelope: Option<Zeroizing<Vec<u8>>>,
}

impl<R: Read> Scanner<R> {
    pub(super) fn new(source: Source<R>) -> Self {
        Self { source, state: State::Top, ready: VecDeque::new(), last_envelope: None }
    }

    /// The next unit; `None` at the end of the file.
    pub(super) fn next(&mut self) -> io::Result<Option<Unit>> {
        while self.ready.is_empty() {
            let state = std::mem::replace(&mut self.state, State::Top);
            let next = match state {
                State::Top => self.top()?,
                State::Array => Some(self.element()?),
                State::Object(object) => Some(self.object(object)?),
            };
            match next {
                Some(state) => self.state = state,
                None => break,
            }
        }
        Ok(self.ready.pop_front())
    }

    fn top(&mut self) -> io::Result<Option<State>> {
        let at = |source: &Source<R>| source.position();
        Ok(match self.source.after_space()? {
            None => None,
            Some(b'[') => {
                self.source.advance();
                Some(State::Array)
            }
            Some(b'{') => {
                let object = Object::new(at(&self.source));
                self.source.advance();
                Some(State::Object(Box::new(object)))
            }
            // Some exports put commas or closing brackets between the pages they were glued from.
            Some(b',' | b']') => {
                self.source.advance();
                Some(State::Top)
            }
            Some(_) => {
                let at = at(&self.source);
                self.source.skip_line()?;
                self.ready.push_back(Unit::faulty(at, Reject::Malformed));
                Some(State::Top)
            }
        })
    }

    /// One element of a top-level array, or its end.
    fn element(&mut self) -> io::Result<State> {
        loop {
            match self.source.after_space()? {
                Some(b',') => self.source.advance(),
                Some(b']') => {
                    self.source.advance();
                    return Ok(State::Top);
                }
                Some(_) => {
                    let unit = self.unit()?;
                    self.ready.push_back(unit);
                    return Ok(State::Array);
                }
                None => {
                    self.ready.push_back(Unit::faulty(self.source.position(), Reject::Truncated));
                    return Ok(State::Top);
                }
            }
        }
    }

    /// Cuts members until something is ready or the object ends.
    fn object(&mut self, mut object: Box<Object>) -> io::Result<State> {
        loop {
            let byte = self.source.after_space()?;
            match byte {
                Some(b',') => self.source.advance(),
                Some(b']') if object.in_records => {
                    self.source.advance();
                    object.in_records = false;
                }
                Some(_) if object.in_records => {
                    let unit = self.unit()?;
                    object.held_bytes += unit.text.len() + 64;
                    object.held.push_back(unit);
                    if object.held_bytes > UNIT_LIMIT {
                        object.release(&mut self.ready);
                        return Ok(State::Object(object));
                    }
                }
                Some(b'}') => {
                    self.source.advance();
                    self.close(*object);
                    return Ok(State::Top);
                }
                Some(b'"') => {
                    if let Some(state) = self.member(&mut object)? {
                        return Ok(state);
                    }
                    if object.members.len() >= UNIT_LIMIT / 2 && !object.has_records {
                        self.split(&mut object);
                        return Ok(State::Object(object));
                    }
                }
                Some(other) => return self.broken(*object, Reject::Malformed, other == b'{'),
                None => return self.broken(*object, Reject::Truncated, true),
            }
        }
    }

    /// One member. `Some`: the object cannot be followed any further.
    fn member(&mut self, object: &mut Object) -> io::Result<Option<State>> {
        let broken = |this: &mut Self, object: &mut Object, fault, keep_line| {
            let object = std::mem::replace(object, Object::new(object.at));
            this.broken(object, fault, keep_line).map(Some)
        };
        let mut key = Cut::new(1024);
        match self.value(&mut key)? {
            Ended::Whole | Ended::TooLarge => {}
            Ended::Malformed => return broken(self, object, Reject::Malformed, true),
            Ended::Truncated => return broken(self, object, Reject::Truncated, true),
        }
        if self.source.after_space()? != Some(b':') {
            return broken(self, object, Reject::Malformed, false);
        }
        self.source.advance();
        let first = self.source.after_space()?;
        let name = key.bytes().strip_prefix(b"\"").and_then(|k| k.strip_suffix(b"\"")).unwrap_or_default();
        if first == Some(b'[') && ENVELOPES.iter().any(|e| e.as_bytes() == name) {
            self.source.advance();
            object.has_records = true;
            object.in_records = true;
            return Ok(None);
        }
        let mut value = Cut::new(UNIT_LIMIT / 2);
        match self.value(&mut value)? {
            // Of an envelope, a member that large is no page token or date; of a record it is the record's fault.
            Ended::TooLarge if object.has_records => {}
            Ended::TooLarge => {
                let at = object.at;
                self.ready.push_back(Unit::faulty(at, Reject::TooLarge));
                object.piece += 1;
            }
            Ended::Whole => object.add(key.bytes(), value.bytes()),
            Ended::Malformed => return broken(self, object, Reject::Malformed, true),
            Ended::Truncated => return broken(self, object, Reject::Truncated, true),
        }
        Ok(None)
    }

    /// An object ended.
    fn close(&mut self, mut object: Object) {
        if object.has_records {
            object.release(&mut self.ready);
            object.members.push(b'}');
            self.last_envelope = Some(object.members.into_bytes());
        } else if object.piece == 0 || object.members.len() > 1 {
            object.members.push(b'}');
            let fault = object.members.is_over().then_some(Reject::TooLarge);
            let unit = Unit::whole(object.at, object.members.into_bytes(), object.piece);
            self.ready.push_back(Unit { fault, ..unit });
        }
    }

    /// Hands on what there is of an object with a great many members: a map from names to leaks goes on in pieces.
    fn split(&mut self, object: &mut Object) {
        let mut members = std::mem::replace(&mut object.members, Object::no_members());
        members.push(b'}');
        self.ready.push_back(Unit::whole(object.at, members.into_bytes(), object.piece));
        object.piece += 1;
    }

    /// An object that cannot be followed: what was cut from it counts, the fault is reported, and the file is picked
    /// up again at the next line.
    fn broken(&mut self, mut object: Object, fault: Reject, keep_line: bool) -> io::Result<State> {
        let at = if object.has_records { self.source.position() } else { object.at };
        object.release(&mut self.ready);
        self.ready.push_back(Unit::faulty(at, fault));
        if !keep_line {
            self.source.skip_line()?;
        }
        Ok(State::Top)
    }

    /// Cuts one element.
    fn unit(&mut self) -> io::Result<Unit> {
        let at = self.source.position();
        let mut text = Cut::new(UNIT_LIMIT);
        let fault = match self.value(&mut text)? {
            Ended::Whole => None,
            Ended::TooLarge => Some(Reject::TooLarge),
            Ended::Malformed => Some(Reject::Malformed),
            Ended::Truncated => Some(Reject::Truncated),
        };
        // Something that is neither a value nor a separator must not stop us for ever.
        if self.source.position() == at {
            self.source.advance();
        }
        Ok(Unit { fault, ..Unit::whole(at, text.into_bytes(), 0) })
    }

    /// Copies one value, whatever it is.
    fn value(&mut self, out: &mut Cut) -> io::Result<Ended> {
        let mut depth = 0_u64;
        loop {
            let Some(byte) = self.source.peek()? else { return Ok(Ended::Truncated) };
            match byte {
                b'"' => {
                    if let Some(ended) = self.string(out)? {
                        return Ok(ended);
                    }
                }
                b'{' | b'[' => {
                    depth += 1;
                    self.take(byte, out);
                }
                b'}' | b']' if depth > 0 => {
                    depth -= 1;
                    self.take(byte, out);
                }
                _ if depth == 0 => return self.literal(out),
                _ => self.take(byte, out),
            }
            if depth == 0 {
                return Ok(if out.is_over() { Ended::TooLarge } else { Ended::Whole });
            }
        }
    }

    fn literal(&mut self, out: &mut Cut) -> io::Result<Ended> {
        let before = self.source.position();
        while let Some(byte) = self.source.peek()? {
            if byte.is_ascii_whitespace() || matches!(byte, b',' | b']' | b'}' | b':' | b'"' | b'{' | b'[') {
                break;
            }
            self.take(byte, out);
        }
        Ok(if self.source.position() == before {
            Ended::Malformed
        } else if out.is_over() {
            Ended::TooLarge
        } else {
            Ended::Whole
        })
    }

    /// Copies a string. JSON has no raw line breaks in strings: one means that the record broke off.
    fn string(&mut self, out: &mut Cut) -> io::Result<Option<Ended>> {
        self.take(b'"', out);
        let mut escaped = false;
        loop {
            let Some(byte) = self.source.peek()? else { return Ok(Some(Ended::Truncated)) };
            if byte == b'\n' {
                return Ok(Some(Ended::Malformed));
            }
            self.take(byte, out);
            match byte {
                _ if escaped => escaped = false,
                b'\\' => escaped = true,
                b'"' => return Ok(None),
                _ => {}
            }
        }
    }

    fn take(&mut self, byte: u8, out: &mut Cut) {
        out.push(byte);
        self.source.advance();
    }
}
