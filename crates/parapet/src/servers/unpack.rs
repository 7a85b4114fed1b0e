//! RabbitMQ for an ordinary user: Debian's packages, downloaded with apt and unpacked into the user's cache.
//!
//! Nothing is installed, no service is started, and nothing outside that directory is touched.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, bail};

use super::private_dir;

/// Where the packages are unpacked.
pub(super) fn root() -> Option<PathBuf> {
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from).filter(|dir| dir.is_absolute());
    let cache = cache.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache")))?;
    Some(cache.join("parapet/rabbitmq"))
}

/// The directory of the unpacked broker's programs.
pub(super) fn broker_bin() -> Option<PathBuf> {
    let versions = std::fs::read_dir(root()?.join("usr/lib/rabbitmq/lib")).ok()?;
    versions.flatten().map(|entry| entry.path().join("sbin")).find(|dir| dir.is_dir())
}

/// The directory of the unpacked Erlang's programs, which the broker finds by its search path.
pub(super) fn erlang_bin() -> Option<PathBuf> {
    root().map(|root| root.join("usr/lib/erlang/bin")).filter(|dir| dir.is_dir())
}

/// Downloads and unpacks. Interrupted, it leaves nothing that the next start would take for complete.
pub(super) fn unpack() -> anyhow::Result<()> {
    let root = root().context("neither HOME nor XDG_CACHE_HOME is set")?;
    let fresh = root.with_extension("new");
    std::fs::remove_dir_all(&fresh).ok();
    private_dir(&fresh)?;
    let packages = packages()?;
    run(Command::new("apt-get").args(["-q", "download"]).args(&packages).current_dir(&fresh))?;
    let archives: Vec<PathBuf> = std::fs::read_dir(&fresh)?
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "deb"))
        .collect();
    for archive in archives {
        run(Command::new("dpkg-deb").arg("-x").arg(&archive).arg(&fresh))?;
        std::fs::remove_file(&archive)?;
    }
    // Erlang's start script carries the directory it was installed to.
    let erl = fresh.join("usr/lib/erlang/bin/erl");
    let script = std::fs::read_to_string(&erl).context("the packages hold no Erlang")?;
    std::fs::write(&erl, at(&script, &root.join("usr/lib/erlang")))?;
    std::fs::remove_dir_all(&root).ok();
    std::fs::rename(&fresh, &root).with_context(|| format!("cannot move the broker to {}", root.display()))
}

fn at(script: &str, directory: &Path) -> String {
    // It sets the directory in several branches.
    let line = |line: &str| {
        let text = line.trim_start();
        if text.starts_with("ROOTDIR=") {
            let indent = line.strip_suffix(text).unwrap_or_default();
            format!("{indent}ROOTDIR=\"{}\"\n", directory.display())
        } else {
            format!("{line}\n")
        }
    };
    script.lines().map(line).collect()
}

/// The broker and the parts of Erlang it depends on; every other dependency belongs to a base system.
fn packages() -> anyhow::Result<Vec<String>> {
    let only = ["recommends", "suggests", "conflicts", "breaks", "replaces", "enhances"]
        .map(|no| format!("--no-{no}"));
    let listed = Command::new("apt-cache")
        .args(["depends", "--recurse"])
        .args(only)
        .arg("rabbitmq-server")
        .stdin(Stdio::null())
        .output()
        .context("cannot run apt-cache")?;
    let names: Vec<String> = String::from_utf8_lossy(&listed.stdout)
        .lines()
        .filter(|line| *line == "rabbitmq-server" || line.starts_with("erlang-"))
        .map(str::to_owned)
        .collect();
    if names.len() < 2 {
        bail!("apt knows no package rabbitmq-server; `apt-get update` as root may help");
    }
    Ok(names)
}

fn run(command: &mut Command) -> anyhow::Result<()> {
    let done = command.stdin(Stdio::null()).output().with_context(|| format!("cannot run {command:?}"))?;
    if !done.status.success() {
        bail!("{}: {}", command.get_program().display(), String::from_utf8_lossy(&done.stderr).trim());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn erlangs_start_script_learns_its_new_directory() {
        let script = "if true\n    ROOTDIR=/usr/lib/erlang\nfi\nBINDIR=$ROOTDIR/bin\n";
        let moved = at(script, Path::new("/home/a b/erlang"));
        assert_eq!(moved, "if true\n    ROOTDIR=\"/home/a b/erlang\"\nfi\nBINDIR=$ROOTDIR/bin\n");
    }
}
