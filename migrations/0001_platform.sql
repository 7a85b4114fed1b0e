-- Schemas, service roles and the row-security helper that every later migration uses.
-- Written by nobody at run time. One schema and one role per service (design §2); no service role owns anything,
-- bypasses row security or may create objects.

CREATE SCHEMA platform;
CREATE SCHEMA api;
CREATE SCHEMA sync;
CREATE SCHEMA validator;
CREATE SCHEMA budget;
CREATE SCHEMA mitigation;
CREATE SCHEMA audit;

-- Roles belong to the cluster, schemas to the database: several databases of one cluster share the roles, and two
-- migrations may run at once.
DO $$
DECLARE name text;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtext('parapet roles'));
    FOREACH name IN ARRAY ARRAY['parapet_api', 'parapet_sync', 'parapet_validator', 'parapet_mitigation', 'parapet_audit']
    LOOP
        IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = name) THEN
            EXECUTE format('CREATE ROLE %I LOGIN NOSUPERUSER NOBYPASSRLS NOCREATEDB NOCREATEROLE', name);
        END IF;
        EXECUTE format('ALTER ROLE %I SET search_path = %I', name, substr(name, 9));
        EXECUTE format('GRANT USAGE ON SCHEMA platform, %I TO %I', substr(name, 9), name);
    END LOOP;
    -- Owns the budget's functions; nobody can log in as it.
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'parapet_budget_owner') THEN
        CREATE ROLE parapet_budget_owner NOLOGIN NOSUPERUSER NOBYPASSRLS NOCREATEDB NOCREATEROLE;
    END IF;
END $$;

-- PUBLIC may create nothing and call nothing by accident.
REVOKE ALL ON SCHEMA public FROM PUBLIC;
ALTER DEFAULT PRIVILEGES REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC;

-- The tenant of this transaction; NULL when none was set. After a transaction-local set the setting reads as ''.
CREATE FUNCTION platform.current_tenant() RETURNS uuid
    LANGUAGE sql STABLE PARALLEL SAFE
    AS $$ SELECT nullif(current_setting('app.tenant', true), '')::uuid $$;
GRANT EXECUTE ON FUNCTION platform.current_tenant() TO PUBLIC;

-- INVARIANT (I9): a tenant table shows and takes rows of the transaction's tenant only, to its owner as well.
CREATE FUNCTION platform.protect_tenant_table(target regclass) RETURNS void
    LANGUAGE plpgsql
    AS $$
BEGIN
    EXECUTE format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY', target);
    EXECUTE format('ALTER TABLE %s FORCE ROW LEVEL SECURITY', target);
    EXECUTE format(
        'CREATE POLICY tenant ON %s USING (tenant_id = platform.current_tenant()) WITH CHECK (tenant_id = platform.current_tenant())',
        target);
END $$;
