-- How accounts come in: the state of each integration's directory, sync runs with their cursors, and removals that are
-- held back. Written by identity-sync-worker.

-- One row per integration: where its next run starts and how reading it goes.
CREATE TABLE sync.directories (
    tenant_id           uuid NOT NULL,
    integration_id      uuid NOT NULL,
    provider            text NOT NULL,
    directory_id        text,                    -- NULL until it was read once
    changes_cursor      text,                    -- where the next incremental run starts; NULL: only a full run can start
    last_full_at        timestamptz,             -- start of the last full run that finished
    last_success_at     timestamptz,
    next_changes_at     timestamptz NOT NULL DEFAULT clock_timestamp(),
    next_full_at        timestamptz NOT NULL DEFAULT clock_timestamp(),
    failing_since       timestamptz,             -- reading fails since then
    failures            integer NOT NULL DEFAULT 0, -- in a row
    lost_reason         text,                    -- stable reason, once reading counts as lost
    lost_message        text,
    PRIMARY KEY (tenant_id, integration_id)
) WITH (fillfactor = 70);
SELECT platform.protect_tenant_table('sync.directories');

CREATE TABLE sync.runs (
    tenant_id           uuid NOT NULL,
    run_id              uuid NOT NULL,           -- the id of the request; the same id is the same run
    integration_id      uuid NOT NULL,
    is_full             boolean NOT NULL,
    state               text NOT NULL CHECK (state IN ('running', 'finished', 'held', 'failed', 'joined')),
    phase               text NOT NULL CHECK (phase IN ('preparing', 'reading', 'reconciling', 'ended')),
    joined_run_id       uuid,                    -- joined: the run that does its work
    cause_id            uuid NOT NULL,
    cursor              text,                    -- the next page; NULL: the first
    pages               bigint NOT NULL DEFAULT 0, -- pages committed; guards against two workers on one run
    restarts            integer NOT NULL DEFAULT 0, -- times the listing began again because its cursor had expired
    accounts_seen       bigint NOT NULL DEFAULT 0,
    accounts_created    bigint NOT NULL DEFAULT 0,
    accounts_changed    bigint NOT NULL DEFAULT 0,
    accounts_missing    bigint NOT NULL DEFAULT 0,
    accounts_removed    bigint NOT NULL DEFAULT 0,
    identities_created  bigint NOT NULL DEFAULT 0,
    identifiers_created bigint NOT NULL DEFAULT 0,
    skipped_by_cap      bigint NOT NULL DEFAULT 0, -- identifiers of this integration that wait for a higher cap
    cap_reported        boolean NOT NULL DEFAULT false,
    message             text NOT NULL DEFAULT '', -- one sentence: why it waits, is held or failed
    started_at          timestamptz NOT NULL DEFAULT clock_timestamp(),
    updated_at          timestamptz NOT NULL DEFAULT clock_timestamp(),
    finished_at         timestamptz,
    PRIMARY KEY (tenant_id, run_id),
    CHECK ((state = 'running') = (finished_at IS NULL)),
    CHECK ((state = 'joined') = (joined_run_id IS NOT NULL))
) WITH (fillfactor = 50);
SELECT platform.protect_tenant_table('sync.runs');
-- INVARIANT: at most one run of an integration at a time.
CREATE UNIQUE INDEX runs_one_running ON sync.runs (tenant_id, integration_id) WHERE state = 'running';
CREATE INDEX runs_newest ON sync.runs (tenant_id, integration_id, started_at DESC);

-- Which accounts each page of a full run held: what is in none of them is absent. Accounts that did not change are not
-- rewritten for having been seen. Gone with the end of the run.
CREATE TABLE sync.run_pages (
    tenant_id uuid NOT NULL,
    run_id    uuid NOT NULL,
    page      bigint NOT NULL,
    accounts  uuid[] NOT NULL,
    PRIMARY KEY (tenant_id, run_id, page)
);
SELECT platform.protect_tenant_table('sync.run_pages');

-- INVARIANT (I6): removals that are too many to be believed wait here for a person; nothing applies them by itself.
CREATE TABLE sync.removal_plans (
    tenant_id      uuid NOT NULL,
    plan_id        uuid NOT NULL,
    integration_id uuid NOT NULL,
    run_id         uuid NOT NULL,
    state          text NOT NULL DEFAULT 'held' CHECK (state IN ('held', 'superseded')),
    reason         text NOT NULL CHECK (reason IN ('empty', 'shrunk')),
    accounts_known bigint NOT NULL,              -- accounts before the run
    accounts_gone  bigint NOT NULL,              -- of these, not found by it
    created_at     timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (tenant_id, plan_id)
);
SELECT platform.protect_tenant_table('sync.removal_plans');
CREATE UNIQUE INDEX removal_plans_one_held ON sync.removal_plans (tenant_id, integration_id) WHERE state = 'held';
CREATE TABLE sync.removal_plan_accounts (
    tenant_id  uuid NOT NULL,
    plan_id    uuid NOT NULL,
    account_id uuid NOT NULL,
    PRIMARY KEY (tenant_id, plan_id, account_id)
);
SELECT platform.protect_tenant_table('sync.removal_plan_accounts');

-- What a directory says about locking accounts.
CREATE TABLE sync.directory_policies (
    tenant_id         uuid NOT NULL,
    integration_id    uuid NOT NULL,
    directory_id      text NOT NULL,
    lockout_threshold integer,                   -- NULL: unknown
    read_at           timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, integration_id)
);
SELECT platform.protect_tenant_table('sync.directory_policies');

GRANT SELECT, INSERT, UPDATE ON sync.directories, sync.runs, sync.removal_plans, sync.directory_policies TO parapet_sync;
GRANT SELECT, INSERT, DELETE ON sync.run_pages, sync.removal_plan_accounts TO parapet_sync;
