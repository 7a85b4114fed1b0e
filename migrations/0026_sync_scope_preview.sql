-- What a preview of another scope has read so far: an account counts once, however many groups it is in, and a preview of
-- a million accounts needs no more memory than one of a hundred. Written by identity-sync-worker, gone with its end.

CREATE TABLE sync.scope_preview_accounts (
    tenant_id   uuid NOT NULL,
    preview_id  uuid NOT NULL,
    object_id   text NOT NULL,                   -- immutable id of the user object
    login       text NOT NULL,
    identifiers integer NOT NULL,                -- how many it would have
    read_at     timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (tenant_id, preview_id, object_id)
);
SELECT platform.protect_tenant_table('sync.scope_preview_accounts');
GRANT SELECT, INSERT, DELETE ON sync.scope_preview_accounts TO parapet_sync;
