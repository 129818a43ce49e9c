//! Pages of queues that are long: what they cost does not grow with what waits.
#![expect(clippy::unwrap_used, reason = "a test")]

mod filled;
mod http;

use filled::{QUEUE, fill_redis, fill_sqlite};
use http::ask;
use longshore_testkit::servers::Redis;
use longshore_web::{Intake, IntakeOptions, Serving, Site, WebOptions, WebServer};
use longshore_worker::{Client, Settings};

/// Messages that wait in a long queue, and in a short one.
const LONG: usize = 100_000;
const SHORT: usize = 100;
/// Times that each page is asked for.
const ASKED: u64 = 10;

async fn dashboard(client: &Client) -> Serving {
    let options = WebOptions::default();
    let server = WebServer::bind("127.0.0.1:0", &options).await.unwrap();
    server.serve(Site::of_deployment(options, client.clone(), &Intake::new(client.clone(), IntakeOptions::default())))
}

/// Asks for both pages, and returns the bytes of the queue's own.
async fn look(serving: &Serving, messages: usize) -> usize {
    let count = if messages == LONG { "100,000" } else { "100" };
    let list = ask(serving.address(), "GET", "/queues", "", "").await;
    assert!(list.status == 200 && list.body.contains(&format!(">{count}")), "{}", list.body);
    let page = ask(serving.address(), "GET", &format!("/queues/{QUEUE}"), "", "").await;
    assert!(page.body.contains(&format!("<b>{count}</b> waiting")), "{}", page.body);
    // Only those that are next are shown.
    assert!(page.body.contains("task-0000000") && page.body.contains("task-0000019") && !page.body.contains("task-0000020"));
    page.body.len()
}

/// Commands that a server has done since its counts were reset, those in scripts too, and the bytes
/// that it has sent.
fn cost(redis: &Redis) -> (u64, u64) {
    let commands = redis.command(&["INFO", "commandstats"]);
    let calls = commands.lines().filter_map(|line| line.split_once(":calls=")?.1.split(',').next()?.parse::<u64>().ok()).sum();
    let stats = redis.command(&["INFO", "stats"]);
    let sent = stats.lines().find_map(|line| line.strip_prefix("total_net_output_bytes:")?.trim().parse().ok()).expect("a count");
    (calls, sent)
}

async fn cost_of(messages: usize) -> Option<(u64, u64, usize)> {
    let redis = Redis::start(&[])?;
    let client = Client::connect(&Settings::new(redis.url())).unwrap();
    fill_redis(&redis, &client, messages).await;
    let serving = dashboard(&client).await;
    // The first look asks for more than those that follow.
    look(&serving, messages).await;
    redis.command(&["CONFIG", "RESETSTAT"]);
    let mut bytes = 0;
    for _ in 0..ASKED {
        bytes = look(&serving, messages).await;
    }
    let (calls, sent) = cost(&redis);
    serving.stop().await;
    Some((calls, sent, bytes))
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_of_a_long_queue_ask_redis_for_no_more_than_those_of_a_short_one() {
    let Some((calls, sent, bytes)) = cost_of(SHORT).await else { return };
    let (calls_long, sent_long, bytes_long) = cost_of(LONG).await.unwrap();
    // A reader beside the pages looks by the clock, a few times more or less.
    assert!(calls_long <= calls + 20 * ASKED, "{calls} commands, and {calls_long} where {LONG} wait");
    assert!(sent_long <= 2 * sent + 50_000, "{sent} bytes, and {sent_long} where {LONG} wait");
    // Numbers are longer, those at the chart's axis, too.
    assert!(bytes_long <= bytes + 300, "a page of {bytes} bytes, and of {bytes_long}");
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_of_a_long_queue_in_a_file_show_its_length_and_what_is_next() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tasks.db");
    let client = Client::connect(&Settings::new(format!("sqlite:{}", path.display()))).unwrap();
    fill_sqlite(&path, &client, LONG).await;
    let serving = dashboard(&client).await;
    look(&serving, LONG).await;
    serving.stop().await;
}
