-- Integrations, their sealed credentials and what is known of their health. Written by integration-api.

CREATE TABLE api.integrations (
    tenant_id        uuid NOT NULL,
    integration_id   uuid NOT NULL,
    name             text NOT NULL,
    provider         text NOT NULL CHECK (provider IN ('entra_id', 'okta')),
    config           jsonb NOT NULL,             -- shared::integration::Connection
    settings         jsonb NOT NULL,             -- shared::integration::Settings
    -- Derived from the columns below and the health of reading: disabled by a person, else untested, else error, else active.
    status           text NOT NULL CHECK (status IN ('active', 'disabled', 'error')),
    status_reason    text NOT NULL,
    status_message   text NOT NULL,
    status_since     timestamptz NOT NULL DEFAULT clock_timestamp(),
    disabled_by      text,                       -- the person who disabled it; NULL: nobody did
    disabled_reason  text,
    tested_at        timestamptz,                -- last test
    test_passed      boolean,                    -- of the last test that counts; NULL: none since the last change
    proven_at        timestamptz,                -- a test passed since connection or credentials last changed
    connection_since timestamptz NOT NULL DEFAULT clock_timestamp(), -- last change of connection or credentials
    directory_id     text,
    directory_name   text,
    version          bigint NOT NULL DEFAULT 1,  -- grows with every change a person makes
    created_at       timestamptz NOT NULL DEFAULT clock_timestamp(),
    created_by       text NOT NULL,
    updated_at       timestamptz NOT NULL DEFAULT clock_timestamp(),
    updated_by       text NOT NULL,
    PRIMARY KEY (tenant_id, integration_id),
    CONSTRAINT integrations_name UNIQUE (tenant_id, name)
);
SELECT platform.protect_tenant_table('api.integrations');
GRANT SELECT, INSERT, UPDATE, DELETE ON api.integrations TO parapet_api;

-- Sealed to the tenant's key pair of purpose `integration`; this service cannot open them.
-- Associated data: shared::sealing::column::INTEGRATION_SECRET, the integration, this table's version.
CREATE TABLE api.integration_secrets (
    tenant_id      uuid NOT NULL,
    integration_id uuid NOT NULL,
    version        integer NOT NULL CHECK (version > 0),
    sealed         bytea NOT NULL,
    sealed_at      timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (tenant_id, integration_id),
    FOREIGN KEY (tenant_id, integration_id) REFERENCES api.integrations ON DELETE CASCADE
);
SELECT platform.protect_tenant_table('api.integration_secrets');
GRANT INSERT, UPDATE, DELETE, SELECT (tenant_id, integration_id, version) ON api.integration_secrets TO parapet_api;

-- The newest knowledge about each capability, from tests and from what workers report.
CREATE TABLE api.capabilities (
    tenant_id      uuid NOT NULL,
    integration_id uuid NOT NULL,
    capability     text NOT NULL CHECK (capability IN
                       ('read', 'validate', 'revoke_sessions', 'disable_account', 'mark_compromised')),
    state          text NOT NULL CHECK (state IN ('working', 'failed', 'not_granted')),
    reason         text NOT NULL,
    message        text NOT NULL,
    since          timestamptz NOT NULL,
    observed_at    timestamptz NOT NULL,         -- an older observation changes nothing
    PRIMARY KEY (tenant_id, integration_id, capability),
    FOREIGN KEY (tenant_id, integration_id) REFERENCES api.integrations ON DELETE CASCADE
);
SELECT platform.protect_tenant_table('api.capabilities');
GRANT SELECT, INSERT, UPDATE, DELETE ON api.capabilities TO parapet_api;

-- Okta integrations whose client key could not be asked for yet: a loop across tenants asks again.
CREATE TABLE api.client_keys_wanted (
    integration_id uuid PRIMARY KEY,
    tenant_id      uuid NOT NULL,
    next_try_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
    tries          integer NOT NULL DEFAULT 0
);
COMMENT ON TABLE api.client_keys_wanted IS 'no-tenant: reached by parapet_api, whose loop serves all tenants; ids only';
GRANT SELECT, INSERT, UPDATE, DELETE ON api.client_keys_wanted TO parapet_api;

CREATE VIEW api.integrations_v WITH (security_invoker = true) AS
    SELECT tenant_id, integration_id, name, provider, config, settings, status, status_reason, directory_id, version,
           created_at, connection_since
    FROM api.integrations;
GRANT SELECT (tenant_id, integration_id, name, provider, config, settings, status, status_reason, directory_id, version,
              created_at, connection_since)
    ON api.integrations TO parapet_sync, parapet_validator, parapet_mitigation;
GRANT SELECT ON api.integrations_v TO parapet_api, parapet_sync, parapet_validator, parapet_mitigation;

-- Sealed: for the services that are given the purpose's top key.
CREATE VIEW api.integration_secrets_v WITH (security_invoker = true) AS
    SELECT tenant_id, integration_id, version, sealed FROM api.integration_secrets;
GRANT SELECT (tenant_id, integration_id, version, sealed) ON api.integration_secrets
    TO parapet_sync, parapet_validator, parapet_mitigation;
GRANT SELECT ON api.integration_secrets_v TO parapet_sync, parapet_validator, parapet_mitigation;
