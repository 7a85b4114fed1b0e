-- Exposures, their verdicts, what was tried, pauses, and the key pairs that protect leaked secrets.
-- Written by credential-validator; integration-api and mitigation-executor read through the views at the end.

GRANT USAGE ON SCHEMA validator TO parapet_api, parapet_mitigation;

-- A feed record that matched an account of a tenant.
CREATE TABLE validator.exposures (
    tenant_id        uuid NOT NULL,
    exposure_id      uuid NOT NULL,
    record_id        uuid NOT NULL,
    batch_id         uuid NOT NULL,
    feed             text NOT NULL,
    account_id       uuid NOT NULL,
    identity_id      uuid,
    identifier_id    uuid NOT NULL,
    integration_id   uuid NOT NULL,
    provider         text NOT NULL,
    directory_id     text NOT NULL,
    object_id        text NOT NULL,
    login_at_match   text NOT NULL,
    source           jsonb NOT NULL,            -- {id, name, kind} of the leak
    targets          text[] NOT NULL DEFAULT '{}',
    severity         integer,
    secret_form      text NOT NULL,             -- plaintext | cracked | hash | hint | masked | none
    secret_sealed    bytea,                     -- sealed to the tenant; NULL: none, or destroyed
    secret_expired   boolean NOT NULL DEFAULT false, -- destroyed when retention ended
    cookies_sealed   bytea,                     -- kept, never tried
    has_cookies      boolean GENERATED ALWAYS AS (cookies_sealed IS NOT NULL) STORED, -- told without the right to read them
    digest           bytea,                     -- keyed digest of account and password; the key is the validator's alone
    unusable         boolean NOT NULL DEFAULT false, -- the password cannot be submitted faithfully
    captured_after   timestamptz,
    captured_before  timestamptz,
    published_at     timestamptz,
    first_seen_at    timestamptz,
    received_at      timestamptz NOT NULL,
    history          boolean NOT NULL,          -- the leak is older than the identifier
    wanted           boolean NOT NULL,          -- by a rule or by a person; otherwise nobody asked
    verdict          text,                      -- NULL: waits for its first turn
    verdict_reason   text,
    verdict_at       timestamptz,
    decided_without_attempt boolean NOT NULL DEFAULT false,
    attempts         integer NOT NULL DEFAULT 0,
    round            integer NOT NULL DEFAULT 0, -- each round costs at most one attempt; only a finished one is followed by another
    evidence         jsonb NOT NULL DEFAULT '{}', -- facts behind the verdict by name; strings, never a secret
    deferred_until   timestamptz,
    state            text NOT NULL CHECK (state IN ('waiting', 'decided', 'idle')),
    created_at       timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (tenant_id, exposure_id),
    CONSTRAINT one_per_record_and_account UNIQUE (tenant_id, record_id, account_id),
    CHECK ((verdict = 'deferred') = (deferred_until IS NOT NULL))
);
CREATE INDEX ON validator.exposures (tenant_id, received_at, exposure_id);
CREATE INDEX ON validator.exposures (tenant_id, verdict, verdict_reason, exposure_id);
CREATE INDEX ON validator.exposures (tenant_id, account_id, state);
CREATE INDEX ON validator.exposures (tenant_id, integration_id);
CREATE INDEX exposures_retention ON validator.exposures (tenant_id, received_at)
    WHERE secret_sealed IS NOT NULL OR cookies_sealed IS NOT NULL;
SELECT platform.protect_tenant_table('validator.exposures');

-- Passwords proven right or wrong, per account: the memory that makes most attempts unnecessary. Digests only.
CREATE TABLE validator.tried (
    tenant_id           uuid NOT NULL,
    provider            text NOT NULL,
    directory_id        text NOT NULL,
    object_id           text NOT NULL,
    digest              bytea NOT NULL,
    verdict             text NOT NULL CHECK (verdict IN ('valid', 'valid_second_factor', 'valid_expired', 'invalid')),
    exposure_id         uuid NOT NULL,
    tried_at            timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, provider, directory_id, object_id, digest)
);
SELECT platform.protect_tenant_table('validator.tried');

-- Validation stands still for a directory, or with directory '' for the whole tenant. Read in every reservation.
CREATE TABLE validator.pauses (
    tenant_id    uuid NOT NULL,
    directory_id text NOT NULL,
    reason       text NOT NULL,     -- throttled | address_blocked | operator
    message      text NOT NULL,
    since        timestamptz NOT NULL DEFAULT clock_timestamp(),
    until        timestamptz,       -- NULL: until a person ends it
    PRIMARY KEY (tenant_id, directory_id)
);
SELECT platform.protect_tenant_table('validator.pauses');

-- Answers that said "locked", per account: many different accounts of one directory mean our address is blocked.
CREATE TABLE validator.lock_answers (
    tenant_id    uuid NOT NULL,
    directory_id text NOT NULL,
    object_id    text NOT NULL,
    seen_at      timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, directory_id, object_id)
);
SELECT platform.protect_tenant_table('validator.lock_answers');

-- Whose attempt it is. The budget's ledger knows no tenants, and the reaper works for all of them.
CREATE TABLE validator.attempts (
    attempt_id  uuid PRIMARY KEY,
    tenant_id   uuid NOT NULL,
    exposure_id uuid NOT NULL,
    work_id     uuid NOT NULL,
    created_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    concluded   boolean NOT NULL DEFAULT false  -- its outcome is recorded
);
COMMENT ON TABLE validator.attempts IS 'no-tenant: tells the reaper whose attempt it turned unknown; reached by parapet_validator';

-- Key pairs of purpose `leak`, one per tenant and version. Private halves are wrapped by the top key.
CREATE TABLE validator.sealing_keys (
    tenant_id       uuid NOT NULL,
    version         integer NOT NULL CHECK (version > 0),
    public_key      bytea NOT NULL,
    signature       bytea NOT NULL,
    wrapped_private bytea NOT NULL,
    created_at      timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (tenant_id, version)
);
SELECT platform.protect_tenant_table('validator.sealing_keys');

-- The same for the installation's own feeds.
CREATE TABLE validator.installation_sealing_keys (
    version         integer PRIMARY KEY CHECK (version > 0),
    public_key      bytea NOT NULL,
    signature       bytea NOT NULL,
    wrapped_private bytea NOT NULL,
    created_at      timestamptz NOT NULL DEFAULT clock_timestamp()
);
COMMENT ON TABLE validator.installation_sealing_keys IS 'no-tenant: key pairs of the installation''s feeds; written by parapet_validator, public halves read by parapet_api';

GRANT SELECT, INSERT, UPDATE ON validator.exposures, validator.tried, validator.pauses, validator.lock_answers TO parapet_validator;
GRANT DELETE ON validator.pauses, validator.lock_answers TO parapet_validator;
GRANT SELECT, INSERT, UPDATE ON validator.attempts TO parapet_validator;
GRANT SELECT, INSERT ON validator.sealing_keys, validator.installation_sealing_keys TO parapet_validator;

-- What others may read: never a sealed column, never a digest.
CREATE VIEW validator.exposures_v WITH (security_invoker = true) AS
    SELECT tenant_id, exposure_id, record_id, batch_id, feed, account_id, identity_id, identifier_id, integration_id,
           provider, directory_id, object_id, login_at_match, source, targets, severity, secret_form, has_cookies,
           captured_after, captured_before, published_at, first_seen_at, received_at, history,
           verdict, verdict_reason, verdict_at, decided_without_attempt, attempts, evidence, deferred_until, state, created_at
    FROM validator.exposures;
GRANT SELECT (tenant_id, exposure_id, record_id, batch_id, feed, account_id, identity_id, identifier_id, integration_id,
              provider, directory_id, object_id, login_at_match, source, targets, severity, secret_form, has_cookies,
              captured_after, captured_before, published_at, first_seen_at, received_at, history,
              verdict, verdict_reason, verdict_at, decided_without_attempt, attempts, evidence, deferred_until, state, created_at)
    ON validator.exposures TO parapet_api, parapet_mitigation;
GRANT SELECT ON validator.exposures_v TO parapet_api, parapet_mitigation;

CREATE VIEW validator.pauses_v WITH (security_invoker = true) AS
    SELECT tenant_id, directory_id, reason, message, since, until FROM validator.pauses;
GRANT SELECT (tenant_id, directory_id, reason, message, since, until) ON validator.pauses TO parapet_api;
GRANT SELECT ON validator.pauses_v TO parapet_api;

CREATE VIEW validator.sealing_public_keys_v WITH (security_invoker = true) AS
    SELECT tenant_id, 'leak'::text AS purpose, version, public_key, signature FROM validator.sealing_keys
    UNION ALL
    SELECT NULL::uuid, 'leak'::text, version, public_key, signature FROM validator.installation_sealing_keys;
GRANT SELECT (tenant_id, version, public_key, signature) ON validator.sealing_keys TO parapet_api;
GRANT SELECT (version, public_key, signature) ON validator.installation_sealing_keys TO parapet_api;
GRANT SELECT ON validator.sealing_public_keys_v TO parapet_api;
