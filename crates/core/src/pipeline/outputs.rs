//! The reader's side of a pipeline.

use std::{
    collections::VecDeque,
    future::poll_fn,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use futures_util::Stream;

use crate::{
    block_on::block_on,
    error::TaskError,
    pipeline::{
        queue::{Ask, ItemBatch, StageQueue, TakenItems},
        report::Report,
        run::{Failure, Halt, PipelineRun},
    },
};

/// The outputs of a pipeline, one after the other, as they come. Also a [`Stream`].
///
/// A reader that is slow makes the last stage wait, and that the one before it, up to the source.
/// Dropping the reader before the end stops the pipeline: nobody wants what it makes.
pub struct Outputs<T> {
    queue: Arc<StageQueue<T>>,
    buffer: ItemBatch<T>,
    run: Arc<PipelineRun>,
}

impl<T> Outputs<T> {
    pub(super) fn new(queue: Arc<StageQueue<T>>, run: Arc<PipelineRun>) -> Self {
        Self { queue, buffer: VecDeque::new(), run }
    }

    /// The next output; `None` when the pipeline is over. Cancel safe.
    pub async fn next(&mut self) -> Option<T> {
        poll_fn(|cx| self.poll_take(cx.waker())).await
    }

    /// The next output, blocking this thread. Not for threads of an async runtime.
    pub fn blocking_next(&mut self) -> Option<T> {
        block_on(self.next())
    }

    pub(super) fn run(&self) -> &Arc<PipelineRun> {
        &self.run
    }

    fn poll_take(&mut self, waker: &Waker) -> Poll<Option<T>> {
        if let Some((_, output)) = self.buffer.pop_front() {
            return Poll::Ready(Some(output));
        }
        self.poll_batch(waker).map(|()| self.buffer.pop_front().map(|(_, output)| output))
    }

    /// Fills the empty buffer; it stays empty at the end.
    fn poll_batch(&mut self, waker: &Waker) -> Poll<()> {
        let ask = Ask { most: usize::MAX, sharers: 1, eager: false };
        match self.queue.take(0, ask, &mut self.buffer, waker) {
            TakenItems::Empty | TakenItems::Ahead => Poll::Pending,
            TakenItems::Items(_) | TakenItems::End | TakenItems::Stopped => Poll::Ready(()),
        }
    }

    /// Reads everything, a batch at a time.
    pub(super) async fn drain(&mut self, mut with: impl FnMut(T)) {
        loop {
            poll_fn(|cx| self.poll_batch(cx.waker())).await;
            if self.buffer.is_empty() {
                return;
            }
            while let Some((_, output)) = self.buffer.pop_front() {
                with(output);
            }
        }
    }
}

impl<T> Unpin for Outputs<T> {}

impl<T> Stream for Outputs<T> {
    type Item = T;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<T>> {
        self.poll_take(cx.waker())
    }
}

impl<T> Drop for Outputs<T> {
    fn drop(&mut self) {
        self.queue.put_back(self.buffer.len());
        if !self.run.has_ended() && !self.queue.has_ended() {
            self.run.stop(Halt::Hard);
        }
    }
}

/// The outputs of a pipeline that runs on threads of its own: an iterator for code without a
/// runtime.
pub struct IntoIter<T> {
    outputs: Outputs<T>,
    /// Ends its threads when it is dropped.
    runtime: Option<tokio::runtime::Runtime>,
}

impl<T> IntoIter<T> {
    pub(super) fn new(outputs: Outputs<T>, runtime: tokio::runtime::Runtime) -> Self {
        Self { outputs, runtime: Some(runtime) }
    }

    /// Returns what the pipeline has done so far.
    pub fn report(&self) -> Report {
        self.outputs.run.report()
    }
}

impl<T> Iterator for IntoIter<T> {
    type Item = T;

    /// The next output. Blocks this thread; not for threads of an async runtime.
    fn next(&mut self) -> Option<T> {
        self.outputs.blocking_next()
    }
}

impl<T> Drop for IntoIter<T> {
    fn drop(&mut self) {
        if !self.outputs.run.has_ended() && !self.outputs.queue.has_ended() {
            self.outputs.run.stop(Halt::Hard);
        }
        if let Some(runtime) = self.runtime.take() {
            // A source that blocks for ever on a thread of the runtime must not keep us.
            runtime.shutdown_background();
        }
    }
}

/// All outputs, and the report.
#[derive(Debug)]
pub struct Collected<T> {
    /// The outputs that left the last stage.
    pub outputs: Vec<T>,
    /// The report.
    pub report: Report,
}

impl<T> Collected<T> {
    /// The outputs, if nothing stopped the pipeline.
    ///
    /// # Errors
    /// Error that stopped it: which stage, which item, which error.
    pub fn results(self) -> Result<Vec<T>, Failure> {
        match self.report.failure {
            Some(failure) => Err(failure),
            None if self.report.cancelled => Err(Failure {
                stage: "pipeline".to_owned(),
                number: 0,
                attempts: 0,
                error: TaskError::new("cancelled", "stopped before it ended"),
            }),
            None => Ok(self.outputs),
        }
    }
}
