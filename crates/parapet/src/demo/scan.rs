//! The search for leaked secrets in what the run left behind, in every spelling a log or a dump may give them.

use std::{
    collections::HashSet,
    fs,
    io::Read,
    path::{Path, PathBuf},
};

use aho_corasick::{AhoCorasick, MatchKind};
use anyhow::Context;
use base64::{
    Engine,
    engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD},
};

/// Finds secrets in files and text.
pub struct Scanner {
    automaton: AhoCorasick,
    longest: usize,
}

/// A place where a secret was found; never the secret itself.
#[derive(Clone, Debug, PartialEq, Eq, Hash, serde::Serialize)]
pub struct Finding {
    /// File, or table.
    pub place: String,
    /// Spelling: `raw`, `url`, `json`, `base64`, `hex` or `decimal`.
    pub spelling: &'static str,
}

const SPELLINGS: usize = 12;

impl Scanner {
    /// Prepares the search for these secrets.
    pub fn new<'a>(secrets: impl IntoIterator<Item = &'a str>) -> anyhow::Result<Self> {
        let patterns: Vec<Vec<u8>> = secrets.into_iter().flat_map(spellings).map(|(_, text)| text).collect();
        let longest = patterns.iter().map(Vec::len).max().unwrap_or(1);
        let automaton = AhoCorasick::builder().match_kind(MatchKind::Standard).build(&patterns)?;
        Ok(Self { automaton, longest })
    }

    /// Searches every file under a folder, following nothing, skipping the named paths.
    pub fn folder(&self, folder: &Path, skip: &[PathBuf]) -> anyhow::Result<HashSet<Finding>> {
        let mut found = HashSet::new();
        let mut waiting = vec![folder.to_owned()];
        while let Some(path) = waiting.pop() {
            if skip.contains(&path) {
                continue;
            }
            let Ok(kind) = fs::symlink_metadata(&path) else { continue }; // servers delete files while we look
            if kind.is_dir() {
                waiting.extend(fs::read_dir(&path)?.filter_map(|entry| Some(entry.ok()?.path())));
            } else if kind.is_file() {
                self.file(&path, &mut found).with_context(|| format!("searching {}", path.display()))?;
            }
        }
        Ok(found)
    }

    fn file(&self, path: &Path, found: &mut HashSet<Finding>) -> anyhow::Result<()> {
        let Ok(mut file) = fs::File::open(path) else { return Ok(()) };
        let mut buffer = vec![0; 1 << 20];
        let mut kept = 0;
        loop {
            let read = file.read(buffer.get_mut(kept..).context("buffer")?)?;
            if read == 0 {
                return Ok(());
            }
            let filled = kept + read;
            self.bytes(&path.display().to_string(), buffer.get(..filled).context("buffer")?, found);
            // A secret may straddle two reads.
            kept = filled.min(self.longest);
            buffer.copy_within(filled - kept..filled, 0);
        }
    }

    /// Searches bytes that are called `place`.
    pub fn bytes(&self, place: &str, haystack: &[u8], found: &mut HashSet<Finding>) {
        for hit in self.automaton.find_overlapping_iter(haystack) {
            let spelling = NAMES.get(hit.pattern().as_usize() % SPELLINGS).copied().unwrap_or("raw");
            found.insert(Finding { place: place.to_owned(), spelling });
        }
    }

    /// Proves that the search finds: one planted secret in every spelling, in a file, is found in every spelling.
    pub fn prove(folder: &Path) -> anyhow::Result<()> {
        let planted = "Pl4nted/\"Le&k\"+n0t-re@l"; // needs escaping in URLs and in JSON
        let scanner = Self::new([planted])?;
        let path = folder.join("planted-leak");
        for (name, text) in spellings(planted) {
            let content = [b"before ".as_slice(), &vec![b'x'; (1 << 20) - 10], &text, b" after"].concat();
            fs::write(&path, content)?;
            let found = scanner.folder(folder, &[])?;
            fs::remove_file(&path)?;
            anyhow::ensure!(!found.is_empty(), "the secret search is blind to the spelling {name}");
        }
        Ok(())
    }
}

const NAMES: [&str; SPELLINGS] =
    ["raw", "url", "url", "json", "base64", "base64", "base64", "base64", "hex", "hex", "decimal", "decimal"];

/// Always [`SPELLINGS`] of them, so that a pattern's index tells its spelling.
fn spellings(secret: &str) -> Vec<(&'static str, Vec<u8>)> {
    let bytes = secret.as_bytes();
    let url: String = url::form_urlencoded::byte_serialize(bytes).collect();
    let percent = url.replace('+', "%20");
    let json = serde_json::Value::from(secret).to_string();
    let json = json.trim_matches('"').to_owned();
    let decimal: Vec<String> = bytes.iter().map(u8::to_string).collect();
    // Base64 depends on the position in the encoded text: encode at three offsets, cut what the neighbours touch.
    let aligned = |lead: usize, skip: usize, url_safe: bool| {
        let text = [&vec![b'\0'; lead], bytes].concat();
        let encoded = if url_safe { URL_SAFE_NO_PAD.encode(&text) } else { STANDARD_NO_PAD.encode(&text) };
        let keep = (lead + bytes.len()) / 3 * 4;
        encoded.get(skip..keep).unwrap_or(&encoded).as_bytes().to_vec()
    };
    let texts = [
        bytes.to_vec(),
        url.into_bytes(),
        percent.into_bytes(),
        json.into_bytes(),
        aligned(0, 0, false),
        aligned(1, 2, false),
        aligned(2, 3, false),
        aligned(0, 0, true),
        hex::encode(bytes).into_bytes(),
        hex::encode_upper(bytes).into_bytes(),
        decimal.join(", ").into_bytes(),
        decimal.join(",").into_bytes(),
    ];
    NAMES.into_iter().zip(texts).collect()
}

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
}
