//! A client and what it gets back, over the broker in memory; the test stands in for the worker.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use futures_util::stream;
use longshore_brokers::{Claimed, Consumer, End, Finish, Key, News, Notice, OpenOptions, Stored};
use longshore_celery::{Exception, Limits, Message, State, TaskResult, Value};
use longshore_core::ErrorKind;
use longshore_worker::{App, Client, ClientError, Settings, Signature, Task, Worker, WorkerOptions, chain, chord, group};

fn client(name: &str) -> Client {
    Client::connect(&Settings::new(format!("memory://{name}"))).unwrap()
}

fn add(x: i64, y: i64) -> Signature<i64> {
    Signature::named("tasks.add").arg(&x).arg(&y).returns()
}

async fn consumer(client: &Client, queue: &str) -> Arc<dyn Consumer> {
    let mut options = OpenOptions::new("test@here", [queue]);
    options.lease = Duration::from_secs(30);
    client.broker().open(options).await.unwrap()
}

/// The next messages, decoded.
async fn take(consumer: &Arc<dyn Consumer>, count: usize) -> Vec<(Claimed, Message)> {
    let mut claimed = Vec::new();
    while claimed.len() < count {
        consumer.claim(count - claimed.len(), &mut claimed).await.unwrap();
    }
    claimed.into_iter().map(|claimed| (claimed.clone(), Message::decode(&claimed.raw, &Limits::default()).unwrap())).collect()
}

async fn end(consumer: &Arc<dyn Consumer>, claimed: &Claimed, result: TaskResult) {
    let stored = Stored { key: Key::Task(result.task_id.clone()), doc: result.encode(), expires: None, keep_success: true, reply_to: None };
    let finish = Finish { receipt: claimed.receipt, publish: Vec::new(), results: vec![stored], part: None, end: End::Ack };
    consumer.finish(&[finish]).await.unwrap();
}

fn success(message: &Message, result: impl Into<Value>) -> TaskResult {
    TaskResult { task_id: message.id.clone(), state: State::Success, result: result.into(), ..TaskResult::default() }
}

fn failure(message: &Message, state: State) -> TaskResult {
    let result = Exception::builtin("ValueError", "kaboom").to_value();
    TaskResult { task_id: message.id.clone(), state, result, traceback: Some("there".to_owned()), ..TaskResult::default() }
}

fn sum(message: &Message) -> i64 {
    message.args.iter().filter_map(Value::as_i64).sum()
}

#[tokio::test]
async fn a_call_reaches_its_queue_and_its_result_the_caller_before_and_after_it_asks() {
    let client = client("a-call");
    let answer = client.send(add(1, 1)).await.unwrap();
    assert_eq!(answer.state().await.unwrap(), State::Pending);
    let consumer = consumer(&client, "celery").await;
    let asking = tokio::spawn({
        let answer = answer.clone();
        async move { answer.get().await }
    });
    tokio::task::yield_now().await;
    let taken = take(&consumer, 1).await;
    let (claimed, message) = &taken[0];
    assert_eq!((message.task.as_str(), message.id.as_str(), &message.args[..]), ("tasks.add", answer.id(), &[1.into(), 1.into()][..]));
    assert_eq!((message.root_id.as_deref(), message.parent_id.as_deref()), (Some(answer.id()), None));
    assert_eq!((message.argsrepr.as_deref(), message.kwargsrepr.as_deref()), (Some("(1, 1)"), Some("{}")));
    assert!(message.origin.as_deref().unwrap().starts_with(&format!("gen{}@", std::process::id())));
    // A state that is not final is no result.
    let progress = TaskResult { state: State::Other("PROGRESS".to_owned()), ..success(message, 50) };
    let stored = Stored { key: Key::Task(message.id.clone()), doc: progress.encode(), expires: None, keep_success: true, reply_to: None };
    client.results().store(&[stored]).await.unwrap();
    assert_eq!(answer.state().await.unwrap(), State::Other("PROGRESS".to_owned()));
    end(&consumer, claimed, success(message, sum(message))).await;
    assert_eq!(asking.await.unwrap().unwrap(), 2);
    assert_eq!(answer.get().await.unwrap(), 2);
    assert_eq!(client.result(answer.id()).get().await.unwrap(), Value::Int(2));
    assert_eq!(answer.state().await.unwrap(), State::Success);
    answer.forget().await.unwrap();
    assert_eq!(answer.state().await.unwrap(), State::Pending);
}

#[tokio::test]
async fn a_failure_comes_back_with_its_type_and_arguments() {
    let client = client("a-failure");
    for state in [State::Failure, State::Revoked] {
        let answer = client.send(add(1, 1)).await.unwrap();
        let consumer = consumer(&client, "celery").await;
        let taken = take(&consumer, 1).await;
        end(&consumer, &taken[0].0, failure(&taken[0].1, state.clone())).await;
        let error = answer.get().await.unwrap_err();
        assert_eq!(error.exception(), Some(&Exception::builtin("ValueError", "kaboom")));
        let ClientError::Remote(remote) = error else { panic!() };
        assert_eq!((remote.state, remote.traceback.as_deref(), remote.id.as_str()), (state, Some("there"), answer.id()));
        // In a task it passes on as the same exception.
        let passed = longshore_worker::Failure::from(answer.get().await.unwrap_err());
        assert_eq!(passed.exc_type(), Some("ValueError"));
    }
}

#[tokio::test(start_paused = true)]
async fn waiting_has_the_limit_that_it_is_given() {
    let answer = client("a-limit").send(add(1, 1)).await.unwrap();
    let error = answer.get_within(Duration::from_secs(5)).await.unwrap_err();
    assert!(matches!(&error, ClientError::TimedOut { waited, .. } if *waited == Duration::from_secs(5)), "{error}");
}

#[tokio::test(start_paused = true)]
async fn whoever_waits_on_a_copy_of_an_answer_is_told_that_nobody_serves_its_queue() {
    let told: Arc<Mutex<Vec<String>>> = Arc::default();
    let heard = told.clone();
    let app =
        App::new().broker("memory://copied").told(Arc::new(move |news: &News| heard.lock().unwrap().push(news.to_string())) as Notice);
    let answer = Client::of(&app).unwrap().send(add(1, 1).queue("nobodys")).await.unwrap();
    answer.clone().get_within(Duration::from_secs(3)).await.unwrap_err();
    assert_eq!(told.lock().unwrap().len(), 1, "{told:?}");
}

#[tokio::test(start_paused = true)]
async fn whoever_waits_for_what_nobody_will_run_is_told_after_two_seconds_and_waits_on() {
    let told: Arc<Mutex<Vec<String>>> = Arc::default();
    let heard = told.clone();
    let app = App::new().broker("memory://doubt").told(Arc::new(move |news: &News| heard.lock().unwrap().push(news.to_string())) as Notice);
    let client = Client::of(&app).unwrap();
    let seconds = Duration::from_secs;
    let answer = client.send(add(1, 1).queue("nobodys")).await.unwrap();
    answer.get_within(Duration::from_millis(1_900)).await.unwrap_err();
    assert!(told.lock().unwrap().is_empty(), "not yet");
    // However many wait.
    let many = client.send_all(futures_util::stream::iter([add(1, 1).queue("nobodys"), add(2, 2).queue("nobodys")])).next().await;
    let another = many.unwrap().1.unwrap();
    let limit = Duration::from_millis(2_100);
    let (first, second) = tokio::join!(answer.get_within(limit), another.get_within(limit));
    assert!(first.is_err() && second.is_err());
    // Either of them is told for both.
    let texts = [&answer, &another].map(|answer| {
        let id = answer.id();
        format!("no worker that answers serves queue nobodys, which task {id} was sent to (longshore worker -Q nobodys); waiting on")
    });
    let heard = told.lock().unwrap().clone();
    assert!(heard.len() == 1 && texts.contains(&heard[0]), "{heard:?}");
    // Of a chain it is the first that waits.
    let chained = client.send(chain([add(1, 1).queue("nobody's, either"), add(2, 2)])).await.unwrap();
    chained.get_within(seconds(3)).await.unwrap_err();
    assert!(told.lock().unwrap()[1].contains("serves queue nobody's, either, which"), "{told:?}");
    // A worker serves the queue, and is slow.
    let mut options = WorkerOptions::new("w@test");
    options.queues = vec!["served".to_owned()];
    let slow = Task::future("tasks.add", |_, _| async {
        tokio::time::sleep(Duration::from_secs(10)).await;
        Ok(Value::Null)
    });
    options.lanes = [1; 4];
    let worker = Worker::start(app.clone().task(slow), options).await.unwrap();
    let both = client.send(group([add(1, 1).queue("served"), add(2, 2).queue("served")])).await.unwrap();
    both.get_within(seconds(5)).await.unwrap_err();
    assert_eq!(told.lock().unwrap().len(), 2, "{told:?}");
    worker.stopper().cold();
    worker.join().await;
}

#[tokio::test]
async fn a_result_of_another_type_is_an_error_that_says_so() {
    let client = client("a-type");
    let answer = client.send(add(1, 1)).await.unwrap();
    let consumer = consumer(&client, "celery").await;
    let taken = take(&consumer, 1).await;
    end(&consumer, &taken[0].0, success(&taken[0].1, "two")).await;
    assert!(matches!(answer.get().await.unwrap_err(), ClientError::Unreadable { .. }));
    assert_eq!(answer.returns::<String>().get().await.unwrap(), "two");
}

#[tokio::test]
async fn options_travel_in_the_message() {
    let mut settings = Settings::new("memory://options");
    settings.routes = vec![("tasks.*".to_owned(), "routed".into())];
    let client = Client::connect(&settings).unwrap();
    let consumer = consumer(&client, "routed").await;
    let signature = add(1, 1)
        .kwarg("z", &3)
        .header("x-trace", "abc")
        .priority(3)
        .ignore_result()
        .expires_in(Duration::from_secs(60))
        .time_limit(Duration::from_secs(9))
        .soft_time_limit(Duration::from_secs(8))
        .link(add(1, 1))
        .link_error(Signature::named("tasks.alarm"));
    client.send(signature.clone()).await.unwrap();
    let message = take(&consumer, 1).await.remove(0).1;
    assert_eq!(message.kwargs.get("z"), Some(&Value::Int(3)));
    assert_eq!(message.headers.get("x-trace"), Some(&Value::from("abc")));
    assert_eq!((message.priority, message.ignore_result), (Some(3), Some(true)));
    assert_eq!((message.time_limit, message.soft_time_limit), (Some(Duration::from_secs(9)), Some(Duration::from_secs(8))));
    assert!(message.expires.is_some());
    assert_eq!((message.callbacks[0].task.as_str(), message.errbacks[0].task.as_str()), ("tasks.add", "tasks.alarm"));
    assert_eq!(message.routing_key, "routed");
    // A queue of the call's own goes before the route.
    client.send(signature.queue("other").countdown(Duration::from_secs(60))).await.unwrap();
    let states = client.broker().queues(&["other".into()]).await.unwrap();
    assert_eq!(states[0].waiting + states[0].later, 1);
}

#[tokio::test]
async fn a_group_gives_its_results_in_order_and_as_they_come() {
    let client = client("a-group");
    let consumer = consumer(&client, "celery").await;
    let answer = client.send(group([add(1, 1), add(2, 2), add(3, 3)])).await.unwrap();
    answer.save().await.unwrap();
    let mut taken = take(&consumer, 3).await;
    assert!(taken.iter().all(|(_, message)| message.group.as_deref() == Some(answer.id())));
    taken.sort_by_key(|(_, message)| sum(message));
    let mut coming = answer.as_completed().await.unwrap();
    for place in [2, 0, 1] {
        assert_eq!(answer.state().await.unwrap(), State::Pending);
        let (claimed, message) = &taken[place];
        end(&consumer, claimed, success(message, sum(message))).await;
        let (came, result) = coming.next().await.unwrap().unwrap();
        assert_eq!((came, result.unwrap()), (place, sum(message)));
    }
    assert!(coming.next().await.unwrap().is_none());
    assert_eq!(answer.get().await.unwrap(), [2, 4, 6]);
    assert_eq!(answer.state().await.unwrap(), State::Success);
    let again = client.restore::<i64>(answer.id()).await.unwrap().unwrap();
    assert_eq!(again.get().await.unwrap(), [2, 4, 6]);
    assert_eq!(again.members()[1].get().await.unwrap(), 4);
    again.forget().await.unwrap();
    assert!(client.restore::<i64>(answer.id()).await.unwrap().is_none());
}

#[tokio::test]
async fn a_group_fails_as_soon_as_a_member_does() {
    let client = client("a-failing-group");
    let consumer = consumer(&client, "celery").await;
    let answer = client.send(group([add(1, 1), add(2, 2)])).await.unwrap();
    let taken = take(&consumer, 2).await;
    end(&consumer, &taken[1].0, failure(&taken[1].1, State::Failure)).await;
    assert!(matches!(answer.get().await.unwrap_err(), ClientError::Remote(_)));
    assert_eq!(answer.state().await.unwrap(), State::Failure);
}

#[tokio::test]
async fn a_chain_is_waited_for_at_its_end_and_fails_with_its_first_part() {
    let client = client("a-chain");
    let consumer = consumer(&client, "celery").await;
    let answer = client.send(chain([add(1, 1), add(2, 2).immutable()])).await.unwrap();
    let first = answer.parent().unwrap();
    let (claimed, message) = take(&consumer, 1).await.remove(0);
    assert_eq!(message.id, first.id());
    assert_eq!(message.chain.as_ref().map(Vec::len), Some(1));
    end(&consumer, &claimed, failure(&message, State::Revoked)).await;
    let ClientError::Remote(remote) = answer.get().await.unwrap_err() else { panic!() };
    assert_eq!(remote.id, first.id());
}

#[tokio::test]
async fn a_chords_size_is_known_before_its_parts_are_sent() {
    let client = client("a-chord");
    let consumer = consumer(&client, "celery").await;
    let body: Signature<i64> = Signature::named("tasks.sum").returns();
    client.send(chord([add(1, 1), add(2, 2)], body)).await.unwrap();
    let (_, message) = take(&consumer, 1).await.remove(0);
    assert_eq!(message.chord.as_ref().map(|body| body.task.as_str()), Some("tasks.sum"));
}

#[tokio::test]
async fn many_are_sent_in_order_and_refused_ones_come_back_with_their_place() {
    let client = client("many");
    let consumer = consumer(&client, "celery").await;
    let bad = || Signature::<Value>::named("tasks.bad").arg(&BTreeMap::from([((1, 1), 1)])).returns::<i64>();
    let signatures = (0..600_i64).map(|n| if n % 250 == 100 { bad() } else { add(n, 0) });
    let report = client.send_all(futures_util::stream::iter(signatures)).finish().await;
    assert_eq!(report.sent, 598);
    let places: Vec<u64> = report.refused.iter().map(|(place, _)| *place).collect();
    assert_eq!(places, [100, 350]);
    assert!(report.refused.iter().all(|(_, refused)| refused.signature.task() == "tasks.bad"));
    let taken = take(&consumer, 598).await;
    let numbers: Vec<i64> = taken.iter().map(|(_, message)| sum(message)).collect();
    assert!(numbers.is_sorted());
}

#[tokio::test]
async fn what_was_written_out_when_the_broker_went_away_is_refused_with_it() {
    let settings = Settings::new("redis://127.0.0.1:1/0?patience=0.2");
    let client = Client::connect(&settings).unwrap();
    let mut taken = 0;
    let signatures = (0..1000).map(|n| add(n, 0)).inspect(|_| taken += 1);
    let report = client.send_all(futures_util::stream::iter(signatures)).finish().await;
    assert_eq!((report.sent, taken), (0, 256), "nothing is taken any more");
    let places: Vec<u64> = report.refused.iter().map(|(place, _)| *place).collect();
    assert_eq!(places, (0..256).collect::<Vec<_>>());
}

#[tokio::test]
async fn no_more_is_taken_from_a_stream_than_is_asked_for() {
    let client = client("back-pressure");
    let mut taken = 0;
    let signatures = (0..1000).map(|n| add(n, 0)).inspect(|_| taken += 1);
    let mut sending = client.send_all(futures_util::stream::iter(signatures));
    for place in 0..256 {
        assert_eq!(sending.next().await.map(|(place, sent)| (place, sent.is_ok())), Some((place, true)));
    }
    drop(sending);
    // What was sent, and what was written out meanwhile.
    assert_eq!(taken, 256 + 128);
    assert_eq!(client.broker().queues(&["celery".into()]).await.unwrap()[0].waiting, 256);
}

/// A worker could only fail the task whose link it is, long after.
#[tokio::test]
async fn a_part_whose_queue_no_queue_may_be_is_refused_when_it_is_sent_and_nothing_is() {
    let client = client("reserved");
    let task = || Signature::<Value>::named("tasks.add");
    let bad = || Signature::<Value>::named("bad").queue("unacked");
    let rows = [
        ("link[0]", task().link(bad())),
        ("link[0].link_error[0]", task().link(task().link_error(bad()))),
        ("body", chord([task(), task()], bad())),
        ("tasks[1].link[0]", chain([task(), task().link(bad())])),
    ];
    for (place, signature) in rows {
        let refused = |error: &ClientError| match error {
            ClientError::Broker(error) => {
                let text = error.to_string();
                error.kind == ErrorKind::Refused && text.starts_with(&format!("{place} (bad): no queue may be named unacked:"))
            }
            _ => false,
        };
        let error = client.send(signature.clone()).await.unwrap_err();
        assert!(refused(&error), "{place}: {error}");
        let sent = client.send_all(stream::iter([task(), signature, task()])).finish().await;
        assert_eq!((sent.sent, sent.refused.len(), sent.refused[0].0), (2, 1, 1), "{place}");
        assert!(refused(&sent.refused[0].1.error), "{place}: {}", sent.refused[0].1.error);
        assert_eq!(client.broker().purge("celery").await.unwrap(), 2, "{place}");
    }
    assert!(client.connected().inspect().unwrap().peek("unacked", 9).await.unwrap().is_empty());
}
