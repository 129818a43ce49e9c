//! Workers and servers that are killed, again and again under load: whatever was confirmed to its
//! sender has its effect, and what runs twice was running, or on its way to its end, at a kill.

mod field;

use std::time::Duration;

use longshore_testkit::rabbit::RabbitServer;

use self::field::{Field, LOAD, Results, worker_of};

/// Queues and places of results.
const ALL: [(&str, Results); 6] = [
    ("", Results::File),
    ("?queue_type=quorum", Results::File),
    ("", Results::Redis),
    ("?queue_type=quorum", Results::Redis),
    ("", Results::Nowhere),
    ("?queue_type=quorum", Results::Nowhere),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a part of the others, which start it"]
async fn in_a_process_of_its_own() {
    worker_of(|name| std::env::var(name).ok()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_is_killed_loses_nothing() {
    kill_workers(&[ALL[0], ALL[5]], 2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "long: 100 rounds; run by hand"]
async fn a_worker_that_is_killed_100_times_loses_nothing() {
    // 17, 16 and 17 with classic queues, as many with quorum queues.
    for (scenes, rounds) in [(&ALL[..2], 17), (&ALL[2..4], 16), (&ALL[4..], 17)] {
        kill_workers(scenes, rounds).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_killed_loses_nothing() {
    kill_servers(&[ALL[4], ALL[1]], 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "long: 20 times a server's start; run by hand"]
async fn a_server_that_is_killed_20_times_loses_nothing() {
    // 4, 2 and 4 with classic queues, as many with quorum queues.
    for (scenes, rounds) in [(&ALL[..2], 4), (&ALL[2..4], 2), (&ALL[4..], 4)] {
        kill_servers(scenes, rounds).await;
    }
}

/// Kills one of two workers in each round, while it runs something.
async fn kill_workers(scenes: &[(&str, Results)], rounds: i64) {
    let Some(server) = RabbitServer::start(&[]) else { return };
    for (options, results) in scenes {
        let Some(mut field) = Field::new(&server.vhost(), options, *results) else { return };
        field.warm_up(&server).await;
        let mut busy = 0;
        for _ in 0..rounds {
            field.both_serve(&server).await;
            let tags = field.next_tags();
            let send_twice = field.send(tags.clone(), LOAD).await;
            assert!(send_twice.is_empty(), "the server is there: {send_twice:?}");
            busy += i64::from(field.replace_the_oldest_worker().await);
            field.all_ended(tags).await;
        }
        field.sum_up(&server, &format!("{rounds} times kill -9 of a worker")).await;
        // It was under load.
        assert!(busy * 3 > rounds, "{busy} of {rounds} ran something");
    }
}

/// Kills the server in each round, while something is being sent, run and ended.
async fn kill_servers(scenes: &[(&str, Results)], rounds: i64) {
    let Some(mut server) = RabbitServer::start(&[]) else { return };
    for (options, results) in scenes {
        let Some(mut field) = Field::new(&server.vhost(), options, *results) else { return };
        field.warm_up(&server).await;
        // RabbitMQ writes down within half a second which quorum queues it has. One whose server is
        // killed before that is lost, with all that it has confirmed.
        server.eval("dets:sync(ra_directory_reverse).");
        for _ in 0..rounds {
            let tags = field.next_tags();
            // Few at a time, so that sending takes a while.
            let sending = field.send(tags.clone(), 4);
            let killing = async {
                tokio::time::sleep(Duration::from_millis(fastrand::u64(5..100))).await;
                let restart = tokio::task::spawn_blocking(move || {
                    server.restart();
                    server
                });
                restart.await.unwrap()
            };
            let (sent_again, again) = tokio::join!(sending, killing);
            server = again;
            field.note_sent_again(sent_again);
            field.note_lost_connections();
            field.all_ended(tags).await;
        }
        field.sum_up(&server, &format!("{rounds} times kill -9 of the server")).await;
    }
}
