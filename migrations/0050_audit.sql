-- The audit log: events in one hash chain per tenant and one for the installation, and signed checkpoints of them.
-- Written by audit-writer only, which may add events and checkpoints but never change or remove one.

-- The installation's own chain is kept under the nil UUID, so that one table, one policy and one code path serve both.
CREATE TABLE audit.events (
    tenant_id      uuid NOT NULL,               -- nil UUID: the installation
    sequence       bigint NOT NULL CHECK (sequence > 0), -- position in the chain, from 1, without gaps
    event_id       uuid NOT NULL,               -- made by the producer; the same id twice is the same event
    occurred_at    timestamptz NOT NULL,        -- database clock of the transaction that recorded it
    stored_at      timestamptz NOT NULL,
    type           text NOT NULL,
    actor_kind     text NOT NULL,
    actor_id       text NOT NULL,
    actor_name     text NOT NULL,
    outcome        text NOT NULL,
    cause_id       uuid,
    integration_id uuid,
    object_kind    text NOT NULL,
    object_id      text NOT NULL,
    user_object_id text NOT NULL,
    user_name      text NOT NULL,
    message        text NOT NULL,
    details        jsonb NOT NULL,
    previous_hash  bytea NOT NULL CHECK (octet_length(previous_hash) = 32),
    hash           bytea NOT NULL CHECK (octet_length(hash) = 32),
    PRIMARY KEY (tenant_id, sequence),
    UNIQUE (tenant_id, event_id)
);
SELECT platform.protect_tenant_table('audit.events');
CREATE INDEX events_time ON audit.events (tenant_id, occurred_at DESC, sequence DESC);
CREATE INDEX events_cause ON audit.events (tenant_id, cause_id, occurred_at DESC) WHERE cause_id IS NOT NULL;
CREATE INDEX events_object ON audit.events (tenant_id, object_id, occurred_at DESC) WHERE object_id <> '';
CREATE INDEX events_user ON audit.events (tenant_id, user_object_id, occurred_at DESC) WHERE user_object_id <> '';
CREATE INDEX events_user_name ON audit.events (tenant_id, lower(user_name), occurred_at DESC) WHERE user_name <> '';
CREATE INDEX events_person ON audit.events (tenant_id, actor_id, occurred_at DESC) WHERE actor_kind = 'person';
-- INVARIANT (I10): the only role that reaches the events can add to them and nothing else.
GRANT SELECT, INSERT ON audit.events TO parapet_audit;

-- Signed statements of how far a chain had come. Each names the one before it.
CREATE TABLE audit.checkpoints (
    tenant_id      uuid NOT NULL,               -- nil UUID: the installation
    sequence       bigint NOT NULL,             -- the last event it covers
    event_hash     bytea NOT NULL,              -- hash of that event
    signed_at      timestamptz NOT NULL,
    previous_hash  bytea NOT NULL,              -- hash of the previous checkpoint, zeros for the first
    hash           bytea NOT NULL,              -- hash of this checkpoint's statement
    public_key     bytea NOT NULL,              -- Ed25519 key whose private half signed it
    signature      bytea NOT NULL,
    PRIMARY KEY (tenant_id, sequence)
);
SELECT platform.protect_tenant_table('audit.checkpoints');
GRANT SELECT, INSERT ON audit.checkpoints TO parapet_audit;

-- The head of each chain: the row a writer locks to append. Holds positions and hashes, no content.
CREATE TABLE audit.heads (
    tenant_id           uuid PRIMARY KEY,       -- nil UUID: the installation
    sequence            bigint NOT NULL DEFAULT 0,
    hash                bytea NOT NULL DEFAULT decode(repeat('00', 32), 'hex'),
    checkpoint_sequence bigint NOT NULL DEFAULT 0,
    checkpoint_hash     bytea NOT NULL DEFAULT decode(repeat('00', 32), 'hex'),
    checkpoint_at       timestamptz NOT NULL DEFAULT clock_timestamp()
) WITH (fillfactor = 50);
COMMENT ON TABLE audit.heads IS
    'no-tenant: reached by parapet_audit, which looks for chains of any tenant that are due for a checkpoint';
CREATE INDEX heads_due ON audit.heads (checkpoint_at) WHERE sequence > checkpoint_sequence;
GRANT SELECT, INSERT, UPDATE ON audit.heads TO parapet_audit;
