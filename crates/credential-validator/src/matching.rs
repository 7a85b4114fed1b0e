//! Feed records meet identifiers: a match becomes an exposure in its tenant's own transaction (design §3.3).

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::Arc,
};

use async_trait::async_trait;
use shared::{
    audit::{self, Actor, Event, Outcome as Became, names},
    db::{Db, StoreError, Tx},
    id::{
        AccountKey, BatchId, CauseId, ExposureId, FeedRecordId, IdentifierId, IntegrationId, TenantId, WorkId,
    },
    integration_store::{self, Integration},
    outbox::{self, Topic},
    provider::account_key,
    queue::{Delivery, Handler, HandlerError, Outcome},
    sealing::{DataKey, Owner, column},
    triage::{Cause, Place, Rule},
    verdict::{Reason, Verdict},
    wire::events::{FeedBatchReceived, IdentifiersChanged, MitigationRequested},
    work::{self, NewWork},
};

use crate::{
    NAME, VALIDATE,
    digest::DigestKey,
    keys::{KeyError, LeakKeys},
    message,
    store::{
        exposures::{self, NewExposure},
        feed::{self, Candidate, Record},
    },
    triage::{self, Decision, Facts, Secret, SecretForm},
};

/// Most kept records looked at together when identifiers are new; memory stays bounded by it.
const PAGE: i64 = 500;

/// Turns records into exposures.
#[derive(Clone, Debug)]
pub struct Matcher {
    /// The database.
    pub db: Db,
    /// Leak keys.
    pub keys: Arc<LeakKeys>,
    /// Key of the digests.
    pub digest: Arc<DigestKey>,
}

/// Handles `feed.batch_received`.
#[derive(Debug)]
pub struct Batches(pub Matcher);

/// Handles `identifiers.changed`.
#[derive(Debug)]
pub struct Identifiers(pub Matcher);

#[async_trait]
impl Handler for Batches {
    async fn handle(&self, delivery: &Delivery) -> Result<Outcome, HandlerError> {
        let event: FeedBatchReceived = delivery.decode()?;
        let owner = message::optional::<TenantId>("tenant_id", &event.tenant_id)?;
        let batch = message::required::<BatchId>("batch_id", &event.batch_id)?;
        let matcher = &self.0;
        let mut tx = match owner {
            Some(tenant) => matcher.db.tenant_by_key(tenant).await?,
            None => matcher.db.system_by_key().await?,
        };
        let mut known: BTreeMap<TenantId, HashMap<String, Vec<IdentifierId>>> = BTreeMap::new();
        let mut identities = HashSet::new();
        for (value, tenant, identifier) in feed::matches(&mut tx, batch).await? {
            // INVARIANT: a tenant's feed matches that tenant only.
            if owner.is_none_or(|owner| owner == tenant) {
                identities.insert(value.clone());
                known.entry(tenant).or_default().entry(value).or_default().push(identifier);
            }
        }
        let size = feed::size(&mut tx, batch).await?;
        let records = if identities.is_empty() {
            Vec::new()
        } else {
            feed::batch(&mut tx, batch, &identities.into_iter().collect::<Vec<_>>()).await?
        };
        let keys = matcher.data_keys(&mut tx, &records).await?;
        tx.rollback().await?;
        metrics::counter!("parapet_feed_records_matched_total").increment(size);
        for (tenant, identifiers) in known {
            let mut tx = matcher.db.tenant_by_key(tenant).await?;
            matcher.expose(&mut tx, tenant, &records, &keys, &identifiers).await?;
            tx.commit().await?;
        }
        // Repeating is harmless, a record exposes an account once; so the message is done after the last tenant.
        let tx = matcher.db.system_by_key().await?;
        message::finish(delivery, tx).await?;
        Ok(Outcome::Done)
    }
}

#[async_trait]
impl Handler for Identifiers {
    async fn handle(&self, delivery: &Delivery) -> Result<Outcome, HandlerError> {
        let event: IdentifiersChanged = delivery.decode()?;
        let tenant = message::required::<TenantId>("tenant_id", &event.tenant_id)?;
        let ids = event
            .identifier_ids
            .iter()
            .map(|id| message::required::<IdentifierId>("identifier_ids", id))
            .collect::<Result<Vec<_>, _>>()?;
        let matcher = &self.0;
        let mut tx = matcher.db.tenant(tenant).await?;
        let mut identifiers: HashMap<String, Vec<IdentifierId>> = HashMap::new();
        for (id, value) in feed::identifier_values(&mut tx, &ids).await? {
            identifiers.entry(value).or_default().push(id);
        }
        tx.rollback().await?;
        let values: Vec<_> = identifiers.keys().cloned().collect();
        let mut after: Option<FeedRecordId> = None;
        loop {
            let mut tx = matcher.db.tenant(tenant).await?;
            let records = feed::about(&mut tx, &values, after, PAGE).await?;
            let Some(last) = records.last() else {
                message::finish(delivery, tx).await?;
                return Ok(Outcome::Done);
            };
            after = Some(last.record);
            let keys = matcher.data_keys(&mut tx, &records).await?;
            matcher.expose(&mut tx, tenant, &records, &keys, &identifiers).await?;
            tx.commit().await?;
        }
    }
}

type DataKeys = HashMap<BatchId, (Option<TenantId>, DataKey)>;

impl Matcher {
    async fn data_keys(&self, tx: &mut Tx, records: &[Record]) -> Result<DataKeys, HandlerError> {
        let batches: HashSet<_> = records.iter().map(|r| r.batch).collect();
        let mut keys = HashMap::new();
        for (batch, owner, sealed) in feed::data_keys(tx, &batches.into_iter().collect::<Vec<_>>()).await? {
            let opener = self.keys.opener(tx, owner, &sealed).await.map_err(transient)?;
            let place = Owner { tenant: owner, table: column::FEED_DATA_KEY, row: batch.uuid(), version: 1 };
            let key = DataKey::open(&opener, &place, &sealed)
                .map_err(|_| HandlerError::Poison("the batch's data key does not open".into()))?;
            keys.insert(batch, (owner, key));
        }
        Ok(keys)
    }

    /// Writes the exposures that these records make in one tenant.
    async fn expose(
        &self,
        tx: &mut Tx,
        tenant: TenantId,
        records: &[Record],
        keys: &DataKeys,
        identifiers: &HashMap<String, Vec<IdentifierId>>,
    ) -> Result<(), HandlerError> {
        let ids: Vec<_> = identifiers.values().flatten().copied().collect();
        let mut candidates: HashMap<IdentifierId, Vec<Candidate>> = HashMap::new();
        for candidate in feed::candidates(tx, &ids).await? {
            candidates.entry(candidate.identifier).or_default().push(candidate);
        }
        let pairs = pairs(records, identifiers, &candidates);
        if pairs.is_empty() {
            return Ok(());
        }
        let rules = Rules::load(tx, tenant, &pairs).await?;
        let sealer = self.keys.sealer(tx, tenant).await.map_err(transient)?;
        let mut new = Vec::with_capacity(pairs.len());
        for (record, candidate) in pairs {
            let id = ExposureId::new();
            let open = |envelope: &Option<Vec<u8>>, table| {
                let (Some(envelope), Some((owner, key))) = (envelope, keys.get(&record.batch)) else {
                    return Ok(None);
                };
                let place = Owner { tenant: *owner, table, row: record.record.uuid(), version: 1 };
                let opened = key.unseal(&place, envelope);
                opened
                    .map(Some)
                    .map_err(|_| HandlerError::Poison("a record of the batch does not open".into()))
            };
            let seal = |plain: &[u8], table| {
                let place = Owner { tenant: Some(tenant), table, row: id.uuid(), version: 1 };
                sealer.seal(&place, plain).map_err(|e| HandlerError::Transient(e.into()))
            };
            let secret = open(&record.secret, column::FEED_SECRET)?;
            let cookies = open(&record.cookies, column::FEED_COOKIES)?;
            let digest = secret.as_ref().map(|s| self.digest.of(tenant, &key_of(candidate), s));
            let unusable = secret.as_ref().is_some_and(|s| !triage::submittable(s));
            let discovered = record.first_seen_at.unwrap_or(record.received_at);
            let history = discovered < candidate.identifier_since;
            let automatic = rules.automatic(candidate.integration);
            let wanted = automatic && !history;
            let leaked = Secret {
                form: SecretForm::parse(&record.secret_form),
                kept: secret.is_some(),
                expired: false,
                unusable,
                digest: digest.clone(),
                captured_until: triage::captured_until(
                    record.captured_before,
                    Some(&record.precision),
                    record.published_at,
                    record.first_seen_at,
                    record.received_at,
                ),
                own_page: rules.own_page(candidate.integration, &record.targets),
            };
            let likelihood = triage::likelihood(
                &leaked,
                &candidate.facts,
                record.source_kind(),
                record.captured_before,
                record.received_at,
            );
            let place = Place { likelihood: Some(likelihood), privileged: candidate.is_admin };
            let decision = if wanted {
                triage::triage(&Facts {
                    secret: leaked,
                    account: candidate.facts,
                    allow_ad_backed: rules.allow_ad_backed(candidate.integration),
                    off: rules.off(candidate.integration),
                    // What was tried holds until the password changes, and that may not have been synced yet.
                    tried: Vec::new(),
                })
            } else {
                let reason = if history { Reason::History } else { Reason::SwitchedOff };
                Some(Decision::new(Verdict::NotTestable(reason)))
            };
            new.push(NewExposure {
                id,
                record,
                candidate,
                secret: secret.map(|s| seal(&s, column::EXPOSURE_SECRET)).transpose()?,
                cookies: cookies.map(|c| seal(&c, column::EXPOSURE_COOKIES)).transpose()?,
                digest,
                unusable,
                history,
                wanted,
                decision,
                place,
            });
        }
        self.store(tx, tenant, &rules, new).await?;
        Ok(())
    }

    async fn store(
        &self,
        tx: &mut Tx,
        tenant: TenantId,
        rules: &Rules,
        new: Vec<NewExposure<'_>>,
    ) -> Result<(), StoreError> {
        let fresh: HashSet<_> = exposures::insert(tx, tenant, &new).await?.into_iter().collect();
        let mut events = Vec::new();
        let mut waiting = Vec::new();
        let mut contain = Vec::new();
        for exposure in new.iter().filter(|n| fresh.contains(&n.id)) {
            events.push(received(tenant, exposure));
            match &exposure.decision {
                None => waiting.push(NewWork {
                    work_id: WorkId::new(),
                    tenant,
                    directory: exposure.candidate.directory.clone(),
                    kind: VALIDATE,
                    subject: exposure.id.uuid(),
                    priority: exposure.place.rank(Cause::Rule),
                    due_at: None,
                }),
                Some(decision) => {
                    let name = decision.verdict.name();
                    metrics::counter!("parapet_verdicts_total", "verdict" => name, "attempt" => "no")
                        .increment(1);
                    if decision.verdict.is_valid() && rules.contains(exposure.candidate.integration) {
                        contain.push(MitigationRequested {
                            tenant_id: tenant.to_string(),
                            request_id: String::new(),
                            exposure_id: exposure.id.to_string(),
                            cause_id: exposure.id.to_string(),
                        });
                    }
                }
            }
        }
        metrics::counter!("parapet_exposures_total").increment(fresh.len() as u64);
        audit::record_many(tx, &events).await?;
        work::schedule_many(tx, &waiting).await?;
        outbox::enqueue_many(tx, Topic::MitigationRequested, Some(tenant), &contain).await
    }
}

/// Records and the accounts they expose, each pair once, under the oldest identifier that leads there.
fn pairs<'a>(
    records: &'a [Record],
    identifiers: &HashMap<String, Vec<IdentifierId>>,
    candidates: &'a HashMap<IdentifierId, Vec<Candidate>>,
) -> Vec<(&'a Record, &'a Candidate)> {
    let mut pairs = Vec::new();
    for record in records {
        let found = identifiers.get(&record.identity).into_iter().flatten();
        let mut accounts: Vec<&Candidate> = found.filter_map(|id| candidates.get(id)).flatten().collect();
        accounts.sort_by_key(|c| (c.account, c.identifier_since));
        accounts.dedup_by_key(|c| c.account);
        pairs.extend(accounts.into_iter().map(|candidate| (record, candidate)));
    }
    pairs
}

fn key_of(candidate: &Candidate) -> AccountKey {
    account_key(candidate.provider, &candidate.directory, &candidate.object)
}

fn received(tenant: TenantId, exposure: &NewExposure<'_>) -> Event {
    let mut event = Event::new(
        Some(tenant),
        names::EXPOSURE_RECEIVED,
        Actor::Service(NAME),
        Became::Info,
        "A leaked credential matched an account",
    )
    .cause(CauseId(exposure.id.uuid()))
    .integration(exposure.candidate.integration)
    .object("exposure", exposure.id)
    .user(&exposure.candidate.object, &exposure.candidate.login)
    .detail("feed", &exposure.record.feed)
    .detail("record_id", exposure.record.record)
    .detail("batch_id", exposure.record.batch)
    .detail("history", exposure.history);
    if let Some(decision) = &exposure.decision {
        event = event.detail("verdict", decision.verdict.name());
        if let Some(reason) = decision.verdict.reason() {
            event = event.detail("reason", reason.as_str());
        }
    }
    event
}

fn transient(error: KeyError) -> HandlerError {
    HandlerError::Transient(error.into())
}

/// What the tenant's package and its integrations allow.
struct Rules {
    validation: bool,
    mitigation: bool,
    integrations: HashMap<IntegrationId, Integration>,
}

impl Rules {
    async fn load(
        tx: &mut Tx,
        tenant: TenantId,
        pairs: &[(&Record, &Candidate)],
    ) -> Result<Self, StoreError> {
        let package = integration_store::package(tx, tenant).await?;
        let mut integrations = HashMap::new();
        for id in pairs.iter().map(|(_, c)| c.integration).collect::<HashSet<_>>() {
            if let Some(integration) = integration_store::integration(tx, id).await? {
                integrations.insert(id, integration);
            }
        }
        Ok(Self {
            validation: package.as_ref().is_some_and(|p| p.validation),
            mitigation: package.is_some_and(|p| p.mitigation),
            integrations,
        })
    }
    fn automatic(&self, id: IntegrationId) -> bool {
        self.validation && self.integrations.get(&id).is_some_and(|i| i.settings.validates_automatically())
    }
    fn own_page(&self, id: IntegrationId, targets: &[String]) -> bool {
        self.integrations.get(&id).is_some_and(|i| i.connection.signs_in_at(targets))
    }
    fn allow_ad_backed(&self, id: IntegrationId) -> bool {
        self.integrations.get(&id).is_some_and(|i| i.settings.validation.allow_ad_backed)
    }
    fn off(&self, id: IntegrationId) -> BTreeSet<Rule> {
        self.integrations.get(&id).map(|i| i.settings.validation.rules_off.clone()).unwrap_or_default()
    }
    fn contains(&self, id: IntegrationId) -> bool {
        self.mitigation
            && self.integrations.get(&id).is_some_and(|i| i.settings.mitigation.automated().next().is_some())
    }
}
