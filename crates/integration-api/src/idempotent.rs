//! Requests that may be sent twice and happen once.

use std::future::Future;

use aws_lc_rs::digest;
use prost::Message;
use shared::{
    db::{Db, Tx},
    id::TenantId,
};

use crate::{
    error::ApiError,
    store::idempotency::{self, Begun},
};

/// SHA-256 of a request. Secrets must have been taken out: a digest of a password could be guessed from.
pub fn fingerprint(request: &impl Message) -> Vec<u8> {
    digest::digest(&digest::SHA256, &request.encode_to_vec()).as_ref().to_vec()
}

/// A key a caller may choose.
pub fn check_key(key: &str) -> Result<(), ApiError> {
    if key.is_empty() || key.len() > 128 || key.chars().any(char::is_control) {
        return Err(ApiError::field(
            "idempotency_key",
            "choose 1 to 128 characters, new for each request and the same when you repeat it",
        ));
    }
    Ok(())
}

/// Does the work of a request in one transaction with the memory of its answer, or returns the remembered answer;
/// the flag says whether the work was done now.
pub async fn once<R, W, F>(
    db: &Db,
    tenant: TenantId,
    method: &'static str,
    key: &str,
    fingerprint: &[u8],
    work: W,
) -> Result<(R, bool), ApiError>
where
    R: Message + Default,
    W: FnOnce(Tx) -> F,
    F: Future<Output = Result<(Tx, R), ApiError>>,
{
    check_key(key)?;
    let mut tx = db.tenant(tenant).await?;
    match idempotency::begin(&mut tx, tenant, method, key, fingerprint).await? {
        Begun::First => {
            let (mut tx, answer) = work(tx).await?;
            idempotency::finish(&mut tx, tenant, method, key, &answer.encode_to_vec()).await?;
            tx.commit().await?;
            Ok((answer, true))
        }
        Begun::Answered(bytes) => {
            tx.rollback().await?;
            let answer = R::decode(bytes.as_slice())
                .map_err(|_| ApiError::Internal("a remembered answer is damaged"))?;
            Ok((answer, false))
        }
        Begun::Taken => {
            tx.rollback().await?;
            Err(ApiError::Exists {
                reason: "IDEMPOTENCY_KEY_REUSED",
                message: "this idempotency key was used for another request".into(),
            })
        }
    }
}
