//! RabbitMQ's management interface: a virtual host in milliseconds, where the command-line tool takes half a second.

use std::time::Duration;

use anyhow::{Context as _, bail};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

/// What a user may do in a virtual host: three regular expressions over names of queues and exchanges.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Permissions {
    /// What it may declare and delete.
    pub configure: String,
    /// Where it may publish.
    pub write: String,
    /// What it may consume.
    pub read: String,
}

impl Permissions {
    /// Everything.
    pub fn all() -> Self {
        Self { configure: ".*".into(), write: ".*".into(), read: ".*".into() }
    }
}

#[derive(Debug)]
pub(super) struct Admin {
    http: reqwest::Client,
    base: String,
    user: String,
    password: String,
}

impl Admin {
    pub(super) fn new(port: u16, user: &str, password: &str) -> anyhow::Result<Self> {
        let http = reqwest::Client::builder()
            .timeout(Duration::from_secs(20))
            .no_proxy()
            // Each test has a runtime of its own, and a kept connection would die with the one that made it.
            .pool_max_idle_per_host(0)
            // Plain HTTP on the loopback interface: a machine without a CA file must do.
            .tls_certs_only([])
            .build()
            .context("cannot build the management client")?;
        Ok(Self {
            http,
            base: format!("http://127.0.0.1:{port}/api"),
            user: user.to_owned(),
            password: password.to_owned(),
        })
    }

    pub(super) async fn answers(&self) -> bool {
        self.call(Method::GET, "whoami", None).await.is_ok()
    }

    pub(super) async fn create_vhost(&self, name: &str) -> anyhow::Result<()> {
        self.call(Method::PUT, &format!("vhosts/{}", encoded(name)), Some(json!({}))).await
    }

    pub(super) async fn delete_vhost(&self, name: &str) -> anyhow::Result<()> {
        self.call(Method::DELETE, &format!("vhosts/{}", encoded(name)), None).await
    }

    pub(super) async fn create_user(&self, name: &str, password: &str) -> anyhow::Result<()> {
        let body = json!({ "password": password, "tags": "" });
        self.call(Method::PUT, &format!("users/{}", encoded(name)), Some(body)).await
    }

    pub(super) async fn permit(
        &self,
        vhost: &str,
        user: &str,
        permissions: &Permissions,
    ) -> anyhow::Result<()> {
        let Permissions { configure, write, read } = permissions;
        let body = json!({ "configure": configure, "write": write, "read": read });
        self.call(Method::PUT, &format!("permissions/{}/{}", encoded(vhost), encoded(user)), Some(body)).await
    }

    async fn call(&self, method: Method, path: &str, body: Option<Value>) -> anyhow::Result<()> {
        let mut request = self
            .http
            .request(method.clone(), format!("{}/{path}", self.base))
            .basic_auth(&self.user, Some(&self.password));
        if let Some(body) = body {
            request = request.json(&body);
        }
        let status =
            request.send().await.context("RabbitMQ's management interface does not answer")?.status();
        // Deleting what is not there is what was asked for.
        if status.is_success() || (method == Method::DELETE && status == StatusCode::NOT_FOUND) {
            return Ok(());
        }
        bail!("RabbitMQ's management interface answered {status} to {method} {path}")
    }
}

/// Percent-encodes a name for one segment of a path.
pub(super) fn encoded(name: &str) -> String {
    name.bytes()
        .map(|b| match b {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' => char::from(b).to_string(),
            _ => format!("%{b:02X}"),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_virtual_host_is_one_segment() {
        assert_eq!(encoded("/"), "%2F");
        assert_eq!(encoded("parapet-1_a.b"), "parapet-1_a.b");
    }
}
