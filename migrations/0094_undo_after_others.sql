-- An undo does not take back what somebody else decided since. Written by mitigation-executor.

-- The directory's own date of the change that our call brought about, as it showed it when the action was verified. NULL: it
-- shows none, or it was not verified yet.
ALTER TABLE mitigation.ledger ADD COLUMN after_changed timestamptz;
