//! The runtime that commands run on.

use std::future::Future;

use crate::{exit::Exit, fault::Fault};

/// Runs a command's future to its end.
///
/// # Errors
/// Its own; or the system has no threads.
pub fn block_on<T>(future: impl Future<Output = Result<T, Fault>>) -> Result<T, Fault> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.map_err(|error| Fault::new(Exit::System, format!("no threads: {error}")))?;
    let result = runtime.block_on(future);
    // A thread that waits for stdin must not hold us up.
    runtime.shutdown_background();
    result
}
