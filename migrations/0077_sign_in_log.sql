-- The directory's own sign-in log as an input of the budget. What is known of the owner's wrong tries takes from the reserve,
-- so that the owner keeps three more before the one that locks (I2). Passed by credential-validator, which reads the log only
-- where it can change the decision; kept here, because an account must be explained without asking the directory.

ALTER TABLE budget.account
    ADD COLUMN owner_failures integer NOT NULL DEFAULT 0 CHECK (owner_failures >= 0); -- wrong tries since the owner's last sign-in, ours apart, as the log showed them last

-- How many attempts there may be since the owner's last seen sign-in.
--
-- INVARIANT (I2): after the last of them, and with what the log shows of the owner's wrong tries, the owner has three more
-- before the one that locks. Known tries never allow more than none do.
CREATE FUNCTION budget.reserve_left(r budget.rules, owner_failures integer)
    RETURNS integer LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    RETURN CASE WHEN owner_failures > 0
                THEN greatest(least(r.reserve_limit, r.threshold - 4 - least(owner_failures, r.threshold)), 0)
                ELSE r.reserve_limit END;
END $$;

-- Whether what the sign-in log shows can change a decision about an account: something of its reserve is spent, or was
-- seen to be. It is the one read of the budget before a reservation: logs are rationed (entra.md §7.4).
CREATE FUNCTION budget.log_matters(p_provider text, p_directory text, p_object text)
    RETURNS boolean LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    RETURN EXISTS (SELECT FROM budget.account
                   WHERE provider = $1 AND directory = $2 AND object = $3 AND (since_success > 0 OR owner_failures > 0));
END $$;

DROP FUNCTION budget.decide(
    uuid, uuid, text, text, text, integer, integer, boolean, boolean, boolean, timestamptz, timestamptz, boolean, uuid, uuid,
    bytea, text, timestamptz, interval);
DROP FUNCTION budget.reserve(
    uuid, uuid, text, text, text, integer, integer, boolean, boolean, boolean, timestamptz, timestamptz, boolean, uuid, uuid,
    bytea, text);

-- The decision, with the instant and the window as arguments: proofs and simulations call this one.
--
-- INVARIANT (I1, I2, I4): takes the account's row lock before it looks; a permit is granted only together with the
-- ledger row, the slot and the audit intent, in the caller's transaction; an attempt id is granted at most once.
CREATE FUNCTION budget.decide(
    p_attempt uuid, p_nonce uuid, p_provider text, p_directory text, p_object text,
    p_daily_max integer, p_threshold integer, p_us_gov boolean, p_ad_backed boolean, p_low_threshold_opt_in boolean,
    p_owner_sign_in timestamptz, p_password_changed timestamptz, p_locked boolean,
    p_event uuid, p_tenant uuid, p_intent bytea, p_traceparent text,
    p_instant timestamptz, p_window interval,
    p_owner_failures integer DEFAULT NULL) -- NULL: the log was not read
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
    reserve integer;
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
        a.owner_failures := 0;
    END IF;
    -- What the log did not show this time is not forgiven.
    a.owner_failures := greatest(coalesce(p_owner_failures, a.owner_failures), 0);
    reserve := budget.reserve_left(rules, a.owner_failures);
    d.since_success := a.since_success;
    UPDATE budget.account SET
            since_success = a.since_success, owner_failures = a.owner_failures, lock_seen_at = NULL,
            owner_sign_in_at = greatest(owner_sign_in_at, p_owner_sign_in)
        WHERE provider = p_provider AND directory = p_directory AND object = p_object;

    IF a.since_success >= reserve THEN
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
        VALUES (p_attempt, p_provider, p_directory, p_object, p_nonce, at, rules.attempt_limit, reserve, a.since_success + 1)
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

-- INVARIANT (design §5): the only way to a permit; the database's clock, the shipped window, nothing else. The log comes last
-- and may be left out, as by validators of the version before.
CREATE FUNCTION budget.reserve(
    attempt uuid, nonce uuid, provider text, directory text, object text,
    daily_max integer, threshold integer, us_gov boolean, ad_backed boolean, low_threshold_opt_in boolean,
    owner_sign_in timestamptz, password_changed timestamptz, locked boolean,
    event uuid, tenant uuid, intent bytea, traceparent text, owner_failures integer DEFAULT NULL)
    RETURNS budget.decision LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    RETURN budget.decide($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17,
                         clock_timestamp(), interval '25 hours 15 minutes', $18);
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
    reserve_limit := budget.reserve_left(r, a.owner_failures);
    used := cardinality(kept);
    since_success := coalesce(a.since_success, 0);
    in_flight := opened IS NOT NULL;
    blocked_by := CASE
        WHEN closed IS NOT NULL THEN 'gate'
        WHEN budget.stopped(NULLIF(current_setting('app.tenant', true), '')::uuid, p_provider, folded_directory, folded_object)
            THEN 'stopped'
        WHEN r.attempt_limit < 1 THEN r.limited_by
        WHEN a.lock_seen_at IS NOT NULL THEN 'locked'
        WHEN since_success >= reserve_limit THEN 'reserve'
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

-- An administrator's word that the owner signed in, as in 0036.
CREATE OR REPLACE FUNCTION budget.vouch(p_provider text, p_directory text, p_object text) RETURNS boolean
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    UPDATE budget.account SET
            since_success = 0, owner_failures = 0, owner_sign_in_at = greatest(owner_sign_in_at, clock_timestamp())
        WHERE provider = p_provider AND directory = p_directory AND object = p_object;
    RETURN FOUND;
END $$;

DO $$
DECLARE f regprocedure;
BEGIN
    GRANT CREATE ON SCHEMA budget TO parapet_budget_owner; -- as in 0036
    FOR f IN SELECT oid::regprocedure FROM pg_proc
             WHERE pronamespace = 'budget'::regnamespace AND proname IN ('reserve_left', 'log_matters', 'decide', 'reserve')
    LOOP
        EXECUTE format('REVOKE ALL ON FUNCTION %s FROM PUBLIC', f);
        EXECUTE format('ALTER FUNCTION %s OWNER TO parapet_budget_owner', f);
    END LOOP;
    REVOKE CREATE ON SCHEMA budget FROM parapet_budget_owner;
END $$;
GRANT EXECUTE ON FUNCTION
    budget.reserve(uuid, uuid, text, text, text, integer, integer, boolean, boolean, boolean, timestamptz, timestamptz, boolean, uuid, uuid, bytea, text, integer),
    budget.log_matters(text, text, text)
    TO parapet_validator;
