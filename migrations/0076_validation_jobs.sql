-- Requests for validation can be paused, resumed and cancelled. integration-api writes the state of a request;
-- credential-validator reads it in every turn and keeps, with an exposure, which requests ask for it and what they set aside.

ALTER TABLE api.validation_requests
    ADD COLUMN state text NOT NULL DEFAULT 'running' CHECK (state IN ('running', 'paused', 'cancelled'));
GRANT UPDATE (state) ON api.validation_requests TO parapet_api;

CREATE OR REPLACE VIEW api.validation_requests_v WITH (security_invoker = true) AS
    SELECT tenant_id, validation_id, kind, requested_by, requester_name, filter, force, created_at, state
    FROM api.validation_requests;

ALTER TABLE validator.exposures
    -- The requests that ask for the round that waits or was decided last. Empty although `requested`: asked for before
    -- requests could be paused.
    ADD COLUMN asked_by  uuid[] NOT NULL DEFAULT '{}',
    -- The state and verdict that the first of them set aside; a cancelled request gives them back.
    ADD COLUMN set_aside jsonb;
