-- The attempt budget (design §5): how often a password may be submitted for an account at a directory, and the ledger
-- of what was submitted. Written only by the functions of 0036, which belong to parapet_budget_owner; no service has
-- any right on these tables.

GRANT USAGE ON SCHEMA budget TO parapet_budget_owner, parapet_api, parapet_validator;

-- One narrow row per account at the directory, whichever tenant or integration asks. Never deleted: `since_success`
-- must survive every clean-up.
CREATE TABLE budget.account (
    provider         text NOT NULL CHECK (provider IN ('entra_id', 'okta')),
    directory        text NOT NULL CHECK (directory <> ''),   -- immutable id of the directory
    object           text NOT NULL CHECK (object <> ''),      -- immutable id of the account in it
    recent           timestamptz[] NOT NULL DEFAULT '{}',     -- reservations still inside the window, oldest first
    since_success    integer NOT NULL DEFAULT 0 CHECK (since_success >= 0), -- attempts since the owner's last seen sign-in
    last_attempt_at  timestamptz,                             -- latest reservation ever
    owner_sign_in_at timestamptz,                             -- latest sign-in of the owner the directory showed
    lock_seen_at     timestamptz,                             -- the directory showed the account as locked, not yet as unlocked
    cool_until       timestamptz,                             -- no attempt before: an answer said "locked"
    PRIMARY KEY (provider, directory, object),
    -- INVARIANT (I1): the ceiling of five holds even against a wrong function.
    CONSTRAINT ceiling CHECK (cardinality(recent) <= 5),
    -- One account has one row: GUIDs are folded.
    CONSTRAINT folded CHECK (provider <> 'entra_id' OR (directory = lower(directory) AND object = lower(object)))
);
COMMENT ON TABLE budget.account IS 'no-tenant: an account at a directory has one budget; reached through budget.reserve, budget.settle and budget.explain';

-- One row per reservation. An attempt id is used once; a row never gives a second permit. Kept for good, at least 40 days.
CREATE TABLE budget.attempt (
    attempt_id  uuid PRIMARY KEY,
    provider    text NOT NULL,
    directory   text NOT NULL,
    object      text NOT NULL,
    nonce       uuid NOT NULL,            -- known only to the process that reserved
    state       text NOT NULL DEFAULT 'reserved' CHECK (state IN ('reserved', 'answered', 'unknown')),
    reserved_at timestamptz NOT NULL,
    finished_at timestamptz,
    result      text,                     -- verdict the answer proved
    code        text,                     -- the provider's code
    late_result text,                     -- an answer that came after the reaper; evidence only
    FOREIGN KEY (provider, directory, object) REFERENCES budget.account,
    CHECK ((state = 'reserved') = (finished_at IS NULL))
);
-- One at a time.
CREATE UNIQUE INDEX attempt_open ON budget.attempt (provider, directory, object) WHERE state = 'reserved';
CREATE INDEX attempt_overdue ON budget.attempt (reserved_at) WHERE state = 'reserved';
CREATE INDEX attempt_account ON budget.attempt (provider, directory, object, reserved_at);
COMMENT ON TABLE budget.attempt IS 'no-tenant: ledger of every reservation; reached through budget.reserve, budget.settle and budget.reap';

GRANT SELECT, INSERT, UPDATE ON budget.account, budget.attempt TO parapet_budget_owner;
