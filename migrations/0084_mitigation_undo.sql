-- Taking mitigations back. An undo is a mitigation of its own, with its own life, that names the one it undoes; what was
-- undone says so, and is checked no more.

ALTER TABLE mitigation.mitigations
    ADD COLUMN undoes uuid, -- the mitigation that this one takes back; NULL: it contains
    DROP CONSTRAINT mitigations_state_check,
    ADD CONSTRAINT mitigations_state_check CHECK (state IN
        ('planned', 'held', 'acting', 'unknown', 'done', 'verified', 'reverted', 'undone', 'refused'));
-- INVARIANT: a mitigation is taken back once.
CREATE UNIQUE INDEX one_undo ON mitigation.mitigations (tenant_id, undoes) WHERE undoes IS NOT NULL AND state <> 'refused';
CREATE INDEX mitigations_undoable ON mitigation.mitigations (tenant_id, finished_at)
    WHERE automatic AND undoes IS NULL AND state IN ('done', 'verified');

CREATE OR REPLACE VIEW mitigation.mitigations_v WITH (security_invoker = true) AS
    SELECT tenant_id, mitigation_id, exposure_id, request_id, account_id, integration_id, action, state, reason, held_by,
           automatic, requested_by, released_by, created_at, finished_at, verified_at, undone_at, reverted_at, details, undoes
    FROM mitigation.mitigations;
GRANT SELECT (undoes) ON mitigation.mitigations TO parapet_api;

ALTER TABLE api.mitigation_requests
    ADD COLUMN undo           boolean NOT NULL DEFAULT false, -- take back instead
    ADD COLUMN mitigation_ids uuid[] NOT NULL DEFAULT '{}',   -- of an undo: these,
    ADD COLUMN undo_since     timestamptz,                    -- or all that was carried out automatically since
    ADD COLUMN dismiss_risk   boolean NOT NULL DEFAULT false, -- of an undo: marks too, with the detections that they carry
    ADD CHECK (NOT (undo AND release)),
    ADD CHECK (undo = (undo_since IS NOT NULL OR mitigation_ids <> '{}'));
CREATE OR REPLACE VIEW api.mitigation_requests_v WITH (security_invoker = true) AS
    SELECT tenant_id, request_id, requested_by, requester_name, actions, account_ids, exposure_ids, release, reason, created_at,
           undo, mitigation_ids, undo_since, dismiss_risk
    FROM api.mitigation_requests;
