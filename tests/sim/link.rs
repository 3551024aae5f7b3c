//! The control plane as an agent sees it: calls are lost, late or doubled, and calls of a dead agent are
//! never answered.

use crate::fate::{Fates, Fault, Step};
use millpond_core::Error;
use millpond_core::control_plane::around::{Around, CallInfo};
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

pub struct Link {
    pub fates: Arc<Fates>,
    pub agent: usize,
    pub dead: CancellationToken,
}

/// Registers a call as under way until it is dropped.
pub struct UnderWay(Arc<Fates>, usize, Step);

impl UnderWay {
    pub fn new(fates: &Arc<Fates>, agent: usize, step: Step) -> Self {
        fates.enter(agent, step);
        Self(Arc::clone(fates), agent, step)
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.leave(self.1, self.2);
    }
}

impl Around for Link {
    /// Sends every call in a separate task, so that it can outlive its caller.
    async fn around<T, R, F, G>(
        &self,
        call: CallInfo,
        _: impl Fn() -> F + Send + Sync,
        detached: impl Fn() -> G + Send + Sync,
    ) -> Result<T, Error<R>>
    where
        T: Send + 'static,
        R: Send + 'static,
        F: Future<Output = Result<T, Error<R>>> + Send,
        G: Future<Output = Result<T, Error<R>>> + Send + 'static,
    {
        let step: Step = call.name;
        if self.dead.is_cancelled() {
            return std::future::pending().await;
        }
        let _under_way = UnderWay::new(&self.fates, self.agent, step);
        let fate = self.fates.plane(self.agent, step);
        let deliver = |after| {
            let call = detached();
            async move {
                tokio::time::sleep(after).await;
                call.await
            }
        };
        let maybe = |what: &str| Err(Error::MaybeApplied(format!("injected: {what}").into()));
        let outcome = match fate.fault {
            Some(Fault::LostCall) => {
                tokio::time::sleep(fate.before).await;
                Err(Error::NotApplied("injected: the call was lost".into()))
            }
            Some(Fault::LostSilently) => {
                tokio::time::sleep(fate.before + fate.after).await;
                maybe("the call was lost")
            }
            Some(Fault::Late) => {
                tokio::spawn(deliver(fate.later));
                tokio::time::sleep(fate.before).await;
                maybe("the call is late")
            }
            Some(Fault::Hang) => std::future::pending().await,
            Some(Fault::HangApplied) => {
                tokio::spawn(deliver(fate.before));
                std::future::pending().await
            }
            fault => {
                // Once sent, a call takes effect even if its caller has gone.
                let outcome = tokio::spawn(deliver(fate.before))
                    .await
                    .expect("a call of the control plane ended in a panic");
                tokio::time::sleep(fate.after).await;
                match fault {
                    Some(Fault::LostAnswer) => maybe("the answer was lost"),
                    Some(Fault::Twice) => {
                        tokio::spawn(deliver(fate.later));
                        outcome
                    }
                    _ => outcome,
                }
            }
        };
        if self.dead.is_cancelled() { std::future::pending().await } else { outcome }
    }
}
