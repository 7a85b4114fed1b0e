//! `parapet keys`: which keys wrap what, and their rotation.

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use shared::{
    sealing::{Purpose, TopRing},
    wire::v1::{
        self as api, key_service_client::KeyServiceClient, tenant_service_client::TenantServiceClient,
    },
};

use super::{output, tenant};
use crate::{
    cli::Global,
    client, keys,
    servers::{private_dir, write_private},
};

/// Make key files, see which keys wrap what, and rotate them; the latter need the operator's role
#[derive(Debug, clap::Subcommand)]
pub enum Keys {
    /// Make the key files of a new installation; what is there stays as it is
    ///
    /// integration.key and leak.key (top keys), integration.pub and leak.pub (for integration-api), digest.hex (for
    /// credential-validator) and checkpoint.pem (for audit-writer). Whoever loses a top key loses what it protects.
    Make {
        /// The directory they are written to; it is made if need be, and closed to other users
        #[arg(long, value_name = "DIR")]
        dir: PathBuf,
    },
    /// Tell which top keys wrap how many private halves, who has loaded which, and how far rotations are
    Status,
    /// Have another top key wrap every private half, or replace a key pair
    ///
    /// A top key (--top): add a version to the key file (`parapet keys add`, or in Vault), wait until `status` shows it
    /// everywhere, then rotate. A key pair (--tenant NAME|ID --purpose PURPOSE, or --installation): what the old one sealed is
    /// sealed again in the background.
    Rotate {
        /// Rotate the top key of this purpose: integration or leak
        #[arg(long, value_name = "PURPOSE", conflicts_with_all = ["installation", "purpose"])]
        top: Option<String>,
        /// To this key, for example file:2 [default: the highest that everybody has loaded]
        #[arg(long, requires = "top", value_name = "KEY")]
        to: Option<String>,
        /// Rotate the installation's key pair of purpose leak
        #[arg(long)]
        installation: bool,
        /// Rotate the tenant's key pair of this purpose: integration or leak
        #[arg(long, conflicts_with = "installation")]
        purpose: Option<String>,
        /// Wait at most so many seconds until a top key is rotated
        #[arg(long, default_value_t = 0, value_name = "SECONDS")]
        wait: u64,
    },
    /// Add a version to a key file of the local stack, or to the one named, and to the public file beside it
    ///
    /// Of purpose checkpoint: a new key signs the audit log's checkpoints within a second; the public halves of the keys before
    /// it stay in the file, so that what they signed still verifies. Hand it to every audit-writer.
    Add(KeyFile),
    /// Remove a version from a key file, once `status` shows no half that it wraps
    Remove {
        /// Which key file
        #[command(flatten)]
        file: KeyFile,
        /// The version
        #[arg(long)]
        version: u32,
    },
}

/// Which key file.
#[derive(Debug, clap::Args)]
pub struct KeyFile {
    /// The purpose: integration or leak, or checkpoint
    #[arg(long)]
    purpose: String,
    /// The secret file; its public counterpart has the suffix .pub [default: the local stack's]
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
}

/// The purpose of the key that signs the audit log's checkpoints.
const CHECKPOINT: &str = "checkpoint";

const HALVES: [output::Column; 4] =
    [("PURPOSE", "purpose"), ("TOP KEY", "key"), ("HALVES", "count"), ("OLDEST PAIR", "oldest_made_at")];
const HOLDERS: [output::Column; 5] = [
    ("PURPOSE", "purpose"),
    ("SERVICE", "service"),
    ("OPENS", "opens"),
    ("LOADED", "keys"),
    ("LACKS", "lacks"),
];
const ROTATIONS: [output::Column; 7] = [
    ("PURPOSE", "purpose"),
    ("TENANT", "tenant_id"),
    ("VERSION", "version"),
    ("RESEALED", "resealed"),
    ("STARTED", "started_at"),
    ("FINISHED", "finished_at"),
    ("ERROR", "last_error"),
];

impl Keys {
    /// Runs it.
    pub async fn run(self, global: &Global) -> anyhow::Result<()> {
        match self {
            Self::Make { dir } => {
                private_dir(&dir)?;
                let made = keys::prepare(&dir)?;
                output::show(global, &serde_json::json!({"made": made}))
            }
            Self::Status => status(global).await,
            Self::Rotate { top: Some(purpose), to, wait, .. } => {
                let mut client = KeyServiceClient::new(client::connect(global).await?);
                let request =
                    api::RotateTopKeyRequest { purpose: purpose.clone(), key: to.unwrap_or_default() };
                let begun = client.rotate_top_key(request).await?.into_inner();
                if wait > 0 {
                    let deadline = Instant::now() + Duration::from_secs(wait);
                    while !rotated(&mut client, &purpose, &begun.key).await? {
                        if Instant::now() > deadline {
                            bail!(
                                "not every half is wrapped by {} yet; see `parapet keys status`",
                                begun.key
                            );
                        }
                        tokio::time::sleep(Duration::from_millis(100)).await;
                    }
                }
                output::show(global, &output::json("RotateTopKeyResponse", &begun)?)
            }
            Self::Rotate { installation, purpose, .. } => {
                // The tenant is what is rotated, not where the operator acts.
                let api = client::connect(&Global { tenant: None, ..global.clone() }).await?;
                let request = match (&global.tenant, purpose) {
                    _ if installation => api::RotateKeyPairRequest {
                        purpose: Purpose::Leak.as_str().into(),
                        tenant_id: String::new(),
                    },
                    (Some(tenant), Some(purpose)) => {
                        api::RotateKeyPairRequest { purpose, tenant_id: tenant_id(&api, tenant).await? }
                    }
                    _ => bail!(
                        "say what to rotate: --top PURPOSE, --tenant NAME|ID --purpose PURPOSE, or --installation"
                    ),
                };
                KeyServiceClient::new(api).rotate_key_pair(request).await?;
                output::show(global, &serde_json::json!({"requested": true}))
            }
            Self::Add(KeyFile { purpose, file }) if purpose == CHECKPOINT => {
                let file = file.map_or_else(|| Ok(keys::checkpoint_key(&global.data()?)), anyhow::Ok)?;
                let key = keys::rotate_checkpoint_key(&file)?;
                output::show(global, &serde_json::json!({"key": hex::encode(key)}))
            }
            Self::Remove { file: KeyFile { purpose, .. }, .. } if purpose == CHECKPOINT => {
                bail!(
                    "the public half of a key that signed checkpoints stays: without it they would not verify"
                )
            }
            Self::Add(file) => file.edit(global, |ring| {
                let version = ring.add()?;
                Ok(serde_json::json!({"key": format!("file:{version}")}))
            }),
            Self::Remove { file, version } => file.edit(global, |ring| {
                if !ring.remove(version) {
                    bail!("version {version} is not there, or the only one");
                }
                Ok(serde_json::json!({"removed": format!("file:{version}")}))
            }),
        }
    }
}

impl KeyFile {
    fn edit(
        self,
        global: &Global,
        change: impl FnOnce(&mut TopRing) -> anyhow::Result<serde_json::Value>,
    ) -> anyhow::Result<()> {
        let purpose = [Purpose::Integration, Purpose::Leak].into_iter().find(|p| p.as_str() == self.purpose);
        let purpose = purpose.context("the purpose is integration, leak or checkpoint")?;
        let file = match self.file {
            Some(file) => file,
            None => keys::top_key(&global.data()?, purpose),
        };
        let mut ring = TopRing::load(&file)?;
        if ring.purpose() != purpose {
            bail!("{} is of purpose {}", file.display(), ring.purpose().as_str());
        }
        let told = change(&mut ring)?;
        // The public one first: nothing is signed by a key that those who seal do not know.
        write_private(&file.with_extension("pub"), ring.verifier().to_file()?.as_bytes())?;
        write_private(&file, ring.to_file()?.as_bytes())?;
        output::show(global, &told)
    }
}

/// The id of the tenant with this id or name.
async fn tenant_id(api: &client::Api, named: &str) -> anyhow::Result<String> {
    if named.parse::<uuid::Uuid>().is_ok() {
        return Ok(named.to_owned());
    }
    Ok(tenant::named(&mut TenantServiceClient::new(api.clone()), named).await?.id)
}

async fn rotated(
    client: &mut KeyServiceClient<client::Api>,
    purpose: &str,
    key: &str,
) -> anyhow::Result<bool> {
    let status = client.get_key_status(api::GetKeyStatusRequest {}).await?.into_inner();
    let found = status.purposes.into_iter().find(|p| p.purpose == purpose);
    Ok(found.is_some_and(|p| p.wanted == key && p.finished_at.is_some()))
}

async fn status(global: &Global) -> anyhow::Result<()> {
    let mut client = KeyServiceClient::new(client::connect(global).await?);
    let status = client.get_key_status(api::GetKeyStatusRequest {}).await?.into_inner();
    if global.json {
        return output::show(global, &output::json("GetKeyStatusResponse", &status)?);
    }
    let (mut halves, mut holders, mut rotations) = (Vec::new(), Vec::new(), Vec::new());
    for purpose in &status.purposes {
        let named = |mut rows: Vec<serde_json::Value>| {
            for row in &mut rows {
                if let Some(fields) = row.as_object_mut() {
                    fields.insert("purpose".into(), purpose.purpose.clone().into());
                }
            }
            rows
        };
        halves.extend(named(output::rows("WrappedHalves", &purpose.halves)?));
        holders.extend(named(output::rows("KeyHolder", &purpose.holders)?));
        rotations.extend(named(output::rows("KeyPairRotation", &purpose.rotations)?));
        if !purpose.wanted.is_empty() {
            let state = if purpose.finished_at.is_some() { "wraps every half" } else { "is taking over" };
            println!(
                "{}: {} {state}; {} halves wrapped again",
                purpose.purpose, purpose.wanted, purpose.rewrapped
            );
        }
    }
    output::list(global, &HALVES, &halves, "no key pairs yet")?;
    println!();
    output::list(global, &HOLDERS, &holders, "no process has told of its keys")?;
    println!();
    output::list(global, &ROTATIONS, &rotations, "no key pair was rotated yet")
}
