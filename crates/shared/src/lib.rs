//! What the services share.
