-- Rotation of client keys (design §8): which key of an integration signs, which are published beside it, and the next step.
-- Written by identity-sync-worker; read by every service that signs, and by integration-api, which shows it.

-- `next`: published, so that the directory's cache learns it, and not yet used. `signing`: used, and proven. `unproven`: used
-- since an emergency, but the directory has not accepted it yet. `old`: no longer used, and still published.
ALTER TABLE sync.client_keys
    ADD COLUMN state text NOT NULL DEFAULT 'signing' CHECK (state IN ('next', 'signing', 'unproven', 'old'));
-- INVARIANT: one key signs.
CREATE UNIQUE INDEX client_keys_signing ON sync.client_keys (tenant_id, integration_id) WHERE state IN ('signing', 'unproven');
GRANT UPDATE (state) ON sync.client_keys TO parapet_sync;
CREATE OR REPLACE VIEW sync.client_key_secrets_v WITH (security_invoker = true) AS
    SELECT tenant_id, integration_id, version, kid, sealed_private AS sealed, state FROM sync.client_keys;
CREATE VIEW sync.client_keys_v WITH (security_invoker = true) AS
    SELECT tenant_id, integration_id, version, kid, state, created_at FROM sync.client_keys;
GRANT SELECT (tenant_id, integration_id, version, kid, state, created_at) ON sync.client_keys TO parapet_api;
GRANT SELECT ON sync.client_keys_v TO parapet_api;

CREATE TABLE sync.client_key_rotations (
    integration_id uuid PRIMARY KEY,
    tenant_id      uuid NOT NULL,
    step           text NOT NULL DEFAULT 'idle' CHECK (step IN ('idle', 'published', 'activated', 'emergency')),
    due_at         timestamptz,                  -- of what follows on the step; NULL: never
    rotated_at     timestamptz NOT NULL DEFAULT clock_timestamp(), -- when the newest key was made
    tries          integer NOT NULL DEFAULT 0,   -- failed since the step began
    last_error     text                          -- why the last one failed
);
COMMENT ON TABLE sync.client_key_rotations IS
    'no-tenant: a loop serves all tenants; written by parapet_sync, read by parapet_api; ids only';
CREATE INDEX ON sync.client_key_rotations (due_at);
GRANT SELECT, INSERT, UPDATE, DELETE ON sync.client_key_rotations TO parapet_sync;
CREATE VIEW sync.client_key_rotations_v WITH (security_invoker = true) AS
    SELECT tenant_id, integration_id, step, due_at, last_error FROM sync.client_key_rotations
    WHERE tenant_id = platform.current_tenant(); -- the table has no wall of its own
GRANT SELECT ON sync.client_key_rotations, sync.client_key_rotations_v TO parapet_api;

-- What is there already. Row security is forced on its owner as well, who runs this.
ALTER TABLE sync.client_keys NO FORCE ROW LEVEL SECURITY;
INSERT INTO sync.client_key_rotations (integration_id, tenant_id, rotated_at)
    SELECT integration_id, tenant_id, max(created_at) FROM sync.client_keys GROUP BY 1, 2;
ALTER TABLE sync.client_keys FORCE ROW LEVEL SECURITY;
