-- Lets a person decide about removals that are held: who applied or dropped a plan, when and why, and which of its
-- accounts were seen again meanwhile. Written by identity-sync-worker.

ALTER TABLE sync.removal_plans
    DROP CONSTRAINT removal_plans_state_check,
    ADD CONSTRAINT removal_plans_state_check CHECK (state IN ('held', 'superseded', 'applied', 'dropped')),
    ADD COLUMN accounts_admin      bigint NOT NULL DEFAULT 0, -- of those gone: administrators
    ADD COLUMN accounts_back       bigint NOT NULL DEFAULT 0, -- of those gone: seen again while it was held
    ADD COLUMN identifiers         bigint NOT NULL DEFAULT 0, -- identifiers of those gone, when it was made
    ADD COLUMN ended_at            timestamptz,               -- applied, dropped or superseded
    ADD COLUMN superseded_by       uuid,                      -- the run that looked again; NULL: the integration went
    ADD COLUMN decided_by          text,                      -- a person, by the token's subject
    ADD COLUMN decided_by_name     text,
    ADD COLUMN decision_reason     text,
    ADD COLUMN accounts_removed    bigint NOT NULL DEFAULT 0,
    ADD COLUMN identities_removed  bigint NOT NULL DEFAULT 0,
    ADD COLUMN identifiers_removed bigint NOT NULL DEFAULT 0,
    ADD CONSTRAINT removal_plans_decided CHECK ((state IN ('applied', 'dropped')) = (decided_by IS NOT NULL)),
    -- INVARIANT (I6): an empty answer is never a deletion, whoever approves it.
    ADD CONSTRAINT removal_plans_nothing_empty_deletes CHECK (reason <> 'empty' OR state <> 'applied');
CREATE INDEX removal_plans_newest ON sync.removal_plans (tenant_id, created_at DESC, plan_id DESC);

-- The accounts of a plan stay with one that a person decided about, as the record of what went; those of a superseded
-- plan go with it.
ALTER TABLE sync.removal_plan_accounts
    ADD COLUMN seen_at    timestamptz,           -- a page held it again while the plan was held: it stays
    ADD COLUMN removed_at timestamptz;           -- removed by this plan
GRANT UPDATE (seen_at, removed_at) ON sync.removal_plan_accounts TO parapet_sync;

CREATE OR REPLACE VIEW sync.removal_plans_v WITH (security_invoker = true) AS
    SELECT tenant_id, plan_id, integration_id, run_id, state, reason, accounts_known, accounts_gone, created_at,
           accounts_admin, accounts_back, identifiers, ended_at, superseded_by, decided_by, decided_by_name,
           decision_reason, accounts_removed, identities_removed, identifiers_removed
    FROM sync.removal_plans;

CREATE VIEW sync.removal_plan_accounts_v WITH (security_invoker = true) AS
    SELECT r.tenant_id, r.plan_id, r.account_id, a.object_id, a.login, a.display_name, a.is_admin,
           CASE WHEN r.seen_at IS NULL THEN coalesce(a.missing_since, p.created_at) END AS missing_since,
           r.seen_at, r.removed_at
    FROM sync.removal_plan_accounts r
    JOIN sync.removal_plans p USING (tenant_id, plan_id)
    JOIN sync.accounts a USING (tenant_id, account_id);
GRANT SELECT ON sync.removal_plan_accounts, sync.removal_plan_accounts_v TO parapet_api;
