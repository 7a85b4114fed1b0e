-- Kill switches of password attempts: by an operator for the installation, by a tenant for itself, a directory or an
-- account. They hold from the next reservation on; an attempt that has its permit already is at most 30 s old. Written by
-- integration-api through the functions below; read by the decision itself, so that no service can overlook one.

CREATE TABLE budget.stop (
    stop_id    uuid PRIMARY KEY,
    tenant_id  uuid,                              -- who stopped; NULL: the operator, for the whole installation
    provider   text CHECK (provider IN ('entra_id', 'okta')),
    directory  text CHECK (directory <> ''),      -- NULL: all that the tenant has
    object     text CHECK (object <> ''),         -- NULL: the whole directory
    reason     text NOT NULL CHECK (length(reason) BETWEEN 1 AND 500),
    actor_id   text NOT NULL,
    actor_name text NOT NULL,
    stopped_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    UNIQUE NULLS NOT DISTINCT (tenant_id, provider, directory, object),
    CHECK ((provider IS NULL) = (directory IS NULL)),
    CHECK (object IS NULL OR directory IS NOT NULL),
    CHECK (tenant_id IS NOT NULL OR directory IS NULL),
    -- As the budget's own rows: GUIDs are folded.
    CHECK (provider <> 'entra_id' OR (directory = lower(directory) AND object IS NOT DISTINCT FROM lower(object)))
);
COMMENT ON TABLE budget.stop IS 'no-tenant: holds for whoever asks; reached through budget.stop_attempts, budget.resume_attempts and budget.stops';
CREATE INDEX stop_directory ON budget.stop (directory, object);
GRANT SELECT, INSERT, DELETE ON budget.stop TO parapet_budget_owner;

-- Whether attempts on an account are stopped. A directory and an account are stopped for every tenant: they share its
-- lockout counter, and whoever sees harm there sees it for all.
CREATE FUNCTION budget.stopped(p_tenant uuid, p_provider text, p_directory text, p_object text)
    RETURNS boolean LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp
    AS $$
    SELECT EXISTS (SELECT FROM budget.stop
                   WHERE directory IS NULL AND (tenant_id IS NULL OR tenant_id = p_tenant))
        OR EXISTS (SELECT FROM budget.stop
                   WHERE directory = p_directory AND provider = p_provider AND (object IS NULL OR object = p_object))
    $$;

-- The decision, with the instant and the window as arguments: proofs and simulations call this one.
--
-- INVARIANT (I1, I2, I4): takes the account's row lock before it looks; a permit is granted only together with the
-- ledger row, the slot and the audit intent, in the caller's transaction; an attempt id is granted at most once.
CREATE OR REPLACE FUNCTION budget.decide(
    p_attempt uuid, p_nonce uuid, p_provider text, p_directory text, p_object text,
    p_daily_max integer, p_threshold integer, p_us_gov boolean, p_ad_backed boolean, p_low_threshold_opt_in boolean,
    p_owner_sign_in timestamptz, p_password_changed timestamptz, p_locked boolean,
    p_event uuid, p_tenant uuid, p_intent bytea, p_traceparent text,
    p_instant timestamptz, p_window interval)
    RETURNS budget.decision LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    spacing CONSTANT interval := interval '5 minutes';
    -- Between reserving and sending, plus clock error: what the directory dates earlier than this after our last
    -- attempt may be the trace of that attempt itself.
    grace CONSTANT interval := interval '15 minutes';
    overdue CONSTANT interval := interval '2 minutes';
    rules CONSTANT budget.rules := budget.rules_for(p_daily_max, p_threshold, p_us_gov, p_ad_backed, p_low_threshold_opt_in);
    a budget.account;
    d budget.decision;
    at timestamptz;
    opened timestamptz;
BEGIN
    IF p_instant IS NULL OR p_window IS NULL OR p_locked IS NULL THEN
        RAISE EXCEPTION 'the budget needs an instant, a window and the lock state';
    END IF;
    d.attempt_limit := rules.attempt_limit;
    IF EXISTS (SELECT FROM budget.attempt WHERE attempt_id = p_attempt) THEN
        d.outcome := 'already';
        RETURN d;
    END IF;
    d.outcome := 'denied';
    IF rules.attempt_limit < 1 THEN
        d.reason := rules.limited_by;
        RETURN d;
    END IF;

    INSERT INTO budget.account (provider, directory, object) VALUES (p_provider, p_directory, p_object) ON CONFLICT DO NOTHING;
    SELECT * INTO STRICT a FROM budget.account
        WHERE provider = p_provider AND directory = p_directory AND object = p_object FOR UPDATE;
    -- Again under the lock: the same attempt may have been granted while we waited for it.
    IF EXISTS (SELECT FROM budget.attempt WHERE attempt_id = p_attempt) THEN
        d.outcome := 'already';
        RETURN d;
    END IF;

    -- INVARIANT: a stop that was committed before this statement holds, whoever asks.
    IF budget.stopped(p_tenant, p_provider, p_directory, p_object) THEN
        d.reason := 'stopped';
        RETURN d;
    END IF;

    -- A clock that went back frees nothing.
    at := greatest(p_instant, a.last_attempt_at);
    a.recent := ARRAY(SELECT t FROM unnest(a.recent) AS t WHERE t > at - p_window ORDER BY t);
    d.used := cardinality(a.recent);
    d.since_success := a.since_success;

    SELECT reserved_at INTO opened FROM budget.attempt
        WHERE provider = p_provider AND directory = p_directory AND object = p_object AND state = 'reserved';
    IF FOUND THEN
        d.reason := 'in_flight';
        d.free_at := opened + overdue;
        RETURN d;
    END IF;

    -- What the directory shows of the owner. Our own attempts show up there too, so only what is clearly newer counts.
    IF p_locked THEN
        IF a.last_attempt_at IS NULL OR a.last_attempt_at < p_instant - grace THEN
            UPDATE budget.account SET lock_seen_at = at
                WHERE provider = p_provider AND directory = p_directory AND object = p_object;
        END IF;
        d.reason := 'locked';
        RETURN d;
    END IF;
    -- A date in the future proves nothing: it would outrank attempts that are still to come.
    IF (p_owner_sign_in > a.last_attempt_at + grace AND p_owner_sign_in <= at + grace)
       OR (p_password_changed > a.last_attempt_at + grace AND p_password_changed <= at + grace)
       OR a.lock_seen_at > a.last_attempt_at THEN
        a.since_success := 0;
    END IF;
    d.since_success := a.since_success;
    UPDATE budget.account SET
            since_success = a.since_success, lock_seen_at = NULL,
            owner_sign_in_at = greatest(owner_sign_in_at, p_owner_sign_in)
        WHERE provider = p_provider AND directory = p_directory AND object = p_object;

    IF a.since_success >= rules.reserve_limit THEN
        d.reason := 'reserve';
    ELSIF a.cool_until > at THEN
        d.reason := 'cooling';
        d.free_at := a.cool_until;
    ELSIF d.used >= rules.attempt_limit THEN
        d.reason := 'window';
        d.free_at := greatest(a.recent[d.used - rules.attempt_limit + 1] + p_window, a.last_attempt_at + spacing);
    ELSIF a.last_attempt_at + spacing > at THEN
        d.reason := 'spacing';
        d.free_at := a.last_attempt_at + spacing;
    END IF;
    IF d.reason IS NOT NULL THEN
        RETURN d;
    END IF;

    INSERT INTO budget.attempt (attempt_id, provider, directory, object, nonce, reserved_at)
        VALUES (p_attempt, p_provider, p_directory, p_object, p_nonce, at)
        ON CONFLICT (attempt_id) DO NOTHING;
    IF NOT FOUND THEN
        d.outcome := 'already';
        RETURN d;
    END IF;
    UPDATE budget.account SET recent = a.recent || at, since_success = a.since_success + 1, last_attempt_at = at
        WHERE provider = p_provider AND directory = p_directory AND object = p_object;
    INSERT INTO budget.outbox (id, tenant_id, topic, body, traceparent)
        VALUES (p_event, p_tenant, 'audit.recorded', p_intent, p_traceparent);
    d.outcome := 'granted';
    d.used := d.used + 1;
    d.since_success := a.since_success + 1;
    RETURN d;
END $$;

-- Says for a person what an account's budget is and why. What other tenants spent is in the sums, without its source.
CREATE OR REPLACE FUNCTION budget.explain(
    p_provider text, p_directory text, p_object text, daily_max integer DEFAULT 2, known_threshold integer DEFAULT NULL,
    us_gov boolean DEFAULT false, ad_backed boolean DEFAULT false, low_threshold_opt_in boolean DEFAULT false)
    RETURNS TABLE (
        attempt_limit integer,      -- attempts allowed in any 25 hours
        limited_by    text,         -- daily_max | lockout_threshold | ceiling | threshold_too_low
        threshold     integer,      -- lockout threshold counted with
        used          integer,      -- attempts in the last 25 hours and a quarter
        since_success integer,      -- attempts since the owner's last seen sign-in
        reserve_limit integer,      -- how many of these there may be
        in_flight     boolean,      -- an attempt is under way
        next_free_at  timestamptz,  -- NULL: time alone frees nothing
        blocked_by    text)         -- what stands in the way now; NULL: nothing
    LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
#variable_conflict use_column
DECLARE
    span CONSTANT interval := interval '25 hours 15 minutes';
    r CONSTANT budget.rules := budget.rules_for(daily_max, known_threshold, us_gov, ad_backed, low_threshold_opt_in);
    folded_directory CONSTANT text := CASE WHEN p_provider = 'entra_id' THEN lower(p_directory) ELSE p_directory END;
    folded_object CONSTANT text := CASE WHEN p_provider = 'entra_id' THEN lower(p_object) ELSE p_object END;
    at timestamptz := clock_timestamp();
    a budget.account;
    kept timestamptz[];
    opened timestamptz;
BEGIN
    SELECT * INTO a FROM budget.account acc
        WHERE acc.provider = p_provider AND acc.directory = folded_directory AND acc.object = folded_object;
    SELECT att.reserved_at INTO opened FROM budget.attempt att
        WHERE att.provider = p_provider AND att.directory = folded_directory AND att.object = folded_object AND att.state = 'reserved';
    at := greatest(at, a.last_attempt_at);
    kept := ARRAY(SELECT t FROM unnest(a.recent) AS t WHERE t > at - span ORDER BY t);
    attempt_limit := r.attempt_limit;
    limited_by := r.limited_by;
    threshold := r.threshold;
    reserve_limit := r.reserve_limit;
    used := cardinality(kept);
    since_success := coalesce(a.since_success, 0);
    in_flight := opened IS NOT NULL;
    blocked_by := CASE
        WHEN budget.stopped(NULLIF(current_setting('app.tenant', true), '')::uuid, p_provider, folded_directory, folded_object)
            THEN 'stopped'
        WHEN r.attempt_limit < 1 THEN r.limited_by
        WHEN a.lock_seen_at IS NOT NULL THEN 'locked'
        WHEN since_success >= r.reserve_limit THEN 'reserve'
        WHEN in_flight THEN 'in_flight'
        WHEN a.cool_until > at THEN 'cooling'
        WHEN used >= r.attempt_limit THEN 'window'
        WHEN a.last_attempt_at + interval '5 minutes' > at THEN 'spacing'
    END;
    next_free_at := CASE
        WHEN blocked_by IS NULL THEN at
        WHEN blocked_by IN ('in_flight', 'cooling', 'window', 'spacing') THEN greatest(
            opened + interval '2 minutes', a.cool_until, a.last_attempt_at + interval '5 minutes',
            CASE WHEN used >= r.attempt_limit THEN kept[used - r.attempt_limit + 1] + span END)
    END;
    RETURN NEXT;
END $$;

-- Stops attempts for the tenant of the transaction, or, without one, for the installation. What is stopped already stays
-- as it is: the older stop comes back.
CREATE FUNCTION budget.stop_attempts(p_id uuid, p_provider text, p_directory text, p_object text, p_reason text, p_actor text, p_name text)
    RETURNS uuid LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    tenant CONSTANT uuid := NULLIF(current_setting('app.tenant', true), '')::uuid;
    folded_directory CONSTANT text := CASE WHEN p_provider = 'entra_id' THEN lower(p_directory) ELSE p_directory END;
    folded_object CONSTANT text := CASE WHEN p_provider = 'entra_id' THEN lower(p_object) ELSE p_object END;
    held uuid;
BEGIN
    INSERT INTO budget.stop (stop_id, tenant_id, provider, directory, object, reason, actor_id, actor_name)
        VALUES (p_id, tenant, p_provider, folded_directory, folded_object, p_reason, p_actor, p_name)
        ON CONFLICT DO NOTHING;
    SELECT stop_id INTO STRICT held FROM budget.stop s
        WHERE s.tenant_id IS NOT DISTINCT FROM tenant AND s.provider IS NOT DISTINCT FROM p_provider
          AND s.directory IS NOT DISTINCT FROM folded_directory AND s.object IS NOT DISTINCT FROM folded_object;
    RETURN held;
END $$;

-- Ends a stop; only whoever made it can. True when there was one.
CREATE FUNCTION budget.resume_attempts(p_id uuid)
    RETURNS boolean LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    DELETE FROM budget.stop
        WHERE stop_id = p_id AND tenant_id IS NOT DISTINCT FROM NULLIF(current_setting('app.tenant', true), '')::uuid;
    RETURN FOUND;
END $$;

-- The stops of the transaction's tenant and the installation's, newest first: one, or those after a place.
CREATE FUNCTION budget.stops(p_id uuid, p_before timestamptz, p_before_id uuid, at_most integer)
    RETURNS SETOF budget.stop LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
    SELECT * FROM budget.stop
    WHERE (tenant_id IS NULL OR tenant_id = NULLIF(current_setting('app.tenant', true), '')::uuid)
      AND (p_id IS NULL OR stop_id = p_id)
      AND (p_before IS NULL OR (stopped_at, stop_id) < (p_before, p_before_id))
    ORDER BY stopped_at DESC, stop_id DESC LIMIT at_most
    $$;

DO $$
DECLARE f regprocedure;
BEGIN
    GRANT CREATE ON SCHEMA budget TO parapet_budget_owner; -- as in 0036
    FOREACH f IN ARRAY ARRAY[
        'budget.stopped(uuid, text, text, text)', 'budget.stop_attempts(uuid, text, text, text, text, text, text)',
        'budget.resume_attempts(uuid)', 'budget.stops(uuid, timestamptz, uuid, integer)']::regprocedure[]
    LOOP
        EXECUTE format('REVOKE ALL ON FUNCTION %s FROM PUBLIC', f);
        EXECUTE format('ALTER FUNCTION %s OWNER TO parapet_budget_owner', f);
    END LOOP;
    REVOKE CREATE ON SCHEMA budget FROM parapet_budget_owner;
END $$;
GRANT EXECUTE ON FUNCTION
    budget.stop_attempts(uuid, text, text, text, text, text, text), budget.resume_attempts(uuid),
    budget.stops(uuid, timestamptz, uuid, integer)
    TO parapet_api;
