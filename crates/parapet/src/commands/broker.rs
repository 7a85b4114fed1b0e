//! `parapet broker`: what services need of the broker and may not make themselves.

use std::path::PathBuf;

use anyhow::Context as _;
use serde_json::json;
use shared::{
    queue::{BrokerConfig, declare_topology},
    tls::is_this_machine,
};

use super::output;
use crate::cli::Global;

/// Prepare RabbitMQ for the services, which may declare nothing themselves
#[derive(Debug, clap::Subcommand)]
pub enum Broker {
    /// Declare the queues and the exchange for outbound events; what is there stays as it is
    Declare(Declare),
}

/// As whom, and where.
#[derive(Debug, clap::Args)]
pub struct Declare {
    /// Name or address of the broker
    #[arg(long)]
    host: String,
    /// Its port [default: 5671, without TLS 5672]
    #[arg(long)]
    port: Option<u16>,
    /// The virtual host; it must exist
    #[arg(long, default_value = "parapet")]
    vhost: String,
    /// A user that may configure everything in it
    #[arg(long)]
    user: String,
    /// A file with its password
    #[arg(long, value_name = "FILE")]
    password_file: PathBuf,
    /// The authorities that may vouch for the broker (PEM), and no others [default: the system's]
    #[arg(long, value_name = "FILE")]
    ca_file: Option<PathBuf>,
    /// A certificate to show, where the broker asks for one
    #[arg(long, value_name = "FILE", requires = "key_file")]
    cert_file: Option<PathBuf>,
    /// The certificate's key
    #[arg(long, value_name = "FILE", requires = "cert_file")]
    key_file: Option<PathBuf>,
    /// Speak without TLS; to a broker on this machine only
    #[arg(long, conflicts_with_all = ["ca_file", "cert_file"])]
    without_tls: bool,
}

impl Broker {
    /// Runs it.
    pub async fn run(self, global: &Global) -> anyhow::Result<()> {
        let Self::Declare(declare) = self;
        declare_topology(&declare.config()?).await.context(
            "the queues were not declared (one with other arguments has to be emptied and deleted first)",
        )?;
        output::show(global, &json!({ "declared": true }))
    }
}

impl Declare {
    fn config(self) -> anyhow::Result<BrokerConfig> {
        anyhow::ensure!(
            !self.without_tls || is_this_machine(&self.host),
            "--without-tls is for a broker on this machine"
        );
        Ok(BrokerConfig {
            port: self.port.unwrap_or(if self.without_tls { 5672 } else { 5671 }),
            host: self.host,
            vhost: self.vhost,
            user: self.user,
            password_file: self.password_file,
            tls: !self.without_tls,
            ca_file: self.ca_file,
            cert_file: self.cert_file,
            key_file: self.key_file,
            ..BrokerConfig::default()
        })
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(subcommand)]
        broker: Broker,
    }

    fn config(more: &[&str]) -> anyhow::Result<BrokerConfig> {
        let words = [&["parapet", "declare", "--user=admin", "--password-file=/p"], more].concat();
        let Broker::Declare(declare) = Line::try_parse_from(words)?.broker;
        declare.config()
    }

    #[test]
    fn a_broker_on_another_machine_is_prepared_over_tls_only() {
        let config = |more| config(more).map(|c| (c.tls, c.port, c.vhost));
        assert_eq!(config(&["--host=mq"]).unwrap(), (true, 5671, "parapet".to_owned()));
        assert_eq!(
            config(&["--host=127.0.0.1", "--without-tls"]).unwrap(),
            (false, 5672, "parapet".to_owned())
        );
        assert!(config(&["--host=mq", "--without-tls"]).is_err());
    }
}
