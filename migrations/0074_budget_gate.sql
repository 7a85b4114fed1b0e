-- The failover gate (reliability.md §3.6). The budget is as good as the memory of this database: after a failover to a
-- replica that lacked the last commits, after a restore, or when its clock jumped forward, reservations stop for one
-- window, after which whatever was forgotten no longer counts. Written by credential-validator's beat and by an operator
-- through integration-api; compared by the decision itself on every reservation.

CREATE TABLE budget.gate (
    one          boolean PRIMARY KEY DEFAULT true CHECK (one),
    cluster      text NOT NULL,                     -- identity of the database that the reservations are in
    replicated   boolean NOT NULL DEFAULT false,    -- commits waited for a synchronous replica at the last beat
    beats        bigint NOT NULL DEFAULT 0,         -- only ever grows, unless history is lost
    beat_at      timestamptz NOT NULL DEFAULT clock_timestamp(),
    closed_at    timestamptz,
    closed_until timestamptz,
    reason       text CHECK (reason IN ('another_cluster', 'failover', 'history_lost', 'clock_stepped', 'operator')),
    CHECK ((closed_at IS NULL) = (reason IS NULL) AND (closed_until IS NULL) = (reason IS NULL))
);
COMMENT ON TABLE budget.gate IS 'no-tenant: one for the database; reached through budget.reserve, budget.beat, budget.gate_state and budget.close_gate';
GRANT SELECT, UPDATE ON budget.gate TO parapet_budget_owner;

-- The database this is: system identifier and timeline. A promoted replica has another timeline at once, a restored
-- backup too, a new cluster another identifier. A managed service that tells neither is `hidden`: then only the beats
-- and the clock are watched.
CREATE FUNCTION budget.cluster() RETURNS text LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    system text := 'hidden';
    timeline text := 'hidden';
BEGIN
    BEGIN
        SELECT system_identifier INTO system FROM pg_control_system();
    EXCEPTION WHEN insufficient_privilege OR feature_not_supported OR undefined_function THEN NULL;
    END;
    BEGIN
        timeline := substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8);
    EXCEPTION WHEN insufficient_privilege OR feature_not_supported OR undefined_function THEN NULL;
    END;
    RETURN system || '/' || timeline;
END $$;

INSERT INTO budget.gate (cluster) VALUES (budget.cluster());

-- The instant that a decision counts with.
--
-- INVARIANT: none is dated before the last beat. By a clock that went back in between, and returns, its slot would be free
-- too early.
CREATE FUNCTION budget.dated(p_instant timestamptz) RETURNS timestamptz LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
    AS $$ SELECT greatest(p_instant, beat_at) FROM budget.gate $$;

-- Until when no reservation is made; NULL: the gate is open. A change that no beat has noted yet closes it as well, and a
-- clock that is more than a minute ahead of the last beat: either it jumped or nobody watches, and the next beat tells.
CREATE FUNCTION budget.closed_until(p_instant timestamptz, p_window interval)
    RETURNS timestamptz LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    g budget.gate;
BEGIN
    SELECT * INTO STRICT g FROM budget.gate;
    IF g.cluster <> budget.cluster() THEN
        RETURN p_instant + p_window;
    END IF;
    RETURN CASE WHEN g.closed_until > p_instant THEN g.closed_until
                WHEN p_instant > g.beat_at + interval '1 minute' THEN p_instant + interval '1 minute' END;
END $$;

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
    -- INVARIANT: a database that may have lost reservations, or whose clock jumped, gives none for a window.
    d.free_at := budget.closed_until(p_instant, p_window);
    IF d.free_at IS NOT NULL THEN
        d.reason := 'gate';
        RETURN d;
    END IF;
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
    at := greatest(budget.dated(p_instant), a.last_attempt_at);
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

    INSERT INTO budget.attempt (attempt_id, provider, directory, object, nonce, reserved_at, attempt_limit, reserve_limit, since_success)
        VALUES (p_attempt, p_provider, p_directory, p_object, p_nonce, at, rules.attempt_limit, rules.reserve_limit, a.since_success + 1)
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
    closed timestamptz;
BEGIN
    closed := budget.closed_until(at, span);
    SELECT * INTO a FROM budget.account acc
        WHERE acc.provider = p_provider AND acc.directory = folded_directory AND acc.object = folded_object;
    SELECT att.reserved_at INTO opened FROM budget.attempt att
        WHERE att.provider = p_provider AND att.directory = folded_directory AND att.object = folded_object AND att.state = 'reserved';
    at := greatest(budget.dated(at), a.last_attempt_at);
    kept := ARRAY(SELECT t FROM unnest(a.recent) AS t WHERE t > at - span ORDER BY t);
    attempt_limit := r.attempt_limit;
    limited_by := r.limited_by;
    threshold := r.threshold;
    reserve_limit := r.reserve_limit;
    used := cardinality(kept);
    since_success := coalesce(a.since_success, 0);
    in_flight := opened IS NOT NULL;
    blocked_by := CASE
        WHEN closed IS NOT NULL THEN 'gate'
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
        WHEN blocked_by IN ('gate', 'in_flight', 'cooling', 'window', 'spacing') THEN greatest(
            closed, opened + interval '2 minutes', a.cool_until, a.last_attempt_at + interval '5 minutes',
            CASE WHEN used >= r.attempt_limit THEN kept[used - r.attempt_limit + 1] + span END)
    END;
    RETURN NEXT;
END $$;

-- A sign of life of a validator, every few seconds, and its testimony: what it saw in the beat before (NULL: nothing
-- yet), how much time has passed since by its own clock, which nobody sets, and whether the deployment declares that no
-- acknowledged commit is lost in a failover. Returns what it saw, and what is new: the reason for which the gate closed
-- now, `kept` (a failover that lost nothing), `clock_back` (frees nothing, but somebody should know) or `opened`.
--
-- INVARIANT: the declaration counts only if commits did wait for a synchronous replica at the last beat before.
CREATE FUNCTION budget.beat(p_seen_beats bigint, p_seen_at timestamptz, p_elapsed interval, p_declared boolean)
    RETURNS TABLE (beats bigint, beat_at timestamptz, closed_until timestamptz, news text)
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
#variable_conflict use_column
DECLARE
    span CONSTANT interval := interval '25 hours 15 minutes';
    most CONSTANT interval := interval '1 minute';
    at CONSTANT timestamptz := clock_timestamp(); -- before waiting for the row
    step CONSTANT interval := at - p_seen_at - p_elapsed;
    here CONSTANT text := budget.cluster();
    g budget.gate;
    why text;
BEGIN
    SELECT * INTO STRICT g FROM budget.gate FOR UPDATE;
    IF p_seen_beats > g.beats THEN
        why := 'history_lost';
    ELSIF split_part(here, '/', 1) <> split_part(g.cluster, '/', 1) THEN
        why := 'another_cluster';
    ELSIF here <> g.cluster AND NOT (coalesce(p_declared, false) AND g.replicated) THEN
        why := 'failover';
    ELSIF step > most THEN
        why := 'clock_stepped';
    END IF;
    news := CASE
        -- Several validators see the same: it is told once.
        WHEN why = g.reason AND g.closed_at > at - most THEN NULL
        WHEN why IS NOT NULL THEN why
        WHEN here <> g.cluster THEN 'kept'
        WHEN step < -most THEN 'clock_back'
        WHEN g.closed_until <= at THEN 'opened'
    END;
    IF why IS NOT NULL THEN
        g.closed_at := at;
        g.closed_until := greatest(g.closed_until, at + span);
        g.reason := why;
    ELSIF g.closed_until <= at THEN
        g.closed_at := NULL;
        g.closed_until := NULL;
        g.reason := NULL;
    END IF;
    beats := greatest(g.beats, p_seen_beats) + 1;
    beat_at := at;
    closed_until := g.closed_until;
    UPDATE budget.gate SET
        cluster = here, beats = beat.beats, beat_at = at,
        replicated = current_setting('synchronous_standby_names') <> '' AND current_setting('synchronous_commit') IN ('on', 'remote_apply'),
        closed_at = g.closed_at, closed_until = g.closed_until, reason = g.reason;
    RETURN NEXT;
END $$;

-- The gate for a person.
CREATE FUNCTION budget.gate_state()
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
        reason := coalesce(g.reason, CASE WHEN cluster <> g.cluster THEN 'failover' ELSE 'unwatched' END); -- not noted yet
    END IF;
    RETURN NEXT;
END $$;

-- An operator's word that reservations may have been lost where nobody can see it: a snapshot was put back while no
-- validator was running. Closes the gate for a window.
CREATE FUNCTION budget.close_gate() RETURNS timestamptz
    LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
    UPDATE budget.gate SET
        closed_at = clock_timestamp(), reason = 'operator',
        closed_until = greatest(closed_until, clock_timestamp() + interval '25 hours 15 minutes')
    RETURNING closed_until
    $$;

DO $$
DECLARE f regprocedure;
BEGIN
    GRANT CREATE ON SCHEMA budget TO parapet_budget_owner; -- as in 0036
    FOREACH f IN ARRAY ARRAY[
        'budget.cluster()', 'budget.dated(timestamptz)', 'budget.closed_until(timestamptz, interval)', 'budget.gate_state()', 'budget.close_gate()',
        'budget.beat(bigint, timestamptz, interval, boolean)']::regprocedure[]
    LOOP
        EXECUTE format('REVOKE ALL ON FUNCTION %s FROM PUBLIC', f);
        EXECUTE format('ALTER FUNCTION %s OWNER TO parapet_budget_owner', f);
    END LOOP;
    REVOKE CREATE ON SCHEMA budget FROM parapet_budget_owner;
END $$;
GRANT EXECUTE ON FUNCTION budget.beat(bigint, timestamptz, interval, boolean) TO parapet_validator;
GRANT EXECUTE ON FUNCTION budget.gate_state(), budget.close_gate() TO parapet_api;
