-- What the hub shows of each integration, and when its health is looked at. Written by identity-sync-worker; the functions
-- and indexes are for what integration-api counts.

-- A loop serves all tenants, so this is apart from sync.directories.
CREATE TABLE sync.health_checks (
    integration_id uuid PRIMARY KEY,
    tenant_id      uuid NOT NULL,
    next_check_at  timestamptz NOT NULL,
    failures       integer NOT NULL DEFAULT 0,  -- in a row, of the kind that a network has too
    full_check_at  timestamptz                  -- when everything that is switched on was tried last
);
CREATE INDEX health_checks_next ON sync.health_checks (next_check_at);
COMMENT ON TABLE sync.health_checks IS 'no-tenant: reached by parapet_sync, whose loop serves all tenants; ids only';
GRANT SELECT, INSERT, UPDATE, DELETE ON sync.health_checks TO parapet_sync;

-- Counted at the end of a run that changed something: a million accounts are not counted for each who looks.
ALTER TABLE sync.directories
    ADD COLUMN accounts        bigint,
    ADD COLUMN identities      bigint,
    ADD COLUMN identifiers     bigint,
    ADD COLUMN hybrid_accounts bigint,
    ADD COLUMN counted_at      timestamptz,
    ADD COLUMN notices         jsonb NOT NULL DEFAULT '[]'; -- of the last look at everything: [{reason, message}]
CREATE OR REPLACE VIEW sync.directories_v WITH (security_invoker = true) AS
    SELECT tenant_id, integration_id, provider, directory_id, last_full_at, last_success_at, next_changes_at, next_full_at,
           failing_since, lost_reason, lost_message, credential_expires_at, accounts, identities, identifiers,
           hybrid_accounts, counted_at, notices
    FROM sync.directories;
GRANT SELECT (accounts, identities, identifiers, hybrid_accounts, counted_at, notices) ON sync.directories TO parapet_api;

CREATE INDEX exposures_deferred ON validator.exposures (tenant_id, integration_id) WHERE verdict = 'deferred';

-- INVARIANT (I9): shows the transaction's tenant only. Reads one entry for each attempt since then.
CREATE FUNCTION validator.attempts_by_integration(since timestamptz) RETURNS TABLE (integration_id uuid, attempts bigint)
    LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    RETURN QUERY
        SELECT e.integration_id, count(*)
        FROM validator.attempts a JOIN validator.exposures e ON e.tenant_id = a.tenant_id AND e.exposure_id = a.exposure_id
        WHERE a.tenant_id = platform.current_tenant() AND a.created_at >= since
        GROUP BY e.integration_id;
END $$;
GRANT EXECUTE ON FUNCTION validator.attempts_by_integration(timestamptz) TO parapet_api;
