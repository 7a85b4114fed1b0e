-- A turn takes its exposure's row lock with one call that travels with BEGIN. Called by credential-validator.

-- Holds an exposure until the transaction ends, if it still waits in this round. Returns the time in microseconds since 1970,
-- read under the lock; NULL: it waits no more. What the caller reads afterwards is as it is under the lock.
CREATE FUNCTION validator.hold(exposure uuid, in_round integer) RETURNS bigint
    LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    PERFORM FROM validator.exposures
        WHERE tenant_id = platform.current_tenant() AND exposure_id = exposure AND state = 'waiting' AND round = in_round
        FOR UPDATE;
    RETURN CASE WHEN FOUND THEN (extract(epoch FROM clock_timestamp()) * 1000000)::bigint END;
END $$;
REVOKE ALL ON FUNCTION validator.hold(uuid, integer) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION validator.hold(uuid, integer) TO parapet_validator;
