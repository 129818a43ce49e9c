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
