//! Schedulers on a real RabbitMQ, with due times in a file and in a message of the server's own.

use std::{sync::Arc, time::Duration};

use longshore_brokers::Broker;
use longshore_core::CancelToken;
use longshore_testkit::rabbit;
use longshore_worker::{App, Client, MissedPolicy, Schedule, Scheduler, SchedulerEvent, SchedulerOptions, Signature, Timing};
use tokio::sync::mpsc;

const SOON: Duration = Duration::from_secs(60);

fn often(name: &str, queue: &str) -> Schedule {
    let timing = Timing::every(Duration::from_millis(500)).unwrap();
    Schedule::new(name, Signature::named("t").queue(queue), timing).unwrap().missed(MissedPolicy::All(1000))
}

async fn waiting(broker: &dyn Broker, queue: &str) -> u64 {
    broker.queues(&[queue.into()]).await.unwrap().iter().map(|state| state.waiting).sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_queue_that_refuses_holds_up_its_own_schedules_alone() {
    let directory = tempfile::tempdir().unwrap();
    for results in [None, Some(format!("sqlite:{}?sync=normal", directory.path().join("results.db").display()))] {
        let Some(url) = rabbit::vhost() else { return };
        let (server, vhost) = (rabbit::shared().unwrap(), url.rsplit('/').next().unwrap().to_owned());
        let policy = "{\"max-length\": 1, \"overflow\": \"reject-publish\"}";
        server.ctl(&["set_policy", "-p", &vhost, "full", "^full$", policy]);
        let app = App::new().broker(&url).schedule(often("a", "full")).schedule(often("b", "ticks"));
        let app = results.iter().fold(app, |app, results| app.results(results));
        let (tell, mut events) = mpsc::unbounded_channel();
        let mut options = SchedulerOptions::new("s@test");
        options.told = Arc::new(move |event| drop(tell.send(event.clone())));
        let (stop, client) = (CancelToken::new(), Client::of(&app).unwrap());
        let broker = longshore_brokers::connect(&url, None).unwrap().broker;
        let scheduler = tokio::spawn(Scheduler::over(&app, client, options).unwrap().run(stop.clone()));
        let mut hears = async |what: &str, is: &dyn Fn(&SchedulerEvent) -> bool| loop {
            let event = tokio::time::timeout(SOON, events.recv()).await.unwrap_or_else(|_| panic!("{what}")).unwrap();
            assert!(!matches!(event, SchedulerEvent::Away { .. }), "{event}");
            if is(&event) {
                return;
            }
        };
        hears("it is held", &|event| matches!(event, SchedulerEvent::QueueHeld { name, queue, .. } if name == "a" && queue == "full"))
            .await;
        for _ in 0..6 {
            hears("b is sent", &|event| matches!(event, SchedulerEvent::Sent { name, .. } if name == "b")).await;
        }
        assert_eq!(waiting(&*broker, "full").await, 1);
        server.ctl(&["clear_policy", "-p", &vhost, "full"]);
        hears("it is back", &|event| matches!(event, SchedulerEvent::QueueBack { queue } if queue == "full")).await;
        for _ in 0..4 {
            hears("a is sent", &|event| matches!(event, SchedulerEvent::Sent { name, .. } if name == "a")).await;
        }
        stop.cancel();
        scheduler.await.unwrap().unwrap();
    }
}
