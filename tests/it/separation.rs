//! Who can open what: each service is started as a process of its own with a directory that holds its own keys and nothing
//! else, becomes ready with them, and then everything in that directory is tried on every ciphertext of the installation.

use std::path::{Path, PathBuf};

use e2e::{Bus, free_port, process, until};
use parapet::{
    certs::{Certificates, service_name},
    issuer::{self, Issuer},
};
use serde_json::{Value, json};
use shared::{
    id::TenantId,
    sealing::{DataKey, Owner, Purpose, StoredKeyPair, TopKey, TopKeys, TopRing, TopVerifier, column},
    service::{Common, TlsFiles},
};
use sqlx::Row;
use tokio::process::Child;
use uuid::Uuid;

const SERVICES: [(&str, &str, &[Purpose]); 5] = [
    ("audit-writer", "parapet_audit", &[]),
    ("identity-sync-worker", "parapet_sync", &[Purpose::Integration]),
    ("mitigation-executor", "parapet_mitigation", &[Purpose::Integration]),
    ("credential-validator", "parapet_validator", &[Purpose::Integration, Purpose::Leak]),
    ("integration-api", "parapet_api", &[]),
];

/// One service with its directory.
struct Running {
    name: &'static str,
    opens: &'static [Purpose],
    dir: tempfile::TempDir,
    http: String,
    _process: Child,
}

/// Starts a service with its own keys in its own directory.
fn start(
    bus: &Bus,
    (name, role, opens): (&'static str, &'static str, &'static [Purpose]),
    tops: &[TopKey; 2],
    certificates: &Certificates,
    issuer: &str,
) -> Running {
    let dir = tempfile::tempdir().unwrap();
    let put = |file: &str, content: &[u8]| -> PathBuf {
        let path = dir.path().join(file);
        std::fs::write(&path, content).unwrap();
        path
    };
    let copy = |file: &Path| put(file.file_name().unwrap().to_str().unwrap(), &std::fs::read(file).unwrap());
    let own = certificates.of(name);
    let tls =
        TlsFiles { cert_file: copy(&own.cert), key_file: copy(&own.key), ca_file: copy(&certificates.ca()) };
    let mut common: Common = bus.common_as(role);
    common.tls = Some(tls);
    let mut told = process::common(&common);
    let http = free_port();
    told["http"] = json!({ "listen": format!("127.0.0.1:{http}") });
    let mut config = json!({ "common": told });
    let mut keys = serde_json::Map::new();
    for top in tops.iter().filter(|top| opens.contains(&top.purpose())) {
        let file = put(&format!("{}.key", top.purpose().as_str()), top.to_file().unwrap().as_bytes());
        keys.insert(top.purpose().as_str().into(), json!(file));
    }
    match name {
        "audit-writer" => {
            let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
            config["checkpoint"] =
                json!({ "key_file": put("checkpoint.pem", key.serialize_pem().as_bytes()) });
        }
        "credential-validator" => {
            keys.insert("digest".into(), json!(put("digest.hex", "5a".repeat(32).as_bytes())));
        }
        "integration-api" => {
            for top in tops {
                let purpose = top.purpose().as_str();
                let file = put(&format!("{purpose}.pub"), top.verifier().to_file().unwrap().as_bytes());
                keys.insert(format!("{purpose}_verifier"), json!(file));
            }
            config["api"] = json!({ "public_url": format!("http://127.0.0.1:{http}") });
            config["oidc"] = json!({ "issuer": issuer, "audience": issuer::AUDIENCE });
            let away = |peer| json!({ "address": "https://127.0.0.1:1", "server_name": service_name(peer) });
            config["common"]["peers"] = ["identity-sync-worker", "mitigation-executor", "audit-writer"]
                .into_iter()
                .map(|peer| (peer.to_owned(), away(peer)))
                .collect::<serde_json::Map<_, _>>()
                .into();
        }
        _ => {}
    }
    if !keys.is_empty() {
        config["keys"] = Value::Object(keys);
    }
    let process = process::start(&e2e::program(name), &process::file(dir.path(), &config), None);
    Running { name, opens, dir, http: format!("http://127.0.0.1:{http}"), _process: process }
}

/// Something sealed, and how it opens.
struct Ciphertext {
    purpose: Purpose,
    table: &'static str,
    row: Uuid,
    envelope: Vec<u8>,
    /// Sealed with the data key that the envelope carries.
    record: Option<(Uuid, Vec<u8>)>,
}

const SECRET: &[u8] = b"what nobody else may read";

/// Whether anything in this directory opens it, given every wrapped half there is.
async fn opens(dir: &Path, tenant: TenantId, halves: &[StoredKeyPair], text: &Ciphertext) -> bool {
    let owner = |table, row| Owner { tenant: Some(tenant), table, row, version: 1 };
    for entry in std::fs::read_dir(dir).unwrap() {
        let Ok(ring) = TopRing::load(&entry.unwrap().path()) else { continue };
        let file = dir.join(format!("{}.key", ring.purpose().as_str()));
        let Ok(keys) = TopKeys::open(&file.into(), ring.purpose()).await else { continue };
        for half in halves {
            // Not kept from one half to the next.
            keys.forget(tenant);
            let Ok(opener) = keys.opener(Some(tenant), 1, half).await else { continue };
            let place = owner(text.table, text.row);
            let opened = match &text.record {
                None => opener.open(&place, &text.envelope),
                Some((record, sealed)) => DataKey::open(&opener, &place, &text.envelope)
                    .and_then(|key| key.unseal(&owner(column::FEED_SECRET, *record), sealed)),
            };
            if opened.is_ok_and(|plain| plain.as_slice() == SECRET) {
                return true;
            }
        }
    }
    false
}

#[tokio::test(flavor = "multi_thread")]
async fn each_service_runs_with_its_own_keys_and_opens_what_it_must_and_nothing_else() {
    let bus = Bus::new().await;
    let shared = tempfile::tempdir().unwrap();
    let certificates = Certificates::prepare(shared.path(), &SERVICES.map(|(name, ..)| name)).unwrap();
    issuer::prepare(shared.path()).unwrap();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = issuer::url(listener.local_addr().unwrap().port());
    let router = issuer::router(Issuer::load(shared.path(), url.clone()).unwrap());
    tokio::spawn(async move { axum::serve(listener, router).await });
    let tops = [Purpose::Integration, Purpose::Leak].map(|purpose| TopKey::generate(purpose).unwrap());

    let tenant = TenantId::new();
    let mut db = bus.superuser().await;
    sqlx::query("INSERT INTO api.organizations (organization_id, name) VALUES ($1, 'acme')")
        .bind(tenant)
        .execute(&mut db)
        .await
        .unwrap();
    sqlx::query(
        "INSERT INTO api.tenants (tenant_id, organization_id, name, entitled_providers, identity_creation, validation,
             mitigation, identifier_cap, integration_cap, contact)
         VALUES ($1, $1, 'acme', '{}', true, true, true, 1, 1, 'x')",
    )
    .bind(tenant)
    .execute(&mut db)
    .await
    .unwrap();
    let running = SERVICES.map(|service| start(&bus, service, &tops, &certificates, &url));
    for service in &running {
        let ready = format!("{}/readyz", service.http);
        until(service.name, async || reqwest::get(&ready).await.is_ok_and(|r| r.status().is_success())).await;
    }
    // The owners have made the tenant's key pairs; whoever accepts a secret seals it to the public halves.
    bus.until_count("SELECT count(*) FROM sync.sealing_keys", 1).await;
    bus.until_count("SELECT count(*) FROM validator.sealing_keys", 1).await;
    let halves: Vec<StoredKeyPair> = sqlx::query(
        "SELECT public_key, signature, wrapped_private FROM sync.sealing_keys
         UNION ALL SELECT public_key, signature, wrapped_private FROM validator.sealing_keys",
    )
    .fetch_all(&mut db)
    .await
    .unwrap()
    .iter()
    .map(|row| StoredKeyPair {
        public: row.get("public_key"),
        signature: row.get("signature"),
        wrapped_private: row.get("wrapped_private"),
    })
    .collect();
    let api = running.iter().find(|s| s.name == "integration-api").unwrap();
    let sealer = |purpose: Purpose| {
        let verifier = TopVerifier::load(&api.dir.path().join(format!("{}.pub", purpose.as_str()))).unwrap();
        halves.iter().find_map(|h| verifier.sealer(Some(tenant), 1, &h.public, &h.signature).ok()).unwrap()
    };
    let sealed = |purpose, table| {
        let row = Uuid::new_v4();
        let owner = Owner { tenant: Some(tenant), table, row, version: 1 };
        let envelope = sealer(purpose).seal(&owner, SECRET).unwrap();
        Ciphertext { purpose, table, row, envelope, record: None }
    };
    let (batch, record, key) = (Uuid::new_v4(), Uuid::new_v4(), DataKey::generate().unwrap());
    let owner = |table, row| Owner { tenant: Some(tenant), table, row, version: 1 };
    let texts = [
        sealed(Purpose::Integration, column::INTEGRATION_SECRET),
        sealed(Purpose::Integration, column::CLIENT_KEY),
        sealed(Purpose::Leak, column::EXPOSURE_SECRET),
        sealed(Purpose::Leak, column::EXPOSURE_COOKIES),
        Ciphertext {
            purpose: Purpose::Leak,
            table: column::FEED_DATA_KEY,
            row: batch,
            envelope: key.seal_to(&sealer(Purpose::Leak), &owner(column::FEED_DATA_KEY, batch)).unwrap(),
            record: Some((record, key.seal(&owner(column::FEED_SECRET, record), SECRET).unwrap())),
        },
    ];
    for service in &running {
        for text in &texts {
            let opened = opens(service.dir.path(), tenant, &halves, text).await;
            assert_eq!(opened, service.opens.contains(&text.purpose), "{} {}", service.name, text.table);
        }
    }
    // Negative control: with one key file too many, the API's directory opens what that key protects.
    std::fs::write(api.dir.path().join("leak.key"), tops[1].to_file().unwrap().as_bytes()).unwrap();
    for text in &texts {
        let opened = opens(api.dir.path(), tenant, &halves, text).await;
        assert_eq!(opened, text.purpose == Purpose::Leak, "{}", text.table);
    }
}
