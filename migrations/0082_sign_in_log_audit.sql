-- The directories' own logs of sign-ins as the limit auditor's second witness: what they have of our submissions. Read by
-- credential-validator every hour and kept here for a week; compared with the ledger by integration-api, which writes what it
-- finds into api.limit_excesses, as before.

CREATE TABLE budget.sign_in (
    provider   text NOT NULL CHECK (provider IN ('entra_id', 'okta')),
    directory  text NOT NULL CHECK (directory <> ''),
    entry      text NOT NULL CHECK (entry <> ''),  -- the log's own id: however often it is read, it is one
    object     text NOT NULL CHECK (object <> ''),
    at         timestamptz NOT NULL,               -- by the directory's clock
    PRIMARY KEY (provider, directory, entry),
    CONSTRAINT folded CHECK (provider <> 'entra_id' OR (directory = lower(directory) AND object = lower(object)))
);
COMMENT ON TABLE budget.sign_in IS 'no-tenant: an account at a directory has one budget; reached through budget.keep_sign_ins and budget.ledger_with_log';
CREATE INDEX sign_in_account ON budget.sign_in (provider, directory, object, at);
CREATE INDEX sign_in_age ON budget.sign_in (at);

-- How far a log was read, by integration: each signs in under a client id of its own, and sees its own entries only.
CREATE TABLE budget.sign_in_read (
    integration uuid PRIMARY KEY,
    read_until  timestamptz,              -- NULL: never
    next_at     timestamptz NOT NULL      -- nobody reads before; while one reads, the end of its claim
);
COMMENT ON TABLE budget.sign_in_read IS 'no-tenant: reached through budget.claim_sign_in_log and budget.keep_sign_ins';

GRANT SELECT, INSERT, UPDATE, DELETE ON budget.sign_in, budget.sign_in_read TO parapet_budget_owner;

-- Takes the turn to read an integration's log, if it is due: of several replicas one gets a row. A claim whose holder vanished
-- ends after the lease.
CREATE FUNCTION budget.claim_sign_in_log(p_integration uuid, p_lease interval)
    RETURNS TABLE (claimed_at timestamptz, read_until timestamptz)
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY
        INSERT INTO budget.sign_in_read AS r (integration, next_at) VALUES (p_integration, clock_timestamp() + p_lease)
        ON CONFLICT (integration) DO UPDATE SET next_at = excluded.next_at WHERE r.next_at <= clock_timestamp()
        RETURNING clock_timestamp(), r.read_until;
END $$;

-- Keeps what was read up to an instant (NULL: nothing may be read) and says when the log is due again. What is older than the
-- auditor's hourly look back needs goes.
CREATE FUNCTION budget.keep_sign_ins(
    p_integration uuid, p_provider text, p_directory text, p_entries text[], p_objects text[], p_at timestamptz[],
    p_read_until timestamptz, p_rest interval)
    RETURNS void LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    kept CONSTANT interval := interval '8 days';
BEGIN
    INSERT INTO budget.sign_in (provider, directory, entry, object, at)
        SELECT p_provider, p_directory, e.entry, e.object, e.at
        FROM unnest(p_entries, p_objects, p_at) AS e (entry, object, at)
        ON CONFLICT DO NOTHING;
    UPDATE budget.sign_in_read SET read_until = greatest(read_until, p_read_until), next_at = clock_timestamp() + p_rest
        WHERE integration = p_integration;
    DELETE FROM budget.sign_in WHERE at < clock_timestamp() - kept;
    DELETE FROM budget.sign_in_read WHERE next_at < clock_timestamp() - kept; -- of an integration that is gone
END $$;

-- budget.ledger with what the log has, for accounts that only the log knows too: an attempt that the ledger lost altogether
-- shows there alone. `seen` is the same in every row of an account; it begins a quarter of an hour after the attempts do, so
-- that the first entry's attempt is among them. budget.ledger stays for replicas of the version before, and goes with them.
CREATE FUNCTION budget.ledger_with_log(
    p_provider text, p_directory text, p_object text, p_since timestamptz, at_most integer)
    RETURNS TABLE (
        provider text, directory text, object text, recent timestamptz[], seen timestamptz[],
        attempt_id uuid, reserved_at timestamptz, finished_at timestamptz,
        attempt_limit integer, reserve_limit integer, since_success integer)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
    WITH page AS (
        SELECT k.provider, k.directory, k.object FROM (
            (SELECT a.provider, a.directory, a.object FROM budget.account a
             WHERE (a.provider, a.directory, a.object) > ($1, $2, $3) AND a.last_attempt_at >= $4
             ORDER BY 1, 2, 3 LIMIT $5)
            UNION
            (SELECT DISTINCT s.provider, s.directory, s.object FROM budget.sign_in s
             WHERE (s.provider, s.directory, s.object) > ($1, $2, $3) AND s.at >= $4
             ORDER BY 1, 2, 3 LIMIT $5)) k
        ORDER BY 1, 2, 3 LIMIT $5)
    SELECT p.provider, p.directory, p.object, coalesce(a.recent, '{}'),
           ARRAY(SELECT s.at FROM budget.sign_in s
                 WHERE s.provider = p.provider AND s.directory = p.directory AND s.object = p.object
                   AND s.at > $4 - interval '25 hours' ORDER BY s.at),
           t.attempt_id, t.reserved_at, t.finished_at, t.attempt_limit, t.reserve_limit, t.since_success
    FROM page p
    LEFT JOIN budget.account a
        ON a.provider = p.provider AND a.directory = p.directory AND a.object = p.object
    LEFT JOIN budget.attempt t
        ON t.provider = p.provider AND t.directory = p.directory AND t.object = p.object
       AND t.reserved_at > $4 - interval '25 hours 15 minutes'
    ORDER BY p.provider, p.directory, p.object, t.reserved_at, t.attempt_id
    $$;

DO $$
DECLARE f regprocedure;
BEGIN
    GRANT CREATE ON SCHEMA budget TO parapet_budget_owner; -- as in 0036
    FOR f IN SELECT oid::regprocedure FROM pg_proc
             WHERE pronamespace = 'budget'::regnamespace
               AND proname IN ('claim_sign_in_log', 'keep_sign_ins', 'ledger_with_log')
    LOOP
        EXECUTE format('REVOKE ALL ON FUNCTION %s FROM PUBLIC', f);
        EXECUTE format('ALTER FUNCTION %s OWNER TO parapet_budget_owner', f);
    END LOOP;
    REVOKE CREATE ON SCHEMA budget FROM parapet_budget_owner;
END $$;
GRANT EXECUTE ON FUNCTION
    budget.claim_sign_in_log(uuid, interval),
    budget.keep_sign_ins(uuid, text, text, text[], text[], timestamptz[], timestamptz, interval)
    TO parapet_validator;
GRANT EXECUTE ON FUNCTION budget.ledger_with_log(text, text, text, timestamptz, integer) TO parapet_api;
