-- The roles of Parapet, made by a superuser before the first migration. Run it again after a change of passwords:
--   psql --host … --username postgres --dbname postgres --file roles.sql \
--     --set api=… --set sync=… --set validator=… --set mitigation=… --set audit=… --set deployer=…
-- The values are the passwords (SCRAM verifiers will do). Nobody but the deployer may create anything, nobody bypasses row
-- security, and nobody can log in as the owner of the attempt budget.
\set ON_ERROR_STOP on
BEGIN;
SELECT format('CREATE ROLE %I NOLOGIN NOSUPERUSER NOBYPASSRLS NOCREATEDB NOCREATEROLE', name)
FROM unnest(ARRAY['parapet_budget_owner', 'parapet_api', 'parapet_sync', 'parapet_validator', 'parapet_mitigation',
                  'parapet_audit', 'parapet_deployer']) AS name
WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = name)
\gexec
ALTER ROLE parapet_api LOGIN PASSWORD :'api';
ALTER ROLE parapet_sync LOGIN PASSWORD :'sync';
ALTER ROLE parapet_validator LOGIN PASSWORD :'validator';
ALTER ROLE parapet_mitigation LOGIN PASSWORD :'mitigation';
ALTER ROLE parapet_audit LOGIN PASSWORD :'audit';
-- Owns the database and migrates it: `parapet migrate` gives functions to the budget's owner and sets the roles' search paths,
-- which PostgreSQL 16 and newer allow to whoever administers them.
ALTER ROLE parapet_deployer LOGIN CREATEROLE PASSWORD :'deployer';
GRANT parapet_budget_owner TO parapet_deployer;
GRANT parapet_api, parapet_sync, parapet_validator, parapet_mitigation, parapet_audit TO parapet_deployer WITH ADMIN OPTION;
COMMIT;
SELECT 'CREATE DATABASE parapet OWNER parapet_deployer'
WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = 'parapet')
\gexec
REVOKE CONNECT, TEMPORARY ON DATABASE parapet FROM PUBLIC;
GRANT CONNECT ON DATABASE parapet TO parapet_api, parapet_sync, parapet_validator, parapet_mitigation, parapet_audit;
