//! Tenants are walls (I9) where PostgreSQL's own rules do not stand: views, and functions with the rights of their
//! owner. Both are asked of the catalogue, so that a later one is tested here, or fails by its name.
//!
//! Two tenants have one row in every table, in which every id and every text is the tenant's own mark. What a service
//! role is shown or does for one of them must then not depend on the other's rows, nor touch them.

use e2e::Bus;
use shared::id::TenantId;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection, Row as _};

use crate::walls::{ROLES, SCHEMAS, take_constraints_away};

/// Views that show what belongs to no tenant, and why every service that may read them may see all of it.
const SHARED_VIEWS: [(&str, &str); 13] = [
    ("api.tenants_v", "the registry: which tenants there are and what they are entitled to"),
    ("api.deleted_tenants_v", "the registry: whose rows are to be removed"),
    ("api.key_requests_v", "an operator's wish to rotate keys; ids only"),
    ("api.key_holders_v", "which process holds which keys"),
    ("sync.key_holders_v", "which process holds which keys"),
    ("validator.key_holders_v", "which process holds which keys"),
    ("mitigation.key_holders_v", "which process holds which keys"),
    ("sync.key_halves_v", "which top key wraps which half; ids only"),
    ("validator.key_halves_v", "which top key wraps which half; ids only"),
    ("sync.key_jobs_v", "how far the rotation of a tenant's keys is; ids only"),
    ("validator.key_jobs_v", "how far the rotation of a tenant's keys is; ids only"),
    ("sync.top_key_v", "how far the rotation of the top key is"),
    ("validator.top_key_v", "how far the rotation of the top key is"),
];

/// Functions with the rights of their owner that know no tenant, and why.
const SHARED_FUNCTIONS: [(&str, &str); 17] = [
    ("platform.schema_version()", "one number for the database"),
    ("platform.maintain_inbox()", "partitions of the caller's own inbox"),
    ("platform.refresh_statistics()", "statistics of the caller's own tables"),
    ("sync.refresh_statistics()", "statistics of the caller's own tables"),
    (
        "sync.match_identifiers(text[])",
        "the one lookup over all tenants (design §3.3): ids only, to the validator only",
    ),
    ("sync.public_jwks(uuid)", "public halves, for anybody who knows the URL"),
    ("budget.beat(bigint,timestamp with time zone,interval,boolean)", "one gate for the database"),
    ("budget.gate_state()", "one gate for the database"),
    ("budget.close_gate()", "one gate for the database"),
    ("budget.reap(integer)", "whose reservations ended is told by validator.attempts"),
    (
        "budget.explain(text,text,text,integer,integer,boolean,boolean,boolean)",
        "others' attempts as a sum (I9)",
    ),
    ("budget.log_matters(text,text,text)", "a budget belongs to the account at the directory (I1)"),
    ("budget.reserve", "a budget belongs to the account at the directory (I1)"),
    (
        "budget.ledger(text,text,text,timestamp with time zone,integer)",
        "the auditor's proof over all budgets",
    ),
    (
        "budget.ledger_with_log(text,text,text,timestamp with time zone,integer)",
        "the auditor's proof over all budgets",
    ),
    ("budget.claim_sign_in_log(uuid,interval)", "whose turn it is to read a log; tells when it was read"),
    ("budget.keep_sign_ins", "sign-ins of accounts at the directory, for their budgets (I2)"),
];

/// A function with the rights of its owner that must look at the tenant of the transaction.
struct Call {
    /// As the catalogue writes it, or the beginning of that.
    function: &'static str,
    /// What a stranger calls; `$B` stands for the other tenant's mark, `$A` for the stranger's, `$NEW` for neither.
    stranger: &'static str,
    /// What the tenant itself calls: it must be seen to return or change something.
    owner: &'static str,
    /// What has to happen before the owner's call does anything.
    before: &'static str,
}

impl Call {
    const fn new(function: &'static str, call: &'static str) -> Self {
        Self { function, stranger: call, owner: call, before: "" }
    }

    /// A function that serves only a tenant that an operator deleted.
    const fn of_deleted(function: &'static str, call: &'static str) -> Self {
        let before = "INSERT INTO api.deleted_tenants VALUES ('$B', '$B', '$B', '$B', '$B')";
        Self { before, ..Self::new(function, call) }
    }
}

const CALLS: [Call; 14] = [
    Call::new("api.destroy_record_secrets(uuid[])", "api.destroy_record_secrets('{$B}')"),
    Call::new(
        "api.reseal_data_key(uuid,bytea,bytea)",
        "api.reseal_data_key('$B', decode(repeat('00', 32), 'hex'), 'new')",
    ),
    Call::new(
        "api.reseal_integration_secret(uuid,integer,bytea,bytea)",
        "api.reseal_integration_secret('$B', 1, decode(repeat('00', 32), 'hex'), 'new')",
    ),
    Call::new("validator.attempts_since(timestamp", "validator.attempts_since('-infinity')"),
    Call::new(
        "validator.attempts_by_integration(timestamp",
        "validator.attempts_by_integration('-infinity')",
    ),
    Call::new("validator.attempts_by_day(text", "validator.attempts_by_day('UTC', '-infinity')"),
    Call::new("validator.places(uuid[])", "validator.places('{$B}')"),
    Call::new("budget.stops(", "budget.stops(NULL, NULL, NULL, 100)"),
    Call::new("budget.resume_attempts(uuid)", "budget.resume_attempts('$B')"),
    // Both have a stop of everything: each is answered with its own.
    Call::new(
        "budget.stop_attempts(",
        "budget.stop_attempts('$NEW', NULL, NULL, NULL, 'reason', 'actor', 'name')",
    ),
    Call {
        // Only who reserved the attempt has its nonce.
        stranger: "budget.settle('$B', '$A', true, 'valid', 'code', true)",
        ..Call::new("budget.settle(", "budget.settle('$B', '$B', true, 'valid', 'code', true)")
    },
    Call::of_deleted("sync.shred(uuid)", "sync.shred('$B')"),
    Call::of_deleted("validator.shred(uuid)", "validator.shred('$B')"),
    Call::of_deleted("platform.forget_tenant(uuid,integer)", "platform.forget_tenant('$B', 100)"),
];

/// Two tenants with a row in every table.
struct World {
    db: PgConnection,
    one: TenantId,
    other: TenantId,
    tables: Vec<String>,
    _bus: Bus,
}

/// What came of a call: the answer, row by row, and what is then stored with the other tenant's mark.
struct Outcome {
    answer: Result<Vec<String>, String>,
    stored: Vec<String>,
}

impl World {
    async fn new() -> Self {
        let bus = Bus::without_queues().await;
        let mut db = bus.superuser().await;
        take_constraints_away(&mut db).await;
        let (one, other) = (TenantId::new(), TenantId::new());
        let tables = fill(&mut db, [one, other]).await;
        Self { db, one, other, tables, _bus: bus }
    }

    /// The service roles that may do this to what the catalogue calls `name`.
    async fn allowed(&mut self, right: &str, name: &str) -> Vec<&'static str> {
        let (has, oid, schema) = match right {
            "SELECT" => ("has_any_column_privilege", "regclass", "SELECT relnamespace FROM pg_class"),
            _ => ("has_function_privilege", "regprocedure", "SELECT pronamespace FROM pg_proc"),
        };
        let question = format!(
            "SELECT {has}($1, $2::{oid}, '{right}')
                    AND has_schema_privilege($1, ({schema} WHERE oid = $2::{oid}), 'USAGE')"
        );
        let mut allowed = Vec::new();
        for role in ROLES {
            let asked = sqlx::query_scalar(AssertSqlSafe(question.clone())).bind(role).bind(name);
            if asked.fetch_one(&mut self.db).await.unwrap() {
                allowed.push(role);
            }
        }
        allowed
    }

    async fn names(&mut self, question: String) -> Vec<String> {
        sqlx::query_scalar(AssertSqlSafe(question)).fetch_all(&mut self.db).await.unwrap()
    }

    /// Has the role select from, or call, `what` in a transaction of this tenant, or of none. Nothing of it stays.
    async fn outcome(&mut self, role: &str, tenant: Option<TenantId>, what: &str, before: &str) -> Outcome {
        let mark = self.other;
        let mut tx = self.db.begin().await.unwrap();
        let setting = tenant.map_or_else(String::new, |tenant| tenant.to_string());
        run(&mut tx, before).await;
        run(&mut tx, &format!("SET LOCAL SESSION AUTHORIZATION {role}; SET LOCAL app.tenant = '{setting}'"))
            .await;
        let mut call = tx.begin().await.unwrap();
        let question = AssertSqlSafe(format!("SELECT to_jsonb(c)::text FROM {what} c"));
        let answer = match sqlx::query_scalar(question).fetch_all(&mut *call).await {
            Ok(rows) => {
                call.commit().await.unwrap();
                Ok(rows)
            }
            Err(error) => {
                call.rollback().await.unwrap();
                Err(error.to_string())
            }
        };
        run(&mut tx, "RESET SESSION AUTHORIZATION").await;
        let stored = self
            .tables
            .iter()
            .map(|table| {
                format!(
                    "SELECT '{table} ' || to_jsonb(t)::text FROM {table} t WHERE to_jsonb(t)::text LIKE '%{mark}%'"
                )
            })
            .collect::<Vec<_>>()
            .join(" UNION ALL ");
        let stored = sqlx::query_scalar(AssertSqlSafe(stored)).fetch_all(&mut *tx).await.unwrap();
        tx.rollback().await.unwrap();
        Outcome { answer, stored }
    }

    /// The answer to the same where the other tenant has no row at all.
    async fn alone(
        &mut self,
        role: &str,
        tenant: Option<TenantId>,
        what: &str,
        before: &str,
    ) -> Result<Vec<String>, String> {
        let mark = self.other;
        let mut first: Vec<String> = self
            .tables
            .iter()
            .map(|table| format!("DELETE FROM {table} t WHERE to_jsonb(t)::text LIKE '%{mark}%';"))
            .collect();
        first.push(before.to_owned());
        self.outcome(role, tenant, what, &first.concat()).await.answer
    }

    /// What a stranger's call tells or changes of the other tenant's rows; and whether the tenant's own call does, without
    /// which the stranger's proves nothing.
    async fn holes(
        &mut self,
        name: &str,
        role: &str,
        [stranger, owner]: [&str; 2],
        before: &str,
    ) -> Vec<String> {
        let (one, other) = (self.one, self.other);
        let of_other = format!("\"tenant_id\": \"{other}\"");
        let mut found = Vec::new();
        let untouched = self.outcome(role, Some(one), "(SELECT 1)", "").await.stored;
        for tenant in [Some(one), None] {
            let outcome = self.outcome(role, tenant, stranger, "").await;
            if outcome.answer != self.alone(role, tenant, stranger, "").await {
                found.push(format!("{name}: tells {role} of another tenant's rows"));
            }
            let lost = untouched.iter().any(|row| !outcome.stored.contains(row));
            let made = outcome.stored.iter().any(|row| row.contains(&of_other) && !untouched.contains(row));
            if lost || made {
                found.push(format!("{name}: changes another tenant's rows for {role}"));
            }
        }
        let outcome = self.outcome(role, Some(other), owner, before).await;
        if let Err(error) = &outcome.answer {
            found.push(format!("{name}: refuses {role} the tenant's own rows: {error}"));
        } else if outcome.answer == self.alone(role, Some(other), owner, before).await
            && untouched.iter().all(|row| outcome.stored.contains(row))
        {
            found.push(format!("{name}: does nothing for {role}, so that nothing is proven"));
        }
        found
    }

    async fn holes_in_views(&mut self) -> Vec<String> {
        let mut found = Vec::new();
        let views = self
            .names(format!(
                "SELECT oid::regclass::text FROM pg_class
                 WHERE relnamespace::regnamespace::text IN {SCHEMAS} AND relkind IN ('v', 'm') ORDER BY 1"
            ))
            .await;
        for (shared, _) in SHARED_VIEWS {
            if !views.iter().any(|view| view == shared) {
                found.push(format!("{shared}: excused, and gone"));
            }
        }
        for view in views {
            let readers = self.allowed("SELECT", &view).await;
            if readers.is_empty() {
                found.push(format!("{view}: nobody reads it"));
            }
            for role in readers {
                let holes = self.holes(&view, role, [&view, &view], "").await;
                let shared = SHARED_VIEWS.iter().any(|(name, _)| *name == view);
                if shared && holes.is_empty() {
                    found.push(format!("{view}: excused without need"));
                } else if !shared {
                    found.extend(holes);
                }
            }
        }
        found
    }

    async fn holes_in_functions(&mut self, more: &[Call]) -> Vec<String> {
        let mut found = Vec::new();
        run(&mut self.db, "DELETE FROM api.deleted_tenants").await;
        let functions = self
            .names(format!(
                "SELECT oid::regprocedure::text FROM pg_proc
                 WHERE (pronamespace::regnamespace::text IN {SCHEMAS} OR pronamespace = 'platform'::regnamespace)
                   AND prosecdef AND prorettype <> 'trigger'::regtype ORDER BY 1"
            ))
            .await;
        let known = CALLS.iter().chain(more).map(|call| call.function);
        for name in known.chain(SHARED_FUNCTIONS.map(|(name, _)| name)) {
            if functions.iter().filter(|function| function.starts_with(name)).count() != 1 {
                found.push(format!("{name}: named here, and not one function"));
            }
        }
        for function in functions {
            if SHARED_FUNCTIONS.iter().any(|(name, _)| function.starts_with(name)) {
                continue;
            }
            let Some(call) = CALLS.iter().chain(more).find(|call| function.starts_with(call.function)) else {
                found.push(format!("{function}: neither called here nor excused"));
                continue;
            };
            let new = TenantId::new().to_string();
            let (a, b) = (self.one.to_string(), self.other.to_string());
            let [stranger, owner, before] = [call.stranger, call.owner, call.before]
                .map(|text| text.replace("$A", &a).replace("$B", &b).replace("$NEW", &new));
            for role in self.allowed("EXECUTE", &function).await {
                found.extend(self.holes(&function, role, [&stranger, &owner], &before).await);
            }
        }
        found
    }
}

async fn run(db: &mut PgConnection, statements: &str) {
    sqlx::raw_sql(AssertSqlSafe(statements.to_owned())).execute(db).await.unwrap();
}

/// Writes a row for each tenant into every table, whatever its columns are, and tells the tables.
async fn fill(db: &mut PgConnection, tenants: [TenantId; 2]) -> Vec<String> {
    let tables = sqlx::query(AssertSqlSafe(format!(
        "SELECT c.oid::regclass::text AS name,
                string_agg(quote_ident(a.attname), ', ' ORDER BY a.attnum) AS columns,
                string_agg(CASE format_type(a.atttypid, NULL)
                    WHEN 'uuid' THEN '$1'
                    WHEN 'text' THEN '$1::text'
                    WHEN 'bytea' THEN 'decode(repeat(''00'', 32), ''hex'')'
                    WHEN 'boolean' THEN 'true'
                    WHEN 'jsonb' THEN '''{{}}''::jsonb'
                    WHEN 'date' THEN 'current_date'
                    WHEN 'timestamp with time zone' THEN 'clock_timestamp()'
                    WHEN 'smallint' THEN '1' WHEN 'integer' THEN '1' WHEN 'bigint' THEN '1'
                    ELSE quote_literal('{{}}') || '::' || format_type(a.atttypid, a.atttypmod) END,
                    ', ' ORDER BY a.attnum) AS values
         FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
         WHERE c.relnamespace::regnamespace::text IN {SCHEMAS} AND c.relkind IN ('r', 'p') AND NOT c.relispartition
           -- An inbox has message ids only.
           AND c.relname <> 'inbox'
           AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = '' AND a.attidentity = ''
           AND (a.attnotnull OR a.atttypid IN ('uuid'::regtype, 'bytea'::regtype))
         GROUP BY c.oid ORDER BY 1"
    )))
    .fetch_all(&mut *db)
    .await
    .unwrap();
    for table in &tables {
        let [name, columns, values] =
            ["name", "columns", "values"].map(|column| table.get::<&str, _>(column));
        // What is the installation's is nobody's: it carries the first mark alone.
        let owners = if name.contains(".installation_") { &tenants[..1] } else { &tenants };
        for tenant in owners {
            // A table of one row keeps the first.
            let row = format!("INSERT INTO {name} ({columns}) VALUES ({values}) ON CONFLICT DO NOTHING");
            let written = sqlx::query(AssertSqlSafe(row)).bind(*tenant).execute(&mut *db).await;
            written.unwrap_or_else(|error| panic!("{name}: {error}"));
        }
    }
    // What the functions look for.
    run(db, "UPDATE validator.work SET kind = 'validate'; UPDATE budget.attempt SET state = 'reserved'")
        .await;
    tables.iter().map(|table| table.get("name")).collect()
}

#[tokio::test]
async fn no_view_shows_a_service_another_tenants_rows() {
    let mut world = World::new().await;
    assert_eq!(world.holes_in_views().await, Vec::<String>::new());
}

#[tokio::test]
async fn no_function_with_the_rights_of_its_owner_reaches_another_tenants_rows() {
    let mut world = World::new().await;
    assert_eq!(world.holes_in_functions(&[]).await, Vec::<String>::new());
}

/// Negative control: a view with the rights of its owner, one that is always empty, a function that looks at no tenant, one
/// that writes for whom it is told, and one that nobody entered here.
#[tokio::test]
async fn a_view_or_a_function_that_leaks_is_found() {
    let mut world = World::new().await;
    run(
        &mut world.db,
        "CREATE VIEW sync.window_v AS SELECT * FROM sync.accounts;
         GRANT SELECT ON sync.window_v TO parapet_api;
         CREATE VIEW sync.empty_v WITH (security_invoker = true) AS SELECT tenant_id FROM sync.identifiers_skipped WHERE false;
         GRANT SELECT ON sync.empty_v TO parapet_api;
         CREATE FUNCTION validator.count_all() RETURNS bigint LANGUAGE sql SECURITY DEFINER
             AS 'SELECT count(*) FROM validator.exposures';
         CREATE FUNCTION validator.forget(exposure uuid) RETURNS boolean LANGUAGE sql SECURITY DEFINER
             AS 'DELETE FROM validator.exposures WHERE exposure_id = exposure; SELECT true';
         CREATE FUNCTION validator.unheard_of() RETURNS boolean LANGUAGE sql SECURITY DEFINER AS 'SELECT true';
         GRANT EXECUTE ON FUNCTION validator.count_all, validator.forget, validator.unheard_of TO parapet_validator",
    )
    .await;
    let mut found = world.holes_in_views().await;
    let more = [
        Call::new("validator.count_all()", "validator.count_all()"),
        Call::new("validator.forget(uuid)", "validator.forget('$B')"),
    ];
    found.extend(world.holes_in_functions(&more).await);
    for guilty in [
        "sync.window_v: tells parapet_api",
        "sync.empty_v: does nothing for parapet_api",
        "validator.count_all(): tells parapet_validator",
        "validator.forget(uuid): changes",
        "validator.unheard_of(): neither",
    ] {
        assert!(found.iter().any(|hole| hole.starts_with(guilty)), "{guilty} not in {found:#?}");
    }
}
