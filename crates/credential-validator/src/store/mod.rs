//! Every SQL statement of the validator.

pub mod exposures;
pub mod feed;
pub mod keys;
pub mod pauses;
pub mod requests;
pub mod sign_ins;
pub mod turn;
