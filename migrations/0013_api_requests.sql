-- What people asked for: validations and mitigations. Written by integration-api; credential-validator and
-- mitigation-executor read what a message's id refers to.

CREATE TABLE api.validation_requests (
    tenant_id      uuid NOT NULL,
    validation_id  uuid NOT NULL,
    kind           text NOT NULL CHECK (kind IN ('single', 'selection', 'filter')),
    requested_by   text NOT NULL,                -- token subject
    requester_name text NOT NULL,
    filter         jsonb,                        -- of kind filter: the encoded filter, for display
    force          boolean NOT NULL,             -- decide again what is decided
    items          integer NOT NULL CHECK (items BETWEEN 1 AND 100000),
    created_at     timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (tenant_id, validation_id)
);
SELECT platform.protect_tenant_table('api.validation_requests');
CREATE INDEX validation_requests_newest ON api.validation_requests (tenant_id, created_at DESC, validation_id DESC);

CREATE TABLE api.validation_items (
    tenant_id     uuid NOT NULL,
    validation_id uuid NOT NULL,
    exposure_id   uuid NOT NULL,
    PRIMARY KEY (tenant_id, validation_id, exposure_id)
);
SELECT platform.protect_tenant_table('api.validation_items');
CREATE INDEX validation_items_exposure ON api.validation_items (tenant_id, exposure_id);

CREATE TABLE api.mitigation_requests (
    tenant_id      uuid NOT NULL,
    request_id     uuid NOT NULL,
    requested_by   text NOT NULL,                -- token subject
    requester_name text NOT NULL,
    actions        text[] NOT NULL,              -- of a release: empty means every held action
    account_ids    uuid[] NOT NULL,              -- accounts named directly
    exposure_ids   uuid[] NOT NULL,              -- exposures whose accounts are meant
    release        boolean NOT NULL,             -- release what is held, by somebody else than its requester
    reason         text NOT NULL,
    created_at     timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (tenant_id, request_id)
);
SELECT platform.protect_tenant_table('api.mitigation_requests');
CREATE INDEX mitigation_requests_newest ON api.mitigation_requests (tenant_id, created_at DESC, request_id DESC);

GRANT SELECT, INSERT ON api.validation_requests, api.validation_items, api.mitigation_requests TO parapet_api;

CREATE VIEW api.validation_requests_v WITH (security_invoker = true) AS
    SELECT tenant_id, validation_id, kind, requested_by, requester_name, filter, force, created_at FROM api.validation_requests;
CREATE VIEW api.validation_items_v WITH (security_invoker = true) AS
    SELECT tenant_id, validation_id, exposure_id FROM api.validation_items;
CREATE VIEW api.mitigation_requests_v WITH (security_invoker = true) AS
    SELECT tenant_id, request_id, requested_by, requester_name, actions, account_ids, exposure_ids, release, reason, created_at
    FROM api.mitigation_requests;
GRANT SELECT ON api.validation_requests, api.validation_items, api.validation_requests_v, api.validation_items_v TO parapet_validator;
GRANT SELECT ON api.mitigation_requests, api.mitigation_requests_v TO parapet_mitigation;
