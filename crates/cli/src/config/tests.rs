//! Layers, origins, mistakes.

use std::fmt;

use super::*;

/// A project's file, a user's file, variables.
struct World {
    dir: tempfile::TempDir,
    sources: Sources,
}

impl World {
    fn new(project: &str, user: &str, vars: &[(&str, &str)]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let home = dir.path().join("home/longshore");
        fs::create_dir_all(&home).unwrap();
        if !project.is_empty() {
            fs::write(dir.path().join("longshore.toml"), project).unwrap();
        }
        if !user.is_empty() {
            fs::write(home.join("config.toml"), user).unwrap();
        }
        let mut vars: BTreeMap<String, String> = vars.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        vars.insert("XDG_CONFIG_HOME".to_owned(), dir.path().join("home").display().to_string());
        let sources = Sources { config: None, dir: dir.path().to_owned(), vars, trusting: true };
        Self { dir, sources }
    }

    fn load(&self) -> Config {
        Config::load(&self.sources).unwrap_or_else(|errors| panic!("{errors}"))
    }

    fn short(&self, text: impl fmt::Display) -> String {
        text.to_string().replace(&format!("{}/", self.dir.path().display()), "")
    }
}

fn mistakes(project: &str) -> Vec<String> {
    let world = World::new(project, "", &[]);
    match Config::load(&world.sources) {
        Ok(_) => Vec::new(),
        Err(errors) => errors.0.iter().map(|error| world.short(error).replace("longshore.toml:", "")).collect(),
    }
}

#[test]
fn the_stronger_layer_wins_and_says_where_it_stands() {
    let world = World::new(
        "[run]\nrate = \"1/s\"\n\n[job.a]\nhttp = \"GET http://h\"\nretry = \"r\"\nbackoff = \"fixed:1s\"\ntimeout = \"1s\"\n",
        "[run]\nrate = \"2/s\"\nburst = 3\nretries = 9\n[retry.r]\nretries = 4\nbackoff = \"fixed:9s\"\non = [\"connect\", \"status:5xx\"]\n[job.a]\ntimeout = \"7s\"\nslow = \"1m\"\n",
        &[("LONGSHORE_TIMEOUT", "5s"), ("LONGSHORE_COLOR", "never")],
    );
    let config = world.load();
    let settings = config.run(Some("a")).unwrap();
    for (name, value, origin) in [
        ("rate", "1/s", "longshore.toml:2"),
        ("burst", "3", "home/longshore/config.toml:3"),
        ("timeout", "5s", "env LONGSHORE_TIMEOUT"),
        ("slow", "1m", "home/longshore/config.toml:11"),
        ("retries", "4", "home/longshore/config.toml:6"),
        ("backoff", "fixed:1s", "longshore.toml:7"),
        ("retry-on", "connect,status:5xx", "home/longshore/config.toml:8"),
        ("http", "GET http://h", "longshore.toml:5"),
    ] {
        let setting = settings.get(name).unwrap_or_else(|| panic!("{name}"));
        assert_eq!((&setting.value, world.short(&setting.origin).as_str()), (&Value::Text(value.to_owned()), origin), "{name}");
    }
    assert_eq!(settings.get("retry"), None, "its section has taken its place");
    assert_eq!(config.run(None).unwrap().get("retries").map(|setting| &setting.value), Some(&Value::Text("9".to_owned())));
    assert_eq!(config.get("color").unwrap().map(|setting| setting.value), Some(Value::Text("never".to_owned())));
    assert_eq!(settings.get("color"), None, "it is no flag of run alone");
}

#[test]
fn settings_become_flags_unless_the_command_line_has_them() {
    let world = World::new(
        "[job.a]\ncommand = \"convert {} 'a b'\"\nrate = \"1/s\"\nstrict = true\ntag = false\ncheck = [\"ok>1\", \"failed<2\"]\nenv = { A = \"{x}\" }\nconcurrency = 1_000\n",
        "",
        &[],
    );
    let settings = world.load().run(Some("a")).unwrap();
    assert_eq!(settings.command().unwrap(), ["convert", "{}", "a b"]);
    assert_eq!(settings.args(|flag| flag == "rate"), ["--check=ok>1", "--check=failed<2", "--concurrency=1000", "--env=A={x}", "--strict"]);
}

#[test]
fn mistakes_have_their_line_and_a_way_out() {
    for (project, want) in [
        ("[run]\n\nconcurency = 1", "3: unknown key `concurency` in [run]; did you mean `concurrency`?"),
        ("[run]\nmax_fial = 1", "2: unknown key `max_fial` in [run]; did you mean `max_fail`?"),
        ("[run]\nxyzzy = 1", "2: unknown key `xyzzy` in [run]"),
        ("colour = \"never\"", "1: unknown key `colour`; did you mean `color`?"),
        ("[jobs.a]\ninput = \"x\"", "did you mean [job]?"),
        ("[kafka]\ngroup = 1", "2: [kafka] holds named sections only; put `group` into [kafka.NAME]"),
        ("run = 1", "1: `run` is a section"),
        ("[job]\ninput = \"x\"", "2: [job] holds named sections only; put `input` into [job.NAME]"),
        ("[run]\ninput = \"x\"", "2: `input` belongs to one job"),
        ("[run]\nstrict = \"yes\"", "2: `strict` in [run] is true or false, not a string"),
        ("[run]\nretries = -1", "2: `retries` in [run] is a whole number, not an integer"),
        ("[run]\nrate = [1]", "2: `rate` in [run] is a string, not an array"),
        ("[run]\nenv = [\"A\"]", "2: `env` in [run] is a table, or a list of \"K=V\", not an array"),
        ("[job.a]\ncommand = \"open 'quote\"", "2: `command` in [job.a] is a program and its arguments"),
        ("[run]\nmax-fail = 1\nmax_fail = 2", "stands there twice"),
        ("[job.a]\nhttp = \"x\"\npipe = \"y\"", "1: [job.a] says http and pipe at once"),
        ("[limits.a]", "1: [limits.a] limits nothing"),
        ("[run]\nrate = ", "2: "),
        ("[run]\nrate = 1\nrate = 2", "3: "),
    ] {
        let found = mistakes(project);
        assert_eq!(found.len(), 1, "{project}: {found:?}");
        assert!(found[0].contains(want), "{project}: {found:?}");
    }
    assert_eq!(mistakes("[run]\na = 1\nb = 2\n[job.x]\nc = 3\n").len(), 3, "all are found at once");
}

#[test]
fn names_that_lead_nowhere_are_errors_where_they_stand() {
    let world = World::new(
        "[limits.\"api.example\"]\nrate = \"1/s\"\n[retry.http]\nretries = 1\n[job.a]\nlimit = \"api.exmaple\"\n[job.b]\nretry = \"htpp\"\n",
        "",
        &[],
    );
    let config = world.load();
    for (job, want) in [
        ("a", "longshore.toml:6: there is no [limits.\"api.exmaple\"] in longshore.toml; did you mean `api.example`?"),
        ("b", "longshore.toml:8: there is no [retry.htpp]; did you mean `http`?"),
        ("aa", "there is no [job.aa] in longshore.toml; did you mean `a`?"),
    ] {
        assert_eq!(world.short(config.run(Some(job)).unwrap_err()), want, "{job}");
    }
    assert_eq!(config.problems(&|_, _, _| Ok(()), Vec::new()).len(), 2);
    let none = World::new("", "", &[]).load().run(Some("a")).unwrap_err();
    assert!(none.message.contains("config init"), "{none}");
}

#[test]
fn a_limit_is_a_leaky_bucket_unless_it_says_otherwise() {
    let world = World::new("[limits.a]\nrate = \"500/min\"\nby = \"{{ host }}\"\n[limits.b]\nconcurrency = 5\nburst = 3\n", "", &[]);
    let config = world.load();
    let limit = |name: &str| config.limit(name).unwrap();
    assert_eq!(
        limit("a"),
        Limit { name: "a".to_owned(), rate: Some("500/min".to_owned()), burst: 1, concurrency: None, by: Some("{{ host }}".to_owned()) }
    );
    assert_eq!(limit("b"), Limit { name: "b".to_owned(), rate: None, burst: 3, concurrency: Some(5), by: None });
}

#[test]
fn a_variable_that_is_not_set_hinders_only_who_uses_it() {
    let project = "[job.a]\nheader = [\"Authorization: ${TOKEN}\"]\n[job.b]\nproxy = \"http://${HOST:-h}\"\n";
    let config = World::new(project, "", &[]).load();
    let error = config.run(Some("a")).unwrap_err();
    assert_eq!(error.line, Some(2));
    assert!(error.message.contains("TOKEN is not set"), "{error}");
    assert_eq!(config.run(Some("b")).unwrap().get("proxy").unwrap().value, Value::Text("http://h".to_owned()));
    assert_eq!(config.problems(&|_, _, _| Ok(()), Vec::new()).len(), 1, "it is told once");
    let config = World::new(project, "", &[("TOKEN", "t")]).load();
    assert_eq!(config.run(Some("a")).unwrap().get("header").unwrap().value, Value::List(vec!["Authorization: t".to_owned()]));
    assert!(
        config
            .listing()
            .iter()
            .any(|(_, name, value, _)| *name == "header" && *value == Value::List(vec!["Authorization: ***".to_owned()]))
    );
}

#[test]
fn a_named_config_file_takes_the_place_of_the_projects_and_must_exist() {
    let mut world = World::new("[run]\nrate = \"1/s\"\n", "[run]\nburst = 2\n", &[]);
    let other = world.dir.path().join("other.toml");
    world.sources.config = Some(other.clone());
    let errors = Config::load(&world.sources).unwrap_err().to_string();
    assert!(errors.contains("cannot read the config file") && errors.contains("other.toml (--config names it)"), "{errors}");
    world.sources.config = None;
    world.sources.vars.insert("LONGSHORE_CONFIG".to_owned(), other.display().to_string());
    let errors = Config::load(&world.sources).unwrap_err().to_string();
    assert!(errors.contains("other.toml (LONGSHORE_CONFIG names it)"), "{errors}");
    world.sources.config = Some(other.clone());
    world.sources.vars.remove("LONGSHORE_CONFIG");
    fs::write(&other, "[run]\nretries = 2\n").unwrap();
    let settings = world.load().run(None).unwrap();
    assert!(settings.get("rate").is_none() && settings.get("retries").is_some() && settings.get("burst").is_some());
    world.sources.config = None;
    world.sources.vars.insert("LONGSHORE_CONFIG".to_owned(), other.display().to_string());
    assert!(world.load().run(None).unwrap().get("retries").is_some());
}

#[test]
fn variables_are_checked_and_strange_ones_noted() {
    let world = World::new(
        "",
        "",
        &[("LONGSHORE_STRICT", "yes"), ("LONGSHORE_RETRIES", ""), ("LONGSHORE_CONCURENCY", "5"), ("LONGSHORE_SLOT", "1")],
    );
    let config = world.load();
    let settings = config.run(None).unwrap();
    assert_eq!((&settings.get("strict").unwrap().value, settings.get("retries")), (&Value::Bool(true), None));
    assert_eq!(config.unknown_variables(), ["LONGSHORE_CONCURENCY is no setting; did you mean `LONGSHORE_CONCURRENCY`?"]);
    for (name, value, want) in [("LONGSHORE_STRICT", "perhaps", "true or false"), ("LONGSHORE_RETRIES", "many", "a whole number")] {
        let errors = Config::load(&World::new("", "", &[(name, value)]).sources).unwrap_err().to_string();
        assert_eq!(errors, format!("{name}: `{value}` is not {want}"));
    }
}

#[test]
fn variables_of_the_worker_and_of_the_connections_win_over_the_file_and_are_listed() {
    let file = "[worker]\nqueues = \"a\"\nprefetch = 5\n[connections]\nbroker = \"sqlite:x.db\"\n";
    let vars = [
        ("LONGSHORE_QUEUES", "b,c"),
        ("LONGSHORE_GRACE", "9s"),
        ("LONGSHORE_BROKER", ""),
        ("CELERY_BROKER_URL", "redis://me:S3CRET@host/0"),
        ("LONGSHORE_RESULTS", "sqlite:r.db"),
    ];
    let config = World::new(file, "", &vars).load();
    let worker = config.worker().unwrap();
    let text = |name: &str| worker.get(name).map(|setting| setting.values().join(","));
    assert_eq!((text("queues"), text("prefetch"), text("grace")), (Some("b,c".into()), Some("5".into()), Some("9s".into())));
    let both = |broker: &str| (Some(broker.to_owned()), Some("sqlite:r.db".to_owned()));
    assert_eq!(config.connections(None, None).unwrap(), both("redis://me:S3CRET@host/0"));
    assert_eq!(config.connections(Some("memory:"), None).unwrap(), both("memory:"));
    let listed: Vec<String> =
        config.listing().iter().map(|(section, name, value, setting)| format!("{section:?} {name} {value:?} {}", setting.origin)).collect();
    let line = |name: &str| listed.iter().find(|line| line.contains(&format!(" {name} "))).unwrap();
    assert!(line("broker").contains("CELERY_BROKER_URL") && !line("broker").contains("S3CRET"), "{listed:?}");
    assert!(line("queues").contains("LONGSHORE_QUEUES"), "{listed:?}");
    assert!(config.unknown_variables().is_empty());
    let wrong = World::new("", "", &[("LONGSHORE_PREFETCH", "few")]);
    assert_eq!(Config::load(&wrong.sources).unwrap_err().to_string(), "LONGSHORE_PREFETCH: `few` is not a whole number");
}

#[test]
fn a_queue_is_declared_as_its_section_says_and_mistakes_are_told_where_they_stand() {
    use longshore_worker::{DeadLetterPlace, QueueSpec};

    let text = "[queues.orders]\nexchange = \"shop\"\nexchange_type = \"topic\"\nrouting_key = \"order.#\"\nmax_priority = 10\narguments = { x-message-ttl = 60000, x-single-active-consumer = true, x-overflow = \"drop-head\" }\n[queues.bills]\ntype = \"quorum\"\ndead_letters = \"exchange\"\n[queues.news]\nexchange = \"news\"\nexchange_type = \"fanout\"\nexclusive = true\n";
    let orders = QueueSpec::new("orders").max_priority(10).bound("shop", "topic", "order.#").argument("x-message-ttl", 60_000);
    let orders = orders.argument("x-overflow", "drop-head").argument("x-single-active-consumer", true);
    let mut found = World::new(text, "", &[]).load().queues().unwrap();
    found.iter_mut().for_each(|spec| spec.arguments.sort_by(|one, other| one.0.cmp(&other.0)));
    let expected = [
        QueueSpec::new("bills").kind("quorum").dead_letters(DeadLetterPlace::Exchange),
        QueueSpec::new("news").bound("news", "fanout", "").exclusive(),
        orders,
    ];
    assert_eq!(found, expected);
    for (queue, mistake) in [
        ("type = \"stream\"", "`type` in [queues.q]: queue q: type `stream` is not known here; known are classic and quorum"),
        (
            "type = \"quorum\"\nmax_priority = 3",
            "`type` in [queues.q]: queue q: quorum queues have no priorities; leave `max_priority` out",
        ),
        ("max_priority = 300", "`max_priority` in [queues.q]: the largest priority is 1 to 255"),
        ("dead_letters = \"drop\"", "`dead_letters` in [queues.q]: known are `keep` and `exchange`"),
        ("routing_key = \"x\"", "`exchange` in [queues.q]: a routing key and a type belong to an `exchange`, which is not named"),
    ] {
        let world = World::new(&format!("[queues.q]\n{queue}\n"), "", &[]);
        assert_eq!(world.short(world.load().queues().unwrap_err()), format!("longshore.toml:2: {mistake}"));
    }
}

#[test]
fn routes_are_in_the_order_of_their_lines_and_those_of_the_project_go_first() {
    let project = "[routes]\n\"z.*\" = \"zs\"\n\"a.*\" = { queue = \"${QUEUE}\", priority = 3 }\n\"b\" = { priority = 0 }\n[routes.\"*.log\"]\nqueue = \"logs\"\n[routes.media]\nexchange = \"media\"\nexchange_type = \"topic\"\nrouting_key = \"media.video\"\n";
    let user = "[routes]\n\"z.*\" = \"others\"\n\"*\" = \"rest\"\n";
    let routes = World::new(project, user, &[("QUEUE", "as")]).load().routes().unwrap();
    let route = |pattern: &str, queue: Option<&str>, priority| {
        let mut route = longshore_worker::Route::default();
        (route.queue, route.priority) = (queue.map(str::to_owned), priority);
        (pattern.to_owned(), route)
    };
    let expected = [
        route("z.*", Some("zs"), None),
        route("a.*", Some("as"), Some(3)),
        route("b", None, Some(0)),
        route("*.log", Some("logs"), None),
        ("media".to_owned(), longshore_worker::Route::exchange("media", "topic", "media.video")),
        route("*", Some("rest"), None),
    ];
    assert_eq!(routes, expected);
    for (route, mistake) in [
        ("a = 5", "2: a route is a queue, or { queue = \"…\", priority = 0 to 9 }, not an integer"),
        ("a = { routing_key = \"x\" }", "2: [routes.a] has a routing key or a type, and no exchange that they are for"),
        ("a = { que = \"x\" }", "2: unknown key `que` in [routes.a]; did you mean `queue`?"),
        ("a = {}", "2: [routes.a] leads nowhere; give it a queue, an exchange or a priority"),
    ] {
        assert_eq!(mistakes(&format!("[routes]\n{route}\n")), [mistake]);
    }
    for (route, mistake) in [
        ("a = { priority = 256 }", "longshore.toml:2: `priority` in [routes.a]: a priority is a number from 0 to 9, on RabbitMQ to 255"),
        (
            "a = { exchange = \"x\" }",
            "longshore.toml:2: `exchange` in [routes.a]: a direct exchange needs a `routing-key`; another type is said by `exchange-type`",
        ),
        ("a = \"\"", "longshore.toml:2: `queue` in [routes.a]: a queue has a name"),
    ] {
        let world = World::new(&format!("[routes]\n{route}\n"), "", &[]);
        assert_eq!(world.short(world.load().routes().unwrap_err()), mistake);
    }
}

/// A file that nobody has let in, with one harmless key in each section.
const UNTRUSTED: &str = "[run]\nretries = 2\n[job.a]\ninput = \"x\"\n[connections]\n[worker]\nqueues = [\"a\"]\n";

#[test]
fn what_runs_reaches_out_or_reads_variables_waits_in_a_folder_that_is_not_trusted() {
    for (section, line, waits) in [
        ("run", "env = { LD_PRELOAD = \"./x.so\" }", true),
        ("run", "proxy = \"http://h:1\"", true),
        ("run", "header = [\"A: b\"]", true),
        ("run", "insecure = true", true),
        ("run", "insecure = false", false),
        ("run", "shell = true", true),
        ("run", "cwd = \"/\"", true),
        ("run", "rate = \"${RATE}\"", true),
        ("run", "rate = \"${RATE:-5/s}\"", true),
        ("run", "rate = \"5/s\"", false),
        ("run", "key = \"$${x}\"", false),
        ("run", "check = [\"ok>1\", \"${CHECK}\"]", true),
        ("job.b", "command = [\"true\"]", true),
        ("job.b", "http = \"GET http://h\"", true),
        ("job.b", "pipe = \"cat\"", true),
        ("job.b", "task = \"t\"", true),
        ("connections", "broker = \"redis://h\"", true),
        ("connections", "results = \"redis://h\"", true),
        ("worker", "pidfile = \"p\"", true),
        ("worker", "concurrency = 4", false),
        ("tasks.t", "exec = [\"true\"]", true),
        ("routes", "broker = \"q\"", false),
        ("kafka.t", "bootstrap = \"h:1\"", true),
        ("kafka.t", "max_threads = 5", false),
        ("limits.l", "rate = \"1/s\"", false),
    ] {
        let mut world = World::new(&format!("[{section}]\n{line}\n"), "", &[("RATE", "1/s"), ("CHECK", "ok>0")]);
        world.sources.trusting = false;
        let config = world.load();
        assert_eq!(config.waiting.len(), usize::from(waits), "[{section}] {line}: {:?}", config.waiting);
        let used = [config.run(Some("b")).err(), config.connections(None, None).err(), config.worker().err(), config.task("t").err()];
        let refused = used.into_iter().flatten().chain(config.kafka("t").err()).filter(|error| error.message.contains("config trust"));
        assert!(refused.count() == 0 || waits, "[{section}] {line}");
        // Who looks sees it all.
        assert_eq!(world.load().let_in(), config.waiting);
    }
}

#[test]
fn harmless_keys_hold_without_a_word_and_a_word_lets_in_the_rest_until_the_file_changes() {
    let text = format!("{UNTRUSTED}pidfile = \"p\"\n[tasks.t]\nexec = [\"true\"]\n");
    let mut world = World::new(&text, "", &[]);
    world.sources.vars.insert("XDG_STATE_HOME".to_owned(), world.dir.path().join("state").display().to_string());
    world.sources.trusting = false;
    let config = world.load();
    assert_eq!(config.run(None).unwrap().get("retries").unwrap().value, Value::Text("2".to_owned()));
    let refused = [config.worker().unwrap_err(), config.task("t").unwrap_err()].map(|error| world.short(error));
    assert!(refused[0].starts_with("longshore.toml:8: `pidfile` in [worker] waits until you trust this file"), "{}", refused[0]);
    assert!(refused[1].starts_with("longshore.toml:10: `exec` in [tasks.t] waits"), "{}", refused[1]);
    let store = trust::TrustStore::of(&world.sources.vars).unwrap();
    let path = world.dir.path().join("longshore.toml");
    store.trust(&path, &text).unwrap();
    assert!(world.load().worker().is_ok() && world.load().task("t").is_ok());
    fs::write(&path, format!("{text}# changed\n")).unwrap();
    assert!(world.load().worker().is_err());
    // Who names it means it.
    world.sources.config = Some(path);
    assert!(world.load().worker().is_ok());
}

#[test]
fn who_is_asked_about_a_file_is_asked_once_for_each_content_of_it() {
    let text = "[job.a]\ncommand = [\"sh\", \"-c\", \"\\u001b[2J\"]\nheader = [\"Authorization: x\"]\n";
    let mut world = World::new(text, "", &[]);
    world.sources.vars.insert("XDG_STATE_HOME".to_owned(), world.dir.path().join("state").display().to_string());
    world.sources.trusting = false;
    let ask = |world: &World, answer: &str| {
        let (mut config, mut said) = (world.load(), Vec::new());
        config.ask(&mut answer.as_bytes(), &mut said).unwrap();
        (config.waiting.len(), String::from_utf8(said).unwrap())
    };
    // Nobody answers, and is asked again.
    let (waiting, said) = ask(&world, "");
    assert!(waiting == 2 && said.contains("command = [\"sh\", \"-c\", \"\\u{1b}[2J\"] in [job.a]") && said.contains("[y/N]"), "{said}");
    assert!(said.contains("Authorization: ***") && !said.contains('\u{1b}'), "{said}");
    let (waiting, said) = ask(&world, "\n");
    assert!(waiting == 2 && said.contains("[y/N]"), "{said}");
    assert_eq!(ask(&world, "y\n"), (2, String::new()), "no was said");
    // Another content is another question.
    let path = world.dir.path().join("longshore.toml");
    fs::write(&path, format!("{text}# changed\n")).unwrap();
    let (waiting, said) = ask(&world, "y\n");
    assert!(waiting == 0 && said.contains("[y/N]"), "{said}");
    assert_eq!(ask(&world, "n\n"), (0, String::new()), "it is trusted");
}

#[test]
fn a_file_that_everybody_may_write_is_refused_and_said() {
    let mut world = World::new("[run]\nretries = 2\n", "", &[]);
    world.sources.trusting = false;
    let path = world.dir.path().join("longshore.toml");
    let open = <fs::Permissions as std::os::unix::fs::PermissionsExt>::from_mode(0o666);
    fs::set_permissions(&path, open).unwrap();
    let refused = Config::load(&world.sources).unwrap_err().to_string();
    assert!(refused.contains("it may be written by everybody") && refused.contains("--config"), "{refused}");
    world.sources.config = Some(path);
    assert!(Config::load(&world.sources).is_ok());
}
