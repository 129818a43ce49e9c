//! Spans of tasks, for a collector of OpenTelemetry that the environment names; with feature
//! `otel`.

#[cfg(not(feature = "otel"))]
mod built {
    use longshore_worker::App;

    use crate::progress::Voice;

    /// Nothing: this program was built without them.
    pub(crate) struct Spans;

    impl Spans {
        /// Returns the app as it is.
        pub(crate) fn begin(app: &App, _: Voice) -> (Self, App) {
            (Self, app.clone())
        }

        /// Does nothing.
        pub(crate) fn end(self) {}
    }
}

#[cfg(feature = "otel")]
mod built {
    use std::time::Duration;

    use longshore_otel::Otlp;
    use longshore_worker::App;

    use crate::progress::Voice;

    /// Longest time for which a command waits at its end for a collector.
    const AT_THE_END: Duration = Duration::from_secs(2);

    /// Spans on their way to a collector, where the environment names one.
    pub(crate) struct Spans(Option<Otlp>);

    impl Spans {
        /// Begins, and returns the app with them. What is wrong is said, and harms nobody.
        pub(crate) fn begin(app: &App, voice: Voice) -> (Self, App) {
            let said = move |text: &str| {
                if let Some(note) = voice.note(&format!("longshore: {text}")) {
                    eprintln!("{note}");
                }
            };
            let begun = Otlp::from_environment(said).unwrap_or_else(|error| {
                said(&error.to_string());
                None
            });
            let app = match &begun {
                Some(otlp) => app.clone().spans(otlp.spans()),
                None => app.clone(),
            };
            (Self(begun), app)
        }

        /// Sends what is left, within a bound.
        pub(crate) fn end(self) {
            if let Some(otlp) = self.0 {
                otlp.end(AT_THE_END);
            }
        }
    }
}

pub(crate) use built::Spans;
