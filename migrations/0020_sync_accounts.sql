-- What directories hold: accounts as synced, the identities and identifiers made from them, and the one lookup from a
-- leaked string to a tenant. Written by identity-sync-worker.

CREATE TABLE sync.accounts (
    tenant_id            uuid NOT NULL,
    account_id           uuid NOT NULL,
    integration_id       uuid NOT NULL,
    provider             text NOT NULL CHECK (provider IN ('entra_id', 'okta')),
    directory_id         text NOT NULL,          -- immutable id of the directory
    object_id            text NOT NULL,          -- immutable id of the user object
    login                text NOT NULL,          -- as the directory spells it
    login_key            text NOT NULL,          -- normalised; accounts of one person share it
    display_name         text NOT NULL,
    addresses            text[] NOT NULL,        -- further addresses, as the directory spells them
    state                text NOT NULL CHECK (state IN
                             ('active', 'disabled', 'locked', 'password_expired', 'pending', 'deprovisioned')),
    kind                 text NOT NULL CHECK (kind IN ('member', 'guest')),
    authority            text NOT NULL CHECK (authority IN ('cloud', 'ad', 'federated', 'none')),
    is_admin             boolean NOT NULL,
    hybrid               boolean NOT NULL,
    password_changed_at  timestamptz,
    last_sign_in_at      timestamptz,
    created_at_directory timestamptz,
    identity_id          uuid,                   -- NULL while identity creation is off
    first_seen_at        timestamptz NOT NULL DEFAULT clock_timestamp(),
    changed_at           timestamptz NOT NULL DEFAULT clock_timestamp(),
    missing_since        timestamptz,            -- a full run did not find it, or the directory said that it is gone
    missing_run          uuid,                   -- the run that noticed; another full run has to confirm
    removed_at           timestamptz,            -- a second full run did not find it either
    version              bigint NOT NULL DEFAULT 1,
    PRIMARY KEY (tenant_id, account_id),
    UNIQUE (tenant_id, integration_id, object_id)
) WITH (fillfactor = 85);
SELECT platform.protect_tenant_table('sync.accounts');
CREATE INDEX accounts_login ON sync.accounts (tenant_id, login_key);
CREATE INDEX accounts_identity ON sync.accounts (tenant_id, identity_id);
CREATE INDEX accounts_without_identity ON sync.accounts (tenant_id, integration_id)
    WHERE identity_id IS NULL AND removed_at IS NULL;
CREATE INDEX accounts_missing ON sync.accounts (tenant_id, integration_id)
    WHERE missing_since IS NOT NULL AND removed_at IS NULL;

CREATE TABLE sync.identities (
    tenant_id    uuid NOT NULL,
    identity_id  uuid NOT NULL,
    display_name text NOT NULL,
    created_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    removed_at   timestamptz,                    -- its last account was removed
    PRIMARY KEY (tenant_id, identity_id)
);
SELECT platform.protect_tenant_table('sync.identities');

CREATE TABLE sync.identifiers (
    tenant_id     uuid NOT NULL,
    identifier_id uuid NOT NULL,
    identity_id   uuid NOT NULL,
    account_id    uuid NOT NULL,
    value         text NOT NULL,                 -- normalised by shared::identifier
    kind          text NOT NULL CHECK (kind IN ('login', 'email', 'alias')),
    source        text NOT NULL DEFAULT 'IDP_SYNC',
    created_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (tenant_id, identifier_id),
    UNIQUE (tenant_id, account_id, value)
);
SELECT platform.protect_tenant_table('sync.identifiers');
CREATE INDEX identifiers_identity ON sync.identifiers (tenant_id, identity_id);
CREATE INDEX identifiers_value ON sync.identifiers (tenant_id, value);

-- Identifiers beyond the package's cap: remembered, and created when the cap rises.
CREATE TABLE sync.identifiers_skipped (
    tenant_id      uuid NOT NULL,
    integration_id uuid NOT NULL,
    account_id     uuid NOT NULL,
    value          text NOT NULL,
    kind           text NOT NULL CHECK (kind IN ('login', 'email', 'alias')),
    skipped_at     timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (tenant_id, account_id, value)
);
SELECT platform.protect_tenant_table('sync.identifiers_skipped');
CREATE INDEX identifiers_skipped_integration ON sync.identifiers_skipped (tenant_id, integration_id);

-- How many identifiers a tenant has: the row that pages of one tenant lock, so that the cap holds exactly.
CREATE TABLE sync.usage (
    tenant_id   uuid PRIMARY KEY,
    identifiers bigint NOT NULL DEFAULT 0 CHECK (identifiers >= 0)
) WITH (fillfactor = 50);
SELECT platform.protect_tenant_table('sync.usage');

-- From a leaked string to whom it concerns, across tenants.
CREATE TABLE sync.identifier_lookup (
    value         text NOT NULL,
    tenant_id     uuid NOT NULL,
    identifier_id uuid NOT NULL,
    PRIMARY KEY (value, tenant_id, identifier_id)
);
COMMENT ON TABLE sync.identifier_lookup IS
    'no-tenant: written by a trigger of sync.identifiers, read through sync.match_identifiers; no role has a grant';

-- INVARIANT: lookup and count follow the identifiers in the same transaction; they cannot drift.
CREATE FUNCTION sync.identifiers_added() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    INSERT INTO sync.identifier_lookup (value, tenant_id, identifier_id)
        SELECT value, tenant_id, identifier_id FROM added;
    INSERT INTO sync.usage AS u (tenant_id, identifiers) SELECT tenant_id, count(*) FROM added GROUP BY tenant_id
        ON CONFLICT (tenant_id) DO UPDATE SET identifiers = u.identifiers + excluded.identifiers;
    RETURN NULL;
END $$;
CREATE FUNCTION sync.identifiers_gone() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    DELETE FROM sync.identifier_lookup l USING gone g
        WHERE l.value = g.value AND l.tenant_id = g.tenant_id AND l.identifier_id = g.identifier_id;
    UPDATE sync.usage u SET identifiers = u.identifiers - g.gone
        FROM (SELECT tenant_id, count(*) AS gone FROM gone GROUP BY tenant_id) g WHERE u.tenant_id = g.tenant_id;
    RETURN NULL;
END $$;
CREATE TRIGGER added AFTER INSERT ON sync.identifiers
    REFERENCING NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION sync.identifiers_added();
CREATE TRIGGER gone AFTER DELETE ON sync.identifiers
    REFERENCING OLD TABLE AS gone FOR EACH STATEMENT EXECUTE FUNCTION sync.identifiers_gone();

-- INVARIANT (I9): the only way to the lookup. It answers with ids; what they stand for is read under row security.
CREATE FUNCTION sync.match_identifiers("values" text[])
    RETURNS TABLE (value text, tenant_id uuid, identifier_id uuid)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp ROWS 500
    AS $$ SELECT l.value, l.tenant_id, l.identifier_id FROM sync.identifier_lookup l WHERE l.value = ANY ("values") $$;

GRANT SELECT, INSERT, UPDATE ON sync.accounts, sync.identities TO parapet_sync;
-- An identifier is made or goes; it never changes, so that the lookup cannot miss a change.
GRANT SELECT, INSERT, DELETE ON sync.identifiers, sync.identifiers_skipped TO parapet_sync;
GRANT SELECT, INSERT, UPDATE (identifiers) ON sync.usage TO parapet_sync;
