//! Actions on their way: each runs to its end and is noted, also when whoever asked for it goes
//! away meanwhile. A handler alone is dropped with its connection, half done and without a line in
//! the log.

use std::{future::Future, sync::Arc};

use tokio::{sync::Semaphore, task::JoinError};

/// Most actions at once; others wait until one has ended.
const MOST: u32 = 256;

/// Actions of one site.
#[derive(Clone, Debug)]
pub(crate) struct Actions(Arc<Semaphore>);

impl Default for Actions {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(MOST as usize)))
    }
}

impl Actions {
    /// Does something to its end, and returns what came of it.
    ///
    /// # Panics
    /// Passes on a panic of the action.
    ///
    /// # Cancel safety
    /// Dropping the future leaves an action that has begun running.
    pub(crate) async fn run<T: Send + 'static>(&self, act: impl Future<Output = T> + Send + 'static) -> T {
        let place = self.0.clone().acquire_owned().await;
        let running = tokio::spawn(async move {
            let came = act.await;
            drop(place);
            came
        });
        match running.await.map_err(JoinError::try_into_panic) {
            Ok(came) => came,
            Err(Ok(panic)) => std::panic::resume_unwind(panic),
            // The runtime ends, and whoever waits here with it.
            Err(Err(_)) => std::future::pending().await,
        }
    }

    /// Waits until none is on its way.
    pub(crate) async fn ended(&self) {
        drop(self.0.acquire_many(MOST).await);
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use tokio::sync::oneshot;

    use super::*;

    #[tokio::test]
    async fn an_action_goes_on_when_nobody_waits_for_it_and_its_end_can_be_waited_for() {
        let actions = Actions::default();
        let ((go, goes), (told, done)) = (oneshot::channel::<()>(), oneshot::channel());
        let mut asked = Box::pin(actions.run(async move {
            let _ = goes.await;
            let _ = told.send("done");
        }));
        assert_eq!((&mut asked).now_or_never(), None);
        drop(asked);
        let mut ended = Box::pin(actions.ended());
        assert_eq!((&mut ended).now_or_never(), None, "it is still on its way");
        go.send(()).unwrap();
        ended.await;
        assert_eq!(done.await, Ok("done"));
    }
}
