-- What a run can expect, so that whoever watches it learns when it will end. Written by identity-sync-worker.

ALTER TABLE sync.runs
    ADD COLUMN accounts_expected bigint;         -- accounts a full run is going to read; NULL: unknown

CREATE OR REPLACE VIEW sync.sync_runs_v WITH (security_invoker = true) AS
    SELECT tenant_id, run_id, integration_id, is_full, phase, state, joined_run_id, accounts_seen,
           accounts_created AS created, accounts_changed AS changed, accounts_missing, accounts_removed,
           identities_created, identifiers_created, skipped_by_cap, message, started_at, updated_at, finished_at,
           accounts_expected
    FROM sync.runs;
GRANT SELECT (accounts_expected) ON sync.runs TO parapet_api;
