-- The decision whether a password may be submitted (design §5, reliability.md §3), its settlement and its explanation.
-- Called by credential-validator (reserve, settle, reap) and integration-api (explain). Owned by parapet_budget_owner,
-- which cannot log in and does not bypass row security.

CREATE TYPE budget.decision AS (
    outcome       text,         -- granted | already | denied
    reason        text,         -- of a denial: threshold_too_low | daily_max | locked | in_flight | spacing | cooling | window | reserve
    free_at       timestamptz,  -- when it may be asked again; NULL: time alone frees nothing
    attempt_limit integer,      -- attempts allowed in the window
    used          integer,      -- of these, reserved already
    since_success integer       -- attempts since the owner's last seen sign-in
);

CREATE TYPE budget.rules AS (
    threshold     integer,      -- lockout threshold counted with
    attempt_limit integer,      -- attempts in the window
    limited_by    text,         -- what made it so: daily_max | lockout_threshold | ceiling | threshold_too_low
    reserve_limit integer       -- attempts since the owner's last seen sign-in (I2)
);

-- What thresholds and settings allow. Half of the threshold at most, and the owner keeps at least three wrong tries
-- before the one that locks. A threshold of four or less leaves no room: one attempt in total, if an administrator
-- opted in and half of it is not zero.
CREATE FUNCTION budget.rules_for(daily_max integer, known_threshold integer, us_gov boolean, ad_backed boolean, low_threshold_opt_in boolean)
    RETURNS budget.rules LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    ceiling CONSTANT integer := 5;
    daily CONSTANT integer := greatest(coalesce(daily_max, 0), 0);
    t integer;
    r budget.rules;
BEGIN
    -- A directory that reports 0 or nothing has not told us its threshold.
    t := CASE WHEN known_threshold > 0 THEN known_threshold WHEN us_gov IS DISTINCT FROM false THEN 3 ELSE 10 END;
    -- Behind the directory AD counts too, by a threshold nobody shows us.
    IF ad_backed IS DISTINCT FROM false THEN t := least(t, 5); END IF;
    r.threshold := t;
    r.reserve_limit := CASE WHEN t > 4 THEN least(t / 2, t - 4)
                            WHEN low_threshold_opt_in IS NOT DISTINCT FROM true THEN least(t / 2, 1)
                            ELSE 0 END;
    r.attempt_limit := least(daily, t / 2, r.reserve_limit, ceiling);
    r.limited_by := CASE WHEN r.reserve_limit = 0 THEN 'threshold_too_low'
                         WHEN r.attempt_limit = daily THEN 'daily_max'
                         WHEN r.attempt_limit = ceiling THEN 'ceiling'
                         ELSE 'lockout_threshold' END;
    RETURN r;
END $$;

-- The decision, with the instant and the window as arguments: proofs and simulations call this one.
--
-- INVARIANT (I1, I2, I4): takes the account's row lock before it looks; a permit is granted only together with the
-- ledger row, the slot and the audit intent, in the caller's transaction; an attempt id is granted at most once.
CREATE FUNCTION budget.decide(
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

-- INVARIANT (design §5): the only way to a permit; the database's clock, the shipped window, nothing else.
-- 25 h is the longest calendar day, 15 min lie between reserving and sending (reliability.md §3.2).
CREATE FUNCTION budget.reserve(
    attempt uuid, nonce uuid, provider text, directory text, object text,
    daily_max integer, threshold integer, us_gov boolean, ad_backed boolean, low_threshold_opt_in boolean,
    owner_sign_in timestamptz, password_changed timestamptz, locked boolean,
    event uuid, tenant uuid, intent bytea, traceparent text)
    RETURNS budget.decision LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
    SELECT budget.decide($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17,
                         clock_timestamp(), interval '25 hours 15 minutes')
    $$;

-- Stores what became of an attempt. Only the holder of the nonce can, once, before the reaper; true when it did.
-- A later answer is kept as evidence. An answer that says "locked" keeps the account untouched for a window.
CREATE FUNCTION budget.settle(p_attempt uuid, p_nonce uuid, answered boolean, p_result text, p_code text, locked boolean)
    RETURNS boolean LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    settled budget.attempt;
BEGIN
    UPDATE budget.attempt SET
            state = CASE WHEN answered THEN 'answered' ELSE 'unknown' END,
            finished_at = clock_timestamp(), result = p_result, code = p_code
        WHERE attempt_id = p_attempt AND nonce = p_nonce AND state = 'reserved'
        RETURNING * INTO settled;
    IF FOUND THEN
        IF locked THEN
            UPDATE budget.account a SET cool_until = greatest(a.cool_until, clock_timestamp() + interval '25 hours 15 minutes')
                WHERE a.provider = settled.provider AND a.directory = settled.directory AND a.object = settled.object;
        END IF;
        RETURN true;
    END IF;
    UPDATE budget.attempt SET late_result = p_result WHERE attempt_id = p_attempt AND nonce = p_nonce AND state = 'unknown';
    RETURN false;
END $$;

-- Turns reservations that nobody settled into `unknown`: their process is gone, or it must not settle any more.
-- 2 min: 30 s to send, 20 s for the answer, the rest for the result's transaction.
CREATE FUNCTION budget.expire(at_most integer, p_instant timestamptz)
    RETURNS SETOF uuid LANGUAGE sql SET search_path = pg_catalog, pg_temp
    AS $$
    UPDATE budget.attempt SET state = 'unknown', finished_at = p_instant
    WHERE attempt_id IN (
        SELECT attempt_id FROM budget.attempt
        WHERE state = 'reserved' AND reserved_at < p_instant - interval '2 minutes'
        ORDER BY reserved_at LIMIT at_most FOR UPDATE SKIP LOCKED)
    RETURNING attempt_id
    $$;

CREATE FUNCTION budget.reap(at_most integer)
    RETURNS SETOF uuid LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$ SELECT budget.expire($1, clock_timestamp()) $$;

-- Says for a person what an account's budget is and why. What other tenants spent is in the sums, without its source.
CREATE FUNCTION budget.explain(
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

-- An administrator's word that the owner signed in: the only reset that no directory showed. Nobody is granted it;
-- it is an operator's decision, made as the database's owner.
CREATE FUNCTION budget.vouch(p_provider text, p_directory text, p_object text) RETURNS boolean
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    UPDATE budget.account SET since_success = 0, owner_sign_in_at = greatest(owner_sign_in_at, clock_timestamp())
        WHERE provider = p_provider AND directory = p_directory AND object = p_object;
    RETURN FOUND;
END $$;

DO $$
DECLARE f regprocedure;
BEGIN
    GRANT CREATE ON SCHEMA budget TO parapet_budget_owner; -- a new owner must be able to create; taken back below
    FOR f IN SELECT oid::regprocedure FROM pg_proc WHERE pronamespace = 'budget'::regnamespace
    LOOP
        EXECUTE format('REVOKE ALL ON FUNCTION %s FROM PUBLIC', f);
        EXECUTE format('ALTER FUNCTION %s OWNER TO parapet_budget_owner', f);
    END LOOP;
    REVOKE CREATE ON SCHEMA budget FROM parapet_budget_owner;
END $$;
GRANT EXECUTE ON FUNCTION
    budget.reserve(uuid, uuid, text, text, text, integer, integer, boolean, boolean, boolean, timestamptz, timestamptz, boolean, uuid, uuid, bytea, text),
    budget.settle(uuid, uuid, boolean, text, text, boolean),
    budget.reap(integer)
    TO parapet_validator;
GRANT EXECUTE ON FUNCTION budget.explain(text, text, text, integer, integer, boolean, boolean, boolean) TO parapet_api, parapet_validator;
