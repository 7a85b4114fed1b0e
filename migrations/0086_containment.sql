-- Who last changed what an integration does by itself to accounts: they do not approve its first run. Written by integration-api
-- with the integration; mitigation-executor reads it.

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
