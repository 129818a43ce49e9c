//! The primitives that threads share, exchangeable for loom's under `--cfg longshore_loom`.

#[cfg(not(longshore_loom))]
mod imp {
    pub(crate) use futures_util::task::AtomicWaker;
    pub(crate) use std::sync::{
        MutexGuard,
        atomic::{AtomicBool, AtomicUsize, fence},
    };

    /// A mutex whose poisoning does not matter: no user code runs under any lock of this crate.
    #[derive(Debug, Default)]
    pub(crate) struct Mutex<T>(std::sync::Mutex<T>);

    impl<T> Mutex<T> {
        pub(crate) const fn new(value: T) -> Self {
            Self(std::sync::Mutex::new(value))
        }

        #[inline]
        pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
            self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
        }
    }
}

#[cfg(longshore_loom)]
mod imp {
    pub(crate) use loom::sync::{
        MutexGuard,
        atomic::{AtomicBool, AtomicUsize, fence},
    };
    use std::task::Waker;

    #[derive(Debug, Default)]
    pub(crate) struct Mutex<T>(loom::sync::Mutex<T>);

    impl<T> Mutex<T> {
        pub(crate) fn new(value: T) -> Self {
            Self(loom::sync::Mutex::new(value))
        }

        pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
            self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
        }
    }

    /// Loom's, with the signatures of futures-util's.
    #[derive(Debug)]
    pub(crate) struct AtomicWaker(loom::future::AtomicWaker);

    impl AtomicWaker {
        pub(crate) fn new() -> Self {
            Self(loom::future::AtomicWaker::new())
        }

        pub(crate) fn register(&self, waker: &Waker) {
            self.0.register_by_ref(waker);
        }

        pub(crate) fn wake(&self) {
            self.0.wake();
        }
    }
}

pub(crate) use imp::*;
