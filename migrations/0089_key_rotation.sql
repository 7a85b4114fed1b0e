-- Rotation of keys (design §8): which key wraps which private half, who has loaded what, and the work of rotating, in the
-- schema of the service that owns the key pairs. Halves and work are written by identity-sync-worker (purpose `integration`) and
-- credential-validator (`leak`), holders by every service that is given a key of either kind, requests by integration-api.
-- None of these is a tenant table: a top key is every tenant's. They hold ids and names of keys, never a key.

-- The name of the key that wrapped a private half: `file:2`, `vault:5` (shared::sealing::TopId).
CREATE FUNCTION platform.wrapped_by(wrapped bytea) RETURNS text
    LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
    AS $$
BEGIN
    IF wrapped IS NULL THEN
        RETURN NULL;
    END IF;
    RETURN CASE WHEN length(wrapped) < 13 THEN 'unknown' ELSE CASE get_byte(wrapped, 0)
        WHEN 3 THEN 'file:1'
        WHEN 4 THEN 'file:' || (get_byte(wrapped, 1)::bigint * 16777216 + get_byte(wrapped, 2) * 65536
                                + get_byte(wrapped, 3) * 256 + get_byte(wrapped, 4))
        WHEN 5 THEN coalesce('vault:' || substring(encode(substring(wrapped from 2 for 20), 'escape')
                                                   from '^vault:v([0-9]+):'), 'unknown')
        ELSE 'unknown' END END;
END $$;

-- The version of the key pair an envelope is sealed to; NULL for what is no such envelope.
CREATE FUNCTION platform.sealed_to(sealed bytea) RETURNS integer
    LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
    AS $$
BEGIN
    RETURN CASE WHEN length(sealed) > 5 AND get_byte(sealed, 0) = 1 AND get_byte(sealed, 1) < 128
        THEN get_byte(sealed, 1) * 16777216 + get_byte(sealed, 2) * 65536 + get_byte(sealed, 3) * 256 + get_byte(sealed, 4) END;
END $$;
GRANT EXECUTE ON FUNCTION platform.wrapped_by(bytea), platform.sealed_to(bytea) TO PUBLIC;

-- A destroyed half keeps its row as the evidence of it; what has no private half is shown to nobody as a key.
ALTER TABLE sync.sealing_keys ALTER wrapped_private DROP NOT NULL, ADD COLUMN destroyed_at timestamptz,
    ADD CONSTRAINT sealing_keys_version UNIQUE (tenant_id, version);
ALTER TABLE validator.sealing_keys ALTER wrapped_private DROP NOT NULL, ADD COLUMN destroyed_at timestamptz;
ALTER TABLE validator.installation_sealing_keys ALTER wrapped_private DROP NOT NULL, ADD COLUMN destroyed_at timestamptz;
GRANT SELECT (destroyed_at) ON sync.sealing_keys, validator.sealing_keys, validator.installation_sealing_keys TO parapet_api;
GRANT UPDATE (signature, wrapped_private), DELETE ON sync.sealing_keys TO parapet_sync;
-- To lock the row: who makes a version and who destroys all of them take turns.
GRANT UPDATE ON sync.sealing_key_tenants TO parapet_sync;
GRANT UPDATE ON validator.sealing_key_tenants TO parapet_validator;
GRANT UPDATE (signature, wrapped_private), DELETE ON validator.sealing_keys, validator.installation_sealing_keys TO parapet_validator;
CREATE OR REPLACE VIEW sync.sealing_public_keys_v WITH (security_invoker = true) AS
    SELECT tenant_id, purpose, version, public_key, signature FROM sync.sealing_keys WHERE destroyed_at IS NULL;
CREATE OR REPLACE VIEW sync.sealing_keys_v WITH (security_invoker = true) AS
    SELECT tenant_id, purpose, version, public_key, signature, wrapped_private FROM sync.sealing_keys
    WHERE destroyed_at IS NULL;
CREATE OR REPLACE VIEW validator.sealing_public_keys_v WITH (security_invoker = true) AS
    SELECT tenant_id, 'leak'::text AS purpose, version, public_key, signature FROM validator.sealing_keys
    WHERE destroyed_at IS NULL
    UNION ALL
    SELECT NULL::uuid, 'leak'::text, version, public_key, signature FROM validator.installation_sealing_keys
    WHERE destroyed_at IS NULL;

-- INVARIANT: a half is not deleted while anything that lasts is sealed to its public one, whoever writes it meanwhile. (What
-- the validator seals itself, exposures, it keeps from being overlooked by a lock on the key's row.)
ALTER TABLE api.integration_secrets
    ADD COLUMN key_version integer GENERATED ALWAYS AS (platform.sealed_to(sealed)) STORED,
    ADD CONSTRAINT integration_secrets_key FOREIGN KEY (tenant_id, key_version) REFERENCES sync.sealing_keys (tenant_id, version);
ALTER TABLE sync.client_keys
    ADD COLUMN key_version integer GENERATED ALWAYS AS (platform.sealed_to(sealed_private)) STORED,
    ADD CONSTRAINT client_keys_key FOREIGN KEY (tenant_id, key_version) REFERENCES sync.sealing_keys (tenant_id, version);
ALTER TABLE api.feed_batches
    ADD COLUMN key_version integer GENERATED ALWAYS AS (platform.sealed_to(data_key_sealed)) STORED,
    ADD CONSTRAINT feed_batches_key FOREIGN KEY (tenant_id, key_version) REFERENCES validator.sealing_keys (tenant_id, version);
ALTER TABLE api.installation_feed_batches
    ADD COLUMN key_version integer GENERATED ALWAYS AS (platform.sealed_to(data_key_sealed)) STORED,
    ADD CONSTRAINT installation_feed_batches_key FOREIGN KEY (key_version) REFERENCES validator.installation_sealing_keys (version);
CREATE INDEX integration_secrets_key ON api.integration_secrets (tenant_id, key_version, integration_id);
CREATE INDEX client_keys_key ON sync.client_keys (tenant_id, key_version);
CREATE INDEX feed_batches_key ON api.feed_batches (tenant_id, key_version, batch_id);
CREATE INDEX installation_feed_batches_key ON api.installation_feed_batches (key_version, batch_id);
GRANT UPDATE (sealed_private) ON sync.client_keys TO parapet_sync;

-- The API's rows are sealed again by those who can open them, one by one and only if they are what was opened.
CREATE FUNCTION api.reseal_integration_secret(integration uuid, secret_version integer, before bytea, after bytea) RETURNS bytea
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE stored bytea;
BEGIN
    UPDATE api.integration_secrets SET sealed = after
    WHERE tenant_id = platform.current_tenant() AND integration_id = integration AND version = secret_version
          AND sealed = before
    RETURNING sealed INTO stored;
    RETURN stored;
END $$;
GRANT EXECUTE ON FUNCTION api.reseal_integration_secret(uuid, integer, bytea, bytea) TO parapet_sync;
CREATE FUNCTION api.reseal_data_key(batch uuid, before bytea, after bytea) RETURNS bytea
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE stored bytea;
BEGIN
    IF platform.current_tenant() IS NULL THEN
        UPDATE api.installation_feed_batches SET data_key_sealed = after WHERE batch_id = batch AND data_key_sealed = before
        RETURNING data_key_sealed INTO stored;
    ELSE
        UPDATE api.feed_batches SET data_key_sealed = after
        WHERE tenant_id = platform.current_tenant() AND batch_id = batch AND data_key_sealed = before
        RETURNING data_key_sealed INTO stored;
    END IF;
    RETURN stored;
END $$;
GRANT EXECUTE ON FUNCTION api.reseal_data_key(uuid, bytea, bytea) TO parapet_validator;

-- What operators ask for; the owner of the purpose's key pairs looks for what it has not begun.
CREATE TABLE api.key_requests (
    request_id     uuid PRIMARY KEY,
    purpose        text NOT NULL CHECK (purpose IN ('integration', 'leak')),
    scope          text NOT NULL CHECK (scope IN ('top', 'tenant', 'installation')),
    tenant_id      uuid,                         -- of scope `tenant`
    wanted         text,                         -- of scope `top`: the key that is to wrap every half
    requested_by   text NOT NULL,                -- token subject
    requested_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    CHECK ((scope = 'tenant') = (tenant_id IS NOT NULL) AND (scope = 'top') = (wanted IS NOT NULL))
);
COMMENT ON TABLE api.key_requests IS 'no-tenant: operators'' requests; written by parapet_api, read by parapet_sync and parapet_validator';
CREATE INDEX ON api.key_requests (purpose, scope, requested_at);
GRANT SELECT, INSERT ON api.key_requests TO parapet_api;
CREATE VIEW api.key_requests_v WITH (security_invoker = true) AS
    SELECT request_id, purpose, scope, tenant_id, wanted, requested_at FROM api.key_requests;
GRANT SELECT ON api.key_requests, api.key_requests_v TO parapet_sync, parapet_validator;

CREATE FUNCTION platform.create_key_holders(schema text, role text) RETURNS void
    LANGUAGE plpgsql
    AS $body$
BEGIN
    -- One row for each running process and purpose, told anew every few seconds.
    EXECUTE format($sql$
        CREATE TABLE %1$I.key_holders (
            instance uuid NOT NULL,
            purpose  text NOT NULL,
            service  text NOT NULL,
            opens    boolean NOT NULL,         -- it can unwrap; otherwise it only checks signatures
            keys     text[] NOT NULL,          -- the top keys it has loaded
            lacks    text,                     -- what it cannot do, and why; NULL: nothing
            seen_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
            PRIMARY KEY (instance, purpose)
        )
    $sql$, schema);
    EXECUTE format('COMMENT ON TABLE %I.key_holders IS %L', schema, 'no-tenant: written by ' || role || ', read by parapet_api');
    EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON %I.key_holders TO %I', schema, role);
    EXECUTE format('CREATE VIEW %1$I.key_holders_v WITH (security_invoker = true) AS
        SELECT instance, purpose, service, opens, keys, lacks, seen_at FROM %1$I.key_holders', schema);
    EXECUTE format('GRANT SELECT ON %1$I.key_holders, %1$I.key_holders_v TO parapet_api', schema);
END $body$;

CREATE FUNCTION platform.create_key_work(schema text, role text) RETURNS void
    LANGUAGE plpgsql
    AS $body$
BEGIN
    -- Kept by a trigger on the tables of key pairs.
    EXECUTE format($sql$
        CREATE TABLE %1$I.key_halves (
            tenant_id    uuid NOT NULL,        -- all zeros: the installation
            version      integer NOT NULL,
            wrapped_by   text,                 -- the top key; NULL: destroyed
            made_at      timestamptz NOT NULL,
            destroyed_at timestamptz,
            PRIMARY KEY (tenant_id, version)
        )
    $sql$, schema);
    EXECUTE format('CREATE INDEX ON %I.key_halves (wrapped_by, tenant_id, version)', schema);
    EXECUTE format('CREATE INDEX ON %I.key_halves (destroyed_at) WHERE destroyed_at IS NOT NULL', schema);
    EXECUTE format('COMMENT ON TABLE %I.key_halves IS %L', schema, 'no-tenant: which top key wraps which half; written by '
        || role || ', read by parapet_api; ids only');
    -- The top key that is to wrap every half, and how far that is.
    EXECUTE format($sql$
        CREATE TABLE %1$I.top_key (
            only_one     boolean PRIMARY KEY DEFAULT true CHECK (only_one),
            wanted       text NOT NULL,
            request_id   uuid NOT NULL,
            requested_at timestamptz NOT NULL,
            rewrapped    bigint NOT NULL DEFAULT 0,
            finished_at  timestamptz
        )
    $sql$, schema);
    EXECUTE format('COMMENT ON TABLE %I.top_key IS %L', schema, 'no-tenant: one row; written by ' || role || ', read by parapet_api');
    -- Rotations of key pairs: what the version before sealed is sealed again, row by row in the order of ids.
    EXECUTE format($sql$
        CREATE TABLE %1$I.key_jobs (
            tenant_id   uuid NOT NULL,         -- all zeros: the installation
            to_version  integer NOT NULL,
            request_id  uuid UNIQUE,           -- NULL: by the schedule
            column_at   integer NOT NULL DEFAULT 0, -- the how manieth sealed column is being read
            row_at      uuid NOT NULL DEFAULT '00000000-0000-0000-0000-000000000000', -- the last row that was looked at
            resealed    bigint NOT NULL DEFAULT 0,
            next_at     timestamptz NOT NULL DEFAULT clock_timestamp(),
            started_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
            finished_at timestamptz,
            last_error  text,
            PRIMARY KEY (tenant_id, to_version)
        )
    $sql$, schema);
    EXECUTE format('CREATE UNIQUE INDEX ON %I.key_jobs (tenant_id) WHERE finished_at IS NULL', schema);
    EXECUTE format('COMMENT ON TABLE %I.key_jobs IS %L', schema, 'no-tenant: a loop serves all tenants; written by ' || role
        || ', read by parapet_api; ids only');
    EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON %1$I.key_halves, %1$I.top_key, %1$I.key_jobs TO %2$I', schema, role);
    EXECUTE format('CREATE VIEW %1$I.key_halves_v WITH (security_invoker = true) AS
        SELECT tenant_id, version, wrapped_by, made_at, destroyed_at FROM %1$I.key_halves', schema);
    EXECUTE format('CREATE VIEW %1$I.top_key_v WITH (security_invoker = true) AS
        SELECT wanted, requested_at, rewrapped, finished_at FROM %1$I.top_key', schema);
    EXECUTE format('CREATE VIEW %1$I.key_jobs_v WITH (security_invoker = true) AS
        SELECT tenant_id, to_version, resealed, started_at, finished_at, last_error FROM %1$I.key_jobs', schema);
    EXECUTE format('GRANT SELECT ON %1$I.key_halves, %1$I.key_halves_v, %1$I.top_key, %1$I.top_key_v, %1$I.key_jobs,
        %1$I.key_jobs_v TO parapet_api', schema);
    EXECUTE format('GRANT SELECT ON %1$I.key_halves_v, %1$I.top_key_v TO %2$I', schema, role);
END $body$;

SELECT platform.create_key_holders('api', 'parapet_api'), platform.create_key_holders('sync', 'parapet_sync'),
       platform.create_key_holders('validator', 'parapet_validator'), platform.create_key_holders('mitigation', 'parapet_mitigation');
SELECT platform.create_key_work('sync', 'parapet_sync'), platform.create_key_work('validator', 'parapet_validator');
-- The sync worker and the executor must know the key that wraps what they open.
GRANT USAGE ON SCHEMA sync TO parapet_mitigation, parapet_validator;
GRANT SELECT ON sync.key_halves, sync.key_halves_v, sync.top_key, sync.top_key_v TO parapet_mitigation, parapet_validator;
DROP FUNCTION platform.create_key_holders(text, text), platform.create_key_work(text, text);

CREATE FUNCTION platform.note_half() RETURNS trigger
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    half jsonb := CASE TG_OP WHEN 'DELETE' THEN to_jsonb(OLD) ELSE to_jsonb(NEW) END;
    tenant uuid := coalesce(half->>'tenant_id', '00000000-0000-0000-0000-000000000000');
BEGIN
    IF TG_OP = 'DELETE' THEN
        EXECUTE format('DELETE FROM %I.key_halves WHERE tenant_id = $1 AND version = $2', TG_TABLE_SCHEMA)
            USING tenant, OLD.version;
    ELSE
        EXECUTE format('INSERT INTO %I.key_halves (tenant_id, version, wrapped_by, made_at, destroyed_at)
                        VALUES ($1, $2, platform.wrapped_by($3), $4, $5)
                        ON CONFLICT (tenant_id, version) DO UPDATE
                        SET wrapped_by = excluded.wrapped_by, destroyed_at = excluded.destroyed_at', TG_TABLE_SCHEMA)
            USING tenant, NEW.version, NEW.wrapped_private, NEW.created_at, NEW.destroyed_at;
    END IF;
    RETURN NULL;
END $$;
GRANT EXECUTE ON FUNCTION platform.note_half() TO parapet_sync, parapet_validator;
CREATE TRIGGER note_half AFTER INSERT OR UPDATE OR DELETE ON sync.sealing_keys FOR EACH ROW EXECUTE FUNCTION platform.note_half();
CREATE TRIGGER note_half AFTER INSERT OR UPDATE OR DELETE ON validator.sealing_keys FOR EACH ROW EXECUTE FUNCTION platform.note_half();
CREATE TRIGGER note_half AFTER INSERT OR UPDATE OR DELETE ON validator.installation_sealing_keys
    FOR EACH ROW EXECUTE FUNCTION platform.note_half();
-- What is there already. Row security is forced on its owner as well, who runs this.
ALTER TABLE sync.sealing_keys NO FORCE ROW LEVEL SECURITY;
ALTER TABLE validator.sealing_keys NO FORCE ROW LEVEL SECURITY;
INSERT INTO sync.key_halves SELECT tenant_id, version, platform.wrapped_by(wrapped_private), created_at FROM sync.sealing_keys;
INSERT INTO validator.key_halves SELECT tenant_id, version, platform.wrapped_by(wrapped_private), created_at FROM validator.sealing_keys
    UNION ALL SELECT '00000000-0000-0000-0000-000000000000', version, platform.wrapped_by(wrapped_private), created_at
    FROM validator.installation_sealing_keys;
ALTER TABLE sync.sealing_keys FORCE ROW LEVEL SECURITY;
ALTER TABLE validator.sealing_keys FORCE ROW LEVEL SECURITY;

-- Halves of many tenants, one after the other, with the rights and under the row security of who asks: a tenant's rows are
-- only seen as that tenant. What was asked for and is not there any more is not in the answer.
CREATE FUNCTION sync.halves(tenants uuid[], versions integer[])
    RETURNS TABLE (tenant uuid, number integer, public bytea, signed bytea, wrapped bytea)
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    FOR place IN 1 .. coalesce(array_length(tenants, 1), 0) LOOP
        PERFORM set_config('app.tenant', tenants[place]::text, true);
        RETURN QUERY SELECT k.tenant_id, k.version, k.public_key, k.signature, k.wrapped_private FROM sync.sealing_keys k
            WHERE k.tenant_id = tenants[place] AND k.version = versions[place] AND k.wrapped_private IS NOT NULL;
    END LOOP;
    PERFORM set_config('app.tenant', '', true);
END $$;
CREATE FUNCTION sync.put_halves(tenants uuid[], versions integer[], before bytea[], after bytea[], signatures bytea[]) RETURNS bigint
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    written bigint;
    total bigint := 0;
BEGIN
    FOR place IN 1 .. coalesce(array_length(tenants, 1), 0) LOOP
        PERFORM set_config('app.tenant', tenants[place]::text, true);
        UPDATE sync.sealing_keys SET wrapped_private = after[place], signature = signatures[place]
        WHERE tenant_id = tenants[place] AND version = versions[place] AND wrapped_private = before[place];
        GET DIAGNOSTICS written = ROW_COUNT;
        total := total + written;
    END LOOP;
    PERFORM set_config('app.tenant', '', true);
    RETURN total;
END $$;
CREATE FUNCTION validator.halves(tenants uuid[], versions integer[])
    RETURNS TABLE (tenant uuid, number integer, public bytea, signed bytea, wrapped bytea)
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    FOR place IN 1 .. coalesce(array_length(tenants, 1), 0) LOOP
        PERFORM set_config('app.tenant', tenants[place]::text, true);
        RETURN QUERY SELECT k.tenant_id, k.version, k.public_key, k.signature, k.wrapped_private FROM validator.sealing_keys k
            WHERE k.tenant_id = tenants[place] AND k.version = versions[place] AND k.wrapped_private IS NOT NULL
            UNION ALL
            SELECT tenants[place], k.version, k.public_key, k.signature, k.wrapped_private FROM validator.installation_sealing_keys k
            WHERE tenants[place] = '00000000-0000-0000-0000-000000000000' AND k.version = versions[place]
                  AND k.wrapped_private IS NOT NULL;
    END LOOP;
    PERFORM set_config('app.tenant', '', true);
END $$;
CREATE FUNCTION validator.put_halves(tenants uuid[], versions integer[], before bytea[], after bytea[], signatures bytea[])
    RETURNS bigint
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    written bigint;
    total bigint := 0;
BEGIN
    FOR place IN 1 .. coalesce(array_length(tenants, 1), 0) LOOP
        PERFORM set_config('app.tenant', tenants[place]::text, true);
        IF tenants[place] = '00000000-0000-0000-0000-000000000000' THEN
            UPDATE validator.installation_sealing_keys SET wrapped_private = after[place], signature = signatures[place]
            WHERE version = versions[place] AND wrapped_private = before[place];
        ELSE
            UPDATE validator.sealing_keys SET wrapped_private = after[place], signature = signatures[place]
            WHERE tenant_id = tenants[place] AND version = versions[place] AND wrapped_private = before[place];
        END IF;
        GET DIAGNOSTICS written = ROW_COUNT;
        total := total + written;
    END LOOP;
    PERFORM set_config('app.tenant', '', true);
    RETURN total;
END $$;
GRANT EXECUTE ON FUNCTION sync.halves(uuid[], integer[]), sync.put_halves(uuid[], integer[], bytea[], bytea[], bytea[]) TO parapet_sync;
GRANT EXECUTE ON FUNCTION validator.halves(uuid[], integer[]), validator.put_halves(uuid[], integer[], bytea[], bytea[], bytea[])
    TO parapet_validator;
