//! What fills a job's work queue: iterators, streams, functions with a sender, and one source for
//! all of them.

use std::{
    panic::AssertUnwindSafe,
    sync::{Arc, Mutex, PoisonError},
};

use futures_util::{FutureExt, future::BoxFuture};
use tokio::runtime::Handle as Runtime;

use crate::{
    error::TaskError,
    lane::panic_text,
    source::{
        Source,
        iter::{IterSource, OptionsOf, StreamSource},
        queue::{QueueSource, Sender, queue},
    },
};

pub(super) type Produce<T> = Box<dyn FnOnce(Sender<T>) -> BoxFuture<'static, Result<(), TaskError>> + Send>;

pub(super) enum Producer<T> {
    Iter(Box<dyn Iterator<Item = T> + Send>),
    Stream(futures_util::stream::BoxStream<'static, T>),
    Function(Produce<T>),
    /// A queue whose senders are with the user.
    Queue(QueueSource<T>),
}

/// Words of producers that failed.
#[derive(Clone, Default)]
pub(super) struct Failures(pub(super) Arc<Mutex<Vec<String>>>);

impl Failures {
    fn add(&self, text: String) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(text);
    }
}

/// One source for all producers: a single iterator, stream or queue is the source itself; several
/// fill one queue (of several queues, the first).
pub(super) fn source<T: Send + 'static>(
    mut producers: Vec<Producer<T>>,
    options: Option<OptionsOf<T>>,
    capacity: usize,
    failures: &Failures,
    runtime: &Runtime,
) -> Arc<dyn Source<T>> {
    let single = if producers.len() == 1 { producers.pop() } else { None };
    match single {
        Some(Producer::Iter(iter)) => return Arc::new(IterSource::new(iter, options)),
        Some(Producer::Stream(stream)) => return Arc::new(StreamSource::new(stream, options)),
        Some(Producer::Queue(source)) => return Arc::new(source.with_options(options)),
        Some(other) => producers.push(other),
        None => {}
    }
    // A queue whose sender is with the user is the job's own, so that its `drained` waits for the
    // tasks; further ones pour into it.
    let own = producers.iter().position(|producer| matches!(producer, Producer::Queue(_))).map(|place| producers.remove(place));
    let (sender, source) = match own {
        Some(Producer::Queue(source)) => (source.sender(), source),
        _ => queue(capacity),
    };
    for producer in producers {
        let (sender, failures) = (sender.clone(), failures.clone());
        runtime.spawn(async move {
            // Keeps the job from ending before it is known how this producer did.
            let open = sender.clone();
            let produced = AssertUnwindSafe(async { feed(producer, sender).await }).catch_unwind().await;
            match produced {
                Ok(Ok(())) => {}
                Ok(Err(error)) => failures.add(error.to_string()),
                Err(panic) => failures.add(format!("panicked: {}", panic_text(&*panic))),
            }
            drop(open);
        });
    }
    // Told here, where tasks leave the queue, and not on the way in: what a producer's `drained`
    // waits for is then the task, not its way.
    Arc::new(source.with_options(options))
}

async fn feed<T: Send + 'static>(producer: Producer<T>, sender: Sender<T>) -> Result<(), TaskError> {
    let source: Box<dyn Source<T>> = match producer {
        Producer::Function(produce) => return produce(sender).await,
        Producer::Iter(iter) => Box::new(IterSource::new(iter, None)),
        Producer::Stream(stream) => Box::new(StreamSource::new(stream, None)),
        Producer::Queue(source) => Box::new(source),
    };
    forward(source, sender).await
}

/// Moves what a source brings to a queue. Stops when the job does.
async fn forward<T: Send + 'static>(source: Box<dyn Source<T>>, sender: Sender<T>) -> Result<(), TaskError> {
    let mut batch = Vec::new();
    loop {
        let fetched = source.fetch(16, &mut batch).await.map_err(|error| TaskError::new("source", error.message))?;
        for delivery in batch.drain(..) {
            let own = delivery.options.map(|options| *options);
            let settled = [crate::source::Settlement { receipt: delivery.receipt, verdict: crate::Verdict::Ack }];
            if sender.send_with(delivery.payload, own).await.is_err() {
                source.close();
                return Ok(());
            }
            // From here on the job's own queue answers for it.
            source.settle(&settled).await.map_err(|error| TaskError::new("source", error.message))?;
        }
        if fetched == crate::source::Fetched::End {
            return Ok(());
        }
    }
}
