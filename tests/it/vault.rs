//! Top keys in Vault, against a stand-in that is as strict as its documentation.

use std::time::Duration;

use e2e::{until, vault::Vault};
use serde_json::{Value, json};
use shared::{
    id::TenantId,
    sealing::{
        KeySourceConfig, Owner, Purpose, SealError, StoredKeyPair, TopId, TopKey, TopKeys, source::Half,
    },
};
use uuid::Uuid;

async fn keys(config: Value) -> TopKeys {
    let config: KeySourceConfig = serde_json::from_value(json!({ "vault": config })).unwrap();
    TopKeys::open(&config, Purpose::Leak).await.unwrap()
}

/// What was sealed to the public half opens with the private one, as these keys unwrap it.
async fn opens(keys: &TopKeys, tenant: TenantId, pair: &StoredKeyPair) -> Result<(), SealError> {
    let owner = Owner { tenant: Some(tenant), table: "x.y", row: Uuid::nil(), version: 1 };
    let sealed = keys.sealer(Some(tenant), 1, &pair.public, &pair.signature)?.seal(&owner, b"hunter2")?;
    let opened = keys.opener(Some(tenant), 1, pair).await?.open(&owner, &sealed)?;
    assert_eq!(opened.as_slice(), b"hunter2");
    Ok(())
}

#[tokio::test]
async fn a_half_that_vault_wrapped_opens_for_its_tenant_and_for_nobody_else() {
    let vault = Vault::start().await;
    let keys = keys(vault.config()).await;
    let tenant = TenantId::new();
    let pair = keys.new_key_pair(Some(tenant), 1).await.unwrap();
    assert_eq!(TopId::of(&pair.wrapped_private).unwrap(), TopId::Vault(1));
    opens(&keys, tenant, &pair).await.unwrap();
    for (other, version) in [(Some(TenantId::new()), 1), (None, 1), (Some(tenant), 2)] {
        let moved = keys.opener(other, version, &pair).await;
        assert!(matches!(moved, Err(SealError::DoesNotOpen)), "{moved:?}");
    }
}

#[tokio::test]
async fn a_token_that_is_not_accepted_opens_nothing_and_a_renewed_one_is_read_from_its_file() {
    let vault = Vault::start().await;
    let keys = keys(vault.config()).await.kept_for(Duration::ZERO);
    let tenant = TenantId::new();
    let pair = keys.new_key_pair(Some(tenant), 1).await.unwrap();
    vault.accept_only("hvs.second");
    let refused = opens(&keys, tenant, &pair).await.unwrap_err().to_string();
    assert!(refused.contains("403") && !refused.contains("hvs."), "{refused}");
    e2e::vault::write_token(&vault.token_file(), "hvs.second");
    until("the renewed token counts", async || opens(&keys, tenant, &pair).await.is_ok()).await;
}

#[tokio::test]
async fn an_answer_that_does_not_end_is_not_read_to_its_end() {
    let vault = Vault::start().await;
    let keys = keys(vault.config()).await.kept_for(Duration::ZERO);
    let tenant = TenantId::new();
    let pair = keys.new_key_pair(Some(tenant), 1).await.unwrap();
    vault.endless(true);
    let refused = opens(&keys, tenant, &pair).await.unwrap_err().to_string();
    assert!(refused.contains("too long"), "{refused}");
    vault.endless(false);
    until("Vault is asked again", async || opens(&keys, tenant, &pair).await.is_ok()).await;
}

#[tokio::test]
async fn a_pod_logs_in_once_and_again_when_its_login_ends() {
    let vault = Vault::start().await;
    let keys = keys(vault.kubernetes_config()).await.kept_for(Duration::ZERO);
    let tenant = TenantId::new();
    let pair = keys.new_key_pair(Some(tenant), 1).await.unwrap();
    opens(&keys, tenant, &pair).await.unwrap();
    assert_eq!(vault.calls("login"), 1);
    vault.end_logins();
    assert!(opens(&keys, tenant, &pair).await.is_err());
    until("it logs in again", async || opens(&keys, tenant, &pair).await.is_ok()).await;
    assert_eq!(vault.calls("login"), 2);
}

#[tokio::test]
async fn a_new_version_wraps_every_half_again_without_one_leaving_vault() {
    let vault = Vault::start().await;
    let keys = keys(vault.config()).await;
    let mut halves = Vec::new();
    for _ in 0..20 {
        let tenant = Some(TenantId::new());
        halves.push(Half { tenant, version: 1, pair: keys.new_key_pair(tenant, 1).await.unwrap() });
    }
    vault.rotate();
    keys.refresh().await.unwrap();
    assert_eq!(keys.loaded(), [TopId::Vault(1), TopId::Vault(2)]);
    let again = keys.rewrap(TopId::Vault(2), &halves).await.unwrap();
    assert_eq!((vault.calls("rewrap"), vault.calls("decrypt")), (1, 0));
    for (half, pair) in halves.iter().zip(&again) {
        assert_eq!(TopId::of(&pair.wrapped_private).unwrap(), TopId::Vault(2));
        opens(&keys, half.tenant.unwrap(), pair).await.unwrap();
    }
}

#[tokio::test]
async fn halves_move_from_a_file_to_vault_while_both_are_there() {
    let vault = Vault::start().await;
    let dir = tempfile::tempdir().unwrap();
    let (file, tenant) = (dir.path().join("leak.key"), TenantId::new());
    let key = TopKey::generate(Purpose::Leak).unwrap();
    std::fs::write(&file, key.to_file().unwrap().as_bytes()).unwrap();
    let pair = key.new_key_pair(Some(tenant), 1).unwrap();
    let both = json!({ "file": file, "vault": vault.config() });
    let both = TopKeys::open(&serde_json::from_value(both).unwrap(), Purpose::Leak).await.unwrap();
    assert_eq!(both.current().unwrap(), TopId::File(1));
    let half = Half { tenant: Some(tenant), version: 1, pair };
    let moved = both.rewrap(TopId::Vault(1), &[half]).await.unwrap().remove(0);
    // Vault alone is enough from here on.
    opens(&keys(vault.config()).await, tenant, &moved).await.unwrap();
}

#[tokio::test]
async fn while_vault_is_away_what_was_unwrapped_serves_for_a_time_then_nothing_opens_and_sealing_goes_on() {
    let vault = Vault::start().await;
    let kept = Duration::from_millis(1500);
    let keys = keys(vault.config()).await.kept_for(kept);
    let tenant = TenantId::new();
    let pair = keys.new_key_pair(Some(tenant), 1).await.unwrap();
    let before = std::time::Instant::now();
    opens(&keys, tenant, &pair).await.unwrap();
    vault.away(true);
    while before.elapsed() < kept / 2 {
        opens(&keys, tenant, &pair).await.unwrap();
    }
    until("its time is over", async || keys.kept(Some(tenant), 1).is_none()).await;
    assert!(before.elapsed() >= kept);
    let closed = opens(&keys, tenant, &pair).await;
    assert!(matches!(closed, Err(SealError::Away { .. })), "{closed:?}");
    assert!(keys.sealer(Some(tenant), 1, &pair.public, &pair.signature).is_ok());
    // Who waits for Vault holds a connection to the database: after a failure nobody asks for a while.
    let asked = vault.calls("decrypt");
    for _ in 0..50 {
        assert!(opens(&keys, tenant, &pair).await.is_err());
    }
    assert!(vault.calls("decrypt") <= asked + 1);
    vault.away(false);
    until("it opens again", async || opens(&keys, tenant, &pair).await.is_ok()).await;
}
