//! A shop's tasks as a user of Celery would write them, with a worker and a client in one process
//! and an SQLite file between them: `cargo run --example from_celery`. In Python each part is said
//! in the comment above it.

use std::{collections::BTreeMap, sync::Mutex, time::Duration};

use longshore::{
    App, Client, Failure, TaskContext, Value, Worker, WorkerOptions,
    celery::{Exception, FailedRequest, control::Request},
    queue::remote,
    task,
};

/// What the tasks of this module are called: `shop.tasks.fetch`.
const PREFIX: &str = "shop.tasks";

/// Currency of invoices, which an operator can change while workers run.
static CURRENCY: Mutex<String> = Mutex::new(String::new());

/// Fetches with smaller pages, until the other side can bear them; four attempts at most.
///
/// `@app.task(bind=True, max_retries=3)`, and in it
/// `raise self.retry(args=(url, size // 2), countdown=0.05, exc=error)`
#[task(prefix = PREFIX, retries = 3)]
async fn fetch(context: TaskContext, url: String, size: u32) -> Result<String, Failure> {
    if size <= 25 {
        return Ok(format!("{url}: pages of {size}, after {} retries", context.retries()));
    }
    let error = Failure::error("TimeoutError", format!("no answer with pages of {size}"));
    let smaller = fetch::call(url, size / 2).countdown(Duration::from_millis(50)).expires_in(Duration::from_secs(60));
    Err(context.retry().with_call(smaller).because(error))
}

/// `def invoice(customer, *prices, discount=0, **notes)`
#[task(prefix = PREFIX)]
fn invoice(customer: String, #[args] prices: Vec<i64>, discount: Option<i64>, #[kwargs] notes: BTreeMap<String, String>) -> String {
    let total: i64 = prices.iter().sum::<i64>() - discount.unwrap_or(0);
    let currency = CURRENCY.lock().map(|currency| currency.clone()).unwrap_or_default();
    format!("{customer} owes {total} {currency} for {} items {notes:?}", prices.len())
}

/// Fails for good.
#[task(prefix = PREFIX)]
async fn charge(card: String, sum: i64) -> Result<(), Failure> {
    Err(Failure::error("CardDeclined", format!("{card} does not cover {sum}")).in_module("shop.errors"))
}

/// `def on_failure(request, exc, traceback)`, by `link_error`.
#[task(prefix = "shop.alarms", errback)]
async fn on_failure(
    context: TaskContext,
    request: FailedRequest,
    exception: Option<Exception>,
    _traceback: Option<String>,
) -> Result<(), Failure> {
    let task = request.task.as_deref().unwrap_or("a task");
    let error = exception.map_or_else(|| "an error".to_owned(), |exception| exception.to_string());
    let text = format!("{task} of {} failed with {error}", Value::List(request.args));
    context.send(remember::call(text).task_id(format!("alarm-{}", request.id))).await?;
    Ok(())
}

/// Keeps an alarm, as its result.
#[task(prefix = "shop.alarms")]
async fn remember(text: String) -> String {
    text
}

/// `@control_command(args=[("currency", str)])`: `longshore control set_currency currency=EUR`, or
/// `celery control`.
#[task(prefix = "shop.control")]
async fn set_currency(currency: String) -> Result<String, Failure> {
    if currency.len() != 3 {
        return Err(Failure::error("ValueError", format!("{currency} is no currency")));
    }
    let mut now = CURRENCY.lock().map_err(|_| Failure::text("its lock is broken"))?;
    Ok(std::mem::replace(&mut *now, currency))
}

/// `task_routes = {"shop.alarms.*": {"queue": "alarms", "priority": 0}}`
fn app(file: &str) -> App {
    let tasks = App::new().task(fetch).task(invoice).task(charge).task(on_failure).task(remember);
    tasks.broker(format!("sqlite:{file}")).route("shop.alarms.*", "alarms").command(set_currency)
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = tempfile::tempdir()?;
    let app = app(&folder.path().join("shop.db").display().to_string());
    // celery -A shop worker -Q celery,alarms
    let mut options = WorkerOptions::new("w1@here");
    options.queues = vec!["celery".to_owned(), "alarms".to_owned()];
    let worker = Worker::start(app.clone(), options).await?;
    let client = Client::of(&app)?;

    // fetch.delay("https://shop", 100).get()
    println!("retry     {}", client.send(fetch::call("https://shop", 100)).await?.get().await?);
    match client.send(fetch::call("https://shop", 800)).await?.get().await {
        Err(error) => println!("bounded   {error}"),
        Ok(text) => println!("bounded   {text}"),
    }

    // app.control.broadcast("set_currency", arguments={"currency": "EUR"}, reply=True)
    println!("control   {}", control(&client, "EUR").await?);
    println!("refused   {}", control(&client, "a lot").await?);

    // invoice.apply_async(("Ada", 30, 12), {"discount": 2, "paid": "no"})
    let notes = BTreeMap::from([("paid".to_owned(), "no".to_owned())]);
    println!("args      {}", client.send(invoice::call("Ada", vec![30, 12], Some(2), notes)).await?.get().await?);

    // charge.apply_async(("1234", 40), link_error=on_failure.s())
    let charged = client.send(charge::call("1234", 40).link_error(on_failure::signature())).await?;
    if let Err(error) = charged.get().await {
        println!("failed    {error}");
    }
    let alarm: String = client.result(format!("alarm-{}", charged.id())).get().await?.to()?;
    println!("errback   {alarm}");
    println!("route     {} goes to {}", remember::NAME, app.settings().queue_of(remember::NAME));

    worker.stopper().warm();
    let counts = worker.join().await.counts;
    println!("worker    {} ok, {} retries, {} failed", counts.ok, counts.retries, counts.failed);
    Ok(())
}

/// Tells the worker, and returns what it replies.
async fn control(client: &Client, currency: &str) -> Result<Value, Box<dyn std::error::Error>> {
    let request = Request::new("set_currency").argument("currency", currency).to(["w1@here"]);
    loop {
        // It listens soon after it has started.
        let replies = remote::ask(client.connected(), request.clone(), remote::PATIENCE).await?;
        if let Some((_, reply)) = replies.into_iter().next() {
            return Ok(reply);
        }
    }
}
