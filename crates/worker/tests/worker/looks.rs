// Cases of brokers that let a worker look into a queue.

#[tokio::test]
async fn celerys_own_tasks_do_not_wait_for_a_full_lane_that_is_not_theirs_and_nothing_else_is_taken_for_them() {
    let gate = Arc::new(AtomicBool::new(false));
    let opens = gate.clone();
    let (begins, mut begun) = mpsc::unbounded_channel();
    let task = Task::plain("waits", move |_, _| {
        let _ = begins.send(());
        while !opens.load(Ordering::Acquire) {
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(Value::Null)
    });
    let bench = Bench::with("built-in", [task], |options| options.lanes[LaneKind::Blocking as usize] = 1).await;
    bench.send(call("waits", vec![])).await;
    begun.recv().await.unwrap();
    let waits = [bench.send(call("waits", vec![])).await, bench.send(call("waits", vec![])).await];
    // Looks come after 50 ms, 100 ms and so on, and find none of Celery's.
    tokio::time::sleep(Duration::from_millis(400)).await;
    let places = async || {
        let found = [
            bench.connected.inspect().unwrap().find(&waits[0]).await.unwrap(),
            bench.connected.inspect().unwrap().find(&waits[1]).await.unwrap(),
        ];
        found.map(|found| found.iter().all(|found| matches!(found.doing, longshore_brokers::Doing::Waiting { .. })))
    };
    assert_eq!(places().await, [true, true], "they are for others to take");
    let ping = bench.send(call("celery.ping", vec![])).await;
    assert_eq!(bench.result(&ping).await.result, "pong".into());
    gate.store(true, Ordering::Release);
    for id in &waits {
        assert_eq!(bench.result(id).await.state, State::Success);
    }
    bench.stop().await;
}

#[tokio::test]
async fn a_heartbeat_says_what_tables_need_and_is_small() {
    let whole = connected("account");
    let mut heard = whole.bus().unwrap().subscribe(longshore_celery::events::EXCHANGE, "#").await.unwrap();
    let (task, mut begun, open) = gated("wait");
    let bench = Bench::with("account", [task], |options| {
        options.lanes[LaneKind::Async as usize] = 1;
        options.prefetch = Some(3);
    })
    .await;
    for _ in 0..9 {
        bench.send(call("wait", vec![])).await;
    }
    begun.recv().await.unwrap();
    let mut told = Vec::new();
    while let Ok(Some((_, raw))) = tokio::time::timeout(Duration::from_secs(10), heard.messages.recv()).await {
        assert!(raw.len() < 1_500, "{}: {}", raw.len(), String::from_utf8_lossy(&raw));
        let events = longshore_celery::events::decode(&raw, 1 << 20).unwrap();
        let longshore_celery::events::EventKind::WorkerHeartbeat(beat) = &events[0].what else { continue };
        let account = beat.account.as_ref().unwrap();
        let whole = |name: &str| account.get(name).and_then(Value::as_i64);
        let of_async = |name: &str| account.get(name).and_then(|lanes| lanes.get("async")).and_then(Value::as_i64);
        assert_eq!((whole("prefetch_count"), whole("held"), whole("stalls")), (Some(3), Some(0), Some(0)));
        let share = account.get("cpu").and_then(Value::as_f64);
        told.push((of_async("running"), of_async("waiting"), whole("claimed"), share));
        // The first beat has no share of a processor yet.
        if let Some((Some(1), Some(waiting), Some(claimed), Some(share))) = told.last()
            && waiting + 1 == *claimed
        {
            assert!(*share >= 0.0 && whole("rss").unwrap() > 1 << 20, "{account:?}");
            open.add_permits(9);
            bench.stop().await;
            return;
        }
    }
    panic!("{told:?}");
}
