//! Top keys in Vault: the transit engine wraps private halves and signs public ones; its keys never leave it.
//!
//! Two transit keys for each purpose. `key` (`type=aes256-gcm96 derived=true`) wraps: what a half is bound to goes along as
//! the derivation context, which encrypt, decrypt and rewrap all take (`associated_data` is not known to rewrap), so a half
//! that was moved to another tenant does not decrypt. `signing_key` (`type=ed25519`) signs. The token's policy:
//! `update` on `transit/encrypt|decrypt|rewrap/KEY` and `transit/sign/SIGNING_KEY`, `read` on `transit/keys/` of both.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use arc_swap::ArcSwapOption;
use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use reqwest::Method;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::json;
use zeroize::{Zeroize, Zeroizing};

pub use super::vault_config::{KubernetesConfig, VaultConfig};
use super::{Purpose, SealError, TopId, TopVerifier, top};

/// After a failure nobody asks again for so long: who waits for Vault holds a connection to the database meanwhile.
const REST: Duration = Duration::from_secs(2);
/// Bytes of an answer. Far more than the largest batch that is asked for.
const ANSWER_LIMIT: usize = 4 * 1024 * 1024;

/// A purpose's keys in Vault.
#[derive(Debug)]
pub struct Vault {
    purpose: Purpose,
    config: VaultConfig,
    client: reqwest::Client,
    login: tokio::sync::Mutex<Option<Login>>,
    rests: Mutex<Option<(Instant, String)>>,
    known: ArcSwapOption<Known>,
}

/// What Vault last told of its keys.
#[derive(Debug)]
struct Known {
    versions: Vec<u32>,
    verifier: TopVerifier,
}

struct Login {
    token: Zeroizing<String>,
    until: Instant,
}

impl std::fmt::Debug for Login {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Login(..)")
    }
}

#[derive(Serialize)]
struct Item<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    plaintext: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ciphertext: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    input: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    context: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key_version: Option<u32>,
}

#[derive(Serialize)]
struct Batch<'a> {
    batch_input: Vec<Item<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key_version: Option<u32>,
}

#[derive(Deserialize)]
struct Data<T> {
    data: T,
}

#[derive(Deserialize)]
struct Results {
    batch_results: Vec<Outcome>,
}

#[derive(Deserialize)]
struct Outcome {
    #[serde(default)]
    ciphertext: String,
    #[serde(default)]
    plaintext: String,
    #[serde(default)]
    signature: String,
    #[serde(default)]
    error: String,
}

impl Drop for Outcome {
    fn drop(&mut self) {
        self.plaintext.zeroize();
    }
}

#[derive(Deserialize)]
struct Key {
    latest_version: u32,
    #[serde(default)]
    min_decryption_version: u32,
    #[serde(default)]
    keys: std::collections::BTreeMap<String, serde_json::Value>,
}

#[derive(Deserialize)]
struct Auth {
    auth: Token,
}

#[derive(Deserialize)]
struct Token {
    client_token: String,
    lease_duration: u64,
}

impl Vault {
    /// Prepares the client; Vault is asked for nothing yet.
    pub fn new(purpose: Purpose, config: VaultConfig) -> Result<Self, SealError> {
        let away = |fault: &str| SealError::Away { purpose: purpose.as_str(), fault: fault.to_owned() };
        let mut builder = reqwest::Client::builder()
            .https_only(true)
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never())
            .connect_timeout(Duration::from_secs(config.timeout_seconds))
            .timeout(Duration::from_secs(config.timeout_seconds))
            .no_proxy();
        if let Some(path) = &config.ca_file {
            let pem = std::fs::read(path).map_err(|_| SealError::KeyFile {
                path: path.display().to_string(),
                fault: "cannot be read",
            })?;
            let certificates =
                reqwest::Certificate::from_pem_bundle(&pem).map_err(|_| away("its CA file is no PEM"))?;
            builder = builder.tls_certs_only(certificates);
        }
        let client = builder.build().map_err(|_| away("the HTTP client cannot be built"))?;
        Ok(Self {
            purpose,
            config,
            client,
            login: tokio::sync::Mutex::new(None),
            rests: Mutex::new(None),
            known: ArcSwapOption::empty(),
        })
    }

    /// The versions of the wrapping key that can be unwrapped, as last told.
    pub fn versions(&self) -> Vec<u32> {
        self.known.load().as_ref().map(|known| known.versions.clone()).unwrap_or_default()
    }

    /// The public halves of the signing key, as last told.
    pub fn verifier(&self) -> Option<TopVerifier> {
        self.known.load().as_ref().map(|known| known.verifier.clone())
    }

    /// Asks which versions there are.
    pub async fn refresh(&self) -> Result<(), SealError> {
        let mount = &self.config.mount;
        let wraps: Data<Key> =
            self.ask(Method::GET, &format!("{mount}/keys/{}", self.config.key), None::<&()>).await?;
        let signs: Data<Key> =
            self.ask(Method::GET, &format!("{mount}/keys/{}", self.config.signing_key), None::<&()>).await?;
        let Key { latest_version, min_decryption_version, .. } = wraps.data;
        let mut keys = Vec::new();
        for (version, facts) in &signs.data.keys {
            let key =
                facts.get("public_key").and_then(|key| key.as_str()).and_then(|t| BASE64.decode(t).ok());
            let (Ok(version), Some(key)) = (version.parse(), key) else {
                return Err(self.away("the signing key has no public halves: is it of type ed25519?"));
            };
            keys.push((TopId::Vault(version), key));
        }
        let versions = (min_decryption_version.max(1)..=latest_version).collect();
        let verifier = TopVerifier { purpose: self.purpose, keys };
        self.known.store(Some(Known { versions, verifier }.into()));
        Ok(())
    }

    /// Wraps private halves with this version of the key, each bound to its context.
    pub(super) async fn wrap(
        &self,
        version: u32,
        halves: &[(Vec<u8>, Zeroizing<Vec<u8>>)],
    ) -> Result<Vec<Vec<u8>>, SealError> {
        let plain: Vec<_> = halves.iter().map(|(_, half)| Zeroizing::new(BASE64.encode(half))).collect();
        let items = halves.iter().zip(&plain).map(|((context, _), plain)| Item {
            plaintext: Some(plain),
            context: Some(BASE64.encode(context)),
            key_version: Some(version),
            ..EMPTY
        });
        let results = self.batch("encrypt", &self.config.key, items.collect(), None).await?;
        self.wrapped(version, &results)
    }

    /// Wraps again with this version what Vault wrapped before; the halves do not leave it.
    pub(super) async fn rewrap(
        &self,
        version: u32,
        halves: &[(Vec<u8>, &[u8])],
    ) -> Result<Vec<Vec<u8>>, SealError> {
        let items: Result<Vec<_>, SealError> = halves
            .iter()
            .map(|(context, wrapped)| {
                let context = Some(BASE64.encode(context));
                Ok(Item { ciphertext: Some(text(wrapped)?), context, key_version: Some(version), ..EMPTY })
            })
            .collect();
        let results = self.batch("rewrap", &self.config.key, items?, None).await?;
        self.wrapped(version, &results)
    }

    /// Unwraps a private half.
    pub(super) async fn unwrap(
        &self,
        context: &[u8],
        wrapped: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>, SealError> {
        let context = Some(BASE64.encode(context));
        let item = Item { ciphertext: Some(text(wrapped)?), context, ..EMPTY };
        let results = self.batch("decrypt", &self.config.key, vec![item], None).await?;
        let plain = results.first().map(|r| r.plaintext.as_str()).unwrap_or_default();
        let mut half = Zeroizing::new(vec![0; super::KEY + 3]);
        let length =
            BASE64.decode_slice(plain, &mut half).map_err(|_| self.away("its answer is not base64"))?;
        half.truncate(length);
        Ok(half)
    }

    /// Signs statements.
    pub(super) async fn sign(&self, statements: &[Vec<u8>]) -> Result<Vec<Vec<u8>>, SealError> {
        let inputs: Vec<_> = statements.iter().map(|s| BASE64.encode(s)).collect();
        let items = inputs.iter().map(|input| Item { input: Some(input), ..EMPTY }).collect();
        let version = self.config.signing_version;
        let results = self.batch("sign", &self.config.signing_key, items, Some(version)).await?;
        results
            .iter()
            .map(|result| {
                let text = result.signature.strip_prefix(&format!("vault:v{version}:"));
                text.and_then(|text| BASE64.decode(text).ok())
                    .ok_or_else(|| self.away("it signed with another version than it was asked for"))
            })
            .collect()
    }

    fn wrapped(&self, version: u32, results: &[Outcome]) -> Result<Vec<Vec<u8>>, SealError> {
        let head = format!("vault:v{version}:");
        results
            .iter()
            .map(|result| {
                if !result.ciphertext.starts_with(&head) {
                    return Err(self.away("it wrapped with another version than it was asked for"));
                }
                top::by_vault(&result.ciphertext)
            })
            .collect()
    }

    async fn batch(
        &self,
        verb: &str,
        key: &str,
        items: Vec<Item<'_>>,
        key_version: Option<u32>,
    ) -> Result<Vec<Outcome>, SealError> {
        let count = items.len();
        let path = format!("{}/{verb}/{key}", self.config.mount);
        let body = Batch { batch_input: items, key_version };
        let answer: Data<Results> = self.ask(Method::POST, &path, Some(&body)).await?;
        let results = answer.data.batch_results;
        if results.len() != count {
            return Err(self.away("it answered another number of items than it was asked"));
        }
        // What it says of an item may quote it.
        if results.iter().any(|result| !result.error.is_empty()) {
            return Err(SealError::DoesNotOpen);
        }
        Ok(results)
    }

    /// One call. After one that failed nobody asks for a while.
    async fn ask<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<&impl Serialize>,
    ) -> Result<T, SealError> {
        let rests = || self.rests.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((since, fault)) = &*rests()
            && since.elapsed() < REST
        {
            return Err(self.away(fault));
        }
        let answer = self.call(method, path, body).await;
        *rests() = match &answer {
            Err(SealError::Away { fault, .. }) => Some((Instant::now(), fault.clone())),
            _ => None,
        };
        answer
    }

    async fn call<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<&impl Serialize>,
    ) -> Result<T, SealError> {
        let token = self.token().await?;
        let mut request = self.request(method, path)?.header("X-Vault-Token", sensitive(&token)?);
        if let Some(body) = body {
            let text = serde_json::to_vec(body).map_err(|_| SealError::Crypto)?;
            request = request.header("Content-Type", "application/json").body(text);
        }
        match self.answered(request).await {
            // A login that was revoked is made again next time.
            Err((Some(403), error)) => {
                *self.login.lock().await = None;
                Err(error)
            }
            Err((Some(400), _)) => Err(SealError::DoesNotOpen),
            Err((_, error)) => Err(error),
            Ok(answer) => Ok(answer),
        }
    }

    async fn token(&self) -> Result<Zeroizing<String>, SealError> {
        if let Some(path) = &self.config.token_file {
            return self.file(path).await;
        }
        let Some(kubernetes) = &self.config.kubernetes else {
            return Err(self.away("no way to log in is configured"));
        };
        let mut login = self.login.lock().await;
        if let Some(login) = login.as_ref().filter(|login| Instant::now() < login.until) {
            return Ok(login.token.clone());
        }
        let jwt = self.file(&kubernetes.token_file).await?;
        let body = json!({ "role": kubernetes.role, "jwt": &*jwt }).to_string();
        let path = format!("auth/{}/login", kubernetes.mount);
        let request =
            self.request(Method::POST, &path)?.header("Content-Type", "application/json").body(body);
        let Auth { auth } = self.answered(request).await.map_err(|(_, error)| error)?;
        let token = Zeroizing::new(auth.client_token);
        // Early enough that no call is made with one that has just ended.
        let until = Instant::now() + Duration::from_secs(auth.lease_duration) * 2 / 3;
        *login = Some(Login { token: token.clone(), until });
        Ok(token)
    }

    async fn file(&self, path: &std::path::Path) -> Result<Zeroizing<String>, SealError> {
        let text = tokio::fs::read_to_string(path).await.map(Zeroizing::new);
        let text = text.map_err(|_| self.away(&format!("{} cannot be read", path.display())))?;
        Ok(Zeroizing::new(text.trim().to_owned()))
    }

    fn request(&self, method: Method, path: &str) -> Result<reqwest::RequestBuilder, SealError> {
        let url =
            self.config.address.join(&format!("v1/{path}")).map_err(|_| self.away("its address is none"))?;
        let request = self.client.request(method, url).header("X-Vault-Request", "true");
        Ok(match &self.config.namespace {
            Some(namespace) => request.header("X-Vault-Namespace", namespace),
            None => request,
        })
    }

    async fn answered<T: DeserializeOwned>(
        &self,
        request: reqwest::RequestBuilder,
    ) -> Result<T, (Option<u16>, SealError)> {
        let mut answer = request.send().await.map_err(|error| {
            let fault =
                if error.is_timeout() { "Vault does not answer in time" } else { "Vault is not reached" };
            (None, self.away(fault))
        })?;
        let status = answer.status();
        if !status.is_success() {
            let fault = match status.as_u16() {
                403 => "Vault refuses the token (403)".to_owned(),
                503 => "Vault is sealed (503)".to_owned(),
                other => format!("Vault answered {other}"),
            };
            return Err((Some(status.as_u16()), self.away(&fault)));
        }
        // It may hold a private half: wiped, and of its final size from the beginning where Vault tells it.
        let told = answer.content_length().and_then(|n| usize::try_from(n).ok()).unwrap_or_default();
        let mut body = Zeroizing::new(Vec::with_capacity(told.min(ANSWER_LIMIT)));
        while let Some(chunk) =
            answer.chunk().await.map_err(|_| (None, self.away("Vault's answer broke off")))?
        {
            if body.len() + chunk.len() > ANSWER_LIMIT {
                return Err((None, self.away("Vault's answer is too long")));
            }
            body.extend_from_slice(&chunk);
        }
        serde_json::from_slice(&body)
            .map_err(|_| (None, self.away("Vault's answer is not what was asked for")))
    }

    fn away(&self, fault: &str) -> SealError {
        SealError::Away { purpose: self.purpose.as_str(), fault: fault.to_owned() }
    }
}

const EMPTY: Item<'static> =
    Item { plaintext: None, ciphertext: None, input: None, context: None, key_version: None };

/// Vault's text of a wrapped half: what follows our own first byte.
fn text(wrapped: &[u8]) -> Result<&str, SealError> {
    wrapped.get(1..).and_then(|text| std::str::from_utf8(text).ok()).ok_or(SealError::Malformed)
}

fn sensitive(token: &str) -> Result<http::HeaderValue, SealError> {
    let mut value = http::HeaderValue::from_str(token).map_err(|_| SealError::Crypto)?;
    value.set_sensitive(true);
    Ok(value)
}
