-- Deleting a tenant: its private halves are destroyed in the transaction that deletes it, so that nothing sealed of it opens
-- from then on; each service removes its rows in the background. Audit events and the attempts of accounts stay (design §11).
-- Written by integration-api.

CREATE TABLE api.deleted_tenants (
    tenant_id       uuid PRIMARY KEY,
    organization_id uuid NOT NULL,
    name            text NOT NULL,
    reason          text NOT NULL,
    deleted_by      text NOT NULL,              -- token subject
    deleted_at      timestamptz NOT NULL DEFAULT clock_timestamp()
);
COMMENT ON TABLE api.deleted_tenants IS 'no-tenant: registry; written by parapet_api, read by every service through api.deleted_tenants_v';
GRANT SELECT, INSERT ON api.deleted_tenants TO parapet_api;
GRANT DELETE ON api.tenants TO parapet_api;
CREATE VIEW api.deleted_tenants_v WITH (security_invoker = true) AS SELECT tenant_id, deleted_at FROM api.deleted_tenants;
GRANT SELECT ON api.deleted_tenants, api.deleted_tenants_v TO parapet_sync, parapet_validator, parapet_mitigation, parapet_audit;
GRANT SELECT ON api.deleted_tenants_v TO parapet_api;

-- INVARIANT: an id never comes back: its keys are gone, and its audit chain and the memory of its rows are not.
CREATE FUNCTION api.refuse_deleted_tenant() RETURNS trigger
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    IF EXISTS (SELECT FROM api.deleted_tenants d WHERE d.tenant_id = NEW.tenant_id) THEN
        RAISE EXCEPTION 'the tenant was deleted' USING ERRCODE = 'unique_violation', CONSTRAINT = 'deleted_tenants';
    END IF;
    RETURN NEW;
END $$;
GRANT EXECUTE ON FUNCTION api.refuse_deleted_tenant() TO parapet_api;
CREATE TRIGGER refuse_deleted_tenant BEFORE INSERT ON api.tenants FOR EACH ROW EXECUTE FUNCTION api.refuse_deleted_tenant();

-- Called in the transaction that deletes the tenant, by the API, which may not write keys otherwise; of a tenant that exists
-- they destroy nothing. The number of halves destroyed.
CREATE FUNCTION sync.shred(tenant uuid) RETURNS bigint
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE shredded bigint;
BEGIN
    IF NOT EXISTS (SELECT FROM api.deleted_tenants d WHERE d.tenant_id = tenant) THEN
        RAISE EXCEPTION 'the tenant was not deleted';
    END IF;
    PERFORM set_config('app.tenant', tenant::text, true);
    -- Whoever makes a pair at this moment has this row first, and is waited for; or finds the tenant deleted afterwards.
    INSERT INTO sync.sealing_key_tenants (tenant_id) VALUES (tenant)
    ON CONFLICT (tenant_id) DO UPDATE SET tenant_id = excluded.tenant_id;
    UPDATE sync.sealing_keys SET wrapped_private = NULL, destroyed_at = clock_timestamp()
    WHERE tenant_id = tenant AND wrapped_private IS NOT NULL;
    GET DIAGNOSTICS shredded = ROW_COUNT;
    DELETE FROM sync.public_client_keys p
    WHERE EXISTS (SELECT FROM sync.client_keys c WHERE c.tenant_id = tenant AND c.integration_id = p.integration_id);
    RETURN shredded;
END $$;
CREATE FUNCTION validator.shred(tenant uuid) RETURNS bigint
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE shredded bigint;
BEGIN
    IF NOT EXISTS (SELECT FROM api.deleted_tenants d WHERE d.tenant_id = tenant) THEN
        RAISE EXCEPTION 'the tenant was not deleted';
    END IF;
    PERFORM set_config('app.tenant', tenant::text, true);
    -- Whoever makes a pair at this moment has this row first, and is waited for; or finds the tenant deleted afterwards.
    INSERT INTO validator.sealing_key_tenants (tenant_id) VALUES (tenant)
    ON CONFLICT (tenant_id) DO UPDATE SET tenant_id = excluded.tenant_id;
    UPDATE validator.sealing_keys SET wrapped_private = NULL, destroyed_at = clock_timestamp()
    WHERE tenant_id = tenant AND wrapped_private IS NOT NULL;
    GET DIAGNOSTICS shredded = ROW_COUNT;
    RETURN shredded;
END $$;
GRANT EXECUTE ON FUNCTION sync.shred(uuid), validator.shred(uuid) TO parapet_api;

-- INVARIANT: no half of a deleted tenant is made or written again, by a service that has not noticed yet.
CREATE FUNCTION platform.refuse_shredded() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    IF NEW.wrapped_private IS NOT NULL AND EXISTS (SELECT FROM api.deleted_tenants d WHERE d.tenant_id = NEW.tenant_id) THEN
        RAISE EXCEPTION 'the tenant was deleted, its keys are destroyed';
    END IF;
    RETURN NEW;
END $$;
REVOKE ALL ON FUNCTION platform.refuse_shredded() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION platform.refuse_shredded() TO parapet_sync, parapet_validator;
CREATE TRIGGER refuse_shredded BEFORE INSERT OR UPDATE ON sync.sealing_keys
    FOR EACH ROW EXECUTE FUNCTION platform.refuse_shredded();
CREATE TRIGGER refuse_shredded BEFORE INSERT OR UPDATE ON validator.sealing_keys
    FOR EACH ROW EXECUTE FUNCTION platform.refuse_shredded();

-- Removes rows of a deleted tenant from the caller's own schema, at most so many of each table; how many it removed. What is
-- on its way to the audit log and the destroyed keys' rows stay.
CREATE FUNCTION platform.forget_tenant(tenant uuid, at_most integer) RETURNS bigint
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    this regclass;
    removed bigint;
    total bigint := 0;
BEGIN
    IF session_user NOT IN ('parapet_api', 'parapet_sync', 'parapet_validator', 'parapet_mitigation') THEN
        RAISE EXCEPTION 'only a service role removes rows, not %', session_user;
    END IF;
    IF NOT EXISTS (SELECT FROM api.deleted_tenants d WHERE d.tenant_id = tenant) THEN
        RAISE EXCEPTION 'the tenant was not deleted';
    END IF;
    PERFORM set_config('app.tenant', tenant::text, true);
    FOR this IN
        SELECT c.oid FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = 'tenant_id' AND NOT a.attisdropped
        WHERE c.relkind = 'r' AND c.relnamespace::regnamespace::text = substr(session_user, 9)
          AND c.relname NOT IN ('outbox', 'deleted_tenants', 'sealing_keys', 'sealing_key_tenants', 'key_halves', 'key_jobs',
                                'key_requests', 'attempts')
        ORDER BY c.oid DESC
    LOOP
        BEGIN
            EXECUTE format('DELETE FROM %1$s WHERE ctid = ANY (ARRAY(SELECT ctid FROM %1$s WHERE tenant_id = $1 LIMIT $2))', this)
                USING tenant, at_most;
            GET DIAGNOSTICS removed = ROW_COUNT;
            total := total + removed;
        EXCEPTION WHEN foreign_key_violation THEN
            -- What refers to it goes first; its turn comes at the next call.
            NULL;
        END;
    END LOOP;
    PERFORM set_config('app.tenant', '', true);
    RETURN total;
END $$;
REVOKE ALL ON FUNCTION platform.forget_tenant(uuid, integer) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION platform.forget_tenant(uuid, integer) TO parapet_api, parapet_sync, parapet_validator, parapet_mitigation;
