//! How a call of the control plane fails.

use std::convert::Infallible;
use std::error::Error as StdError;

pub type Source = Box<dyn StdError + Send + Sync>;

/// `Rejected`: decided, nothing changed. `NotApplied`: nothing changed, may be sent again. `MaybeApplied`:
/// the outcome is unknown; only sending the *same* call again resolves it, since a look that finds nothing
/// proves nothing while the first may still be running.
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
    /// Lifts the failure of a call that cannot be rejected.
    pub fn from_infallible(error: Error) -> Self {
        match error {
            Error::Rejected(never) => match never {},
            Error::NotApplied(source) => Self::NotApplied(source),
            Error::MaybeApplied(source) => Self::MaybeApplied(source),
        }
    }

    /// Names the rejection in the terms of another call.
    pub fn map_rejection<S>(self, map: impl FnOnce(R) -> S) -> Error<S> {
        match self {
            Self::Rejected(rejected) => Error::Rejected(map(rejected)),
            Self::NotApplied(source) => Error::NotApplied(source),
            Self::MaybeApplied(source) => Error::MaybeApplied(source),
        }
    }

    /// A rejection is `Ok`: it is an answer. A failure stays one.
    pub fn into_rejection(self) -> Result<R, Error> {
        match self {
            Self::Rejected(rejected) => Ok(rejected),
            Self::NotApplied(source) => Err(Error::NotApplied(source)),
            Self::MaybeApplied(source) => Err(Error::MaybeApplied(source)),
        }
    }
}
