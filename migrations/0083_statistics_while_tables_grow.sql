-- Statistics for the planner while tables grow. Plans are kept (0080), and one that was made when the server knew nothing of a
-- table takes any index that begins with the tenant, because a tenant then counts as one row: every look at one exposure
-- reads all that the tenant has (measured: 20,000 rows instead of one), until autovacuum notices after a minute or more. So
-- each service has the tables of its own schema analysed when they have grown fourfold; that also ends the plans kept before.
-- Called by every service; replicas may call it at once, what another session is analysing is left to it.

CREATE FUNCTION platform.refresh_statistics() RETURNS integer -- tables analysed
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    own text[];
    this regclass;
    refreshed integer := 0;
BEGIN
    IF session_user NOT IN ('parapet_api', 'parapet_sync', 'parapet_validator', 'parapet_mitigation', 'parapet_audit') THEN
        RAISE EXCEPTION 'only a service role has tables, not %', session_user;
    END IF;
    own := ARRAY[substr(session_user, 9)] || CASE session_user WHEN 'parapet_validator' THEN 'budget' END;
    FOR this IN
        SELECT c.oid FROM pg_class c
        WHERE c.relkind = 'r' AND c.relnamespace::regnamespace::text = ANY (own)
          AND pg_relation_size(c.oid) / current_setting('block_size')::bigint >= greatest(4 * c.relpages, 1)
    LOOP
        EXECUTE format('ANALYZE (SKIP_LOCKED) %s', this);
        refreshed := refreshed + 1;
    END LOOP;
    RETURN refreshed;
END $$;
REVOKE ALL ON FUNCTION platform.refresh_statistics() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION platform.refresh_statistics() TO
    parapet_api, parapet_sync, parapet_validator, parapet_mitigation, parapet_audit;

-- What waits for an account, which every proven password asks for. Not by tenant first: it would tempt the look at one
-- exposure, too, while the server knows nothing of the table.
CREATE INDEX exposures_waiting ON validator.exposures (object_id, tenant_id) WHERE state = 'waiting';

-- One by one, each by its key: a list counts as ten rows, and in a small table the whole tenant as fewer.
CREATE OR REPLACE FUNCTION api.destroy_record_secrets(records uuid[]) RETURNS bigint
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    this uuid;
    destroyed bigint := 0;
BEGIN
    FOREACH this IN ARRAY records LOOP
        UPDATE api.feed_records SET secret_sealed = NULL, extra_sealed = NULL
            WHERE tenant_id = platform.current_tenant() AND record_id = this
                  AND (secret_sealed IS NOT NULL OR extra_sealed IS NOT NULL);
        destroyed := destroyed + CASE WHEN FOUND THEN 1 ELSE 0 END;
    END LOOP;
    RETURN destroyed;
END $$;
