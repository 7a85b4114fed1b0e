//! Verifies an NDJSON export without the database.

use std::io::BufRead;

use anyhow::Context;

use crate::{
    chain::{Chain, Hash},
    export::lines::{End, Line},
};

/// What an export shows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shown {
    /// The chain: a tenant's id, or the nil UUID.
    pub chain: String,
    /// Place of the first event.
    pub first: i64,
    /// Events checked.
    pub events: i64,
    /// Checkpoints checked.
    pub checkpoints: i64,
    /// Place of the last event that a checkpoint covers; what follows is not signed. 0: nothing is.
    pub signed_to: i64,
    /// The first fault in one sentence; none when the export is intact.
    pub fault: Option<String>,
}

/// Derives every hash of an export again, and checks each signature against the keys one trusts.
///
/// A hash shows that an event, its place and what stands before it are what they were; a signature shows that of
/// everything up to its place, also where the export begins in the middle of a chain. Events after the last checkpoint
/// could be cut off or written anew by whoever can change the file: [`Shown::signed_to`] says where that begins.
///
/// Fails when the file cannot be read.
pub fn verify(export: impl BufRead, trusted: &[Vec<u8>]) -> anyhow::Result<Shown> {
    let mut shown = Shown::default();
    let mut walk = Walk { trusted, chain: None, at: None, signed: None, ended: false };
    for (number, line) in export.lines().enumerate() {
        let line = line.context("the export cannot be read")?;
        let fault = match serde_json::from_str(&line) {
            Ok(line) => walk.step(line, &mut shown).err(),
            Err(error) => Some(format!("is no line of an export: {error}")),
        };
        if let Some(fault) = fault {
            shown.fault = Some(format!("line {}: {fault}", number + 1));
            return Ok(shown);
        }
    }
    if !walk.ended {
        shown.fault = Some("the export has no end: lines were cut off, or it was never complete".to_owned());
    }
    Ok(shown)
}

struct Walk<'a> {
    trusted: &'a [Vec<u8>],
    chain: Option<Chain>,
    /// Place and hash of the last event.
    at: Option<(i64, Hash)>,
    /// Hash of the last checkpoint.
    signed: Option<Hash>,
    ended: bool,
}

impl Walk<'_> {
    fn step(&mut self, line: Line, shown: &mut Shown) -> Result<(), String> {
        if self.ended {
            return Err("stands after the end".to_owned());
        }
        let Some(chain) = self.chain else {
            let Line::Chain(head) = line else {
                return Err("the first line does not name the chain".to_owned());
            };
            if !head.is_known() {
                return Err(format!("hashes of construction {} are not known here", head.construction));
            }
            self.chain = Some(Chain::from(head.tenant_id));
            (shown.chain, shown.first) = (head.tenant_id.to_string(), head.first);
            return Ok(());
        };
        match line {
            Line::Chain(_) => Err("names a chain for a second time".to_owned()),
            Line::Event(event) => {
                let link = event.link();
                let sequence = link.sequence;
                let next = self.at.map_or(Some(shown.first), |(at, _)| at.checked_add(1));
                let Some(expected) = next else {
                    return Err(format!("event {sequence} follows the last event that a chain can have"));
                };
                if sequence != expected {
                    return Err(format!("event {sequence} stands where event {expected} belongs"));
                }
                // The first of a chain follows from nothing. What the first of a part follows from, its hash covers.
                let previous = self.at.map(|(_, hash)| hash).or((sequence == 1).then_some(Hash::ZERO));
                if link.derive(chain) != link.hash {
                    return Err(format!("event {sequence} was changed"));
                }
                if previous.is_some_and(|previous| previous != link.previous) {
                    return Err(format!("event {sequence} does not follow from the event before it"));
                }
                self.at = Some((sequence, link.hash));
                shown.events += 1;
                Ok(())
            }
            Line::Checkpoint(checkpoint) => {
                let checkpoint = checkpoint.checkpoint();
                let sequence = checkpoint.sequence;
                let fault = if checkpoint.derive(chain) != checkpoint.hash {
                    "was changed"
                } else if !checkpoint.is_signed_by(self.trusted) {
                    "is not signed by a trusted key"
                } else if self.signed.is_some_and(|signed| signed != checkpoint.previous) {
                    "does not follow from the checkpoint before it"
                } else if self.at != Some((sequence, checkpoint.event_hash)) {
                    "does not agree with the event it covers"
                } else {
                    self.signed = Some(checkpoint.hash);
                    shown.checkpoints += 1;
                    shown.signed_to = sequence;
                    return Ok(());
                };
                Err(format!("the checkpoint at event {sequence} {fault}"))
            }
            Line::End(End { events, last, hash }) => {
                self.ended = true;
                let same = self.at.is_none_or(|at| at == (last, Hash(hash)));
                if shown.events == events && same {
                    Ok(())
                } else {
                    Err(format!("the export says that it has {events} events up to {last}, and has not"))
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use time::OffsetDateTime;

    use super::*;
    use crate::{
        chain::{Link, tests::event},
        checkpoint::SigningKey,
        export::Format,
    };

    fn key() -> SigningKey {
        SigningKey::parse(&SigningKey::generate_pem().unwrap()).unwrap()
    }

    /// Nine events with checkpoints at the fourth and the eighth; the third says this.
    fn export(key: &SigningKey, third: &str) -> Vec<String> {
        let chain = Chain::from(uuid::Uuid::from_u128(5));
        let mut lines = vec![Format::Ndjson.head(chain, 1)];
        let (mut previous, mut signed) = (Hash::ZERO, Hash::ZERO);
        for sequence in 1..=9 {
            let at = OffsetDateTime::UNIX_EPOCH + time::Duration::microseconds(sequence);
            let message = if sequence == 3 { third.to_owned() } else { format!("event {sequence}") };
            let link = Link::new(chain, sequence, at, previous, event(&message));
            previous = link.hash;
            lines.push(Format::Ndjson.event(chain, &link));
            if sequence % 4 == 0 {
                let checkpoint = key.sign(chain, sequence, previous, at, signed);
                signed = checkpoint.hash;
                lines.push(Format::Ndjson.checkpoint(&checkpoint));
            }
        }
        lines.push(Format::Ndjson.end(9, 9, previous));
        lines
    }

    fn sound() -> (Vec<String>, Vec<u8>) {
        let key = key();
        (export(&key, "event 3"), key.public_key())
    }

    fn fault(lines: &[String], key: &[u8]) -> String {
        verify(lines.concat().as_bytes(), &[key.to_vec()]).unwrap().fault.unwrap_or_default()
    }

    // Events 1 to 4 are lines 1 to 4, then a checkpoint; events 5 to 8 are lines 6 to 9.
    #[test]
    fn an_export_that_nobody_touched_is_intact_and_says_how_far_it_is_signed() {
        let (lines, key) = sound();
        let shown = verify(lines.concat().as_bytes(), &[key]).unwrap();
        let expected = Shown {
            chain: uuid::Uuid::from_u128(5).to_string(),
            first: 1,
            events: 9,
            checkpoints: 2,
            signed_to: 8,
            fault: None,
        };
        assert_eq!(shown, expected);
    }

    #[test]
    fn a_changed_event_is_found_whatever_was_changed_in_it() {
        let (lines, key) = sound();
        for (from, to) in [
            ("\"message\":\"event 3\"", "\"message\":\"event 4\""),
            ("\"outcome\":\"success\"", "\"outcome\":\"failure\""),
            ("\"accounts\":\"5\"", "\"accounts\":\"6\""),
            ("\"user_name\":\"\"", "\"user_name\":\"ann\""),
        ] {
            let mut changed = lines.clone();
            changed[3] = changed[3].replace(from, to);
            assert_ne!(changed, lines, "{from}");
            assert_eq!(fault(&changed, &key), "line 4: event 3 was changed");
        }
        let mut added = lines;
        added[3] = added[3].replace("\"message\"", "\"note\":\"trust me\",\"message\"");
        assert!(fault(&added, &key).contains("unknown field"));
    }

    #[test]
    fn a_removed_event_is_found_also_at_the_end() {
        let (lines, key) = sound();
        let mut removed = lines.clone();
        removed.remove(6);
        assert_eq!(fault(&removed, &key), "line 7: event 6 stands where event 5 belongs");
        let mut tail = lines.clone();
        tail.remove(10 + 1);
        assert!(!fault(&tail, &key).is_empty());
        assert!(fault(&lines[..lines.len() - 1], &key).contains("has no end"));
    }

    #[test]
    fn an_event_behind_the_last_possible_place_is_found() {
        let chain = Chain::from(uuid::Uuid::from_u128(5));
        let mut previous = Hash::ZERO;
        let mut lines = vec![Format::Ndjson.head(chain, i64::MAX)];
        for sequence in [i64::MAX, i64::MIN] {
            let link = Link::new(chain, sequence, OffsetDateTime::UNIX_EPOCH, previous, event("made up"));
            previous = link.hash;
            lines.push(Format::Ndjson.event(chain, &link));
        }
        let found = fault(&lines, &key().public_key());
        assert_eq!(found, format!("line 3: event {} follows the last event that a chain can have", i64::MIN));
    }

    #[test]
    fn an_inserted_event_is_found() {
        let (lines, key) = sound();
        let mut inserted = lines.clone();
        inserted.insert(4, lines[3].clone());
        assert_eq!(fault(&inserted, &key), "line 5: event 3 stands where event 4 belongs");
    }

    #[test]
    fn reordered_events_are_found() {
        let (lines, key) = sound();
        let mut swapped = lines;
        swapped.swap(2, 3);
        assert_eq!(fault(&swapped, &key), "line 3: event 3 stands where event 2 belongs");
    }

    #[test]
    fn a_chain_that_was_written_anew_is_found_by_its_checkpoints() {
        let (forger, key) = (key(), key());
        let (sound, mut forged) = (export(&key, "event 3"), export(&forger, "nothing happened"));
        let key = key.public_key();
        assert_eq!(fault(&sound, &key), "");
        assert_eq!(fault(&forged, &key), "line 6: the checkpoint at event 4 is not signed by a trusted key");
        // What was signed of the true chain does not fit the forged one.
        forged[5].clone_from(&sound[5]);
        assert_eq!(
            fault(&forged, &key),
            "line 6: the checkpoint at event 4 does not agree with the event it covers"
        );
    }

    #[test]
    fn a_part_of_a_chain_begins_where_it_says() {
        let (lines, key) = sound();
        let head = Format::Ndjson.head(Chain::from(uuid::Uuid::from_u128(5)), 5);
        let (end, part) = (Format::Ndjson.end(5, 9, Hash::ZERO), &lines[6..12]);
        let hash = lines[12].split_once("\"hash\":").unwrap().1;
        let end = end.split_once("\"hash\":").unwrap().0.to_owned() + "\"hash\":" + hash;
        let part: Vec<_> = [head].into_iter().chain(part.to_vec()).chain([end]).collect();
        let shown = verify(part.concat().as_bytes(), &[key]).unwrap();
        assert_eq!((shown.fault, shown.first, shown.events, shown.signed_to), (None, 5, 5, 8));
    }
}
