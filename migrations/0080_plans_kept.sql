-- What runs with every attempt keeps its plans: functions in PL/pgSQL plan a statement once per connection, those in SQL
-- are parsed and planned anew at each call. What they do and who may call them is as in 0012, 0020, 0072 and 0074. Exposures are updated
-- two times in their lives; room in the page spares their indexes the first one.

ALTER TABLE validator.exposures SET (fillfactor = 85);

CREATE OR REPLACE FUNCTION api.destroy_record_secrets(records uuid[]) RETURNS bigint
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    destroyed bigint;
BEGIN
    UPDATE api.feed_records SET secret_sealed = NULL, extra_sealed = NULL
        WHERE tenant_id = platform.current_tenant() AND record_id = ANY (records)
              AND (secret_sealed IS NOT NULL OR extra_sealed IS NOT NULL);
    GET DIAGNOSTICS destroyed = ROW_COUNT;
    RETURN destroyed;
END $$;

CREATE OR REPLACE FUNCTION sync.match_identifiers("values" text[])
    RETURNS TABLE (value text, tenant_id uuid, identifier_id uuid)
    LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp ROWS 500
    AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY SELECT l.value, l.tenant_id, l.identifier_id FROM sync.identifier_lookup l WHERE l.value = ANY ("values");
END $$;

CREATE OR REPLACE FUNCTION budget.stopped(p_tenant uuid, p_provider text, p_directory text, p_object text)
    RETURNS boolean LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    RETURN EXISTS (SELECT FROM budget.stop
                   WHERE directory IS NULL AND (tenant_id IS NULL OR tenant_id = p_tenant))
        OR EXISTS (SELECT FROM budget.stop
                   WHERE directory = p_directory AND provider = p_provider AND (object IS NULL OR object = p_object));
END $$;

-- INVARIANT: no attempt is dated before the last beat. By a clock that went back in between, and returns, its slot would
-- be free too early.
CREATE OR REPLACE FUNCTION budget.dated(p_instant timestamptz) RETURNS timestamptz
    LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
    AS $$ BEGIN RETURN (SELECT greatest(p_instant, beat_at) FROM budget.gate); END $$;
