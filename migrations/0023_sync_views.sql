-- What other services may read of schema sync: views under the reader's own row security, over granted columns only.
-- Sealed columns stand in views of their own, granted to the services that may open them.

GRANT USAGE ON SCHEMA sync TO parapet_api, parapet_validator, parapet_mitigation;

CREATE VIEW sync.accounts_v WITH (security_invoker = true) AS
    SELECT a.tenant_id, a.account_id, a.integration_id, a.provider, a.directory_id, a.object_id, a.login, a.display_name,
           a.state, a.kind, a.authority, a.is_admin, a.hybrid, a.password_changed_at, a.last_sign_in_at,
           a.created_at_directory, a.identity_id, a.first_seen_at,
           -- An account that is there was seen by the last full run, without being rewritten for it.
           CASE WHEN a.missing_since IS NULL AND a.removed_at IS NULL THEN greatest(a.changed_at, d.last_full_at)
                ELSE a.missing_since END AS last_seen_at,
           a.missing_since, a.removed_at, a.version
    FROM sync.accounts a LEFT JOIN sync.directories d USING (tenant_id, integration_id);
GRANT SELECT (tenant_id, account_id, integration_id, provider, directory_id, object_id, login, display_name, state, kind,
              authority, is_admin, hybrid, password_changed_at, last_sign_in_at, created_at_directory, identity_id,
              first_seen_at, changed_at, missing_since, removed_at, version)
    ON sync.accounts TO parapet_api, parapet_validator, parapet_mitigation;
GRANT SELECT (tenant_id, integration_id, last_full_at) ON sync.directories TO parapet_validator, parapet_mitigation;
GRANT SELECT ON sync.accounts_v TO parapet_api, parapet_validator, parapet_mitigation;

CREATE VIEW sync.identities_v WITH (security_invoker = true) AS
    SELECT tenant_id, identity_id, display_name, created_at, removed_at FROM sync.identities;
GRANT SELECT (tenant_id, identity_id, display_name, created_at, removed_at) ON sync.identities
    TO parapet_api, parapet_validator, parapet_mitigation;
GRANT SELECT ON sync.identities_v TO parapet_api, parapet_validator, parapet_mitigation;

CREATE VIEW sync.identifiers_v WITH (security_invoker = true) AS
    SELECT tenant_id, identifier_id, identity_id, account_id, value, kind, created_at, source FROM sync.identifiers;
GRANT SELECT (tenant_id, identifier_id, identity_id, account_id, value, kind, created_at, source) ON sync.identifiers
    TO parapet_api, parapet_validator;
GRANT SELECT ON sync.identifiers_v TO parapet_api, parapet_validator;
GRANT EXECUTE ON FUNCTION sync.match_identifiers(text[]) TO parapet_validator;

CREATE VIEW sync.sync_runs_v WITH (security_invoker = true) AS
    SELECT tenant_id, run_id, integration_id, is_full, phase, state, joined_run_id, accounts_seen,
           accounts_created AS created, accounts_changed AS changed, accounts_missing, accounts_removed,
           identities_created, identifiers_created, skipped_by_cap, message, started_at, updated_at, finished_at
    FROM sync.runs;
GRANT SELECT (tenant_id, run_id, integration_id, is_full, phase, state, joined_run_id, accounts_seen, accounts_created,
              accounts_changed, accounts_missing, accounts_removed, identities_created, identifiers_created,
              skipped_by_cap, message, started_at, updated_at, finished_at) ON sync.runs TO parapet_api;
GRANT SELECT ON sync.sync_runs_v TO parapet_api;

CREATE VIEW sync.directories_v WITH (security_invoker = true) AS
    SELECT tenant_id, integration_id, provider, directory_id, last_full_at, last_success_at, next_changes_at, next_full_at,
           failing_since, lost_reason, lost_message
    FROM sync.directories;
GRANT SELECT (tenant_id, integration_id, provider, directory_id, last_full_at, last_success_at, next_changes_at,
              next_full_at, failing_since, lost_reason, lost_message) ON sync.directories TO parapet_api;
GRANT SELECT ON sync.directories_v TO parapet_api;

CREATE VIEW sync.usage_v WITH (security_invoker = true) AS
    SELECT tenant_id, identifiers FROM sync.usage;
GRANT SELECT ON sync.usage, sync.usage_v TO parapet_api;

CREATE VIEW sync.removal_plans_v WITH (security_invoker = true) AS
    SELECT tenant_id, plan_id, integration_id, run_id, state, reason, accounts_known, accounts_gone, created_at
    FROM sync.removal_plans;
GRANT SELECT ON sync.removal_plans, sync.removal_plans_v TO parapet_api;

CREATE VIEW sync.directory_policies_v WITH (security_invoker = true) AS
    SELECT tenant_id, integration_id, directory_id, lockout_threshold, read_at FROM sync.directory_policies;
GRANT SELECT ON sync.directory_policies, sync.directory_policies_v TO parapet_api, parapet_validator;

CREATE VIEW sync.sealing_public_keys_v WITH (security_invoker = true) AS
    SELECT tenant_id, purpose, version, public_key, signature FROM sync.sealing_keys;
GRANT SELECT (tenant_id, purpose, version, public_key, signature) ON sync.sealing_keys TO parapet_api;
GRANT SELECT ON sync.sealing_public_keys_v TO parapet_api, parapet_sync;
GRANT EXECUTE ON FUNCTION sync.public_jwks(uuid) TO parapet_api, parapet_sync;

-- Sealed: for the services that are given the purpose's top key.
CREATE VIEW sync.sealing_keys_v WITH (security_invoker = true) AS
    SELECT tenant_id, purpose, version, public_key, signature, wrapped_private FROM sync.sealing_keys;
GRANT SELECT ON sync.sealing_keys, sync.sealing_keys_v TO parapet_validator, parapet_mitigation;
GRANT SELECT ON sync.sealing_keys_v TO parapet_sync;

CREATE VIEW sync.client_key_secrets_v WITH (security_invoker = true) AS
    SELECT tenant_id, integration_id, version, kid, sealed_private AS sealed FROM sync.client_keys;
GRANT SELECT ON sync.client_keys, sync.client_key_secrets_v TO parapet_validator, parapet_mitigation;
GRANT SELECT ON sync.client_key_secrets_v TO parapet_sync;
