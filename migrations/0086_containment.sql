-- What containment left open: who last changed what an integration does by itself to accounts, what of the past can be taken
-- back, and requests that a person cancels. integration-api writes integrations, mitigation-executor the rest.

-- Whoever set an integration's switches does not approve its first run.
ALTER TABLE api.integrations ADD COLUMN mitigation_by text; -- who last changed settings.mitigation (token subject)
-- Who did so before is not known: the last who changed anything stands in. Row security holds for the owner too.
ALTER TABLE api.integrations NO FORCE ROW LEVEL SECURITY;
UPDATE api.integrations SET mitigation_by = updated_by;
ALTER TABLE api.integrations FORCE ROW LEVEL SECURITY;

-- INVARIANT (I7): whatever writes an integration, the switches carry the name of who set them.
CREATE FUNCTION api.note_who_switched_mitigation() RETURNS trigger
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    NEW.mitigation_by := NEW.updated_by;
    RETURN NEW;
END $$;
CREATE TRIGGER made BEFORE INSERT ON api.integrations FOR EACH ROW EXECUTE FUNCTION api.note_who_switched_mitigation();
CREATE TRIGGER switched BEFORE UPDATE ON api.integrations FOR EACH ROW
    WHEN (OLD.settings -> 'mitigation' IS DISTINCT FROM NEW.settings -> 'mitigation')
    EXECUTE FUNCTION api.note_who_switched_mitigation();
ALTER TABLE api.integrations ALTER COLUMN mitigation_by SET NOT NULL;

CREATE OR REPLACE VIEW api.integrations_v WITH (security_invoker = true) AS
    SELECT tenant_id, integration_id, name, provider, config, settings, status, status_reason, directory_id, version,
           created_at, connection_since, updated_by, mitigation_by
    FROM api.integrations;
GRANT SELECT (updated_by, mitigation_by) ON api.integrations TO parapet_sync, parapet_validator, parapet_mitigation;

-- Nothing is taken back of what the directory showed already: no call was begun.
CREATE OR REPLACE VIEW mitigation.mitigations_v WITH (security_invoker = true) AS
    SELECT tenant_id, mitigation_id, exposure_id, request_id, account_id, integration_id, action, state, reason, held_by,
           automatic, requested_by, released_by, created_at, finished_at, verified_at, undone_at, reverted_at, details, undoes,
           approval_id, place, policy_version, attempt
    FROM mitigation.mitigations;
GRANT SELECT (attempt) ON mitigation.mitigations TO parapet_api;

-- People's requests that were cancelled: of them nothing is begun any more, whenever it is planned.
CREATE TABLE mitigation.cancellations (
    tenant_id      uuid NOT NULL,
    request_id     uuid NOT NULL,
    cancelled_by   text NOT NULL,               -- token subject
    canceller_name text NOT NULL,
    reason         text NOT NULL,
    dropped        bigint NOT NULL,             -- mitigations that were planned or held then
    cancelled_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (tenant_id, request_id)
);
SELECT platform.protect_tenant_table('mitigation.cancellations');
GRANT SELECT, INSERT ON mitigation.cancellations TO parapet_mitigation;
