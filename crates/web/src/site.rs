//! A site: which pages stand where.

use std::sync::Arc;

use axum::{Router, http::Uri, response::Response, routing::get};
use longshore_core::CancelToken;
use longshore_run::RunHandle;
use longshore_worker::Client;
use tokio::task::JoinHandle;

use crate::{
    actions::Actions,
    api::{Operation, Routes},
    assets,
    deployment::Deployment,
    error::WebError,
    events::{EventFeed, FeedOptions},
    flower,
    frame::{Frame, NavPlace},
    guard::{Guard, refuse},
    health::{self, Readiness},
    history::History,
    intake::Intake,
    jobs::Jobs,
    login, metrics,
    options::WebOptions,
    pages,
};

/// Pages and answers of one server. It owns nothing of what it shows.
pub struct Site {
    /// Answers what the guard has let in.
    pub(crate) router: Router,
    pub(crate) guard: Arc<Guard>,
    pub(crate) stop: CancelToken,
    pub(crate) actions: Actions,
    /// Ends a moment after `stop`.
    pub(crate) ends: Option<JoinHandle<()>>,
}

impl std::fmt::Debug for Site {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Site")
    }
}

impl Site {
    /// Returns the site of one worker: its page, health and metrics.
    #[must_use]
    pub fn of_worker(options: WebOptions, readiness: Readiness) -> Self {
        let frame = frame(options, "worker", vec![NavPlace { path: "/", label: "Worker", key: "" }]);
        let routes = pages::worker::routes(&frame, readiness.clone())
            .api(scrape().refuses(&[503]), get(metrics::of_one).with_state(readiness.clone()));
        let troubles = move || {
            let readiness = readiness.clone();
            async move { readiness.troubles().await }
        };
        Self::over(&frame, troubles, routes)
    }

    /// Returns the site of one run: its page, health and metrics. It shows how the run goes where
    /// that is told ([`ResultSpec::story`](longshore_run::spec::ResultSpec::story)).
    #[must_use]
    pub fn of_run(options: WebOptions, handle: RunHandle) -> Self {
        let frame = frame(options, "run", vec![NavPlace { path: "/", label: "Run", key: "" }]);
        let readiness = Readiness::starting();
        readiness.started(handle.watched(), CancelToken::new());
        let routes = pages::run::routes(&frame, handle).api(scrape().refuses(&[503]), get(metrics::of_one).with_state(readiness.clone()));
        let troubles = move || {
            let readiness = readiness.clone();
            async move { readiness.troubles().await }
        };
        Self::over(&frame, troubles, routes)
    }

    /// Returns the site of one consumer of Kafka: its page, health and metrics.
    ///
    /// Looks at the consumer once a second while it is served, on the current tokio runtime.
    #[cfg(feature = "kafka")]
    #[must_use]
    pub fn of_consumer(options: WebOptions, handle: longshore_kafka::ConsumerHandle) -> Self {
        let frame = frame(options, "kafka", vec![NavPlace { path: "/", label: "Consumer", key: "" }]);
        let readiness = Readiness::starting();
        readiness.started(handle.watch(), CancelToken::new());
        let reader = crate::kafka::consumer::ConsumerReader::start(handle, frame.live.stop.clone());
        let scraped = get(metrics::of_one).with_state(readiness.clone());
        let routes = pages::consumer::routes(&frame, reader).api(scrape().refuses(&[503]), scraped);
        let troubles = move || {
            let readiness = readiness.clone();
            async move { readiness.troubles().await }
        };
        Self::over(&frame, troubles, routes)
    }

    /// Returns a site that takes tasks and shows nothing.
    #[must_use]
    pub fn of_intake(options: WebOptions, intake: &Intake) -> Self {
        let hides = options.hide_args;
        let frame = frame(options, "intake", Vec::new());
        Self::over(&frame, || async { Vec::new() }, intake.routes(hides))
    }

    /// Returns the site of a whole deployment: queues, tasks, workers (Celery's too), dead letters,
    /// limits, schedules. It reads over this client, while somebody looks; tasks come in through
    /// the intake. Where the options say so it hears events all the time, and remembers them.
    ///
    /// Runs on the current tokio runtime.
    #[must_use]
    pub fn of_deployment(options: WebOptions, client: Client, intake: &Intake) -> Self {
        let place = |path, label, key| NavPlace { path, label, key };
        let (jobs, known) = (options.jobs.clone(), options.limits.clone());
        let mut nav = vec![
            place("/", "Overview", "o"),
            place("/queues", "Queues", "q"),
            place("/tasks", "Tasks", "t"),
            place("/workers", "Workers", "w"),
            place("/events", "Events", "e"),
            place("/dead", "Dead letters", "d"),
            place("/limits", "Limits", "l"),
            place("/schedules", "Schedules", "s"),
        ];
        let feed_options = FeedOptions { hide_args: options.hide_args, leaves_workers: options.leaves_events };
        let history = options.history.clone().map(History::start);
        if jobs.is_some() {
            nav.push(place("/jobs", "Jobs", "j"));
        }
        #[cfg(feature = "kafka")]
        let kafka = options.kafka.clone().map(|kafka| crate::kafka::groups::KafkaReader::start(kafka, jobs.clone()));
        #[cfg(feature = "kafka")]
        if kafka.is_some() {
            nav.push(place("/kafka", "Kafka", "k"));
        }
        nav.push(place("/settings", "Settings", "c"));
        let frame = frame(options, "dashboard", nav);
        let (feed, ends) = EventFeed::start(client.clone(), history, feed_options, frame.live.stop.clone());
        let deployment = Deployment::start(client, feed.clone(), known, frame.live.stop.clone());
        frame.notices(move || feed.notices());
        let (shown, asked) = (deployment.clone(), deployment.clone());
        let readiness = {
            move || {
                let deployment = asked.clone();
                async move { deployment.trouble().await.into_iter().collect() }
            }
        };
        let routes = [
            pages::overview::routes,
            pages::queues::routes,
            pages::tasks::routes,
            pages::times::routes,
            pages::workers::routes,
            pages::dead::routes,
            pages::limits::routes,
            pages::schedules::routes,
            pages::past::routes,
            pages::events::routes,
            flower::routes,
        ];
        let taken = intake.clone();
        let scraped = get(move || metrics::of_deployment(deployment.clone(), taken.counts()));
        let all = intake.routes(frame.guard.options.hide_args).api(scrape(), scraped);
        let all = routes.into_iter().fold(all, |all, routes| all.merge(routes(&frame, &shown)));
        let all = all.merge(pages::settings::routes(&frame, &shown, intake));
        let all = match jobs {
            Some(state) => all.merge(pages::jobs::routes(&frame, &Jobs::new(state))),
            None => all,
        };
        #[cfg(feature = "kafka")]
        let all = all.merge(kafka.map_or_else(|| pages::kafka::without(&frame), |reader| pages::kafka::routes(&frame, &reader)));
        #[cfg(not(feature = "kafka"))]
        let all = all.merge(pages::kafka::without(&frame));
        Self { ends: Some(ends), ..Self::over(&frame, readiness, all) }
    }

    /// Puts around these routes what all sites have.
    ///
    /// `troubles` says why it is not ready.
    fn over<T, F>(frame: &Arc<Frame>, troubles: T, routes: Routes) -> Self
    where
        T: Fn() -> F + Clone + Send + Sync + 'static,
        F: Future<Output = Vec<String>> + Send,
    {
        let login = get(login::show).post(login::take).with_state(frame.clone());
        let probe = |path, summary| Operation::get(path, summary).of_type("text/plain").answers("Text");
        let router = routes
            .route("/login", login)
            .route("/assets/{hash}/{name}", get(assets::serve))
            .api(probe("/healthz", "Whether the process can serve"), get(health::healthz))
            .api(probe("/readyz", "Whether work may be brought here; if not, why").refuses(&[503]), get(move || health::readyz(troubles())))
            .into_router(&frame.guard.options)
            .fallback(nothing_here);
        Self { router, guard: frame.guard.clone(), stop: frame.live.stop.clone(), actions: frame.actions.clone(), ends: None }
    }
}

/// Describes the numbers for a scrape.
fn scrape() -> Operation {
    Operation::get("/metrics", "Numbers for a scrape, as OpenMetrics text").of_type("application/openmetrics-text").answers("Text")
}

async fn nothing_here(uri: Uri) -> Response {
    let path = uri.path();
    let is_flowers = ["/api/task/", "/api/worker/"].iter().any(|beginning| path.starts_with(beginning));
    let what = if is_flowers {
        "such path: of Flower's routes those that read are here; what changes something is POST /api/v1/…, see /api/v1/openapi.json"
    } else {
        "page here"
    };
    refuse(&WebError::not_found(what), path)
}

fn frame(options: WebOptions, name: &str, nav: Vec<NavPlace>) -> Arc<Frame> {
    Arc::new(Frame::new(Arc::new(Guard::new(options)), name.to_owned(), nav))
}
