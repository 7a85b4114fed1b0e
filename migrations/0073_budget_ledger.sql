-- What an independent auditor needs (reliability.md §3.10): every reservation says under which limits it was made, so that
-- all windows can be computed again from the ledger alone. The columns are written by budget.decide, the ledger is read
-- by integration-api through budget.ledger. What the auditor found is kept by integration-api.

ALTER TABLE budget.attempt
    ADD COLUMN attempt_limit integer, -- attempts allowed in the window when it was made; NULL: made before this column
    ADD COLUMN reserve_limit integer, -- attempts allowed since the owner's last seen sign-in
    ADD COLUMN since_success integer; -- of these, made: this one counted

-- The ledger, account by account after a place: the accounts with an attempt since an instant, each with what its budget
-- row remembers and with the attempts of one window before that instant and all later ones, oldest first. An account
-- whose budget row knows of attempts that the ledger lacks has one row without an attempt.
CREATE FUNCTION budget.ledger(p_provider text, p_directory text, p_object text, p_since timestamptz, at_most integer)
    RETURNS TABLE (
        provider text, directory text, object text, recent timestamptz[],
        attempt_id uuid, reserved_at timestamptz, finished_at timestamptz,
        attempt_limit integer, reserve_limit integer, since_success integer)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
    WITH page AS (
        SELECT a.provider, a.directory, a.object, a.recent FROM budget.account a
        WHERE (a.provider, a.directory, a.object) > ($1, $2, $3) AND a.last_attempt_at >= $4
        ORDER BY a.provider, a.directory, a.object LIMIT $5)
    SELECT p.provider, p.directory, p.object, p.recent,
           t.attempt_id, t.reserved_at, t.finished_at, t.attempt_limit, t.reserve_limit, t.since_success
    FROM page p
    LEFT JOIN budget.attempt t
        ON t.provider = p.provider AND t.directory = p.directory AND t.object = p.object
       AND t.reserved_at > $4 - interval '25 hours 15 minutes'
    ORDER BY p.provider, p.directory, p.object, t.reserved_at, t.attempt_id
    $$;

-- What the auditor found, once each. Never empty in a sound installation; never deleted.
CREATE TABLE api.limit_excesses (
    provider   text NOT NULL,
    directory  text NOT NULL,
    object     text NOT NULL,
    rule       text NOT NULL,             -- what did not hold
    at         timestamptz NOT NULL,      -- of the reservation concerned
    message    text NOT NULL,             -- one sentence with the figures
    found_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (provider, directory, object, rule, at)
);
COMMENT ON TABLE api.limit_excesses IS 'no-tenant: an account at a directory has one budget; written and read by parapet_api';
CREATE INDEX limit_excesses_found ON api.limit_excesses (found_at);
GRANT SELECT, INSERT ON api.limit_excesses TO parapet_api;

DO $$
BEGIN
    GRANT CREATE ON SCHEMA budget TO parapet_budget_owner; -- as in 0036
    REVOKE ALL ON FUNCTION budget.ledger(text, text, text, timestamptz, integer) FROM PUBLIC;
    ALTER FUNCTION budget.ledger(text, text, text, timestamptz, integer) OWNER TO parapet_budget_owner;
    REVOKE CREATE ON SCHEMA budget FROM parapet_budget_owner;
END $$;
GRANT EXECUTE ON FUNCTION budget.ledger(text, text, text, timestamptz, integer) TO parapet_api;
