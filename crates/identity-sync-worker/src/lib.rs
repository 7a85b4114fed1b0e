//! identity-sync-worker
