-- What the passwords of a directory satisfied when they were set, so that a leaked one that cannot be anybody's costs no
-- attempt. Written by identity-sync-worker, read by credential-validator.

ALTER TABLE sync.directory_policies
    ADD COLUMN rules_state text,                -- names the state of all policies; NULL: unknown
    ADD COLUMN rules_since timestamptz,         -- since when this state was seen without a break; NULL: unknown
    ADD COLUMN min_length  integer,
    ADD COLUMN min_lower   integer,
    ADD COLUMN min_upper   integer,
    ADD COLUMN min_digits  integer;

CREATE OR REPLACE VIEW sync.directory_policies_v WITH (security_invoker = true) AS
    SELECT tenant_id, integration_id, directory_id, lockout_threshold, read_at, rules_since, min_length, min_lower, min_upper,
           min_digits
    FROM sync.directory_policies;
