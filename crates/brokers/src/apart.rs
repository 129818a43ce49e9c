//! Work that grows with the size of messages.

/// Most bytes that are gone through on the thread that asks: another one would not be awake before
/// that is done.
pub const FEW: usize = 1 << 20;

/// Does work that goes through so many bytes: where they are not [few](FEW), on a thread that holds
/// up nobody else.
pub async fn apart<T: Send + 'static>(bytes: usize, work: impl FnOnce() -> T + Send + 'static) -> T {
    if bytes <= FEW {
        return work();
    }
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // The runtime ends, and whoever waits with it.
            Err(_) => std::future::pending().await,
        },
    }
}
