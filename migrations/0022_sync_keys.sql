-- Keys of purpose `integration`: each tenant's sealing key pair, and our client key pair for each Okta integration.
-- Written by identity-sync-worker.

CREATE TABLE sync.sealing_keys (
    tenant_id       uuid NOT NULL,
    purpose         text NOT NULL DEFAULT 'integration' CHECK (purpose = 'integration'),
    version         integer NOT NULL,
    public_key      bytea NOT NULL,
    signature       bytea NOT NULL,              -- over the public half: the API refuses a half that was put here by others
    wrapped_private bytea NOT NULL,              -- wrapped by the purpose's top key
    created_at      timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (tenant_id, purpose, version)
);
SELECT platform.protect_tenant_table('sync.sealing_keys');

-- Which tenants have their key pair: asked across tenants by the loop that makes the missing ones.
CREATE TABLE sync.sealing_key_tenants (
    tenant_id uuid PRIMARY KEY
);
COMMENT ON TABLE sync.sealing_key_tenants IS 'no-tenant: reached by parapet_sync, which makes missing key pairs';

CREATE TABLE sync.client_keys (
    tenant_id      uuid NOT NULL,
    integration_id uuid NOT NULL,
    version        integer NOT NULL,
    kid            text NOT NULL,
    sealed_private bytea NOT NULL,               -- PKCS#8, sealed like any integration secret
    created_at     timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (tenant_id, integration_id, version)
);
SELECT platform.protect_tenant_table('sync.client_keys');

-- The public halves, as the world may read them at the integration's JWKS URL.
CREATE TABLE sync.public_client_keys (
    integration_id uuid NOT NULL,
    kid            text NOT NULL,
    jwk            jsonb NOT NULL,
    created_at     timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (integration_id, kid)
);
COMMENT ON TABLE sync.public_client_keys IS
    'no-tenant: public by purpose; written by parapet_sync, read through sync.public_jwks';

-- The key set of an integration, NULL when it has none.
CREATE FUNCTION sync.public_jwks(integration uuid) RETURNS jsonb
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
        SELECT jsonb_build_object('keys', jsonb_agg(k.jwk ORDER BY k.created_at DESC))
        FROM sync.public_client_keys k WHERE k.integration_id = integration HAVING count(*) > 0
    $$;

GRANT SELECT, INSERT ON sync.sealing_keys, sync.sealing_key_tenants, sync.client_keys, sync.public_client_keys TO parapet_sync;
