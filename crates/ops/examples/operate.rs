//! Asks about a queue on an SQLite file, and changes it:
//! `cargo run -p longshore-ops --example operate`.

use longshore_ops::{
    queues::{self, PeekRequest, QueueAction, QueueDone, QueuesRequest},
    tasks::{self, CancelRequest, TasksRequest},
    why::{WhyRequest, why},
};
use longshore_worker::{Client, Settings, Signature};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = tempfile::tempdir()?;
    let broker = format!("sqlite:{}", folder.path().join("tasks.db").display());
    let client = Client::connect(&Settings::new(broker))?;
    for n in 1..=3 {
        let task: Signature = Signature::named("shop.add").arg(&n).arg(&n).task_id(format!("task-{n}"));
        client.send(task).await?;
    }

    // Nobody serves the queue, and then it is paused.
    let reason = |answers: Vec<longshore_ops::why::WhyAnswer>| answers.into_iter().next().and_then(|answer| answer.reason);
    println!("task-2 waits: {:?}", reason(why(&client, &WhyRequest::new("task-2")).await?));
    queues::act(&client, &QueueAction::Pause { queue: "celery".into(), by: "example".into() }).await?;
    println!("task-2 waits: {:?}", reason(why(&client, &WhyRequest::new("task-2")).await?));
    for message in queues::peek(&client, &PeekRequest::new("celery")).await? {
        println!("next: {} {}{}", message.id, message.task, message.args);
    }

    // One is called off; it is dropped when its turn comes.
    let found = tasks::list(&client, &TasksRequest::ids(["task-3"])).await?.tasks;
    let done = tasks::cancel(&client, &CancelRequest::of(found, &[])).await?;
    println!("called off: {}, refused: {}", done.called_off.len(), done.refused.len());

    // The others go to another queue, as JSON for whoever wants that.
    let moved = queues::act(&client, &QueueAction::Move { from: "celery".into(), to: "spare".into() }).await?;
    assert_eq!(moved, QueueDone::Moved { from: "celery".into(), to: "spare".into(), moved: 3 });
    for queue in queues::list(&client, &QueuesRequest::default()).await? {
        println!("{}", serde_json::to_string(&queue)?);
    }
    Ok(())
}
