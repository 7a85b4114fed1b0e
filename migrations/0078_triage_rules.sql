-- What triage decided is counted by rule, what waits tells its place in the order, and a request for validation tells its
-- end. validator.exposures is written by credential-validator, the other tables by integration-api.

-- Generated, decided_by is right after every new decision and after one that is given back. It rewrites the table once.
ALTER TABLE validator.exposures
    ADD COLUMN likelihood text,                         -- of shared::triage; NULL: it came in before this was kept
    ADD COLUMN privileged boolean NOT NULL DEFAULT false, -- an administrator's account, as it came in
    -- A rule of triage, `budget`, `retention` or `attempt`; while no verdict stands for good, `waiting` or `idle`.
    ADD COLUMN decided_by text NOT NULL GENERATED ALWAYS AS (CASE
        WHEN state <> 'decided' THEN state
        WHEN verdict_reason = 'secret_expired' THEN 'retention'
        WHEN NOT decided_without_attempt THEN 'attempt'
        -- Of a sealed secret that did not open no rule was noted.
        ELSE coalesce(evidence ->> 'rule', 'no_usable_secret') END) STORED;
DROP INDEX validator.exposures_tenant_id_integration_id_idx;
CREATE INDEX exposures_decided_by ON validator.exposures (tenant_id, integration_id, decided_by);

CREATE OR REPLACE VIEW validator.exposures_v WITH (security_invoker = true) AS
    SELECT tenant_id, exposure_id, record_id, batch_id, feed, account_id, identity_id, identifier_id, integration_id,
           provider, directory_id, object_id, login_at_match, source, targets, severity, secret_form, has_cookies,
           captured_after, captured_before, published_at, first_seen_at, received_at, history,
           verdict, verdict_reason, verdict_at, decided_without_attempt, attempts, evidence, deferred_until, state, created_at,
           likelihood, privileged, decided_by
    FROM validator.exposures;
GRANT SELECT (likelihood, privileged, decided_by) ON validator.exposures TO parapet_api, parapet_mitigation;

-- INVARIANT (I9): the one way from another service to the validator's work; it shows the transaction's tenant only.
CREATE FUNCTION validator.places(exposures uuid[])
    RETURNS TABLE (exposure_id uuid, rank smallint, due_at timestamptz, state text)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp ROWS 100
    AS $$
    SELECT w.subject, w.priority, w.due_at, w.state FROM validator.work w
    WHERE w.tenant_id = platform.current_tenant() AND w.kind = 'validate' AND w.subject = ANY (exposures)
    $$;
GRANT EXECUTE ON FUNCTION validator.places(uuid[]) TO parapet_api;
COMMENT ON TABLE validator.work IS
    'no-tenant: reached by parapet_validator (shared::work); a tenant''s own places are read through validator.places';

ALTER TABLE api.validation_requests
    ADD COLUMN ended_at timestamptz; -- its last exposure had its verdict, or a person cancelled it
GRANT UPDATE (ended_at) ON api.validation_requests TO parapet_api;

-- Requests whose end is looked for, across tenants.
CREATE TABLE api.validations_under_way (
    validation_id uuid PRIMARY KEY,
    tenant_id     uuid NOT NULL,
    next_item     uuid,             -- what is before it in the order of exposures has had its verdict
    look_at       timestamptz NOT NULL DEFAULT clock_timestamp()
);
COMMENT ON TABLE api.validations_under_way IS 'no-tenant: reached by parapet_api, which notices the end of requests';
CREATE INDEX validations_under_way_look_at ON api.validations_under_way (look_at);
GRANT SELECT, INSERT, UPDATE, DELETE ON api.validations_under_way TO parapet_api;

-- Row security holds for the owner of a table too; this is about the requests of every tenant.
ALTER TABLE api.validation_requests NO FORCE ROW LEVEL SECURITY;
INSERT INTO api.validations_under_way (validation_id, tenant_id)
    SELECT validation_id, tenant_id FROM api.validation_requests WHERE state <> 'cancelled';
ALTER TABLE api.validation_requests FORCE ROW LEVEL SECURITY;
