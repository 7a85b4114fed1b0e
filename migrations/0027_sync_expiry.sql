-- When the credential of an integration ends, as far as the directory tells, and which warning about it was given.
-- Written by identity-sync-worker.

ALTER TABLE sync.directories
    ADD COLUMN credential_expires_at timestamptz,   -- NULL: unknown, or never
    ADD COLUMN expiry_warned_days    integer;       -- the smallest number of days that was warned about; NULL: none

CREATE OR REPLACE VIEW sync.directories_v WITH (security_invoker = true) AS
    SELECT tenant_id, integration_id, provider, directory_id, last_full_at, last_success_at, next_changes_at, next_full_at,
           failing_since, lost_reason, lost_message, credential_expires_at
    FROM sync.directories;
GRANT SELECT (credential_expires_at) ON sync.directories TO parapet_api;
