-- Lets identity-sync-worker let go of a deleted integration: its client keys are destroyed, its directory is forgotten.
-- Written by identity-sync-worker.

GRANT DELETE ON sync.client_keys, sync.public_client_keys, sync.directories, sync.directory_policies TO parapet_sync;
