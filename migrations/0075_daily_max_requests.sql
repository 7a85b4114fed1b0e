-- More than three attempts per account and day need two administrators: one asks, another approves. Here is who asked
-- for what, and what became of it. Written by integration-api.

CREATE TABLE api.daily_max_requests (
    tenant_id       uuid NOT NULL,
    request_id      uuid NOT NULL,
    integration_id  uuid NOT NULL,
    daily_max       integer NOT NULL CHECK (daily_max BETWEEN 4 AND 5),
    reason          text NOT NULL,
    asked_by        text NOT NULL,               -- token subject
    asker_name      text NOT NULL,
    asked_at        timestamptz NOT NULL DEFAULT clock_timestamp(),
    expires_at      timestamptz NOT NULL DEFAULT clock_timestamp() + interval '7 days',
    -- One that waits beyond its time counts as expired at once; the next request writes it down.
    state           text NOT NULL DEFAULT 'waiting' CHECK (state IN ('waiting', 'approved', 'refused', 'withdrawn', 'expired')),
    decided_by      text,                        -- token subject
    decider_name    text,
    decision_reason text,
    decided_at      timestamptz,
    PRIMARY KEY (tenant_id, request_id),
    FOREIGN KEY (tenant_id, integration_id) REFERENCES api.integrations ON DELETE CASCADE,
    CHECK ((state IN ('approved', 'refused', 'withdrawn')) = (decided_by IS NOT NULL)),
    -- INVARIANT: nobody approves what they asked for; only they withdraw it.
    CONSTRAINT two_persons CHECK (CASE state WHEN 'approved' THEN decided_by <> asked_by WHEN 'withdrawn' THEN decided_by = asked_by
                                             ELSE true END)
);
SELECT platform.protect_tenant_table('api.daily_max_requests');
CREATE UNIQUE INDEX daily_max_requests_waiting ON api.daily_max_requests (tenant_id, integration_id) WHERE state = 'waiting';
CREATE INDEX daily_max_requests_newest ON api.daily_max_requests (tenant_id, asked_at DESC, request_id DESC);
GRANT SELECT, INSERT, UPDATE ON api.daily_max_requests TO parapet_api;
