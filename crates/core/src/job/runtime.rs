//! A runtime for whoever has none.

use std::future::Future;

use tokio::runtime::Handle as Runtime;

/// Runs async work to its end, on a runtime of its own, from any thread.
pub(crate) fn on_own_runtime<O, F, Fut>(work: F) -> O
where
    O: Send,
    F: FnOnce() -> Fut + Send,
    Fut: Future<Output = O>,
{
    let run = move || {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .thread_name("longshore")
            .build()
            .unwrap_or_else(|error| panic!("no threads for an async runtime: {error}"));
        let output = runtime.block_on(work());
        // A source or handler that blocks for ever on a thread of the runtime must not keep us.
        runtime.shutdown_background();
        output
    };
    if Runtime::try_current().is_err() {
        return run();
    }
    // Blocking a thread of a runtime from inside is refused by tokio; a thread of our own may.
    std::thread::scope(|scope| scope.spawn(run).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
}
