//! The search through bytes and files.

use std::{
    collections::HashSet,
    fs,
    io::{ErrorKind, Read},
    path::{Path, PathBuf},
};

use aho_corasick::{AhoCorasick, MatchKind};
use anyhow::Context;

use super::spelling::{Spelling, is_dropped, leaks, patterns};

/// Finds secrets in files and text.
#[derive(Debug)]
pub struct Scanner {
    automaton: AhoCorasick,
    /// Of each pattern.
    spellings: Vec<Spelling>,
    longest: usize,
}

/// A place where a secret was found; never the secret itself.
#[derive(Clone, Debug, PartialEq, Eq, Hash, serde::Serialize)]
pub struct Finding {
    /// File, or table.
    pub place: String,
    /// How it is written there.
    pub spelling: Spelling,
}

const CHUNK: usize = 1 << 20;

impl Scanner {
    /// Prepares the search for these secrets.
    pub fn new<'a>(secrets: impl IntoIterator<Item = &'a str>) -> anyhow::Result<Self> {
        let (spellings, patterns): (Vec<_>, Vec<_>) = secrets.into_iter().flat_map(patterns).unzip();
        anyhow::ensure!(!patterns.is_empty(), "there is no secret to look for");
        let longest = patterns.iter().map(Vec::len).max().unwrap_or(1);
        let automaton = AhoCorasick::builder().match_kind(MatchKind::Standard).build(&patterns)?;
        Ok(Self { automaton, spellings, longest })
    }

    /// Searches every file under a folder, following nothing, skipping the named paths.
    pub fn folder(
        &self,
        folder: &Path,
        skip: &[PathBuf],
        found: &mut HashSet<Finding>,
    ) -> anyhow::Result<()> {
        let mut waiting = vec![folder.to_owned()];
        while let Some(path) = waiting.pop() {
            if skip.contains(&path) {
                continue;
            }
            let looked = self.look(&path, &mut waiting, found);
            if let Err(error) = looked
                && error.kind() != ErrorKind::NotFound
            {
                // Servers delete files while we look. What we cannot look into is not clean.
                return Err(error).with_context(|| format!("searching {}", path.display()));
            }
        }
        Ok(())
    }

    fn look(
        &self,
        path: &Path,
        waiting: &mut Vec<PathBuf>,
        found: &mut HashSet<Finding>,
    ) -> std::io::Result<()> {
        let kind = fs::symlink_metadata(path)?;
        if kind.is_dir() {
            for entry in fs::read_dir(path)? {
                waiting.push(entry?.path());
            }
        } else if kind.is_file() {
            self.file(path, found)?;
        }
        Ok(())
    }

    fn file(&self, path: &Path, found: &mut HashSet<Finding>) -> std::io::Result<()> {
        let mut file = fs::File::open(path)?;
        let place = path.display().to_string();
        let (mut read, mut kept) = (Vec::with_capacity(CHUNK), Vec::with_capacity(CHUNK));
        loop {
            read.clear();
            if file.by_ref().take(CHUNK as u64).read_to_end(&mut read)? == 0 {
                return Ok(());
            }
            self.step(&place, &read, &mut kept, found);
        }
    }

    /// Searches bytes that are called `place`.
    pub fn bytes(&self, place: &str, haystack: &[u8], found: &mut HashSet<Finding>) {
        self.step(place, haystack, &mut Vec::new(), found);
    }

    /// Searches the next bytes; `kept` holds as many of those before as a secret that straddles the two may have there.
    fn step(&self, place: &str, next: &[u8], kept: &mut Vec<u8>, found: &mut HashSet<Finding>) {
        for run in next.split(|byte| is_dropped(*byte)) {
            kept.extend_from_slice(run);
        }
        for hit in self.automaton.find_overlapping_iter(kept.as_slice()) {
            let spelling = self.spellings.get(hit.pattern().as_usize()).copied().unwrap_or(Spelling::Text);
            found.insert(Finding { place: place.to_owned(), spelling });
        }
        kept.drain(..kept.len().saturating_sub(self.longest));
    }

    /// Proves that the search finds: one planted secret in each spelling, across two reads of a file, is found as what it is.
    pub fn prove(folder: &Path) -> anyhow::Result<()> {
        let scanner = Self::new([PLANTED])?;
        let path = folder.join("planted-leak");
        for (spelling, text) in leaks(PLANTED) {
            let content = [b"before ".as_slice(), &vec![b'x'; CHUNK - 17], &text, b" after"].concat();
            fs::write(&path, content)?;
            let mut found = HashSet::new();
            scanner.folder(folder, &[], &mut found)?;
            fs::remove_file(&path)?;
            anyhow::ensure!(
                found.iter().any(|finding| finding.spelling == spelling),
                "the secret search is blind to {spelling:?}: {}",
                text.escape_ascii()
            );
        }
        Ok(())
    }
}

/// A secret of nobody that needs escaping everywhere.
pub const PLANTED: &str = "Pl4n/ted \"Le&k\" 'n\\t r€@l+";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_planted_secret_is_found_in_every_spelling_even_across_read_boundaries() {
        let folder = tempfile::tempdir().unwrap();
        Scanner::prove(folder.path()).unwrap();
    }

    #[test]
    fn innocent_text_is_not_accused() {
        let scanner = Scanner::new(["S3cret#Example"]).unwrap();
        let mut found = HashSet::new();
        scanner.bytes("log", b"a perfectly innocent line with S3cret but no more", &mut found);
        assert!(found.is_empty());
    }

    #[test]
    fn a_folder_that_cannot_be_searched_is_not_clean() {
        let scanner = Scanner::new(["S3cret#Example"]).unwrap();
        let file = tempfile::NamedTempFile::new().unwrap();
        let below = file.path().join("a file is no folder");
        assert!(scanner.folder(&below, &[], &mut HashSet::new()).is_err());
    }
}
