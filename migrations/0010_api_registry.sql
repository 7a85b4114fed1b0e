-- Organizations, tenants and their packages: the registry every service reads. Written by integration-api.

CREATE TABLE api.organizations (
    organization_id uuid PRIMARY KEY,
    name            text NOT NULL UNIQUE,
    created_at      timestamptz NOT NULL DEFAULT clock_timestamp()
);
COMMENT ON TABLE api.organizations IS 'no-tenant: registry; read and written by parapet_api';

CREATE TABLE api.tenants (
    tenant_id          uuid PRIMARY KEY,
    organization_id    uuid NOT NULL REFERENCES api.organizations,
    name               text NOT NULL,
    entitled_providers text[] NOT NULL,          -- kinds of provider the tenant may connect
    identity_creation  boolean NOT NULL,
    validation         boolean NOT NULL,
    mitigation         boolean NOT NULL,
    identifier_cap     bigint NOT NULL CHECK (identifier_cap > 0),
    integration_cap    integer NOT NULL CHECK (integration_cap > 0),
    contact            text NOT NULL,            -- whom a refusal names
    created_at         timestamptz NOT NULL DEFAULT clock_timestamp(),
    UNIQUE (organization_id, name)
);
COMMENT ON TABLE api.tenants IS 'no-tenant: registry; written by parapet_api, read by every service through api.tenants_v';

GRANT SELECT, INSERT ON api.organizations TO parapet_api;
GRANT SELECT, INSERT, UPDATE ON api.tenants TO parapet_api;

GRANT USAGE ON SCHEMA api TO parapet_sync, parapet_validator, parapet_mitigation, parapet_audit;
CREATE VIEW api.tenants_v WITH (security_invoker = true) AS
    SELECT tenant_id, organization_id, name, created_at, entitled_providers, identity_creation, validation, mitigation,
           identifier_cap, integration_cap, contact
    FROM api.tenants;
GRANT SELECT ON api.tenants, api.tenants_v TO parapet_sync, parapet_validator, parapet_mitigation, parapet_audit;
GRANT SELECT ON api.tenants_v TO parapet_api;

-- Answers to requests that carried an idempotency key, kept for two days.
CREATE TABLE api.idempotency (
    tenant_id   uuid NOT NULL,
    method      text NOT NULL,
    key         text NOT NULL,
    fingerprint bytea NOT NULL,                  -- SHA-256 of the request without its secrets
    answer      bytea,                           -- encoded response; NULL only inside the first transaction
    created_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (tenant_id, method, key)
);
SELECT platform.protect_tenant_table('api.idempotency');
CREATE INDEX idempotency_age ON api.idempotency (tenant_id, created_at);
GRANT SELECT, INSERT, UPDATE, DELETE ON api.idempotency TO parapet_api;
