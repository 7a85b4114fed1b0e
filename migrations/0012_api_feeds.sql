-- Feed batches and records as they arrived, secrets sealed with a data key per batch. Written by integration-api.
-- A feed belongs to a tenant or to the installation; each has its own pair of tables, because only the first can be
-- under row security. The views join them; `tenant_id IS NULL` is the installation.

CREATE TABLE api.feed_batches (
    tenant_id       uuid NOT NULL,
    batch_id        uuid NOT NULL,
    feed            text NOT NULL,
    client_batch_id text NOT NULL,               -- the caller's id: the same id is the same batch
    fingerprint     bytea NOT NULL,              -- SHA-256 of the batch without its secrets
    answer          bytea NOT NULL,              -- encoded response, remembered for a repeated batch
    records         integer NOT NULL,            -- records stored, the accepted ones
    data_key_sealed bytea NOT NULL,              -- sealed to the owner's `leak` key; shared::sealing::column::FEED_DATA_KEY
    received_at     timestamptz NOT NULL DEFAULT clock_timestamp(),
    received_from   text NOT NULL,               -- token subject
    PRIMARY KEY (tenant_id, batch_id),
    CONSTRAINT feed_batches_client_id UNIQUE (tenant_id, feed, client_batch_id)
);
SELECT platform.protect_tenant_table('api.feed_batches');
CREATE INDEX feed_batches_age ON api.feed_batches (tenant_id, received_at);

CREATE TABLE api.feed_records (
    tenant_id         uuid NOT NULL,
    record_id         uuid NOT NULL,
    batch_id          uuid NOT NULL,
    feed              text NOT NULL,
    external_id       text NOT NULL,             -- the feed's id; stored once per feed
    identity          text NOT NULL,             -- normalised by shared::identifier
    identity_original text NOT NULL,             -- as the feed spells it
    identity_kind     text NOT NULL CHECK (identity_kind IN ('email', 'username')),
    secret_form       text NOT NULL CHECK (secret_form IN ('plaintext', 'cracked', 'hash', 'hint', 'masked', 'none')),
    secret_sealed     bytea,                     -- column::FEED_SECRET
    cookies_sealed    bytea,                     -- JSON list; column::FEED_COOKIES
    extra_sealed      bytea,                     -- JSON: whole hashes, hint, device, raw; column::FEED_EXTRA
    hashes            jsonb NOT NULL,            -- algorithms only; whole hashes are sealed
    captured_after    timestamptz,
    captured_before   timestamptz,
    published_at      timestamptz,
    first_seen_at     timestamptz,
    date_precision    text NOT NULL CHECK (date_precision IN ('unknown', 'instant', 'day', 'month', 'year')),
    source            jsonb NOT NULL,            -- {id, name, kind}
    targets           text[] NOT NULL,
    severity          integer NOT NULL,
    severity_raw      text NOT NULL,
    feed_credential_hash text NOT NULL,
    received_at       timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (tenant_id, record_id),
    CONSTRAINT feed_records_external_id UNIQUE (tenant_id, feed, external_id),
    -- INVARIANT: what is no password is never sealed as one, so it can never be submitted.
    CONSTRAINT only_passwords CHECK (secret_sealed IS NULL OR secret_form IN ('plaintext', 'cracked'))
);
SELECT platform.protect_tenant_table('api.feed_records');
CREATE INDEX feed_records_batch ON api.feed_records (tenant_id, batch_id);
CREATE INDEX feed_records_identity ON api.feed_records (tenant_id, identity);
CREATE INDEX feed_records_retention ON api.feed_records (tenant_id, received_at)
    WHERE secret_sealed IS NOT NULL OR cookies_sealed IS NOT NULL OR extra_sealed IS NOT NULL;

CREATE TABLE api.installation_feed_batches (LIKE api.feed_batches INCLUDING DEFAULTS);
ALTER TABLE api.installation_feed_batches DROP COLUMN tenant_id;
ALTER TABLE api.installation_feed_batches
    ADD PRIMARY KEY (batch_id),
    ADD CONSTRAINT installation_feed_batches_client_id UNIQUE (feed, client_batch_id);
CREATE INDEX installation_feed_batches_age ON api.installation_feed_batches (received_at);
COMMENT ON TABLE api.installation_feed_batches IS
    'no-tenant: the installation''s feeds; written by parapet_api, read by parapet_validator';

CREATE TABLE api.installation_feed_records (LIKE api.feed_records INCLUDING DEFAULTS INCLUDING CONSTRAINTS);
ALTER TABLE api.installation_feed_records DROP COLUMN tenant_id;
ALTER TABLE api.installation_feed_records
    ADD PRIMARY KEY (record_id),
    ADD CONSTRAINT installation_feed_records_external_id UNIQUE (feed, external_id);
CREATE INDEX installation_feed_records_batch ON api.installation_feed_records (batch_id);
CREATE INDEX installation_feed_records_identity ON api.installation_feed_records (identity);
CREATE INDEX installation_feed_records_retention ON api.installation_feed_records (received_at)
    WHERE secret_sealed IS NOT NULL OR cookies_sealed IS NOT NULL OR extra_sealed IS NOT NULL;
COMMENT ON TABLE api.installation_feed_records IS
    'no-tenant: the installation''s feeds; written by parapet_api, read by parapet_validator';

-- This service writes sealed columns and cannot read them back; UPDATE only empties them when retention ends.
GRANT SELECT, INSERT ON api.feed_batches, api.installation_feed_batches TO parapet_api;
GRANT DELETE ON api.feed_batches, api.installation_feed_batches TO parapet_api;
GRANT INSERT, UPDATE (secret_sealed, cookies_sealed, extra_sealed) ON api.feed_records, api.installation_feed_records TO parapet_api;
GRANT SELECT (tenant_id, record_id, batch_id, feed, external_id, received_at) ON api.feed_records TO parapet_api;
GRANT SELECT (record_id, batch_id, feed, external_id, received_at) ON api.installation_feed_records TO parapet_api;

CREATE VIEW api.feed_batches_v WITH (security_invoker = true) AS
    SELECT tenant_id, batch_id, feed, client_batch_id, records, received_at FROM api.feed_batches
    UNION ALL
    SELECT NULL, batch_id, feed, client_batch_id, records, received_at FROM api.installation_feed_batches;
CREATE VIEW api.feed_batch_keys_v WITH (security_invoker = true) AS
    SELECT tenant_id, batch_id, data_key_sealed AS sealed FROM api.feed_batches
    UNION ALL
    SELECT NULL, batch_id, data_key_sealed FROM api.installation_feed_batches;
CREATE VIEW api.feed_records_v WITH (security_invoker = true) AS
    SELECT tenant_id, record_id, batch_id, feed, external_id, identity, identity_original, identity_kind, secret_form,
           secret_sealed, cookies_sealed, extra_sealed, hashes, captured_after, captured_before, published_at,
           first_seen_at, date_precision, source, targets, severity, severity_raw, feed_credential_hash, received_at
    FROM api.feed_records
    UNION ALL
    SELECT NULL, record_id, batch_id, feed, external_id, identity, identity_original, identity_kind, secret_form,
           secret_sealed, cookies_sealed, extra_sealed, hashes, captured_after, captured_before, published_at,
           first_seen_at, date_precision, source, targets, severity, severity_raw, feed_credential_hash, received_at
    FROM api.installation_feed_records;
GRANT SELECT ON api.feed_batches, api.installation_feed_batches, api.feed_records, api.installation_feed_records,
    api.feed_batches_v, api.feed_batch_keys_v, api.feed_records_v TO parapet_validator;

-- Destroys the secrets of a tenant's own records, in that tenant's transaction: their exposure's verdict is proven.
-- Records of the installation may match another tenant later and keep theirs until retention ends.
CREATE FUNCTION api.destroy_record_secrets(records uuid[]) RETURNS bigint
    LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
        WITH emptied AS (
            UPDATE api.feed_records SET secret_sealed = NULL, extra_sealed = NULL
            WHERE tenant_id = platform.current_tenant() AND record_id = ANY (records)
                  AND (secret_sealed IS NOT NULL OR extra_sealed IS NOT NULL)
            RETURNING 1)
        SELECT count(*) FROM emptied
    $$;
GRANT EXECUTE ON FUNCTION api.destroy_record_secrets(uuid[]) TO parapet_validator;
