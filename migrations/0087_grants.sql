-- What an organization grants the administrators of its tenants, and what a package leaves out, where every service reads it.
-- Written by integration-api.

ALTER TABLE api.organizations
    ADD COLUMN tenant_admins_add_integrations boolean NOT NULL DEFAULT false;
GRANT UPDATE (tenant_admins_add_integrations) ON api.organizations TO parapet_api;

-- INVARIANT: an integration whose kind of provider the package does not include is disabled for every service.
CREATE OR REPLACE VIEW api.integrations_v WITH (security_invoker = true) AS
    SELECT i.tenant_id, i.integration_id, i.name, i.provider, i.config, i.settings,
           CASE WHEN i.provider = ANY (t.entitled_providers) THEN i.status ELSE 'disabled' END AS status,
           CASE WHEN i.provider = ANY (t.entitled_providers) THEN i.status_reason ELSE 'not_entitled' END AS status_reason,
           i.directory_id, i.version, i.created_at, i.connection_since, i.updated_by, i.mitigation_by
    FROM api.integrations i JOIN api.tenants t USING (tenant_id);
