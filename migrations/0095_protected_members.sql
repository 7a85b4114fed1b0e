-- Who is in the groups and holds the roles that the mitigation policy protects, so that a plan foresees whom execution, which
-- reads memberships afresh, will hold. Written by identity-sync-worker, read by mitigation-executor; what the directory does
-- not know is told with the policy by integration-api.

CREATE TABLE sync.protected_sets (
    tenant_id      uuid NOT NULL,
    integration_id uuid NOT NULL,
    kind           text NOT NULL CHECK (kind IN ('group', 'role')),
    name           text NOT NULL,               -- as the policy spells it
    read_at        timestamptz,                 -- when its members were read last; NULL: never
    known          boolean,                     -- the directory knew it then
    tried_at       timestamptz NOT NULL DEFAULT clock_timestamp(),
    problem        text,                        -- why the last try failed; NULL: it did not
    PRIMARY KEY (tenant_id, integration_id, kind, name),
    CHECK ((read_at IS NULL) = (known IS NULL))
);
SELECT platform.protect_tenant_table('sync.protected_sets');

CREATE TABLE sync.protected_members (
    tenant_id      uuid NOT NULL,
    integration_id uuid NOT NULL,
    object_id      text NOT NULL,               -- at the directory; GUIDs in lower case
    kind           text NOT NULL CHECK (kind IN ('group', 'role')),
    name           text NOT NULL,
    PRIMARY KEY (tenant_id, integration_id, object_id, kind, name)
);
SELECT platform.protect_tenant_table('sync.protected_members');
GRANT SELECT, INSERT, UPDATE, DELETE ON sync.protected_sets, sync.protected_members TO parapet_sync;

CREATE VIEW sync.protected_sets_v WITH (security_invoker = true) AS
    SELECT tenant_id, integration_id, kind, name, read_at, known, tried_at, problem FROM sync.protected_sets;
CREATE VIEW sync.protected_members_v WITH (security_invoker = true) AS
    SELECT tenant_id, integration_id, object_id, kind, name FROM sync.protected_members;
GRANT SELECT ON sync.protected_sets, sync.protected_sets_v TO parapet_mitigation, parapet_api;
GRANT SELECT ON sync.protected_members, sync.protected_members_v TO parapet_mitigation;

-- Which groups and roles are protected.
GRANT SELECT (tenant_id, version, policy, updated_by, created_at) ON api.mitigation_policies TO parapet_sync;
GRANT SELECT ON api.mitigation_policies_v TO parapet_sync;
