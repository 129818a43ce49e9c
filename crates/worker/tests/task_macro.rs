//! What `#[task]` makes of functions, as a program uses it.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use longshore_celery::{Map, Message, Value};
use longshore_core::{Backoff, CancelToken, LaneKind, Rate};
use longshore_worker::{Acks, App, Call, ContextParts, Failure, Handler, RateScope, Task, TaskContext, TaskPolicy, task};
use serde::{Deserialize, Serialize};

/// Adds.
#[task(crate = "longshore_worker", name = "tasks.add")]
async fn add(x: i64, #[default(10)] y: i64) -> i64 {
    x + y
}

#[task(crate = "longshore_worker")]
fn greet(name: String, #[default] greeting: String, mark: Option<char>) -> Result<String, String> {
    if name.is_empty() {
        return Err("who is there?".to_owned());
    }
    Ok(format!("{greeting}{name}{}", mark.unwrap_or('.')))
}

#[derive(Debug, Serialize, Deserialize, PartialEq)]
struct Car {
    make: String,
    price: Option<f64>,
}

mod shop {
    use super::Car;
    use longshore_worker::{Failure, TaskContext, task};

    #[task(crate = "longshore_worker")]
    pub(crate) async fn price(context: TaskContext, car: Car) -> Result<Car, Failure> {
        if context.retries() == 0 {
            return Err(context.retry());
        }
        Ok(Car { price: Some(car.make.parse()?), ..car })
    }

    #[task(
        crate = "longshore_worker",
        lane = "cpu",
        queue = "slow",
        priority = 3,
        retries = 7,
        retry_delay = "10s",
        backoff = "exp:1s..10m",
        autoretry_for = ["OSError"],
        timeout = "60s",
        soft_timeout = "50s",
        rate = "10/min",
        rate_shared,
        acks = "early",
        acks_on_failure = false,
        ignore_result,
        track_started
    )]
    pub(crate) fn everything(_context: &TaskContext) {}

    #[task(crate = "longshore_worker", lane = "process")]
    pub(crate) fn apart() {}

    #[task(crate = "longshore_worker", retries = "forever", autoretry_for = ["ConnectionError"], lane = "async")]
    pub(crate) fn r#loop(r#type: u8) -> Result<(), std::io::Error> {
        if r#type == 0 { Err(std::io::Error::from_raw_os_error(111)) } else { Ok(()) }
    }
}

const PREFIX: &str = "shop.orders";

type Reply<T> = Result<T, Failure>;

/// As `def draw(first, mark=None, *rest, unit, scale=None, **options)`.
#[task(crate = "longshore_worker", prefix = PREFIX, fallible)]
fn draw(
    first: i64,
    mark: Option<String>,
    #[args] rest: Vec<i64>,
    unit: String,
    scale: Option<i64>,
    #[kwargs] options: BTreeMap<String, bool>,
) -> Reply<String> {
    Ok(format!("{first} {mark:?} {rest:?} {unit} {scale:?} {options:?}"))
}

#[task(crate = "longshore_worker", prefix = "shop.mail", fallible)]
async fn bare() -> std::fmt::Result {
    Ok(())
}

fn context(retries: u32) -> TaskContext {
    TaskContext::new(ContextParts {
        message: Arc::new(Message { retries, ..Message::default() }),
        registry: App::new().registry().clone(),
        lane: LaneKind::Async,
        slot: 1,
        cancel: CancelToken::new(),
        soft: CancelToken::new(),
        time_limit: None,
        soft_time_limit: None,
        client: None,
        trace: None,
        node: "w@here".into(),
    })
}

async fn run(task: impl Into<Task>, retries: u32, args: Vec<Value>, kwargs: &[(&str, Value)]) -> Result<Value, Failure> {
    let kwargs = Map(kwargs.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect());
    match task.into().handler {
        Handler::Async(handler) => handler(context(retries), Call { args, kwargs }).await,
        Handler::Sync(handler) => handler(context(retries), Call { args, kwargs }),
    }
}

#[tokio::test]
async fn a_task_is_run_with_arguments_by_place_by_name_and_by_default() {
    assert_eq!(run(add, 0, vec![1.into(), 2.into()], &[]).await, Ok(3.into()));
    assert_eq!(run(add, 0, vec![1.into()], &[("y", 5.into())]).await, Ok(6.into()));
    assert_eq!(run(add, 0, vec![1.into()], &[]).await, Ok(11.into()));
    assert_eq!(run(greet, 0, vec!["Ada".into()], &[]).await, Ok("Ada.".into()));
    assert_eq!(run(greet, 0, vec![], &[("name", "Ada".into()), ("mark", "!".into())]).await, Ok("Ada!".into()));
    assert_eq!(run(shop::r#loop, 0, vec![], &[("type", 1.into())]).await, Ok(Value::Null));
}

#[tokio::test]
async fn further_arguments_are_collected() {
    assert_eq!((draw::NAME, bare::NAME), ("shop.orders.draw", "shop.mail.bare"));
    let given = [("unit", "cm".into()), ("bold", true.into())];
    assert_eq!(
        run(draw, 0, vec![1.into(), "x".into(), 3.into(), 4.into()], &given).await,
        Ok("1 Some(\"x\") [3, 4] cm None {\"bold\": true}".into())
    );
    assert_eq!(run(draw, 0, vec![1.into()], &given[..1]).await, Ok("1 None [] cm None {}".into()));
    let failure = run(draw, 0, vec![1.into()], &[]).await.unwrap_err();
    assert_eq!(failure.to_string(), "TypeError: draw() missing 1 required keyword-only argument: 'unit'");
}

/// Arguments, and those by name, that a call sends.
fn sent<R>(call: longshore_worker::Signature<R>) -> (Vec<Value>, Map) {
    let wire = call.into_wire().expect("a call that can be written");
    (wire.args, wire.kwargs)
}

#[test]
fn a_call_sends_what_it_was_given_and_nothing_for_a_none_at_its_end() {
    let unit = || Map::from_iter([("unit", "cm")]);
    let none = BTreeMap::new;
    assert_eq!(sent(draw::call(1, None, vec![], "cm", None, none())), (vec![1.into()], unit()));
    // What stands before others keeps its place.
    assert_eq!(sent(draw::call(1, None, vec![5], "cm", None, none())), (vec![1.into(), Value::Null, 5.into()], unit()));
    let all = sent(draw::call(1, Some("x".into()), vec![5], "cm", Some(2), BTreeMap::from([("bold".to_owned(), true)])));
    let kwargs = Map::from_iter([("unit", Value::from("cm")), ("scale", 2.into()), ("bold", true.into())]);
    assert_eq!(all, (vec![1.into(), "x".into(), 5.into()], kwargs));
    assert_eq!(sent(greet::call("Ada", "", None)).0, ["Ada".into(), "".into()]);
    assert_eq!(sent(add::call(1, 10)).0, [1.into(), 10.into()]);
}

#[test]
fn the_name_of_a_task_can_still_be_a_variables() {
    let add = 5;
    assert_eq!(add, 5);
}

#[tokio::test]
async fn what_goes_wrong_is_what_python_would_raise() {
    let car = |make: &str| Value::Map(Map(vec![("make".to_owned(), make.into())]));
    for (got, says) in [
        (run(add, 0, vec![], &[]).await, "TypeError: add() missing 1 required positional argument: 'x'"),
        (
            run(add, 0, vec![1.into(), 2.into(), 3.into()], &[]).await,
            "TypeError: add() takes from 1 to 2 positional arguments but 3 were given",
        ),
        (run(greet, 0, vec!["".into()], &[]).await, "RuntimeError: who is there?"),
        (run(shop::price, 1, vec![car("x")], &[]).await, "ValueError: invalid float literal"),
        (run(shop::price, 0, vec![car("x")], &[]).await, "another attempt is asked for"),
        (run(shop::r#loop, 0, vec![0.into()], &[]).await, "ConnectionRefusedError: Connection refused"),
        (run(shop::r#loop, 0, vec![], &[]).await, "TypeError: loop() missing 1 required positional argument: 'type'"),
    ] {
        assert_eq!(got.unwrap_err().to_string(), says);
    }
    let priced = Value::Map(Map(vec![("make".to_owned(), "7".into()), ("price".to_owned(), 7.0.into())]));
    assert_eq!(run(shop::price, 1, vec![car("7")], &[]).await, Ok(priced));
}

#[tokio::test]
async fn the_function_itself_is_still_there() {
    assert_eq!(add::run(1, 2).await, 3);
    assert_eq!(greet::run("Ada".to_owned(), String::new(), None), Ok("Ada.".to_owned()));
}

#[test]
fn a_call_is_typed_and_knows_its_task() {
    let sum: longshore_worker::Signature<i64> = add::call(1, 1);
    assert_eq!(sum.task(), "tasks.add");
    let car: longshore_worker::Signature<Car> = shop::price::call(Car { make: "vw".to_owned(), price: None });
    assert_eq!(car.task(), "shop.price");
    // Whatever becomes a String may be given for one.
    let hello: longshore_worker::Signature<String> = greet::call("Ada", String::from("Hello, "), None);
    assert_eq!(hello.task(), "task_macro.greet");
    assert_eq!((greet::NAME, shop::r#loop::NAME), ("task_macro.greet", "shop.loop"));
}

#[test]
fn the_attributes_are_the_policy() {
    let seconds = Duration::from_secs;
    let task = Task::from(shop::everything);
    assert_eq!((&*task.name, task.lane), ("shop.everything", LaneKind::Cpu));
    let mut policy = TaskPolicy::default();
    policy.queue = Some("slow".into());
    policy.priority = Some(3);
    policy.max_retries = Some(7);
    policy.retry_delay = seconds(10);
    policy.autoretry = Some(Backoff::Exponential { base: seconds(1), cap: seconds(600) });
    policy.autoretry_for = vec!["OSError".to_owned()];
    policy.soft_time_limit = Some(seconds(50));
    policy.time_limit = Some(seconds(60));
    policy.rate_limit = Some(Rate { count: 10.0, per: seconds(60), burst: 1 });
    policy.rate_scope = RateScope::Shared;
    policy.acks = Some(Acks::Early);
    policy.acks_on_failure = false;
    policy.ignore_result = true;
    policy.track_started = true;
    assert_eq!(task.policy, policy);
    let task = Task::from(shop::apart);
    assert_eq!((task.lane, task.policy.isolated), (LaneKind::Process, true));
    let task = Task::from(shop::r#loop);
    assert_eq!((task.policy.max_retries, task.lane), (None, LaneKind::Async));
    assert_eq!(task.policy.autoretry, Some(Backoff::Exponential { base: seconds(1), cap: seconds(600) }));
    assert_eq!((Task::from(add).lane, Task::from(greet).lane), (LaneKind::Async, LaneKind::Blocking));
    assert_eq!(Task::from(add).policy, TaskPolicy::default());
}

#[test]
fn an_app_has_what_was_registered() {
    let app = App::new().task(add).task(greet).task(shop::price);
    let ours: Vec<&str> = app.tasks().iter().map(|task| &*task.name).filter(|name| !name.starts_with("celery.")).collect();
    assert_eq!(ours, ["shop.price", "task_macro.greet", "tasks.add"]);
}
