//! Spans of tasks (sent, waited, run) to a collector of OpenTelemetry, over OTLP (http/protobuf).
//!
//! ```no_run
//! use std::time::Duration;
//! use longshore_otel::Otlp;
//! use longshore_worker::App;
//!
//! // OTEL_EXPORTER_OTLP_ENDPOINT=http://127.0.0.1:4318 OTEL_SERVICE_NAME=shop
//! let otlp = Otlp::from_environment(|trouble| eprintln!("{trouble}"))?;
//! let app = App::new().spans(otlp.as_ref().map(Otlp::spans));
//! // … clients and workers of this app …
//! otlp.map(|otlp| otlp.end(Duration::from_secs(2)));
//! # Ok::<(), longshore_otel::OtlpError>(())
//! ```
//!
//! A collector that is away, slow or refuses harms nobody: spans wait in a queue of a bounded
//! length, what it has no room for and what nobody takes is counted, and the first trouble is told.
//!
//! Layout, from the bottom up: `settings.rs`: what the environment says; `convention.rs`: spans as
//! the semantic conventions have them; `http.rs`: requests; `exporter.rs`: the thread that sends

mod convention;
mod exporter;
mod http;
mod settings;

use std::time::Duration;

use longshore_worker::{SpanCounts, Spans};

use crate::exporter::Exporter;
pub use crate::settings::OtlpSettings;

/// Reason why no spans can be sent: a setting that cannot be followed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct OtlpError(String);

/// Sends spans, on a thread of its own, until it is [ended](Self::end).
#[derive(Debug)]
pub struct Otlp {
    spans: Spans,
    exporter: Exporter,
}

impl Otlp {
    /// Begins, where the environment names a collector (`OTEL_EXPORTER_OTLP_ENDPOINT`,
    /// `OTEL_EXPORTER_OTLP_TRACES_ENDPOINT`, or `OTEL_TRACES_EXPORTER=otlp` for the one at
    /// <http://localhost:4318>); `None` where it names none, or wants no traces
    /// (`OTEL_SDK_DISABLED=true`, `OTEL_TRACES_EXPORTER=none`, `OTEL_TRACES_SAMPLER=always_off`).
    ///
    /// `told` hears the first trouble with the collector, once, as a sentence.
    ///
    /// # Errors
    /// A setting asks for what is not built in (gRPC, JSON, compression), or the system has no
    /// threads.
    pub fn from_environment(told: impl Fn(&str) + Send + 'static) -> Result<Option<Self>, OtlpError> {
        let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        OtlpSettings::read(variable)?.map(|settings| Self::start(settings, told)).transpose()
    }

    /// Begins with these settings. What they do not say the environment does: headers, attributes
    /// of the service, the sampler.
    ///
    /// # Errors
    /// The system has no threads.
    pub fn start(settings: OtlpSettings, told: impl Fn(&str) + Send + 'static) -> Result<Self, OtlpError> {
        let (spans, queue) = Spans::queue(settings.queue, OtlpSettings::begins());
        let exporter = Exporter::start(settings, spans.clone(), queue, Box::new(told))
            .map_err(|error| OtlpError(format!("spans are not sent: no thread for them: {error}")))?;
        Ok(Self { spans, exporter })
    }

    /// Returns where apps put their spans: [`App::spans`](longshore_worker::App::spans).
    #[must_use]
    pub fn spans(&self) -> Spans {
        self.spans.clone()
    }

    /// Returns how many spans were sent and lost so far.
    #[must_use]
    pub fn counts(&self) -> SpanCounts {
        self.spans.counts()
    }

    /// Sends what is left, for no longer than this; what could not be sent by then is lost, and
    /// counted. Blocks.
    pub fn end(self, within: Duration) -> SpanCounts {
        self.exporter.end(within);
        self.spans.counts()
    }
}
