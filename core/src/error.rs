//! Errors of calls to the control plane.

use std::convert::Infallible;
use std::error::Error as StdError;

/// The underlying error, for example of the database driver.
pub type Source = Box<dyn StdError + Send + Sync>;

/// Failure of a call, by what is known of its effect.
///
/// `Rejected`: the control plane decided against the call, and nothing changed. `NotApplied`: nothing
/// changed, and the call may be sent again. `MaybeApplied`: the outcome is unknown. Only sending the *same*
/// call again resolves it: a read that finds no effect proves nothing, since the first call may still be
/// running.
#[derive(Debug, thiserror::Error)]
pub enum Error<R = Infallible> {
    #[error("rejected")]
    Rejected(R),
    #[error("the control plane did not apply the call")]
    NotApplied(#[source] Source),
    #[error("the control plane may have applied the call")]
    MaybeApplied(#[source] Source),
}

impl<R> Error<R> {
    /// Converts the failure of a call that cannot be rejected.
    pub fn from_infallible(error: Error) -> Self {
        match error {
            Error::Rejected(never) => match never {},
            Error::NotApplied(source) => Self::NotApplied(source),
            Error::MaybeApplied(source) => Self::MaybeApplied(source),
        }
    }

    /// Converts the rejection to the type of another call.
    pub fn map_rejection<S>(self, map: impl FnOnce(R) -> S) -> Error<S> {
        match self {
            Self::Rejected(rejected) => Error::Rejected(map(rejected)),
            Self::NotApplied(source) => Error::NotApplied(source),
            Self::MaybeApplied(source) => Error::MaybeApplied(source),
        }
    }

    /// Returns a rejection as `Ok`, since it is a definite answer; any other failure stays an error.
    pub fn into_rejection(self) -> Result<R, Error> {
        match self {
            Self::Rejected(rejected) => Ok(rejected),
            Self::NotApplied(source) => Err(Error::NotApplied(source)),
            Self::MaybeApplied(source) => Err(Error::MaybeApplied(source)),
        }
    }
}
