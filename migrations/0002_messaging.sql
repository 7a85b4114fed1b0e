-- Outbox, inbox, parked messages and waiting work: the same four tables in the schema of every service, and an
-- outbox in `budget`. Written by the service that owns the schema (shared::{outbox,relay,inbox,work}); none of them
-- is a tenant table, because relays, consumers and dispatchers work for all tenants at once.

-- The newest migration, for readiness; the service roles cannot read the migrator's own table.
CREATE FUNCTION platform.schema_version() RETURNS bigint
    LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog
    AS $$ BEGIN RETURN (SELECT max(version) FROM public._sqlx_migrations WHERE success); END $$;
GRANT EXECUTE ON FUNCTION platform.schema_version() TO
    parapet_api, parapet_sync, parapet_validator, parapet_mitigation, parapet_audit;

-- The smallest UUIDv7 of a day (UTC).
CREATE FUNCTION platform.uuid_floor(day date) RETURNS uuid
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $$ SELECT (lpad(to_hex((extract(epoch FROM day::timestamp) * 1000)::bigint), 12, '0') || repeat('0', 20))::uuid $$;

-- Outbox of `schema`: `writer` adds messages, `relay` claims and deletes them.
CREATE FUNCTION platform.create_outbox(schema text, writer text, relay text) RETURNS void
    LANGUAGE plpgsql
    AS $body$
BEGIN
    EXECUTE format($sql$
        CREATE TABLE %1$I.outbox (
            id          uuid PRIMARY KEY,      -- UUIDv7; becomes the AMQP message id
            seq         bigint GENERATED ALWAYS AS IDENTITY, -- about the order of writing; never a position to read from
            tenant_id   uuid,                  -- NULL: the installation
            topic       text NOT NULL,         -- name of the queue
            body        bytea NOT NULL CHECK (octet_length(body) <= 65536),
            traceparent text,                  -- W3C trace context of the writer
            created_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
            ready_at    timestamptz NOT NULL DEFAULT clock_timestamp(), -- a claim and a failure move it into the future
            tries       integer NOT NULL DEFAULT 0,
            last_error  text                   -- why the last publication failed, for operators
        ) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000)
    $sql$, schema);
    EXECUTE format('CREATE INDEX ON %I.outbox (ready_at, seq)', schema);
    EXECUTE format('COMMENT ON TABLE %I.outbox IS %L', schema,
        'no-tenant: written by ' || writer || ', sent and deleted by ' || relay || ' (shared::relay)');
    EXECUTE format('GRANT INSERT ON %I.outbox TO %I', schema, writer);
    EXECUTE format('GRANT SELECT, DELETE, UPDATE (ready_at, tries, last_error) ON %I.outbox TO %I', schema, relay);
END $body$;

CREATE FUNCTION platform.create_messaging(schema text, role text) RETURNS void
    LANGUAGE plpgsql
    AS $body$
BEGIN
    PERFORM platform.create_outbox(schema, role, role);

    -- One row per message seen: how often it was tried, and whether its effect is committed.
    EXECUTE format($sql$
        CREATE TABLE %1$I.inbox (
            message_id uuid NOT NULL,
            consumer   text NOT NULL,          -- the topic
            first_seen timestamptz NOT NULL DEFAULT clock_timestamp(),
            tries      integer NOT NULL DEFAULT 1,
            status     text NOT NULL DEFAULT 'working' CHECK (status IN ('working', 'done', 'parked')),
            last_error text,
            PRIMARY KEY (message_id, consumer)
        ) PARTITION BY RANGE (message_id)
    $sql$, schema);
    EXECUTE format('COMMENT ON TABLE %I.inbox IS %L', schema, 'no-tenant: reached by ' || role || ' (shared::inbox)');
    EXECUTE format('GRANT SELECT, INSERT, UPDATE ON %I.inbox TO %I', schema, role);

    -- Messages that could not be done, with the reason and everything needed to try again.
    EXECUTE format($sql$
        CREATE TABLE %1$I.parked (
            message_id   uuid NOT NULL,
            consumer     text NOT NULL,
            tenant_id    uuid,
            content_type text,
            traceparent  text,
            body         bytea NOT NULL,
            reason       text NOT NULL,
            tries        integer NOT NULL,
            parked_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
            PRIMARY KEY (message_id, consumer)
        )
    $sql$, schema);
    EXECUTE format('CREATE INDEX ON %I.parked (parked_at)', schema);
    EXECUTE format('COMMENT ON TABLE %I.parked IS %L', schema, 'no-tenant: reached by ' || role || ' (shared::inbox)');
    EXECUTE format('GRANT SELECT, INSERT, DELETE ON %I.parked TO %I', schema, role);

    -- Work that waits for its time or its turn.
    EXECUTE format($sql$
        CREATE TABLE %1$I.work (
            work_id     uuid PRIMARY KEY,
            tenant_id   uuid NOT NULL,
            directory   text NOT NULL,         -- the cap of work in flight counts per tenant and directory
            kind        text NOT NULL,
            subject     uuid NOT NULL,         -- what is to be worked on
            priority    smallint NOT NULL,     -- 0 is the most urgent
            due_at      timestamptz NOT NULL,
            state       text NOT NULL DEFAULT 'waiting' CHECK (state IN ('waiting', 'in_flight', 'parked')),
            lease_until timestamptz,           -- in flight: when it is given out again
            again_at    timestamptz,           -- in flight: scheduled once more meanwhile, due then
            tries       integer NOT NULL DEFAULT 0, -- leases that ran out in a row
            reason      text,                  -- why it waits or is parked
            created_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
            UNIQUE (tenant_id, kind, subject),
            CHECK ((state = 'in_flight') = (lease_until IS NOT NULL))
        ) WITH (fillfactor = 80)
    $sql$, schema);
    EXECUTE format('CREATE INDEX work_due ON %I.work (tenant_id, directory, priority, due_at) WHERE state = ''waiting''', schema);
    EXECUTE format('CREATE INDEX work_leases ON %I.work (tenant_id, directory, lease_until) WHERE state = ''in_flight''', schema);
    EXECUTE format('COMMENT ON TABLE %I.work IS %L', schema, 'no-tenant: reached by ' || role || ' (shared::work)');
    EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON %I.work TO %I', schema, role);

    PERFORM platform.inbox_partitions(schema);
END $body$;

-- Creates the inbox partitions from the oldest kept day to three days ahead, and drops those whose messages are
-- all older than 14 days. A younger partition before the oldest existing one is not needed: nothing was received then.
CREATE FUNCTION platform.inbox_partitions(schema text) RETURNS void
    LANGUAGE plpgsql
    AS $$
DECLARE
    today constant date := (clock_timestamp() AT TIME ZONE 'UTC')::date;
    inbox constant regclass := format('%I.inbox', schema)::regclass;
    existing date[];
    day date;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended('inbox ' || schema, 0));
    existing := ARRAY(SELECT to_date(right(c.relname, 8), 'YYYYMMDD') FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
                      WHERE i.inhparent = inbox ORDER BY 1);
    FOR day IN SELECT generate_series(greatest(today - 15, coalesce(existing[1], today - 1)), today + 3, interval '1 day')::date
    LOOP
        CONTINUE WHEN day = ANY (existing);
        EXECUTE format('CREATE TABLE %I.%I PARTITION OF %s FOR VALUES FROM (%L) TO (%L)',
            schema, 'inbox_' || to_char(day, 'YYYYMMDD'), inbox, platform.uuid_floor(day), platform.uuid_floor(day + 1));
        EXECUTE format('COMMENT ON TABLE %I.%I IS %L', schema, 'inbox_' || to_char(day, 'YYYYMMDD'), 'no-tenant: partition of inbox');
    END LOOP;
    FOREACH day IN ARRAY existing
    LOOP
        CONTINUE WHEN day >= today - 15;
        EXECUTE format('DROP TABLE %I.%I', schema, 'inbox_' || to_char(day, 'YYYYMMDD'));
    END LOOP;
END $$;

-- The same for services, which may not create tables: each for its own schema only.
CREATE FUNCTION platform.maintain_inbox() RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '5s'
    AS $$
BEGIN
    IF session_user NOT IN ('parapet_api', 'parapet_sync', 'parapet_validator', 'parapet_mitigation', 'parapet_audit') THEN
        RAISE EXCEPTION 'only a service role has an inbox, not %', session_user;
    END IF;
    PERFORM platform.inbox_partitions(substr(session_user, 9));
END $$;
GRANT EXECUTE ON FUNCTION platform.maintain_inbox() TO
    parapet_api, parapet_sync, parapet_validator, parapet_mitigation, parapet_audit;

SELECT platform.create_messaging('api', 'parapet_api');
SELECT platform.create_messaging('sync', 'parapet_sync');
SELECT platform.create_messaging('validator', 'parapet_validator');
SELECT platform.create_messaging('mitigation', 'parapet_mitigation');
SELECT platform.create_messaging('audit', 'parapet_audit');

-- The reserve function (owner parapet_budget_owner) writes the intent; the validator's relay sends it.
GRANT USAGE ON SCHEMA budget TO parapet_validator;
SELECT platform.create_outbox('budget', 'parapet_budget_owner', 'parapet_validator');
