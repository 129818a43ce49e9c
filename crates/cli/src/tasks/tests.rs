//! Programs as tasks, called as a worker calls them.

use std::{path::Path, sync::Arc, time::Duration};

use longshore_celery::{Map, Message, Value};
use longshore_core::{CancelToken, LaneKind};
use longshore_worker::{App, Call, ContextParts, Failure, Handler, Task, TaskContext};
use tokio::io::AsyncWriteExt as _;

use super::{Programs, specs};
use crate::config::{Config, Sources};

fn config(text: &str, dir: &Path) -> Result<Config, String> {
    std::fs::write(dir.join("longshore.toml"), text).unwrap();
    Config::load(&Sources { dir: dir.to_owned(), trusting: true, ..Sources::default() }).map_err(|errors| errors.to_string())
}

fn mistakes(text: &str) -> String {
    let dir = tempfile::tempdir().unwrap();
    let error = match config(text, dir.path()) {
        Err(errors) => errors,
        Ok(config) => specs(&config).err().expect("a mistake is found").to_string(),
    };
    error.replace(&format!("{}/", dir.path().display()), "")
}

/// Calls tasks by hand.
struct World {
    programs: Programs,
    tasks: Vec<Task>,
    app: Arc<App>,
    cancel: CancelToken,
    soft: CancelToken,
    /// What the worker says instead of the task's policy.
    limit: Option<Duration>,
}

impl World {
    fn new(text: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let specs = specs(&config(text, dir.path()).unwrap()).unwrap();
        let (programs, tasks) = Programs::start(specs, false, &tokio::runtime::Handle::current()).unwrap();
        let app = tasks.iter().cloned().fold(App::new(), App::task);
        Self { programs, tasks, app: Arc::new(app), cancel: CancelToken::new(), soft: CancelToken::new(), limit: None }
    }

    async fn call(&self, args: Vec<Value>, kwargs: &[(&str, Value)], retries: u32) -> Result<Value, Failure> {
        let task = self.tasks[0].clone();
        let kwargs = Map(kwargs.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect());
        let message = Message {
            task: task.name.to_string(),
            id: "1f0c".into(),
            args: args.clone(),
            kwargs: kwargs.clone(),
            retries,
            ..Message::default()
        };
        let context = TaskContext::new(ContextParts {
            message: Arc::new(message),
            registry: self.app.registry().clone(),
            client: None,
            trace: None,
            node: "w@test".into(),
            lane: task.lane,
            slot: 0,
            cancel: self.cancel.clone(),
            soft: self.soft.clone(),
            time_limit: self.limit.or(task.policy.time_limit),
            soft_time_limit: None,
        });
        let call = Call { args, kwargs };
        match task.handler {
            Handler::Async(handler) => handler(context, call).await,
            Handler::Sync(handler) => tokio::task::spawn_blocking(move || handler(context, call)).await.unwrap(),
        }
    }

    async fn of(&self, arg: &str) -> Result<Value, Failure> {
        self.call(vec![arg.into()], &[], 0).await
    }
}

fn exception(result: Result<Value, Failure>) -> String {
    match result {
        Err(failure @ Failure::Error { .. }) => failure.to_string(),
        other => panic!("{other:?}"),
    }
}

const SH: &str = "[tasks.t]\nexec = [\"env\", \"sh\", \"-c\", \"eval \\\"$1\\\"\", \"sh\", \"{args.0}\"]\n";

#[tokio::test]
async fn what_a_command_writes_is_its_result() {
    let world = World::new(SH);
    assert_eq!(world.tasks[0].lane, LaneKind::Process);
    for (script, value) in [
        ("echo 5", Value::Int(5)),
        ("echo hello", "hello".into()),
        ("printf 'a\\n\\n'", "a\n".into()),
        ("true", Value::Null),
        ("echo '[1, \"x\"]'", Value::List(vec![Value::Int(1), "x".into()])),
        ("echo $LONGSHORE_TASK $LONGSHORE_TASK_ID $LONGSHORE_ATTEMPT", "t 1f0c 1".into()),
    ] {
        assert_eq!(world.of(script).await, Ok(value), "{script}");
    }
}

#[tokio::test]
async fn arguments_fill_one_word_each_whatever_is_in_them() {
    let world =
        World::new("[tasks.\"shop.resize\"]\nexec = [\"printf\", \"%s|\", \"{args.0}\", \"-resize\", \"{kwargs.size}\", \"{task}\"]\n");
    let hostile = "a b; $(touch x) `id` 'q' \"d\" -rf \\ \n*";
    let printed = world.call(vec![hostile.into()], &[("size", Value::Int(50))], 0).await;
    assert_eq!(printed, Ok(format!("{hostile}|-resize|50|shop.resize|").into()));
    let missing = exception(world.call(vec![hostile.into()], &[], 0).await);
    assert!(missing.starts_with("ValueError: shop.resize: ") && missing.contains("kwargs.size"), "{missing}");
}

#[tokio::test]
async fn exit_75_asks_for_a_retry_and_any_other_exit_is_an_exception_with_the_last_words() {
    let world = World::new(&format!("{SH}backoff = \"fixed:7s\"\n"));
    let Err(Failure::Retry { after, why, max_retries, .. }) = world.of("echo later >&2; exit 75").await else { panic!() };
    assert_eq!((after, max_retries), (Some(Duration::from_secs(7)), Some(3)));
    assert_eq!(why.unwrap().to_string(), "RuntimeError: it asks to be tried again (exit status 75): later");
    assert!(exception(world.call(vec!["exit 75".into()], &[], 3).await).contains("exit status 75"));
    assert_eq!(exception(world.of("echo one >&2; echo two >&2; exit 3").await), "RuntimeError: exit status 3: two");
    let Err(Failure::Crashed { reason }) = world.of("kill -KILL $$").await else { panic!() };
    assert_eq!(reason, "signal 9 (SIGKILL)");
}

#[tokio::test]
async fn the_limit_that_the_worker_says_is_the_one_that_counts() {
    let mut world = World::new(&format!("{SH}timeout = \"100ms\"\n"));
    world.limit = Some(Duration::from_secs(60));
    assert_eq!(world.of("sleep 0.4; echo 1").await, Ok(Value::Int(1)));
    let line = "[tasks.t]\npipe = [\"sh\", \"-c\", \"while read -r line; do sleep 0.4; echo 2; done\"]\ntimeout = \"100ms\"\n";
    let mut world = World::new(line);
    assert_eq!(exception(world.of("a").await), "TimeLimitExceeded");
    world.limit = Some(Duration::from_secs(60));
    assert_eq!(world.of("a").await, Ok(Value::Int(2)));
}

#[tokio::test]
async fn a_command_that_is_given_up_or_takes_too_long_is_ended() {
    let world = World::new(&format!("{SH}timeout = \"100ms\"\nkill_after = \"50ms\"\n"));
    let text = exception(world.of("sleep 60").await);
    assert_eq!(text, "TimeLimitExceeded");
    let world = World::new(SH);
    world.soft.cancel();
    assert_eq!(exception(world.of("sleep 60").await), "SoftTimeLimitExceeded");
    let world = World::new(SH);
    world.cancel.cancel();
    assert!(matches!(world.of("sleep 60").await, Err(Failure::Reject { requeue: true, .. })));
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn memory_and_output_have_limits() {
    let world = World::new(&format!("{SH}memory = \"64MiB\"\nmax_output = \"10\"\n"));
    assert_eq!(world.of("sleep 0.1; ulimit -v").await, Ok(Value::Int(65536)));
    let text = exception(world.of("echo 12345678901").await);
    assert!(text.contains("the result is longer than"), "{text}");
}

#[tokio::test]
async fn a_pipe_answers_line_by_line_and_its_children_are_replaced_after_their_tasks() {
    let script = "while read -r line; do echo \\\"$$\\\"; done";
    let world = World::new(&format!("[tasks.t]\npipe = [\"sh\", \"-c\", '{script}']\nchildren = 1\nmax_tasks_per_child = 2\n"));
    let mut pids = Vec::new();
    for _ in 0..4 {
        pids.push(world.of("x").await.unwrap());
    }
    assert!(pids[0] == pids[1] && pids[1] != pids[2] && pids[2] == pids[3], "{pids:?}");
    tokio::task::spawn_blocking(move || world.programs.end()).await.unwrap();
}

#[tokio::test]
async fn a_pipe_gets_the_task_as_json_and_may_answer_with_a_failure() {
    let script = r#"import sys, json
for line in sys.stdin:
    task = json.loads(line)
    what = task["args"][0]
    if what == "die": sys.exit(3)
    print(json.dumps({"error": {"kind": "busy", "message": "not now", "retry": True}} if what == "retry"
        else {"error": "no"} if what == "fail" else task))
"#;
    let world = World::new(&format!("[tasks.t]\npipe = [\"python3\", \"-c\", '''{script}''']\n"));
    let task = world.call(vec!["x".into()], &[("k", Value::Int(1))], 2).await.unwrap();
    assert_eq!(
        String::from_utf8(task.to_json()).unwrap().replace(' ', ""),
        r#"{"id":"1f0c","task":"t","args":["x"],"kwargs":{"k":1},"attempt":3}"#
    );
    let Err(Failure::Retry { why, .. }) = world.of("retry").await else { panic!() };
    assert_eq!(why.unwrap().to_string(), "RuntimeError: not now");
    assert_eq!(exception(world.of("fail").await), "RuntimeError: no");
    assert!(matches!(world.of("die").await, Err(Failure::Crashed { .. })));
}

#[tokio::test]
async fn a_request_whose_host_comes_from_the_message_does_not_reach_this_machine() {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let world = World::new("[tasks.t]\nhttp = \"GET {args.0}\"\nretries = 0\n");
    for url in [format!("http://127.0.0.1:{port}/"), format!("http://localhost:{port}/"), format!("http://[::ffff:7f00:1]:{port}/")] {
        let text = exception(world.of(&url).await);
        assert!(text.starts_with("PermissionError: "), "{url}: {text}");
    }
    let text = exception(world.of("file:///etc/passwd").await);
    assert!(text.contains("only http and https"), "{text}");
    // The configuration's own host lies where it lies.
    let own = World::new(&format!("[tasks.t]\nhttp = \"GET http://127.0.0.1:{port}/{{args.0}}\"\nretries = 0\n"));
    let text = exception(own.of("x").await);
    assert!(text.starts_with("ConnectionError: "), "{text}");
}

#[tokio::test]
async fn a_limit_of_the_messages_own_goes_before_a_requests_timeout() {
    let server = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = server.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = server.accept().await {
            tokio::spawn(async move {
                tokio::time::sleep(Duration::from_millis(600)).await;
                stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n42").await.unwrap();
            });
        }
    });
    let mut world =
        World::new(&format!("[tasks.t]\nhttp = \"GET http://127.0.0.1:{port}/{{args.0}}\"\ntimeout = \"200ms\"\nretries = 0\n"));
    assert!(exception(world.of("x").await).contains("no complete answer"));
    world.limit = Some(Duration::from_secs(20));
    assert_eq!(world.of("x").await, Ok(Value::Int(42)));
}

#[test]
fn mistakes_in_a_section_say_where_they_are_and_what_to_do() {
    for (text, want) in [
        ("[tasks.a]\nexce = [\"x\"]\n", "longshore.toml:2: unknown key `exce` in [tasks.a]; did you mean `exec`?"),
        ("[tasks.a]\ntimeout = \"1s\"\n", "says nothing to run; give it one of exec, pipe, http"),
        ("[tasks.a]\nexec = \"x\"\nhttp = \"GET http://h\"\n", "says exec and http at once"),
        ("[tasks.shop.resize]\nexec = \"x\"\n", "stands in quotes: [tasks.\"shop.resize\"]"),
        ("[tasks.a]\nexec = \"x {size}\"\n", "its keyword argument is {kwargs.size}"),
        ("[tasks.a]\nexec = \"x {1}\"\n", "count from 0: {args.1}"),
        ("[tasks.a]\nexec = \"x\"\nchildren = 2\n", "belongs to pipe"),
        ("[tasks.a]\nexec = \"x\"\ntimeout = \"soon\"\n", "longshore.toml:3: `timeout` in [tasks.\"a\"]: "),
        (
            "[limits.l]\nrate = \"1/s\"\nconcurrency = 2\n[tasks.a]\nexec = \"x\"\nlimit = \"l\"\n",
            "longshore.toml:6: `limit` in [tasks.\"a\"]: [limits.\"l\"] has `concurrency`",
        ),
        ("[tasks.a]\nhttp = \"GET ftp://h\"\n", "`ftp` in `ftp://h` is not supported"),
        ("[tasks.a]\npipe = \"x\"\nenv = { A = \"{id}\" }\n", "write a constant"),
        ("[worker]\nqueue = \"x\"\n", "unknown key `queue` in [worker]; did you mean `queues`?"),
        ("[conections]\nbroker = \"x\"\n", "did you mean [connections]?"),
    ] {
        let found = mistakes(text);
        assert!(found.contains(want), "{text}\n{found}");
    }
}
