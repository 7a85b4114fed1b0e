//! What can go wrong with the database, by what the caller can do about it.

use std::fmt;

/// An error of the database. Neither text nor `Debug` shows the values of a row.
#[derive(thiserror::Error)]
pub enum StoreError {
    /// A unique or exclusion constraint says that it exists already.
    #[error("already exists ({constraint})")]
    Duplicate {
        /// Name of the constraint.
        constraint: String,
    },
    /// The row is not in the state the caller expected; the text says which.
    #[error("stale: {0}")]
    Stale(&'static str),
    /// A row holds what this build cannot read.
    #[error("unreadable row: {0}")]
    Corrupt(String),
    /// The database cannot be asked now.
    #[error("database unavailable: {0}")]
    Unavailable(String),
    /// A statement failed earlier in the transaction and nobody looked: nothing was committed.
    #[error("nothing was committed: an earlier statement of the transaction failed")]
    Aborted,
    /// The server is set up so that it may lose what it acknowledged.
    #[error("the database is not durable: {0}")]
    NotDurable(&'static str),
    /// The connection is encrypted with a version of TLS that is not accepted.
    #[error("the database speaks {0}; TLSv1.3 is required (ssl_min_protocol_version)")]
    OldTls(String),
    /// The configuration names something that cannot be used.
    #[error("{what}")]
    Config {
        /// What cannot be used.
        what: &'static str,
        /// Why.
        source: std::io::Error,
    },
    /// Anything else the driver or the server reported.
    #[error("database error")]
    Driver(#[source] sqlx::Error),
}

impl StoreError {
    /// Of a service that was let in before: a server that does not let it in now is about to get, or to be told, another
    /// password or certificate. That passes.
    pub(super) fn while_connecting(error: sqlx::Error) -> Self {
        match error {
            sqlx::Error::Database(e) if e.code().is_some_and(|c| c.starts_with("28")) => {
                Self::Unavailable("the server does not let this service in".to_owned())
            }
            e => e.into(),
        }
    }

    /// Whether the same call may succeed later, unchanged.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Unavailable(_) => true,
            Self::Driver(sqlx::Error::Database(e)) => e.code().is_some_and(|c| transient_state(&c)),
            Self::Duplicate { .. }
            | Self::Stale(_)
            | Self::Corrupt(_)
            | Self::Aborted
            | Self::NotDurable(_)
            | Self::OldTls(_)
            | Self::Config { .. }
            | Self::Driver(_) => false,
        }
    }
}

// SQLSTATE, PostgreSQL appendix A: 08 connection, 40 rolled back (serialization, deadlock), 53 out of resources,
// 57 operator (shutdown, cancelled), 55P03 lock timeout, 25006 read only (a primary that was just demoted).
fn transient_state(code: &str) -> bool {
    ["08", "40", "53", "57"].iter().any(|class| code.starts_with(class)) || code == "55P03" || code == "25006"
}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        match error {
            sqlx::Error::Database(e) if e.is_unique_violation() => {
                Self::Duplicate { constraint: e.constraint().unwrap_or_default().to_owned() }
            }
            sqlx::Error::Database(e)
                if e.code().is_some_and(|c| c.starts_with("08") || c.starts_with("57P")) =>
            {
                Self::Unavailable(e.message().to_owned())
            }
            sqlx::Error::Database(e) if e.code().is_some_and(|c| c == "25P02") => Self::Aborted,
            sqlx::Error::Io(e) => Self::Unavailable(e.to_string()),
            sqlx::Error::Tls(e) => Self::Unavailable(e.to_string()),
            e @ (sqlx::Error::PoolTimedOut
            | sqlx::Error::PoolClosed
            | sqlx::Error::WorkerCrashed
            | sqlx::Error::BeginFailed
            | sqlx::Error::Protocol(_)) => Self::Unavailable(e.to_string()),
            e => Self::Driver(e),
        }
    }
}

// The driver's own Debug shows `detail`, and with it the values of the row that was refused.
impl fmt::Debug for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Driver(e) => write!(f, "Driver({e})"),
            other => write!(f, "{other}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lost_connection_is_transient_and_an_unreadable_row_is_not() {
        assert!(StoreError::from(sqlx::Error::Io(std::io::ErrorKind::ConnectionReset.into())).is_transient());
        assert!(StoreError::from(sqlx::Error::PoolTimedOut).is_transient());
        assert!(!StoreError::Corrupt("x".into()).is_transient());
        assert!(!StoreError::from(sqlx::Error::RowNotFound).is_transient());
    }

    #[test]
    fn deadlocks_shutdowns_and_lock_timeouts_are_transient_states() {
        assert!(
            ["40P01", "40001", "57P01", "57014", "53300", "55P03", "25006", "08006"]
                .into_iter()
                .all(transient_state)
        );
        assert!(!["23505", "42P01", "25P02", "22P02"].into_iter().any(transient_state));
    }
}
