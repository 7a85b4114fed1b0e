-- What leads from one cause to another in the audit log: the mitigations of an exposure and of a request, which have causes of
-- their own. Few events carry either, so the indexes are small, and cost the others nothing. Written by audit-writer.
CREATE INDEX events_of_exposure ON audit.events (tenant_id, (details ->> 'exposure_id'), occurred_at DESC)
    WHERE details ->> 'exposure_id' IS NOT NULL;
CREATE INDEX events_of_request ON audit.events (tenant_id, (details ->> 'mitigation_request_id'), occurred_at DESC)
    WHERE details ->> 'mitigation_request_id' IS NOT NULL;
