-- What keeps the work of a tenant at a directory from being given out: the directory asked to slow down, or does not
-- answer (a circuit breaker). One row per lane that is not known to be well, in every schema that has work. Written by the
-- service that owns the schema, read by its dispatcher.

DO $$
DECLARE
    service record;
BEGIN
    FOR service IN SELECT * FROM (VALUES
        ('api', 'parapet_api'), ('sync', 'parapet_sync'), ('validator', 'parapet_validator'),
        ('mitigation', 'parapet_mitigation'), ('audit', 'parapet_audit')) AS s (schema, role)
    LOOP
        EXECUTE format($sql$
            CREATE TABLE %1$I.lane_holds (
                tenant_id  uuid NOT NULL,
                directory  text NOT NULL,                  -- as in work
                failures   integer NOT NULL DEFAULT 0,     -- calls in a row without a usable answer, since it was last held
                opened     integer NOT NULL DEFAULT 0,     -- times in a row that it was held for failures
                held_until timestamptz,                    -- nothing is given out until then
                reason     text NOT NULL,                  -- throttled | unavailable
                since      timestamptz NOT NULL DEFAULT clock_timestamp(),
                PRIMARY KEY (tenant_id, directory)
            )
        $sql$, service.schema);
        EXECUTE format('COMMENT ON TABLE %I.lane_holds IS %L', service.schema,
            'no-tenant: reached by ' || service.role || ' (shared::work::lane)');
        EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON %I.lane_holds TO %I', service.schema, service.role);
    END LOOP;
END $$;
