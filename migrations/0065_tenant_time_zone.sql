-- Gives a tenant a time zone, because directories are read in full at its night. api.tenants is written by
-- integration-api; the night is reckoned by the server's own time zone data, which knows every change of the clock.

ALTER TABLE api.tenants
    ADD COLUMN time_zone text NOT NULL DEFAULT 'UTC'; -- a name of pg_timezone_names

CREATE OR REPLACE VIEW api.tenants_v WITH (security_invoker = true) AS
    SELECT tenant_id, organization_id, name, created_at, entitled_providers, identity_creation, validation, mitigation,
           identifier_cap, integration_cap, contact, time_zone
    FROM api.tenants;

-- When the night's full run is due after a run that ended then: so many minutes after local midnight, and at least eight
-- hours later, so that no run is repeated in its own night. A local time that a change of the clock leaves out comes an
-- hour later, one that comes twice counts the second time.
CREATE FUNCTION sync.next_night(ended timestamptz, zone text, minute integer) RETURNS timestamptz
    LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    today date;
    night timestamptz;
BEGIN
    today := (ended AT TIME ZONE zone)::date;
    FOR days IN 0..2 LOOP
        night := (today + days + make_interval(mins => minute)) AT TIME ZONE zone;
        EXIT WHEN night > ended + interval '8 hours';
    END LOOP;
    RETURN night;
EXCEPTION WHEN invalid_parameter_value THEN
    -- A name that this server's data has no more: reading goes on.
    RETURN sync.next_night(ended, 'UTC', minute);
END $$;
GRANT EXECUTE ON FUNCTION sync.next_night(timestamptz, text, integer) TO parapet_sync;
