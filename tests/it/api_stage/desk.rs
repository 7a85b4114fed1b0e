//! A person at the command line.

use std::{ffi::OsStr, path::PathBuf, process::Stdio};

use tokio::process::Command;

/// One person's machine: the program `parapet`, a token, and the files that lie there.
pub struct Desk {
    pub dir: tempfile::TempDir,
    /// Where the API is found from there.
    pub port: u16,
}

impl Desk {
    /// Writes a file and returns its path.
    pub fn file(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.dir.path().join(name);
        std::fs::write(&path, content).unwrap();
        path
    }

    /// What is typed.
    pub fn command<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Command {
        let mut command = Command::new(e2e::program("parapet"));
        command
            .args(["--api".into(), format!("http://127.0.0.1:{}", self.port)])
            .arg("--data-dir")
            .arg(self.dir.path().join("data"))
            .args(arguments)
            .env("PARAPET_TOKEN_FILE", self.dir.path().join("token"))
            .env_remove("PARAPET_TENANT")
            .stdin(Stdio::null())
            .kill_on_drop(true);
        command
    }

    /// Types it and returns what it printed.
    pub async fn types(&self, line: &str) -> String {
        let output = self.command(line.split_whitespace()).output().await.unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "parapet {line}: {}\n{said}", output.status);
        String::from_utf8(output.stdout).unwrap()
    }

    /// Types it with `--json` and reads what it printed.
    pub async fn asks(&self, line: &str) -> serde_json::Value {
        serde_json::from_str(&self.types(&format!("--json {line}")).await).unwrap()
    }

    /// Types what must fail, and returns the exit code and the complaint.
    pub async fn fails(&self, line: &str) -> (i32, String) {
        let output = self.command(line.split_whitespace()).output().await.unwrap();
        (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
    }
}
