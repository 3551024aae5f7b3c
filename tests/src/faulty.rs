//! A control plane whose calls fail as calls over a network do, and a caller that copes with it.
//!
//! [`Faulty`] loses calls before they arrive (`NotApplied`), loses answers (`MaybeApplied` although applied),
//! delivers calls twice, and delivers some late, when the caller has already sent them again. [`Resending`]
//! sends the same call until its outcome is known.

use millpond_core::Error;
use millpond_core::control_plane::around::{Around, CallInfo};
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::task::JoinHandle;

/// Attempts after which [`Resending`] gives up: faults are independent, so many in a row mean a defect.
const ATTEMPTS_MAX: usize = 200;
/// Calls that may be delivered late: those that an agent sends for an upload.
const DELAYABLE_CALLS: [&str; 3] = ["register_parts", "commit", "swap"];

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    LostCall,
    LostAnswer,
    Twice,
    /// The call is delivered after its caller was told `MaybeApplied`.
    Late,
}

pub struct Faulty {
    rng: Mutex<StdRng>,
    late: Mutex<Vec<JoinHandle<()>>>,
    injected: Mutex<BTreeMap<Fault, usize>>,
}

impl Faulty {
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self {
            rng: Mutex::new(StdRng::seed_from_u64(seed)),
            late: Mutex::new(Vec::new()),
            injected: Mutex::new(BTreeMap::new()),
        }
    }

    /// Number of times each fault was injected.
    #[must_use]
    pub fn injected(&self) -> BTreeMap<Fault, usize> {
        self.injected.lock().clone()
    }

    /// Waits until every late call has been delivered.
    pub async fn settle(&self) {
        loop {
            let Some(call) = self.late.lock().pop() else { return };
            call.await.expect("a late call ended in a panic");
        }
    }

    fn draw(&self, can_be_late: bool) -> Option<Fault> {
        let fault = match self.rng.lock().random_range(0..100) {
            0..15 => Fault::LostCall,
            15..30 => Fault::LostAnswer,
            30..40 => Fault::Twice,
            40..50 if can_be_late => Fault::Late,
            _ => return None,
        };
        *self.injected.lock().entry(fault).or_default() += 1;
        Some(fault)
    }

    fn deliver_late<T, F>(&self, call: F) -> Error<T>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let delay = Duration::from_millis(self.rng.lock().random_range(0..3));
        let task = tokio::spawn(async move {
            tokio::time::sleep(delay).await;
            call.await;
        });
        self.late.lock().push(task);
        Error::MaybeApplied("injected: the call is late".into())
    }
}

impl Around for Faulty {
    async fn around<T, R, F, G>(
        &self,
        call: CallInfo,
        send: impl Fn() -> F + Send + Sync,
        detached: impl Fn() -> G + Send + Sync,
    ) -> Result<T, Error<R>>
    where
        T: Send + 'static,
        R: Send + 'static,
        F: Future<Output = Result<T, Error<R>>> + Send,
        G: Future<Output = Result<T, Error<R>>> + Send + 'static,
    {
        match self.draw(DELAYABLE_CALLS.contains(&call.name)) {
            None => send().await,
            Some(Fault::LostCall) => Err(Error::NotApplied("injected: the call was lost".into())),
            Some(Fault::LostAnswer) => {
                drop(send().await);
                Err(Error::MaybeApplied("injected: the answer was lost".into()))
            }
            Some(Fault::Twice) => {
                drop(send().await);
                send().await
            }
            Some(Fault::Late) => {
                let call = detached();
                Err(self.deliver_late(async move { drop(call.await) }))
            }
        }
    }
}

/// Repeats a call, unchanged, until its outcome is known.
pub struct Resending;

impl Around for Resending {
    async fn around<T, R, F, G>(
        &self,
        _: CallInfo,
        send: impl Fn() -> F + Send + Sync,
        _: impl Fn() -> G + Send + Sync,
    ) -> Result<T, Error<R>>
    where
        T: Send + 'static,
        R: Send + 'static,
        F: Future<Output = Result<T, Error<R>>> + Send,
        G: Future<Output = Result<T, Error<R>>> + Send + 'static,
    {
        for _ in 1..ATTEMPTS_MAX {
            match send().await {
                Err(Error::NotApplied(_) | Error::MaybeApplied(_)) => tokio::task::yield_now().await,
                known => return known,
            }
        }
        send().await
    }
}
