//! `parapet feed`

use std::{
    fs::File,
    io::{self, BufWriter, Write as _},
    path::PathBuf,
};

use anyhow::Context as _;
use clap::Subcommand;
use indicatif::{ProgressBar, ProgressStyle};

use super::output::{self, Column};
use crate::{
    cli::Global,
    client,
    feed::upload::{self, EntryOutcome, ImportKey, Observer, Options, Summary},
};

/// `parapet feed`
#[derive(Debug, Subcommand)]
pub enum Feed {
    /// Import leaked credentials from files of Flare, SpyCloud, Recorded Future, Hudson Rock, HIBP, or text lists
    ///
    /// The feed is recognised by what a file contains: JSON arrays, NDJSON, single objects, the envelopes of the
    /// vendors' APIs, or lines of `url:login:password` and `login:password`. Importing a file again changes nothing,
    /// and an interrupted import goes on where it was.
    Import {
        /// The files
        #[arg(required = true)]
        files: Vec<PathBuf>,
        /// The domain of an HIBP domain search, which gives only the part before the @
        #[arg(long)]
        domain: Option<String>,
        /// The feed belongs to the installation and is matched against every tenant (needs the operator role)
        #[arg(long)]
        installation: bool,
        /// Write what became of every record to this file, one JSON object per line
        #[arg(long, value_name = "FILE")]
        outcomes: Option<PathBuf>,
    },
}

/// Rejected records that are shown at once; all are counted and, if asked for, written to the file of outcomes.
const SHOWN: u64 = 20;

struct Progress {
    bar: ProgressBar,
    outcomes: Option<BufWriter<File>>,
    rejected: u64,
    quiet: bool,
    file: String,
}

impl Observer for Progress {
    fn read(&mut self, bytes: u64) {
        self.bar.set_position(bytes);
    }

    fn settled(&mut self, entry: &EntryOutcome) -> io::Result<()> {
        if let Some(out) = &mut self.outcomes {
            serde_json::to_writer(&mut *out, entry)?;
            out.write_all(b"\n")?;
        }
        if entry.outcome == "rejected" {
            self.rejected += 1;
            if !self.quiet && self.rejected <= SHOWN {
                let message = if entry.message.is_empty() { &entry.reason } else { &entry.message };
                self.bar.suspend(|| eprintln!("{}:{}: {}", self.file, entry.line, message));
            }
            if !self.quiet && self.rejected == SHOWN + 1 {
                self.bar.suspend(|| {
                    eprintln!("further rejected records are only counted; --outcomes FILE lists all");
                });
            }
        }
        Ok(())
    }
}

impl Feed {
    /// Does it.
    pub async fn run(self, global: &Global) -> anyhow::Result<()> {
        let Self::Import { files, domain, installation, outcomes } = self;
        let key = ImportKey::load_or_create(&global.data()?.secret("feed-import.key"))?;
        let options = Options { domain, installation };
        let mut outcomes = match outcomes {
            Some(file) => {
                let created =
                    File::create(&file).with_context(|| format!("cannot write {}", file.display()))?;
                Some(BufWriter::new(created))
            }
            None => None,
        };
        let mut summaries = Vec::new();
        let mut failed = 0_usize;
        for file in &files {
            // A file that is not there is told by the import itself.
            let size = std::fs::metadata(file).map_or(0, |meta| meta.len());
            let bar = if global.json { ProgressBar::hidden() } else { ProgressBar::new(size) };
            bar.set_style(ProgressStyle::with_template(
                "{msg} {bar:30} {bytes}/{total_bytes} {bytes_per_sec} {eta}",
            )?);
            bar.set_message(file.display().to_string());
            let mut progress = Progress {
                bar: bar.clone(),
                outcomes: outcomes.take(),
                rejected: 0,
                quiet: global.json,
                file: file.display().to_string(),
            };
            let imported =
                upload::import(file, &options, &key, || client::connect(global), &mut progress).await;
            bar.finish_and_clear();
            outcomes = progress.outcomes;
            if let Some(out) = &mut outcomes {
                out.flush().context("cannot write the outcomes")?;
            }
            match imported {
                Ok(summary) => summaries.push(summary),
                // The files before and after it are not lost by one that cannot be read.
                Err(error) => {
                    failed += 1;
                    eprintln!("{}: {error:#}", file.display());
                }
            }
        }
        if global.json {
            let sum = |count: fn(&Summary) -> u64| summaries.iter().map(count).sum::<u64>();
            let total = serde_json::json!({
                "records": sum(|s| s.records),
                "accepted": sum(|s| s.accepted),
                "duplicates": sum(|s| s.duplicates),
                "rejected": sum(|s| s.rejected),
                "files": summaries,
            });
            println!("{total}");
        } else if !summaries.is_empty() {
            shown(global, &summaries)?;
        }
        anyhow::ensure!(failed == 0, "{failed} of {} files did not come in", files.len());
        Ok(())
    }
}

const COLUMNS: [Column; 7] = [
    ("FILE", "file"),
    ("FORMAT", "format"),
    ("RECORDS", "records"),
    ("ACCEPTED", "accepted"),
    ("DUPLICATE", "duplicates"),
    ("REJECTED", "rejected"),
    ("FEEDS", "feeds"),
];

fn shown(global: &Global, summaries: &[Summary]) -> anyhow::Result<()> {
    let mut rows = Vec::new();
    for summary in summaries {
        let mut row = serde_json::to_value(summary)?;
        if let Some(fields) = row.as_object_mut() {
            let feeds: Vec<_> = summary.by_feed.keys().copied().collect();
            fields.insert("feeds".to_owned(), feeds.join(", ").into());
        }
        rows.push(row);
    }
    output::list(global, &COLUMNS, &rows, "no files")?;
    for s in summaries {
        let file = s.file.display();
        for (reason, count) in &s.rejected_by_reason {
            println!("{file}: {count} rejected: {reason}");
        }
        if s.repeated_batches > 0 {
            println!(
                "{file}: {} batches were handed in before; their answers were remembered",
                s.repeated_batches
            );
        }
        if s.cookies_left_out > 0 {
            println!(
                "{file}: {} cookies belong to no credential of their log and were left out",
                s.cookies_left_out
            );
        }
        if s.incomplete_export {
            eprintln!("{file}: the export names a further page: it is not complete");
        }
    }
    Ok(())
}
