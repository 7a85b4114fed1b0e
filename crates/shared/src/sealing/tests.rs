use base64::{Engine, engine::general_purpose::STANDARD as BASE64};

use super::*;

fn owner(tenant: TenantId, row: Uuid) -> Owner<'static> {
    Owner { tenant: Some(tenant), table: "api.integrations.secret", row, version: 1 }
}

fn keys(tenant: TenantId) -> (Sealer, Opener) {
    let top = TopKey::generate(Purpose::Integration).unwrap();
    let pair = top.new_key_pair(Some(tenant), 1).unwrap();
    let sealer = top.verifier().sealer(Some(tenant), 1, &pair.public, &pair.signature).unwrap();
    (sealer, top.opener(Some(tenant), 1, &pair).unwrap())
}

#[test]
fn what_the_public_half_sealed_only_the_private_half_opens() {
    let (tenant, row) = (TenantId::new(), Uuid::now_v7());
    let (sealer, opener) = keys(tenant);
    let sealed = sealer.seal(&owner(tenant, row), b"hunter2").unwrap();
    assert!(!sealed.windows(7).any(|w| w == b"hunter2"));
    assert_eq!(opener.open(&owner(tenant, row), &sealed).unwrap().as_slice(), b"hunter2");
    let (_, stranger) = keys(tenant);
    assert!(matches!(stranger.open(&owner(tenant, row), &sealed), Err(SealError::DoesNotOpen)));
}

#[test]
fn a_payload_moved_to_another_tenant_table_row_or_version_does_not_open() {
    let (tenant, row) = (TenantId::new(), Uuid::now_v7());
    let (sealer, opener) = keys(tenant);
    let home = owner(tenant, row);
    let sealed = sealer.seal(&home, b"hunter2").unwrap();
    for moved in [
        Owner { tenant: Some(TenantId::new()), ..home },
        Owner { tenant: None, ..home },
        Owner { table: "api.other.secret", ..home },
        Owner { row: Uuid::now_v7(), ..home },
        Owner { version: 2, ..home },
    ] {
        assert!(matches!(opener.open(&moved, &sealed), Err(SealError::DoesNotOpen)), "{moved:?}");
    }
}

#[test]
fn every_changed_byte_of_an_envelope_is_noticed() {
    let (tenant, row) = (TenantId::new(), Uuid::now_v7());
    let (sealer, opener) = keys(tenant);
    let sealed = sealer.seal(&owner(tenant, row), b"hunter2").unwrap();
    for position in 0..sealed.len() {
        let mut changed = sealed.clone();
        changed[position] ^= 1;
        assert!(opener.open(&owner(tenant, row), &changed).is_err(), "byte {position}");
    }
    for length in 0..sealed.len() {
        assert!(opener.open(&owner(tenant, row), &sealed[..length]).is_err(), "length {length}");
    }
}

#[test]
fn a_public_key_that_the_top_key_did_not_sign_for_this_tenant_seals_nothing() {
    let top = TopKey::generate(Purpose::Leak).unwrap();
    let tenant = TenantId::new();
    let pair = top.new_key_pair(Some(tenant), 1).unwrap();
    let verifier = top.verifier();
    assert!(verifier.sealer(Some(tenant), 1, &pair.public, &pair.signature).is_ok());
    assert!(verifier.sealer(Some(TenantId::new()), 1, &pair.public, &pair.signature).is_err());
    assert!(verifier.sealer(Some(tenant), 2, &pair.public, &pair.signature).is_err());
    let planted = TopKey::generate(Purpose::Leak).unwrap().new_key_pair(Some(tenant), 1).unwrap();
    assert!(verifier.sealer(Some(tenant), 1, &planted.public, &planted.signature).is_err());
}

#[test]
fn a_batch_key_opens_its_records_and_no_other_batchs() {
    let (tenant, batch, record) = (TenantId::new(), Uuid::now_v7(), Uuid::now_v7());
    let (sealer, opener) = keys(tenant);
    let batch_owner = Owner { table: "api.feed_batches.data_key", row: batch, ..owner(tenant, batch) };
    let record_owner = Owner { table: "api.feed_records.secret", row: record, ..owner(tenant, record) };
    let key = DataKey::generate().unwrap();
    let stored = key.seal_to(&sealer, &batch_owner).unwrap();
    let sealed = key.seal(&record_owner, b"hunter2").unwrap();
    let reopened = DataKey::open(&opener, &batch_owner, &stored).unwrap();
    assert_eq!(reopened.unseal(&record_owner, &sealed).unwrap().as_slice(), b"hunter2");
    assert!(DataKey::generate().unwrap().unseal(&record_owner, &sealed).is_err());
}

#[test]
fn key_files_survive_a_round_trip_and_faults_name_the_file() {
    let directory = tempfile::tempdir().unwrap();
    let (secret, public) = (directory.path().join("leak.top"), directory.path().join("leak.pub"));
    let top = TopKey::generate(Purpose::Leak).unwrap();
    std::fs::write(&secret, top.to_file().unwrap().as_bytes()).unwrap();
    std::fs::write(&public, top.verifier().to_file().unwrap()).unwrap();
    let pair = TopKey::load(&secret).unwrap().new_key_pair(None, 1).unwrap();
    assert!(TopVerifier::load(&public).unwrap().sealer(None, 1, &pair.public, &pair.signature).is_ok());
    let fault = TopVerifier::load(&secret).unwrap_err().to_string();
    assert!(fault.contains("leak.top") && !fault.contains(&*BASE64.encode(&top.wrap)), "{fault}");
}

#[test]
fn a_key_file_holds_several_versions_and_each_opens_only_what_it_wrapped() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("leak.key");
    let first = TopKey::generate(Purpose::Leak).unwrap();
    let tenant = Some(TenantId::new());
    let old = first.new_key_pair(tenant, 1).unwrap();
    // As builds before there were versions wrote and read it.
    assert!(!first.to_file().unwrap().contains("version"));
    let mut ring = TopRing::new(first);
    assert_eq!(ring.add().unwrap(), 2);
    std::fs::write(&file, ring.to_file().unwrap().as_bytes()).unwrap();
    let ring = TopRing::load(&file).unwrap();
    assert_eq!(ring.versions().collect::<Vec<_>>(), [1, 2]);
    let second = ring.key(2).unwrap();
    let new = second.new_key_pair(tenant, 1).unwrap();
    assert_eq!(TopId::of(&old.wrapped_private).unwrap(), TopId::File(1));
    assert_eq!(TopId::of(&new.wrapped_private).unwrap(), TopId::File(2));
    assert!(ring.key(1).unwrap().opener(tenant, 1, &old).is_ok());
    assert!(second.opener(tenant, 1, &new).is_ok());
    assert!(matches!(second.opener(tenant, 1, &old), Err(SealError::DoesNotOpen)));
    assert!(matches!(ring.key(1).unwrap().opener(tenant, 1, &new), Err(SealError::DoesNotOpen)));
    // Both versions' signatures count while both are there.
    for pair in [&old, &new] {
        assert!(ring.verifier().sealer(tenant, 1, &pair.public, &pair.signature).is_ok());
    }
    assert!(second.verifier().sealer(tenant, 1, &old.public, &old.signature).is_err());
}

#[tokio::test]
async fn a_key_file_that_changes_is_read_again_and_a_bad_one_leaves_what_was_there() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("leak.key");
    let mut ring = TopRing::new(TopKey::generate(Purpose::Leak).unwrap());
    std::fs::write(&file, ring.to_file().unwrap().as_bytes()).unwrap();
    let keys = TopKeys::open(&file.clone().into(), Purpose::Leak).await.unwrap();
    ring.add().unwrap();
    // As Kubernetes does it: another file takes its place.
    let next = directory.path().join("next");
    std::fs::write(&next, ring.to_file().unwrap().as_bytes()).unwrap();
    std::fs::rename(&next, &file).unwrap();
    keys.refresh().await.unwrap();
    assert_eq!(keys.loaded(), [TopId::File(1), TopId::File(2)]);
    // Which one wraps is not decided by who has read the file first.
    assert_eq!(keys.current().unwrap(), TopId::File(1));
    keys.want(Some(TopId::File(3)));
    assert!(keys.current().unwrap_err().to_string().contains("file:3"));
    std::fs::write(&file, "nonsense").unwrap();
    assert!(keys.refresh().await.is_err());
    assert_eq!(keys.loaded().len(), 2);
}

/// Compiles as long as none of these types can be displayed or serialised.
macro_rules! neither_displayed_nor_serialised {
    ($($type:ty),*) => {$({
        trait Unless<A> { fn holds() {} }
        struct Displayed;
        struct Serialised;
        impl<T: ?Sized> Unless<()> for T {}
        impl<T: ?Sized + std::fmt::Display> Unless<Displayed> for T {}
        impl<T: ?Sized + Serialize> Unless<Serialised> for T {}
        <$type as Unless<_>>::holds();
    })*};
}

#[test]
fn what_holds_a_secret_is_neither_displayed_nor_serialised_and_debug_shows_none_of_it() {
    use crate::secret::SecretBytes;
    neither_displayed_nor_serialised!(SecretBytes, Opener, DataKey, TopKey, TopRing, TopKeys);
    let top = TopKey::generate(Purpose::Leak).unwrap();
    let pair = top.new_key_pair(None, 1).unwrap();
    let secrets = [format!("{:?}", &*top.wrap), format!("{:?}", &*top.seed), BASE64.encode(&top.wrap)];
    let shown = [
        format!("{top:?}"),
        format!("{:?}", top.opener(None, 1, &pair).unwrap()),
        format!("{:?}", DataKey::generate().unwrap()),
        format!("{:?}", TopKeys::from(top)),
    ]
    .concat();
    for secret in secrets {
        let secret = secret.trim_matches(['[', ']']);
        assert!(!shown.contains(secret), "{shown}");
    }
}
