-- Counts by day for the overview, and the confirmation that deleting an integration asks for. Written by integration-api.

-- Days that are over for a day: counted once and kept. The time zone is part of the key: another one has other days.
CREATE TABLE api.overview_days (
    tenant_id     uuid NOT NULL,
    time_zone     text NOT NULL,
    day           date NOT NULL,
    exposures     bigint NOT NULL,
    valid         bigint NOT NULL,
    invalid       bigint NOT NULL,
    undecided     bigint NOT NULL,
    mitigations   bigint NOT NULL,
    attempts      bigint NOT NULL,
    attempts_saved bigint NOT NULL,
    PRIMARY KEY (tenant_id, time_zone, day)
);
SELECT platform.protect_tenant_table('api.overview_days');
GRANT SELECT, INSERT, DELETE ON api.overview_days TO parapet_api;

CREATE INDEX exposures_created ON validator.exposures (tenant_id, created_at);
CREATE INDEX exposures_verdict_at ON validator.exposures (tenant_id, verdict_at) INCLUDE (verdict, decided_by, decided_without_attempt)
    WHERE state = 'decided';

-- INVARIANT (I9): shows the transaction's tenant only.
CREATE FUNCTION validator.attempts_by_day(zone text, since timestamptz) RETURNS TABLE (day date, attempts bigint)
    LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    RETURN QUERY
        SELECT (a.created_at AT TIME ZONE zone)::date, count(*) FROM validator.attempts a
        WHERE a.tenant_id = platform.current_tenant() AND a.created_at >= since GROUP BY 1;
END $$;
GRANT EXECUTE ON FUNCTION validator.attempts_by_day(text, timestamptz) TO parapet_api;

-- What a person was told is deleted with an integration, and may now delete: once, for ten minutes, as it was then.
CREATE TABLE api.deletions_asked (
    tenant_id      uuid NOT NULL,
    integration_id uuid NOT NULL,
    confirmation   uuid NOT NULL,
    asked_by       text NOT NULL,               -- token subject
    version        bigint NOT NULL,             -- of the integration
    expires_at     timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, integration_id),
    FOREIGN KEY (tenant_id, integration_id) REFERENCES api.integrations ON DELETE CASCADE
);
SELECT platform.protect_tenant_table('api.deletions_asked');
GRANT SELECT, INSERT, UPDATE, DELETE ON api.deletions_asked TO parapet_api;
