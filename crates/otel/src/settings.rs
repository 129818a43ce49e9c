//! What the environment says: whether spans are sent, how many wait, which traces are recorded.
//! Address, headers and timeout are read by `opentelemetry-otlp`, name and attributes of the
//! service by `opentelemetry_sdk`.

use std::time::Duration;

use opentelemetry::trace::{SpanKind, TraceId};
use opentelemetry_sdk::trace::{Config, SamplingDecision};

use crate::OtlpError;

/// Most spans that wait, where `OTEL_BSP_MAX_QUEUE_SIZE` says nothing: OpenTelemetry's default.
const QUEUE: usize = 2_048;
/// Most spans of a request, where `OTEL_BSP_MAX_EXPORT_BATCH_SIZE` says nothing: the same.
const BATCH: usize = 512;
/// Time for which a batch is gathered, where `OTEL_BSP_SCHEDULE_DELAY` says nothing: the same.
const DELAY: Duration = Duration::from_secs(5);
/// Time for an answer, where `OTEL_EXPORTER_OTLP_TIMEOUT` says nothing: the same.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Where spans are sent, and how many wait.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct OtlpSettings {
    /// Address of the collector, to which `/v1/traces` is added; `None`: as the environment says.
    pub endpoint: Option<String>,
    /// Most spans that wait (`OTEL_BSP_MAX_QUEUE_SIZE`, 2048); further ones are lost, and counted.
    pub queue: usize,
    /// Most spans of a request (`OTEL_BSP_MAX_EXPORT_BATCH_SIZE`, 512).
    pub batch: usize,
    /// Time for which a batch is gathered (`OTEL_BSP_SCHEDULE_DELAY`, 5 s).
    pub delay: Duration,
    /// Time for an answer (`OTEL_EXPORTER_OTLP_TIMEOUT`, 10 s).
    pub timeout: Duration,
    /// Name of the service; `None`: as the environment says.
    pub service: Option<String>,
}

impl OtlpSettings {
    /// Returns the defaults, for a collector at this address: `http://127.0.0.1:4318`.
    #[must_use]
    pub fn to(endpoint: impl Into<String>) -> Self {
        let endpoint = Some(endpoint.into());
        Self { endpoint, queue: QUEUE, batch: BATCH, delay: DELAY, timeout: TIMEOUT, service: Some("longshore".to_owned()) }
    }

    /// Reads them; `None` where no spans are wanted.
    pub(crate) fn read(variable: impl Fn(&str) -> Option<String>) -> Result<Option<Self>, OtlpError> {
        let of_traces =
            |name: &str| variable(&format!("OTEL_EXPORTER_OTLP_TRACES_{name}")).or_else(|| variable(&format!("OTEL_EXPORTER_OTLP_{name}")));
        let is_off = variable("OTEL_SDK_DISABLED").is_some_and(|off| off.eq_ignore_ascii_case("true"))
            || variable("OTEL_TRACES_SAMPLER").is_some_and(|sampler| sampler == "always_off");
        let endpoint = of_traces("ENDPOINT");
        let exporter = variable("OTEL_TRACES_EXPORTER");
        let is_wanted = match exporter.as_deref() {
            None => endpoint.is_some(),
            Some(exporters) => exporters.split(',').any(|exporter| exporter.trim() == "otlp"),
        };
        if is_off || !is_wanted {
            return Ok(None);
        }
        let refused = |what: String| Err(OtlpError(format!("{what}; longshore sends spans as http/protobuf, uncompressed")));
        match of_traces("PROTOCOL").as_deref() {
            None | Some("http/protobuf") => {}
            Some(protocol) => return refused(format!("OTEL_EXPORTER_OTLP_PROTOCOL is {protocol}")),
        }
        match of_traces("COMPRESSION").as_deref() {
            None | Some("none") => {}
            Some(compression) => return refused(format!("OTEL_EXPORTER_OTLP_COMPRESSION is {compression}")),
        }
        let number = |name: &str| variable(name).and_then(|number| number.parse::<usize>().ok()).filter(|number| *number > 0);
        let millis = |text: Option<String>| text.and_then(|text| text.parse().ok()).map(Duration::from_millis);
        let queue = number("OTEL_BSP_MAX_QUEUE_SIZE").unwrap_or(QUEUE).min(1 << 20);
        let is_named = variable("OTEL_SERVICE_NAME").is_some()
            || variable("OTEL_RESOURCE_ATTRIBUTES").is_some_and(|all| all.split(',').any(|one| one.trim().starts_with("service.name=")));
        Ok(Some(Self {
            queue,
            batch: number("OTEL_BSP_MAX_EXPORT_BATCH_SIZE").unwrap_or(BATCH).min(queue),
            delay: millis(variable("OTEL_BSP_SCHEDULE_DELAY")).unwrap_or(DELAY),
            timeout: millis(of_traces("TIMEOUT")).unwrap_or(TIMEOUT),
            endpoint: None,
            service: (!is_named).then(|| "longshore".to_owned()),
        }))
    }

    /// Returns who decides whether a trace that begins here is recorded: OpenTelemetry's sampler,
    /// as `OTEL_TRACES_SAMPLER` and `OTEL_TRACES_SAMPLER_ARG` say.
    pub(crate) fn begins() -> impl Fn(u128) -> bool + Send + Sync {
        let sampler = Config::default().sampler;
        move |trace| {
            let trace = TraceId::from(trace);
            sampler.should_sample(None, trace, "send", &SpanKind::Producer, &[], &[]).decision == SamplingDecision::RecordAndSample
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(variables: &[(&str, &str)]) -> Result<Option<OtlpSettings>, OtlpError> {
        OtlpSettings::read(|name| variables.iter().find(|(other, _)| *other == name).map(|(_, value)| (*value).to_owned()))
    }

    const HERE: (&str, &str) = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9");

    #[test]
    fn spans_are_sent_where_a_collector_is_named_and_nobody_says_no() {
        for (variables, is_wanted) in [
            (vec![], false),
            (vec![HERE], true),
            (vec![("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://127.0.0.1:9/v1/traces")], true),
            (vec![("OTEL_TRACES_EXPORTER", "otlp")], true),
            (vec![("OTEL_TRACES_EXPORTER", "console,otlp")], true),
            (vec![HERE, ("OTEL_TRACES_EXPORTER", "none")], false),
            (vec![HERE, ("OTEL_SDK_DISABLED", "true")], false),
            (vec![HERE, ("OTEL_TRACES_SAMPLER", "always_off")], false),
            (vec![HERE, ("OTEL_TRACES_SAMPLER", "parentbased_traceidratio")], true),
        ] {
            assert_eq!(read(&variables).unwrap().is_some(), is_wanted, "{variables:?}");
        }
    }

    #[test]
    fn what_is_not_built_in_is_refused_in_words() {
        for (name, value) in [
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
            ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "http/json"),
            ("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip"),
        ] {
            let error = read(&[HERE, (name, value)]).unwrap_err().to_string();
            assert!(error.contains(value) && error.contains("http/protobuf"), "{error}");
        }
        assert!(read(&[HERE, ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf")]).unwrap().is_some());
    }

    #[test]
    fn numbers_are_those_of_the_batch_processor() {
        let settings = read(&[HERE]).unwrap().unwrap();
        assert_eq!((settings.queue, settings.batch, settings.delay, settings.timeout), (QUEUE, BATCH, DELAY, TIMEOUT));
        let settings = read(&[
            HERE,
            ("OTEL_BSP_MAX_QUEUE_SIZE", "100"),
            ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "512"),
            ("OTEL_BSP_SCHEDULE_DELAY", "50"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "300"),
        ]);
        let settings = settings.unwrap().unwrap();
        let millis = (settings.delay.as_millis(), settings.timeout.as_millis());
        assert_eq!((settings.queue, settings.batch, millis), (100, 100, (50, 300)));
    }
}
