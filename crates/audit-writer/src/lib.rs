//! audit-writer
