//! A file as a stream of bytes in a fixed, wiped buffer, with its position; and the wiped buffer records are cut into.

use std::io::{self, Read};

use zeroize::Zeroizing;

const BUFFER: usize = 256 * 1024;

/// A place in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// Line, from 1.
    pub line: u64,
    /// Byte offset, from 0.
    pub offset: u64,
}

/// A reader's bytes, one by one.
pub(super) struct Source<R> {
    inner: R,
    buffer: Zeroizing<Vec<u8>>,
    next: usize,
    at: Position,
}

impl<R: Read> Source<R> {
    pub(super) fn new(inner: R) -> Self {
        let buffer = Zeroizing::new(Vec::with_capacity(BUFFER));
        Self { inner, buffer, next: 0, at: Position { line: 1, offset: 0 } }
    }

    fn fill(&mut self) -> io::Result<()> {
        let mut bytes = std::mem::take(&mut *self.buffer);
        bytes.clear();
        let read = self.inner.by_ref().take(BUFFER as u64).read_to_end(&mut bytes);
        *self.buffer = bytes;
        self.next = 0;
        read.map(drop)
    }

    /// What the file begins with, without consuming it: up to one buffer.
    pub(super) fn beginning(&mut self) -> io::Result<&[u8]> {
        if self.buffer.is_empty() {
            self.fill()?;
        }
        Ok(self.buffer.get(self.next..).unwrap_or_default())
    }

    /// The next byte, not consumed; `None` at the end.
    pub(super) fn peek(&mut self) -> io::Result<Option<u8>> {
        if self.next >= self.buffer.len() {
            self.fill()?;
        }
        Ok(self.buffer.get(self.next).copied())
    }

    /// Consumes the byte just peeked.
    pub(super) fn advance(&mut self) {
        if self.buffer.get(self.next) == Some(&b'\n') {
            self.at.line += 1;
        }
        self.next += 1;
        self.at.offset += 1;
    }

    /// Consumes white space and returns what follows, not consumed.
    pub(super) fn after_space(&mut self) -> io::Result<Option<u8>> {
        loop {
            match self.peek()? {
                Some(byte) if byte.is_ascii_whitespace() => self.advance(),
                other => return Ok(other),
            }
        }
    }

    /// Consumes the rest of the line, its end included.
    pub(super) fn skip_line(&mut self) -> io::Result<()> {
        while let Some(byte) = self.peek()? {
            self.advance();
            if byte == b'\n' {
                break;
            }
        }
        Ok(())
    }

    pub(super) fn position(&self) -> Position {
        self.at
    }
}

/// Bytes up to a limit. Growing wipes the old allocation; bytes beyond the limit are counted, not kept.
pub(super) struct Cut {
    bytes: Zeroizing<Vec<u8>>,
    limit: usize,
    over: bool,
}

impl Cut {
    pub(super) fn new(limit: usize) -> Self {
        Self { bytes: Zeroizing::new(Vec::with_capacity(1024)), limit, over: false }
    }

    pub(super) fn push(&mut self, byte: u8) {
        if self.bytes.len() >= self.limit {
            self.over = true;
            return;
        }
        if self.bytes.len() == self.bytes.capacity() {
            let mut larger = Zeroizing::new(Vec::with_capacity(self.bytes.capacity() * 2));
            larger.extend_from_slice(&self.bytes);
            self.bytes = larger; // the old one is wiped here
        }
        self.bytes.push(byte);
    }

    pub(super) fn extend(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.push(*byte);
        }
    }

    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }

    pub(super) fn is_over(&self) -> bool {
        self.over
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub(super) fn into_bytes(self) -> Zeroizing<Vec<u8>> {
        self.bytes
    }
}
