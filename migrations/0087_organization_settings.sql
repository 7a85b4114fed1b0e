-- What an organization decides for all its tenants: whether their administrators may add integrations too. Written by
-- integration-api.

ALTER TABLE api.organizations
    ADD COLUMN tenant_admins_add_integrations boolean NOT NULL DEFAULT false;
GRANT UPDATE (tenant_admins_add_integrations) ON api.organizations TO parapet_api;
