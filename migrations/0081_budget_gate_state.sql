-- The gate for a person says `another_cluster` too before any beat has noted it. Called by integration-api.
CREATE OR REPLACE FUNCTION budget.gate_state()
    RETURNS TABLE (cluster text, replicated boolean, beat_at timestamptz, closed_at timestamptz, closed_until timestamptz, reason text)
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
#variable_conflict use_column
DECLARE
    at CONSTANT timestamptz := clock_timestamp();
    g budget.gate;
    shut CONSTANT timestamptz := budget.closed_until(at, interval '25 hours 15 minutes');
BEGIN
    SELECT * INTO STRICT g FROM budget.gate;
    cluster := budget.cluster();
    replicated := g.replicated;
    beat_at := g.beat_at;
    IF shut IS NOT NULL THEN
        closed_at := g.closed_at;
        closed_until := shut;
        reason := coalesce(g.reason, CASE -- not noted yet
            WHEN split_part(cluster, '/', 1) <> split_part(g.cluster, '/', 1) THEN 'another_cluster'
            WHEN cluster <> g.cluster THEN 'failover'
            ELSE 'unwatched' END);
    END IF;
    RETURN NEXT;
END $$;
