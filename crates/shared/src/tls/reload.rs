//! Something made from files, and made anew when they change.

use std::{path::PathBuf, sync::Arc, time::Duration};

use anyhow::Context as _;
use aws_lc_rs::digest::{Context as Digest, SHA256};
use tokio::sync::watch;
use zeroize::Zeroizing;

/// How often files are looked at. A change counts once it was seen twice: whoever replaces certificate and key one
/// after the other is waited for.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// What a file holds.
pub type Contents = Zeroizing<Vec<u8>>;

/// Something made from files. They are looked at every second, by content: a swapped link, as Kubernetes does it, is a
/// change like any.
///
/// INVARIANT: what cannot be used changes nothing; it is logged and counted, and what was there before stays.
#[derive(Debug)]
pub struct Reloaded<T>(watch::Receiver<Arc<T>>);

impl<T> Clone for Reloaded<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T: Send + Sync + 'static> Reloaded<T> {
    /// Makes the first one, or fails, and looks at the files for as long as somebody holds this.
    pub async fn start(
        name: &'static str,
        files: Vec<PathBuf>,
        make: impl Fn(&[Contents]) -> anyhow::Result<T> + Send + 'static,
    ) -> anyhow::Result<Self> {
        let contents = read(&files).await?;
        let (sender, receiver) = watch::channel(Arc::new(make(&contents)?));
        if !files.is_empty() {
            tokio::spawn(look(name, files, fingerprint(Ok(&contents)), make, sender));
        }
        Ok(Self(receiver))
    }

    /// What the files make now.
    pub fn current(&self) -> Arc<T> {
        Arc::clone(&self.0.borrow())
    }

    /// Waits for a change. None: there will be none.
    pub async fn changed(&mut self) -> Option<Arc<T>> {
        self.0.changed().await.ok()?;
        Some(Arc::clone(&self.0.borrow_and_update()))
    }
}

async fn look<T>(
    name: &'static str,
    files: Vec<PathBuf>,
    mut known: [u8; 32],
    make: impl Fn(&[Contents]) -> anyhow::Result<T>,
    sender: watch::Sender<Arc<T>>,
) {
    let mut last = known;
    loop {
        tokio::select! {
            () = sender.closed() => return,
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
        let contents = read(&files).await;
        let print = fingerprint(contents.as_deref().map_err(ToString::to_string));
        let settled = std::mem::replace(&mut last, print) == print;
        if !settled || print == known {
            continue;
        }
        known = print;
        let outcome = match contents.and_then(|contents| make(&contents)) {
            Ok(made) => {
                sender.send_replace(Arc::new(made));
                tracing::info!(certificate = name, "files have changed and are in use");
                "taken"
            }
            Err(error) => {
                let error = format!("{error:#}");
                tracing::error!(certificate = name, error, "changed files cannot be used; the old ones are");
                "refused"
            }
        };
        metrics::counter!("parapet_certificate_reloads_total", "certificate" => name, "outcome" => outcome)
            .increment(1);
    }
}

/// Reads all.
pub(super) async fn read(files: &[PathBuf]) -> anyhow::Result<Vec<Contents>> {
    let mut all = Vec::with_capacity(files.len());
    for file in files {
        let read = tokio::fs::read(file).await.with_context(|| format!("cannot read {}", file.display()))?;
        all.push(Zeroizing::new(read));
    }
    Ok(all)
}

/// Tells contents apart without keeping them: keys are among them.
fn fingerprint(contents: Result<&[Contents], String>) -> [u8; 32] {
    let mut digest = Digest::new(&SHA256);
    match contents {
        Ok(contents) => contents.iter().for_each(|file| {
            digest.update(&(file.len() as u64).to_be_bytes());
            digest.update(file);
        }),
        Err(error) => digest.update(error.as_bytes()),
    }
    let mut print = [0; 32];
    print.copy_from_slice(digest.finish().as_ref());
    print
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(contents: &[Contents]) -> anyhow::Result<String> {
        let text = contents.iter().map(|file| std::str::from_utf8(file)).collect::<Result<String, _>>()?;
        anyhow::ensure!(!text.contains("bad"), "bad");
        Ok(text)
    }

    #[tokio::test]
    async fn a_swapped_link_is_taken_and_what_cannot_be_used_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        for (version, content) in [("1", "one"), ("2", "bad"), ("3", "three")] {
            std::fs::create_dir(at(version)).unwrap();
            std::fs::write(at(version).join("tls.crt"), content).unwrap();
        }
        // As Kubernetes mounts a secret: the name is a link through `..data`, which is swapped.
        let swap = |version: &str| {
            std::os::unix::fs::symlink(version, at("..new")).unwrap();
            std::fs::rename(at("..new"), at("..data")).unwrap();
        };
        swap("1");
        std::os::unix::fs::symlink("..data/tls.crt", at("tls.crt")).unwrap();
        let mut made = Reloaded::start("test", vec![at("tls.crt")], text).await.unwrap();
        assert_eq!(*made.current(), "one");
        swap("2");
        assert!(tokio::time::timeout(LOOK_EVERY * 4, made.changed()).await.is_err());
        assert_eq!(*made.current(), "one");
        swap("3");
        let changed = tokio::time::timeout(LOOK_EVERY * 20, made.changed()).await.unwrap().unwrap();
        assert_eq!(*changed, "three");
    }

    #[tokio::test]
    async fn files_that_cannot_be_used_at_the_start_are_an_error() {
        let missing = Reloaded::start("test", vec!["/nowhere/at/all".into()], text).await.unwrap_err();
        assert!(format!("{missing:#}").contains("/nowhere/at/all"), "{missing:#}");
    }
}
