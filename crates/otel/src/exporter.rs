//! The thread that sends: it gathers batches, counts what became of them, and ends within a bound.

use std::{fmt, io, sync::mpsc as signals, thread, time::Duration};

use longshore_worker::{Spans, TaskSpan};
use opentelemetry::InstrumentationScope;
use opentelemetry_otlp::{RetryPolicy, SpanExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::{Resource, trace::SpanExporter as _};
use tokio::sync::{mpsc, oneshot};

use crate::{convention, http::CollectorClient, settings::OtlpSettings};

/// Listener who hears the first trouble.
pub(crate) type Teller = Box<dyn Fn(&str) + Send>;

/// Attempts after the first one, 0.1 s and 0.2 s apart: whoever is away for longer has lost the
/// batch, which is counted.
const RETRIES: usize = 2;

/// The other end of the thread.
pub(crate) struct Exporter {
    stop: oneshot::Sender<()>,
    ended: signals::Receiver<()>,
}

impl fmt::Debug for Exporter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Exporter").finish_non_exhaustive()
    }
}

impl Exporter {
    /// Starts the thread.
    pub(crate) fn start(settings: OtlpSettings, spans: Spans, queue: mpsc::Receiver<TaskSpan>, told: Teller) -> io::Result<Self> {
        let (stop, stopped) = oneshot::channel();
        let (ends, ended) = signals::channel();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let sending = Sending { settings, spans, queue, told: Some(told), connection: None, scope: convention::scope() };
        thread::Builder::new().name("longshore-otlp".to_owned()).spawn(move || {
            runtime.block_on(sending.run(stopped));
            let _ = ends.send(());
        })?;
        Ok(Self { stop, ended })
    }

    /// Has it send what is left, and waits for that no longer than this.
    pub(crate) fn end(self, within: Duration) {
        let _ = self.stop.send(());
        let _ = self.ended.recv_timeout(within);
    }
}

/// State of the thread.
struct Sending {
    settings: OtlpSettings,
    spans: Spans,
    queue: mpsc::Receiver<TaskSpan>,
    /// Nobody any more, once trouble was told.
    told: Option<Teller>,
    /// Made with the first batch: most commands send nothing.
    connection: Option<SpanExporter>,
    scope: InstrumentationScope,
}

impl Sending {
    async fn run(mut self, mut stopped: oneshot::Receiver<()>) {
        let mut batch = Vec::with_capacity(self.settings.batch);
        loop {
            let goes_on = self.gather(&mut batch, &mut stopped).await;
            if !batch.is_empty() {
                self.send(&mut batch).await;
            }
            if !goes_on {
                break;
            }
        }
        // What was put into the queue before the stop.
        while let Ok(span) = self.queue.try_recv() {
            batch.push(span);
            if batch.len() == self.settings.batch {
                self.send(&mut batch).await;
            }
        }
        if !batch.is_empty() {
            self.send(&mut batch).await;
        }
    }

    /// Gathers a batch until it is full, or its time is over. Returns whether there will be
    /// another.
    async fn gather(&mut self, batch: &mut Vec<TaskSpan>, stopped: &mut oneshot::Receiver<()>) -> bool {
        let (most, delay) = (self.settings.batch, self.settings.delay);
        let mut until: Option<tokio::time::Instant> = None;
        while batch.len() < most {
            let over = async {
                match until {
                    Some(until) => tokio::time::sleep_until(until).await,
                    None => std::future::pending().await,
                }
            };
            let room = most - batch.len();
            tokio::select! {
                biased;
                // Also where whoever began it was dropped: then nobody waits.
                _ = &mut *stopped => return false,
                taken = self.queue.recv_many(batch, room) => if taken == 0 { return false },
                () = over => return true,
            }
            until.get_or_insert_with(|| tokio::time::Instant::now() + delay);
        }
        true
    }

    async fn send(&mut self, batch: &mut Vec<TaskSpan>) {
        let count = batch.len() as u64;
        let data = batch.drain(..).map(|span| convention::data(span, &self.scope)).collect();
        let sent = match self.connection() {
            Ok(connection) => connection.export(data).await.map_err(|error| error.to_string()),
            Err(why) => Err(why),
        };
        match sent {
            Ok(()) => self.spans.note_sent(count),
            Err(why) => {
                self.spans.note_lost(count);
                if let Some(told) = self.told.take() {
                    let endpoint = self.settings.endpoint.as_deref().map_or("the collector".to_owned(), without_password);
                    told(&format!("spans cannot be sent to {endpoint}: {why}; further ones that are lost are only counted"));
                }
            }
        }
    }

    fn connection(&mut self) -> Result<&SpanExporter, String> {
        if self.connection.is_none() {
            let client = CollectorClient::new(self.settings.timeout).map_err(|error| error.to_string())?;
            let policy = RetryPolicy::recommended().with_max_retries(RETRIES);
            let mut builder =
                SpanExporter::builder().with_http().with_http_client(client).with_retry_policy(policy).with_timeout(self.settings.timeout);
            if let Some(endpoint) = &self.settings.endpoint {
                builder = builder.with_endpoint(format!("{}/v1/traces", endpoint.trim_end_matches('/')));
            }
            let mut exporter = builder.build().map_err(|error| error.to_string())?;
            let mut resource = Resource::builder();
            if let Some(service) = &self.settings.service {
                resource = resource.with_service_name(service.clone());
            }
            exporter.set_resource(&resource.build());
            self.connection = Some(exporter);
        }
        self.connection.as_ref().ok_or_else(|| "no exporter".to_owned())
    }
}

/// Returns a URL without what stands before its `@`.
fn without_password(url: &str) -> String {
    match (url.split_once("://"), url.rsplit_once('@')) {
        (Some((scheme, _)), Some((_, host))) => format!("{scheme}://{host}"),
        _ => url.to_owned(),
    }
}
