//! A worker on a broker: what becomes of messages.
//!
//! Each case runs on memory and on the rehearsal of RabbitMQ, whose results are in a file. What
//! needs a half that the rehearsal lacks stands in `looks.rs`:
//! - a worker with a full lane looks ahead for tasks of Celery's own (`Inspect::look_ahead`). On a
//!   broker that shows nothing they wait for their turn.
#![expect(clippy::unwrap_used, reason = "a test")]

mod memory {
    fn connected(name: &str) -> Connected {
        longshore_brokers::connect(&format!("memory://{name}"), None).unwrap()
    }

    include!("cases.rs");
    include!("looks.rs");
}

mod rehearsal {
    fn connected(name: &str) -> Connected {
        // One folder for the process, and a file in it for each test.
        static FOLDER: std::sync::OnceLock<tempfile::TempDir> = std::sync::OnceLock::new();
        let folder = FOLDER.get_or_init(|| tempfile::tempdir().unwrap()).path();
        let store = longshore_brokers::connect(&format!("sqlite:{}?sync=normal", folder.join(format!("{name}.db")).display()), None);
        longshore_brokers::rehearsal::Rehearsal::open(name).beside(store.unwrap())
    }

    include!("cases.rs");

    #[tokio::test]
    async fn a_task_whose_connection_is_lost_runs_again_and_its_first_end_is_too_late() {
        let (task, mut begun, open) = gated("wait");
        let bench = Bench::new("connection-lost", [task]).await;
        let id = bench.send(call("wait", vec![])).await;
        begun.recv().await.unwrap();
        longshore_brokers::rehearsal::Rehearsal::open("connection-lost").lose_connections();
        // It was delivered again, while the first attempt runs.
        tokio::time::timeout(Duration::from_secs(20), begun.recv()).await.unwrap().unwrap();
        open.add_permits(2);
        assert_eq!(bench.result(&id).await.state, State::Success);
        let connected = bench.connected.clone();
        let summary = bench.stop().await;
        assert_eq!((summary.counts.ok, summary.counts.late, summary.error), (1, 1, None));
        assert_eq!(left(&connected).await, (0, 0));
    }

    #[tokio::test]
    async fn what_ends_too_late_leaves_the_result_of_whoever_has_the_message_now() {
        let gates = [Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0))];
        let (attempts, opened) = (Arc::new(AtomicU32::new(0)), gates.clone());
        let (started, mut begun) = mpsc::unbounded_channel();
        // The first attempt succeeds, the second one fails.
        let task = Task::future("wait", move |_, _| {
            let attempt = attempts.fetch_add(1, Ordering::SeqCst);
            let (started, gate) = (started.clone(), opened[attempt as usize].clone());
            async move {
                let _ = started.send(());
                gate.acquire().await.unwrap().forget();
                if attempt == 0 { Ok(Value::Null) } else { Err(Failure::error("ValueError", "the second one")) }
            }
        });
        let bench = Bench::new("too-late", [task]).await;
        let id = bench.send(call("wait", vec![])).await;
        begun.recv().await.unwrap();
        longshore_brokers::rehearsal::Rehearsal::open("too-late").lose_connections();
        tokio::time::timeout(Duration::from_secs(20), begun.recv()).await.unwrap().unwrap();
        gates[1].add_permits(1);
        assert_eq!(bench.result(&id).await.state, State::Failure);
        gates[0].add_permits(1);
        let results = bench.results.clone();
        let summary = bench.stop().await;
        assert_eq!((summary.counts.failed, summary.counts.late, summary.error), (1, 1, None));
        let stored = results.get(&[Key::Task(id)]).await.unwrap().pop().flatten().unwrap();
        assert_eq!(TaskResult::decode(&stored, 1 << 20).unwrap().state, State::Failure);
    }
}
