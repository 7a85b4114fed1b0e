-- Since when each account's passwords have had to satisfy the rules of their directory, and rules that count kinds of
-- characters, as Microsoft Entra ID's does. Written by identity-sync-worker, read by credential-validator.

ALTER TABLE sync.accounts
    ADD COLUMN under_policy_since timestamptz;   -- every look since then showed it so; NULL: the last one did not, or never told
ALTER TABLE sync.directory_policies
    ADD COLUMN min_classes integer DEFAULT 0;    -- of lower case, upper case, digits and symbols

CREATE OR REPLACE VIEW sync.accounts_v WITH (security_invoker = true) AS
    SELECT a.tenant_id, a.account_id, a.integration_id, a.provider, a.directory_id, a.object_id, a.login, a.display_name,
           a.state, a.kind, a.authority, a.is_admin, a.hybrid, a.password_changed_at, a.last_sign_in_at,
           a.created_at_directory, a.identity_id, a.first_seen_at,
           -- An account that is there was seen by the last full run, without being rewritten for it.
           CASE WHEN a.missing_since IS NULL AND a.removed_at IS NULL THEN greatest(a.changed_at, d.last_full_at)
                ELSE a.missing_since END AS last_seen_at,
           a.missing_since, a.removed_at, a.version, a.under_policy_since
    FROM sync.accounts a LEFT JOIN sync.directories d USING (tenant_id, integration_id);
GRANT SELECT (under_policy_since) ON sync.accounts TO parapet_api, parapet_validator, parapet_mitigation;

-- Rules that nobody looked at for a day may have been others meanwhile.
CREATE OR REPLACE VIEW sync.directory_policies_v WITH (security_invoker = true) AS
    SELECT tenant_id, integration_id, directory_id, lockout_threshold, read_at,
           CASE WHEN read_at > clock_timestamp() - interval '1 day' THEN rules_since END AS rules_since,
           min_length, min_lower, min_upper, min_digits, min_classes
    FROM sync.directory_policies;
