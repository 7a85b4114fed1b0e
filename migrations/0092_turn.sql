-- A turn takes its exposure's row lock with one call that travels with BEGIN. Called by credential-validator.

-- Holds an exposure until the transaction ends. Returns the time in microseconds since 1970, read under the lock; NULL: it
-- does not wait in this round any more. What the caller reads afterwards is as it is under the lock.
--
-- It is found by its key alone: with the state as a condition, a plan that was made while nothing waited goes on reading the
-- whole index of what waits, however much that becomes.
CREATE FUNCTION validator.hold(exposure uuid, in_round integer) RETURNS bigint
    LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    waits boolean;
BEGIN
    SELECT state = 'waiting' AND round = in_round INTO waits FROM validator.exposures
        WHERE tenant_id = platform.current_tenant() AND exposure_id = exposure
        FOR UPDATE;
    RETURN CASE WHEN waits THEN (extract(epoch FROM clock_timestamp()) * 1000000)::bigint END;
END $$;
REVOKE ALL ON FUNCTION validator.hold(uuid, integer) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION validator.hold(uuid, integer) TO parapet_validator;
