-- A tenant's mitigation policy, bulk requests, and approvals: what is held is held together, until a second person decides
-- about it or its time is over. Policies and requests are written by integration-api, approvals by mitigation-executor.

-- Every version of a policy; the highest is in force. A tenant without one has the defaults of shared::policy.
CREATE TABLE api.mitigation_policies (
    tenant_id    uuid NOT NULL,
    version      integer NOT NULL CHECK (version > 0),
    policy       jsonb NOT NULL,
    reason       text NOT NULL,
    updated_by   text NOT NULL,                 -- token subject
    updater_name text NOT NULL,
    created_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (tenant_id, version)
);
SELECT platform.protect_tenant_table('api.mitigation_policies');
GRANT SELECT, INSERT ON api.mitigation_policies TO parapet_api;
CREATE VIEW api.mitigation_policies_v WITH (security_invoker = true) AS
    SELECT tenant_id, version, policy, updated_by, created_at FROM api.mitigation_policies;
GRANT SELECT (tenant_id, version, policy, updated_by, created_at) ON api.mitigation_policies TO parapet_mitigation;
GRANT SELECT ON api.mitigation_policies_v TO parapet_api, parapet_mitigation;

-- The accounts of a request that selected many. The selection is made once, when it is asked for.
CREATE TABLE api.mitigation_items (
    tenant_id  uuid NOT NULL,
    request_id uuid NOT NULL,
    account_id uuid NOT NULL,
    PRIMARY KEY (tenant_id, request_id, account_id)
);
SELECT platform.protect_tenant_table('api.mitigation_items');
GRANT SELECT, INSERT ON api.mitigation_items TO parapet_api;
CREATE VIEW api.mitigation_items_v WITH (security_invoker = true) AS
    SELECT tenant_id, request_id, account_id FROM api.mitigation_items;
GRANT SELECT ON api.mitigation_items, api.mitigation_items_v TO parapet_mitigation;
GRANT SELECT ON api.mitigation_items_v TO parapet_api;

ALTER TABLE api.mitigation_requests
    ADD COLUMN bulk     boolean NOT NULL DEFAULT false, -- its accounts are in mitigation_items
    ADD COLUMN accounts integer NOT NULL DEFAULT 0,     -- accounts that it is about; of an undo 0
    ALTER COLUMN release SET DEFAULT false;             -- no longer written: approvals are decided at the executor
CREATE OR REPLACE VIEW api.mitigation_requests_v WITH (security_invoker = true) AS
    SELECT tenant_id, request_id, requested_by, requester_name, actions, account_ids, exposure_ids, release, reason, created_at,
           undo, mitigation_ids, undo_since, dismiss_risk, bulk, accounts
    FROM api.mitigation_requests;

-- Mitigations that are held for one reason, and what a second person decided about them.
CREATE TABLE mitigation.approvals (
    tenant_id       uuid NOT NULL,
    approval_id     uuid NOT NULL,
    held_by         text NOT NULL,
    request_id      uuid,                       -- the person's request that is held; NULL: automated mitigations are,
    integration_id  uuid,                       -- of this integration
    policy_version  integer NOT NULL,           -- in force when it was opened
    state           text NOT NULL CHECK (state IN ('open', 'approved', 'rejected', 'expired')),
    opened_at       timestamptz NOT NULL DEFAULT clock_timestamp(),
    joins_until     timestamptz NOT NULL,       -- what is held later opens another one
    expires_at      timestamptz NOT NULL,
    decided_at      timestamptz,
    decided_by      text,                       -- token subject
    decider_name    text,
    decision_reason text,
    PRIMARY KEY (tenant_id, approval_id),
    CHECK ((request_id IS NULL) <> (integration_id IS NULL)),
    CHECK ((state = 'open') = (decided_at IS NULL)),
    CHECK ((decided_by IS NOT NULL) = (state IN ('approved', 'rejected')))
);
SELECT platform.protect_tenant_table('mitigation.approvals');
CREATE INDEX approvals_open ON mitigation.approvals (tenant_id, opened_at, approval_id) WHERE state = 'open';
GRANT SELECT, INSERT, UPDATE ON mitigation.approvals TO parapet_mitigation;

-- When open approvals end, across tenants.
CREATE TABLE mitigation.approvals_ending (
    approval_id uuid PRIMARY KEY,
    tenant_id   uuid NOT NULL,
    expires_at  timestamptz NOT NULL
);
COMMENT ON TABLE mitigation.approvals_ending IS 'no-tenant: reached by parapet_mitigation, whose loop serves all tenants; ids only';
CREATE INDEX approvals_ending_expires_at ON mitigation.approvals_ending (expires_at);
GRANT SELECT, INSERT, DELETE ON mitigation.approvals_ending TO parapet_mitigation;

ALTER TABLE mitigation.mitigations
    ADD COLUMN approval_id    uuid,                        -- what it is or was held with
    ADD COLUMN place          smallint NOT NULL DEFAULT 0, -- begun after the account's lower ones of the same origin
    -- Of an automated one: the date of the password that the verdict was about; '' where the directory does not tell.
    ADD COLUMN password_epoch text NOT NULL DEFAULT '',
    ADD COLUMN policy_version integer NOT NULL DEFAULT 0,  -- under which it was planned
    DROP CONSTRAINT one_per_exposure_and_action;
-- INVARIANT: an exposure leads to an action once for each password that it proved right.
CREATE UNIQUE INDEX one_per_exposure_epoch_and_action
    ON mitigation.mitigations (tenant_id, exposure_id, password_epoch, account_id, action);
CREATE INDEX mitigations_approval ON mitigation.mitigations (tenant_id, approval_id) WHERE approval_id IS NOT NULL;
-- What an integration is warned about.
CREATE INDEX mitigations_attention ON mitigation.mitigations (tenant_id, integration_id)
    WHERE state IN ('held', 'reverted') OR (state = 'refused' AND reason = 'break_glass');
CREATE INDEX mitigations_request ON mitigation.mitigations (tenant_id, request_id) WHERE request_id IS NOT NULL;

-- What was held before is held with others of its reason and origin from now on. Row security holds for the owner too; this
-- is about every tenant.
ALTER TABLE mitigation.mitigations NO FORCE ROW LEVEL SECURITY;
ALTER TABLE mitigation.approvals NO FORCE ROW LEVEL SECURITY;
INSERT INTO mitigation.approvals (tenant_id, approval_id, held_by, request_id, integration_id, policy_version, state, joins_until, expires_at)
    SELECT tenant_id, gen_random_uuid(), held_by, request_id, integration_id, 0, 'open', clock_timestamp(),
           clock_timestamp() + interval '72 hours'
    FROM (SELECT DISTINCT tenant_id, held_by, request_id, CASE WHEN request_id IS NULL THEN integration_id END AS integration_id
          FROM mitigation.mitigations WHERE state = 'held') held;
INSERT INTO mitigation.approvals_ending (approval_id, tenant_id, expires_at)
    SELECT approval_id, tenant_id, expires_at FROM mitigation.approvals;
UPDATE mitigation.mitigations m SET approval_id = a.approval_id FROM mitigation.approvals a
    WHERE m.state = 'held' AND a.tenant_id = m.tenant_id AND a.held_by = m.held_by
      AND a.request_id IS NOT DISTINCT FROM m.request_id
      AND (m.request_id IS NOT NULL OR a.integration_id = m.integration_id);
ALTER TABLE mitigation.approvals FORCE ROW LEVEL SECURITY;
ALTER TABLE mitigation.mitigations FORCE ROW LEVEL SECURITY;

CREATE OR REPLACE VIEW mitigation.mitigations_v WITH (security_invoker = true) AS
    SELECT tenant_id, mitigation_id, exposure_id, request_id, account_id, integration_id, action, state, reason, held_by,
           automatic, requested_by, released_by, created_at, finished_at, verified_at, undone_at, reverted_at, details, undoes,
           approval_id, place, policy_version
    FROM mitigation.mitigations;
GRANT SELECT (approval_id, place, policy_version) ON mitigation.mitigations TO parapet_api;
CREATE VIEW mitigation.approvals_v WITH (security_invoker = true) AS
    SELECT tenant_id, approval_id, held_by, request_id, integration_id, policy_version, state, opened_at, expires_at, decided_at,
           decided_by, decider_name, decision_reason
    FROM mitigation.approvals;
GRANT SELECT (tenant_id, approval_id, held_by, request_id, integration_id, policy_version, state, opened_at, expires_at,
              decided_at, decided_by, decider_name, decision_reason) ON mitigation.approvals TO parapet_api;
GRANT SELECT ON mitigation.approvals_v TO parapet_api;

-- Which version of the policy a person let automated mitigations run under.
ALTER TABLE mitigation.armed ADD COLUMN policy_version integer NOT NULL DEFAULT 0;
