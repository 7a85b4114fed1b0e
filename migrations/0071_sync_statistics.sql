-- Statistics for the planner while a first sync fills the tables. Written by nobody: identity-sync-worker calls it.

-- A tenant that the statistics do not know counts as one row, and any index that begins with the tenant seems as good
-- as any other: every page then walks all that the sync has stored so far (measured: 0.5 s for each page of 999 accounts
-- after 90,000, and growing). Autovacuum notices after a minute at best, and in a large table after a tenth of it.
-- The columns that lookups compare are enough. What another session is analysing is left to it.
CREATE FUNCTION sync.refresh_statistics() RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    ANALYZE (SKIP_LOCKED)
        sync.accounts (tenant_id, integration_id, account_id, object_id, login_key, identity_id),
        sync.identities (tenant_id, identity_id),
        sync.identifiers (tenant_id, identifier_id, account_id, identity_id, value),
        sync.run_pages (tenant_id, run_id);
END $$;
REVOKE ALL ON FUNCTION sync.refresh_statistics() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION sync.refresh_statistics() TO parapet_sync;
