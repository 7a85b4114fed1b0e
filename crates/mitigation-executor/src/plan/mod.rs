//! The planner: pure functions that decide whether an action may be planned, and what to do about an account as the
//! directory shows it now. Everything that acts asks here, so that nothing can plan one thing and do another.

mod admission;
mod effect;

pub use self::{
    admission::{Activity, Admission, Facts, Feed, Protection, USUAL_DAYS, admit, brake},
    effect::{Before, Evidence, Step, evidence, inverse, step},
};
pub use shared::mitigation::{Hold, Refusal};
