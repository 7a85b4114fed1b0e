-- What an operator sees of a tenant's usage: numbers, counted by integration-api. The tables are those of their services.

CREATE VIEW sync.identifiers_skipped_v WITH (security_invoker = true) AS
    SELECT tenant_id FROM sync.identifiers_skipped;
GRANT SELECT (tenant_id) ON sync.identifiers_skipped TO parapet_api;
GRANT SELECT ON sync.identifiers_skipped_v TO parapet_api;

CREATE INDEX attempts_tenant ON validator.attempts (tenant_id, created_at);

-- INVARIANT (I9): shows the transaction's tenant only.
CREATE FUNCTION validator.attempts_since(since timestamptz) RETURNS bigint
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
    SELECT count(*) FROM validator.attempts a WHERE a.tenant_id = platform.current_tenant() AND a.created_at >= since
    $$;
GRANT EXECUTE ON FUNCTION validator.attempts_since(timestamptz) TO parapet_api;
COMMENT ON TABLE validator.attempts IS
    'no-tenant: tells the reaper whose attempt it turned unknown; reached by parapet_validator; a tenant''s own are counted through validator.attempts_since';
