//! Tenants are walls (I9), asked of PostgreSQL's own catalogue: a table, view or function that a later migration adds
//! is tested here without being named.

use e2e::Bus;
use shared::id::TenantId;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection, Row as _};

pub const SCHEMAS: &str = "('api', 'sync', 'validator', 'budget', 'mitigation', 'audit')";
pub const ROLES: [&str; 5] =
    ["parapet_api", "parapet_sync", "parapet_validator", "parapet_mitigation", "parapet_audit"];

/// What the catalogue says against the walls; nothing, when they stand.
async fn faults(db: &mut PgConnection) -> Vec<String> {
    let questions = [
        (
            "neither walled nor excused",
            format!(
                "SELECT c.oid::regclass::text FROM pg_class c
                 WHERE c.relnamespace::regnamespace::text IN {SCHEMAS} AND c.relkind IN ('r', 'p', 'f', 'm')
                   AND NOT (c.relrowsecurity AND c.relforcerowsecurity)
                   AND coalesce(obj_description(c.oid, 'pg_class'), '') NOT LIKE 'no-tenant:%_'"
            ),
        ),
        (
            "walled by more or less than the one policy",
            format!(
                "SELECT c.oid::regclass::text FROM pg_class c
                 WHERE c.relnamespace::regnamespace::text IN {SCHEMAS} AND c.relrowsecurity
                   AND (SELECT array_agg(p.polname::text) FROM pg_policy p WHERE p.polrelid = c.oid)
                       IS DISTINCT FROM ARRAY['tenant']"
            ),
        ),
        (
            "a view with the rights of its owner",
            format!(
                "SELECT c.oid::regclass::text FROM pg_class c
                 WHERE c.relnamespace::regnamespace::text IN {SCHEMAS} AND c.relkind = 'v'
                   AND NOT coalesce(c.reloptions @> ARRAY['security_invoker=true'], false)"
            ),
        ),
        (
            "a function with the rights of its owner that everybody may call, or whose names others may shadow",
            format!(
                "SELECT p.oid::regprocedure::text FROM pg_proc p
                 WHERE p.pronamespace::regnamespace::text IN {SCHEMAS} AND p.prosecdef
                   AND (EXISTS (SELECT FROM aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) a WHERE a.grantee = 0)
                        OR NOT EXISTS (SELECT FROM unnest(p.proconfig) s WHERE s LIKE 'search_path=%'))"
            ),
        ),
        (
            "a role above row security",
            "SELECT rolname::text FROM pg_roles
             WHERE rolname LIKE 'parapet\\_%' AND (rolsuper OR rolbypassrls OR rolcreaterole OR rolcreatedb OR rolreplication)"
                .to_owned(),
        ),
        (
            "a role that is given the rights of another",
            "SELECT m.member::regrole::text FROM pg_auth_members m JOIN pg_roles r ON r.oid = m.member
             WHERE r.rolname LIKE 'parapet\\_%'"
                .to_owned(),
        ),
        (
            "a service that owns",
            "SELECT c.relowner::regrole || ' ' || c.oid::regclass FROM pg_class c JOIN pg_roles r ON r.oid = c.relowner
                 WHERE r.rolname LIKE 'parapet\\_%'
             UNION ALL
             SELECT n.nspowner::regrole || ' ' || n.nspname FROM pg_namespace n JOIN pg_roles r ON r.oid = n.nspowner
                 WHERE r.rolname LIKE 'parapet\\_%'
             UNION ALL
             SELECT p.proowner::regrole || ' ' || p.oid::regprocedure FROM pg_proc p JOIN pg_roles r ON r.oid = p.proowner
                 WHERE r.rolname LIKE 'parapet\\_%' AND r.rolcanlogin"
                .to_owned(),
        ),
    ];
    let mut found = Vec::new();
    for (fault, question) in questions {
        let guilty: Vec<String> =
            sqlx::query_scalar(AssertSqlSafe(question)).fetch_all(&mut *db).await.unwrap();
        found.extend(guilty.into_iter().map(|what| format!("{what}: {fault}")));
    }
    found
}

/// A tenant table and how to write a row of it.
struct Table {
    name: String,
    columns: String,
    values: String,
}

/// Every table under row security, from the catalogue. Values are made up from the columns' types.
async fn tenant_tables(db: &mut PgConnection) -> Vec<Table> {
    let rows = sqlx::query(AssertSqlSafe(format!(
        "SELECT c.oid::regclass::text AS name,
                string_agg(quote_ident(a.attname), ', ' ORDER BY a.attnum) AS columns,
                string_agg(CASE WHEN a.attname = 'tenant_id' THEN '$1' ELSE
                    CASE format_type(a.atttypid, NULL)
                        WHEN 'uuid' THEN 'gen_random_uuid()'
                        WHEN 'text' THEN 'gen_random_uuid()::text'
                        WHEN 'bytea' THEN 'decode(repeat(''00'', 32), ''hex'')'
                        WHEN 'boolean' THEN 'true'
                        WHEN 'jsonb' THEN '''{{}}''::jsonb'
                        WHEN 'date' THEN 'current_date'
                        WHEN 'timestamp with time zone' THEN 'clock_timestamp()'
                        WHEN 'smallint' THEN '1' WHEN 'integer' THEN '1' WHEN 'bigint' THEN '1'
                        ELSE quote_literal('{{}}') || '::' || format_type(a.atttypid, a.atttypmod) END
                    END, ', ' ORDER BY a.attnum) AS values
         FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
         WHERE c.relnamespace::regnamespace::text IN {SCHEMAS} AND c.relkind IN ('r', 'p') AND c.relrowsecurity
           AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = '' AND a.attidentity = ''
           AND (a.attnotnull OR a.attname = 'tenant_id')
         GROUP BY c.oid ORDER BY 1"
    )))
    .fetch_all(db)
    .await
    .unwrap();
    rows.into_iter()
        .map(|row| Table { name: row.get("name"), columns: row.get("columns"), values: row.get("values") })
        .collect()
}

/// Takes away what may stand in the way of a row: constraints and triggers.
pub async fn take_constraints_away(db: &mut PgConnection) {
    run_each(
        db,
        format!(
            "SELECT format('ALTER TABLE %s DROP CONSTRAINT %I CASCADE', conrelid::regclass, conname) FROM pg_constraint
                 WHERE connamespace::regnamespace::text IN {SCHEMAS} AND contype IN ('c', 'f') AND conislocal
             UNION ALL
             SELECT format('ALTER TABLE %s DISABLE TRIGGER USER', tgrelid::regclass) FROM pg_trigger WHERE NOT tgisinternal"
        ),
    )
    .await;
}

/// The same, and grants every right to every service: what then still holds is row security alone.
async fn leave_nothing_but_row_security(db: &mut PgConnection) {
    take_constraints_away(db).await;
    run_each(
        db,
        format!(
            "SELECT format('GRANT USAGE ON SCHEMA %1$I TO %2$s; GRANT ALL ON ALL TABLES IN SCHEMA %1$I TO %2$s',
                           nspname, '{}')
             FROM pg_namespace WHERE nspname IN {SCHEMAS}",
            ROLES.join(", ")
        ),
    )
    .await;
}

/// Runs the statements that the question answers.
async fn run_each(db: &mut PgConnection, question: String) {
    let statements: Vec<String> =
        sqlx::query_scalar(AssertSqlSafe(question)).fetch_all(&mut *db).await.unwrap();
    for statement in statements {
        sqlx::raw_sql(AssertSqlSafe(statement)).execute(&mut *db).await.unwrap();
    }
}

async fn insert(db: &mut PgConnection, table: &Table, tenant: TenantId) -> Result<(), sqlx::Error> {
    let Table { name, columns, values } = table;
    let statement = format!("INSERT INTO {name} ({columns}) VALUES ({values})");
    sqlx::query(AssertSqlSafe(statement)).bind(tenant).execute(db).await.map(drop)
}

/// What a role reaches of `foreign`'s row while its transaction is of tenant `as_tenant`, or of none.
async fn reached(
    db: &mut PgConnection,
    role: &str,
    table: &Table,
    as_tenant: Option<TenantId>,
    foreign: TenantId,
) -> Vec<&'static str> {
    let name = &table.name;
    let mut found = Vec::new();
    let mut tx = db.begin().await.unwrap();
    sqlx::raw_sql(AssertSqlSafe(format!("SET LOCAL ROLE {role}"))).execute(&mut *tx).await.unwrap();
    let setting = as_tenant.map_or_else(String::new, |tenant| tenant.to_string());
    sqlx::query("SELECT set_config('app.tenant', $1, true)").bind(setting).execute(&mut *tx).await.unwrap();
    for (deed, statement) in [
        ("select", format!("SELECT 1 FROM {name} WHERE tenant_id = $1")),
        ("update", format!("UPDATE {name} SET tenant_id = tenant_id WHERE tenant_id = $1")),
        ("delete", format!("DELETE FROM {name} WHERE tenant_id = $1")),
    ] {
        let rows = sqlx::query(AssertSqlSafe(statement)).bind(foreign).execute(&mut *tx).await.unwrap();
        if rows.rows_affected() > 0 {
            found.push(deed);
        }
    }
    let mut attempt = tx.begin().await.unwrap();
    match insert(&mut attempt, table, foreign).await {
        Ok(()) => found.push("insert"),
        Err(error) => assert!(is_row_security(&error), "{name}: {error}"),
    }
    attempt.rollback().await.unwrap();
    if let Some(tenant) = as_tenant.filter(|tenant| *tenant != foreign) {
        // Its own row is there to be given away.
        let mut attempt = tx.begin().await.unwrap();
        insert(&mut attempt, table, tenant).await.unwrap();
        let give = AssertSqlSafe(format!("UPDATE {name} SET tenant_id = $1"));
        match sqlx::query(give).bind(foreign).execute(&mut *attempt).await {
            Ok(_) => found.push("give away"),
            Err(error) => assert!(is_row_security(&error), "{name}: {error}"),
        }
        attempt.rollback().await.unwrap();
    }
    tx.rollback().await.unwrap();
    found
}

fn is_row_security(error: &sqlx::Error) -> bool {
    let error = error.as_database_error().unwrap();
    error.code().as_deref() == Some("42501") && error.message().contains("row-level security")
}

#[tokio::test]
async fn every_table_is_walled_or_says_why_not_and_no_service_stands_above_the_walls() {
    let bus = Bus::without_queues().await;
    assert_eq!(faults(&mut bus.superuser().await).await, Vec::<String>::new());
}

/// Negative control: each kind of hole is found and named.
#[tokio::test]
async fn holes_in_the_walls_are_found() {
    let bus = Bus::without_queues().await;
    let mut db = bus.superuser().await;
    // Roles are shared with the tests beside this one: what is done to one here is never committed.
    let mut tx = db.begin().await.unwrap();
    sqlx::raw_sql(
        "CREATE TABLE api.bare (tenant_id uuid);
         CREATE TABLE api.unforced (tenant_id uuid);
         SELECT platform.protect_tenant_table('api.unforced');
         ALTER TABLE api.unforced NO FORCE ROW LEVEL SECURITY;
         CREATE TABLE api.unexcused (n int);
         COMMENT ON TABLE api.unexcused IS 'no-tenant:';
         CREATE POLICY everybody ON api.integrations USING (true);
         CREATE VIEW sync.window AS SELECT * FROM sync.accounts;
         CREATE FUNCTION sync.door() RETURNS bigint LANGUAGE sql SECURITY DEFINER
             AS 'SELECT count(*) FROM sync.accounts';
         GRANT EXECUTE ON FUNCTION sync.door() TO PUBLIC;
         ALTER ROLE parapet_audit BYPASSRLS;
         GRANT parapet_sync TO parapet_api;
         ALTER TABLE audit.events OWNER TO parapet_audit",
    )
    .execute(&mut *tx)
    .await
    .unwrap();
    let found = faults(&mut tx).await;
    for guilty in [
        "api.bare: neither",
        "api.unforced: neither",
        "api.unexcused: neither",
        "api.integrations: walled by",
        "sync.\"window\": a view",
        "sync.door(): a function",
        "parapet_audit: a role above",
        "parapet_api: a role that is given",
        "parapet_audit audit.events: a service that owns",
    ] {
        assert!(found.iter().any(|fault| fault.starts_with(guilty)), "{guilty} not in {found:#?}");
    }
    tx.rollback().await.unwrap();
}

#[tokio::test]
async fn no_service_reaches_a_row_of_another_tenant_in_any_table() {
    let bus = Bus::without_queues().await;
    let mut db = bus.superuser().await;
    leave_nothing_but_row_security(&mut db).await;
    let (one, other) = (TenantId::new(), TenantId::new());
    let tables = tenant_tables(&mut db).await;
    assert!(tables.len() >= 30, "only {} tenant tables", tables.len());
    for table in &tables {
        insert(&mut db, table, one).await.unwrap_or_else(|error| panic!("{}: {error}", table.name));
        for role in ROLES {
            for stranger in [Some(other), None] {
                let reached = reached(&mut db, role, table, stranger, one).await;
                assert!(reached.is_empty(), "{role} of {stranger:?} in {}: {reached:?}", table.name);
            }
            let reached = reached(&mut db, role, table, Some(one), one).await;
            assert_eq!(reached[..3], ["select", "update", "delete"], "{role} in {}", table.name);
        }
    }
}

/// Negative control: with the wall of a table gone or open, the same questions are answered with its rows.
#[tokio::test]
async fn a_row_behind_a_broken_wall_is_reached() {
    let bus = Bus::without_queues().await;
    let mut db = bus.superuser().await;
    leave_nothing_but_row_security(&mut db).await;
    let tables = tenant_tables(&mut db).await;
    bus.execute(
        "ALTER TABLE validator.exposures DISABLE ROW LEVEL SECURITY;
         CREATE POLICY everybody ON sync.accounts USING (true)",
    )
    .await;
    for name in ["validator.exposures", "sync.accounts"] {
        let table = tables.iter().find(|table| table.name == name).unwrap();
        let (one, other) = (TenantId::new(), TenantId::new());
        insert(&mut db, table, one).await.unwrap();
        let reached = reached(&mut db, "parapet_validator", table, Some(other), one).await;
        assert_eq!(reached, ["select", "update", "delete", "insert", "give away"], "{name}");
    }
}
