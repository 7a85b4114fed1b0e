//! Places where a test lets the process die: only with the feature `fail-points`, and never in a release build, whatever
//! its features (design §5).

/// Dies here, as by `kill -9`, if a test asked for it by naming this place in the variable `PARAPET_FAIL_POINT`.
#[cfg(all(feature = "fail-points", debug_assertions))]
pub fn reach(place: &'static str) {
    if std::env::var("PARAPET_FAIL_POINT").is_ok_and(|wanted| wanted == place)
        && let Err(error) =
            rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL)
    {
        tracing::error!(%error, "could not die");
    }
}

/// Nothing: the build has no fail points.
#[cfg(not(all(feature = "fail-points", debug_assertions)))]
pub const fn reach(_place: &'static str) {}
