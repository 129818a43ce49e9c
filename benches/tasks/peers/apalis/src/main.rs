//! apalis-redis for `benches/tasks/peers.sh`: `peer-apalis publish|worker URL QUEUE COUNT|default|tuned`.
use apalis::prelude::*;
use apalis_redis::{Config, RedisStorage};

async fn noop(_: u64) -> Result<(), BoxDynError> {
    Ok(())
}

#[tokio::main(worker_threads = 2)]
async fn main() -> Result<(), BoxDynError> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [what, url, queue, how] = args.as_slice() else {
        return Err("publish|worker URL QUEUE COUNT|default|tuned".into());
    };
    let conn = apalis_redis::connect(url.as_str()).await?;
    let mut config = Config::default().queue(queue);
    if how == "tuned" {
        // Larger batches, and no lock a task, which looks through all that waits: what a worker holds is in its set of tasks in flight all the same,
        // and others take that over when it dies. `persist_results` stays on: without it, a task is never acknowledged.
        config = config.batch_size(100).lock_tasks(false);
    }
    let mut storage = RedisStorage::<u64>::new(conn).with_config(config);
    if what == "publish" {
        let count: u64 = how.parse()?;
        for from in (0..count).step_by(1_000) {
            storage.push_bulk((from..count.min(from + 1_000)).collect::<Vec<_>>()).await?;
        }
        return Ok(());
    }
    WorkerBuilder::new("bench").backend(storage).build(noop).run().await?;
    Ok(())
}
