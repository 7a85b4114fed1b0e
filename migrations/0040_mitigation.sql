-- Mitigations, what each changed at the directory, when they stand still, and which automated policies a person has let run.
-- Written by mitigation-executor; integration-api reads mitigations through the view at the end.

GRANT USAGE ON SCHEMA mitigation TO parapet_api;

-- One action on one account, from its plan to what became of it.
CREATE TABLE mitigation.mitigations (
    tenant_id      uuid NOT NULL,
    mitigation_id  uuid NOT NULL,
    exposure_id    uuid,                        -- whose verdict led here
    request_id     uuid,                        -- of integration-api, when a person asked
    account_id     uuid NOT NULL,
    integration_id uuid NOT NULL,
    provider       text NOT NULL,
    directory_id   text NOT NULL,
    object_id      text NOT NULL,
    login          text NOT NULL,               -- at planning
    is_admin       boolean NOT NULL,            -- at planning
    action         text NOT NULL CHECK (action IN ('revoke_sessions', 'disable_account', 'mark_compromised')),
    state          text NOT NULL CHECK (state IN ('planned', 'held', 'acting', 'unknown', 'done', 'verified', 'reverted', 'refused')),
    reason         text,                        -- why refused, or why a planned one waits
    held_by        text,
    automatic      boolean NOT NULL,
    requested_by   text,                        -- the person who asked; NULL when automatic
    requester_name text,
    released_by    text,                        -- the second person who let it run
    released_at    timestamptz,
    cause_id       uuid,
    attempt        integer NOT NULL DEFAULT 0,  -- provider calls begun
    acting_message uuid,                        -- the message in whose handling the call under way was begun
    acting_until   timestamptz,                 -- after that, the call under way counts as unknown
    checks         integer NOT NULL DEFAULT 0,  -- re-reads done after the action
    details        jsonb NOT NULL DEFAULT '{}', -- facts by name; strings, never a secret
    revision       integer NOT NULL DEFAULT 0,  -- grows with every change; two writers never both win
    created_at     timestamptz NOT NULL DEFAULT clock_timestamp(),
    finished_at    timestamptz,
    verified_at    timestamptz,
    undone_at      timestamptz,
    reverted_at    timestamptz,
    PRIMARY KEY (tenant_id, mitigation_id),
    CONSTRAINT one_per_exposure_and_action UNIQUE (tenant_id, exposure_id, account_id, action),
    CONSTRAINT one_per_request_and_action UNIQUE (tenant_id, request_id, account_id, action),
    CHECK ((state = 'held') = (held_by IS NOT NULL)),
    CHECK ((state = 'acting') = (acting_message IS NOT NULL AND acting_until IS NOT NULL)),
    CHECK (state <> 'refused' OR reason IS NOT NULL),
    CHECK (automatic = (request_id IS NULL))
);
CREATE INDEX mitigations_newest ON mitigation.mitigations (tenant_id, created_at DESC, mitigation_id DESC);
CREATE INDEX mitigations_account ON mitigation.mitigations (tenant_id, account_id);
CREATE INDEX mitigations_brake ON mitigation.mitigations (tenant_id, created_at) WHERE automatic AND released_by IS NULL;
CREATE INDEX mitigations_held ON mitigation.mitigations (tenant_id, account_id) WHERE state = 'held';
SELECT platform.protect_tenant_table('mitigation.mitigations');

-- The undo ledger: what an account looked like before each provider call, how the call ended, and what would take it back.
CREATE TABLE mitigation.ledger (
    tenant_id           uuid NOT NULL,
    mitigation_id       uuid NOT NULL,
    attempt             integer NOT NULL,
    before_state        text NOT NULL,
    before_sessions     timestamptz,            -- sessions begun before this were dead already
    before_compromised  boolean,
    inverse             text,                   -- NULL: cannot be taken back
    intent_at           timestamptz NOT NULL DEFAULT clock_timestamp(),
    outcome             text,                   -- done | refused | failed | unknown; NULL: the call is under way
    provider_request_id text,
    settled_at          timestamptz,
    PRIMARY KEY (tenant_id, mitigation_id, attempt)
);
SELECT platform.protect_tenant_table('mitigation.ledger');

-- Mitigation stands still for an integration, or with the nil id for the whole tenant. Read in every action.
CREATE TABLE mitigation.pauses (
    tenant_id      uuid NOT NULL,
    integration_id uuid NOT NULL,
    reason         text NOT NULL,               -- throttled | operator
    message        text NOT NULL,
    since          timestamptz NOT NULL DEFAULT clock_timestamp(),
    until          timestamptz,                 -- NULL: until a person ends it
    PRIMARY KEY (tenant_id, integration_id)
);
SELECT platform.protect_tenant_table('mitigation.pauses');

-- The version of each integration up to which a second person has let automated mitigations run.
CREATE TABLE mitigation.armed (
    tenant_id      uuid NOT NULL,
    integration_id uuid NOT NULL,
    version        bigint NOT NULL,
    armed_by       text NOT NULL,
    armed_at       timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (tenant_id, integration_id)
);
SELECT platform.protect_tenant_table('mitigation.armed');

GRANT SELECT, INSERT, UPDATE ON mitigation.mitigations, mitigation.ledger, mitigation.pauses, mitigation.armed TO parapet_mitigation;
GRANT DELETE ON mitigation.pauses TO parapet_mitigation;

CREATE VIEW mitigation.mitigations_v WITH (security_invoker = true) AS
    SELECT tenant_id, mitigation_id, exposure_id, request_id, account_id, integration_id, action, state, reason, held_by,
           automatic, requested_by, released_by, created_at, finished_at, verified_at, undone_at, reverted_at, details
    FROM mitigation.mitigations;
GRANT SELECT (tenant_id, mitigation_id, exposure_id, request_id, account_id, integration_id, action, state, reason, held_by,
              automatic, requested_by, released_by, created_at, finished_at, verified_at, undone_at, reverted_at, details)
    ON mitigation.mitigations TO parapet_api;
GRANT SELECT ON mitigation.mitigations_v TO parapet_api;

CREATE VIEW mitigation.pauses_v WITH (security_invoker = true) AS
    SELECT tenant_id, integration_id, reason, message, since, until FROM mitigation.pauses;
GRANT SELECT ON mitigation.pauses, mitigation.pauses_v TO parapet_api;
