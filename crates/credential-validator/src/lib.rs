//! credential-validator
