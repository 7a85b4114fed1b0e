-- Lets integration-api find the records whose retention has ended without the right to read sealed columns.
-- Written by integration-api.

ALTER TABLE api.feed_records ADD COLUMN has_sealed boolean
    GENERATED ALWAYS AS (secret_sealed IS NOT NULL OR cookies_sealed IS NOT NULL OR extra_sealed IS NOT NULL) STORED;
ALTER TABLE api.installation_feed_records ADD COLUMN has_sealed boolean
    GENERATED ALWAYS AS (secret_sealed IS NOT NULL OR cookies_sealed IS NOT NULL OR extra_sealed IS NOT NULL) STORED;
DROP INDEX api.feed_records_retention, api.installation_feed_records_retention;
CREATE INDEX feed_records_retention ON api.feed_records (tenant_id, received_at) WHERE has_sealed;
CREATE INDEX installation_feed_records_retention ON api.installation_feed_records (received_at) WHERE has_sealed;
GRANT SELECT (has_sealed) ON api.feed_records, api.installation_feed_records TO parapet_api;
