"""Our `/metrics` before those who read it: the parser of Python's prometheus_client, and Debian's Prometheus."""

import json
import math
import os
import re
import shutil
import urllib.parse
import urllib.request

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from dashboard import Dashboard
from lab import HERE
from procs import Process, eventually, free_port

pytestmark = [pytest.mark.ours, pytest.mark.limit(60)]

# Names that try to get out of their label, and more names than there are labels.
HOSTILE = ['a"} 1\nlongshore_evil_total 1', "back\\slash", "größe 🚢", "{}#,=", "\r\n# EOF\n", "'; drop --"]
FLOOD = [f"flood.task{n}" for n in range(250)]


def listening(lab, names=(), **options):
    """A worker that serves programs of these names, and where it listens."""
    config = lab.folder / "metrics.toml"
    config.write_text("".join(f"[tasks.{json.dumps(name, ensure_ascii=False)}]\npipe = [\"cat\"]\nqueue = \"celery\"\n" for name in names))
    worker = lab.worker(flags=["--listen", "127.0.0.1:0"], env={"LONGSHORE_CONFIG": str(config)}, **options)
    address = re.search(r"page +http://(127\.0\.0\.1:\d+) +metrics /metrics", worker.text())
    assert address, worker.text()
    return worker, address[1]


def scrape(address):
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as answer:
        assert answer.headers["Content-Type"] == "application/openmetrics-text; version=1.0.0; charset=utf-8"
        return {family.name: family for family in text_string_to_metric_families(answer.read().decode())}


@pytest.fixture
def dashboard(own_lab):
    """A dashboard over the lab's broker."""
    started = Dashboard(own_lab)
    yield started
    started.stop()


def counted(families, family, **labels):
    return sum(sample.value for sample in families[family].samples if labels.items() <= sample.labels.items())


def test_openmetrics_parser_reads_what_hostile_names_could_not_break(own_lab):
    lab = own_lab
    worker, address = listening(lab, [*HOSTILE, *FLOOD], concurrency=4)
    for result in [lab.app.send_task(name, [1]) for name in [*HOSTILE, *FLOOD]]:
        result.get(timeout=30)
    assert lab.fail.delay("oh").get(timeout=10, propagate=False)

    def all_ended():
        families = scrape(address)
        return counted(families, "longshore_queue_tasks", outcome="ok") == len(HOSTILE) + len(FLOOD) and families

    families = eventually(all_ended, 10)
    assert families, scrape(address)
    tasks = families["longshore_tasks"]
    assert tasks.type == "counter" and {sample.name for sample in tasks.samples} == {"longshore_tasks_total"}
    names = {sample.labels["task"] for sample in tasks.samples}
    assert {name.replace("\r", "\ufffd") for name in HOSTILE} <= names and "other" in names and len(names) == 201
    assert "longshore_evil" not in families
    assert counted(families, "longshore_tasks", outcome="ok") == len(HOSTILE) + len(FLOOD)
    assert counted(families, "longshore_tasks", outcome="failed") == 1
    assert {sample.labels["worker"] for sample in tasks.samples} == {worker.node}
    assert families["longshore_task_run_seconds"].unit == "seconds"
    assert counted(families, "longshore_broker_connected", connection="broker") == 1
    assert families["longshore_redelivered"].type == "counter"


def test_openmetrics_parser_reads_queues_workers_and_limits_of_a_dashboard(own_lab, dashboard):
    lab = own_lab
    worker = lab.worker(concurrency=2)
    hostile = HOSTILE[0]
    for n in range(3):
        lab.app.send_task(hostile, [n], queue="cold")
    lab.app.send_task("lab.add", [1, 2], queue=hostile)
    address = dashboard.address.removeprefix("http://")
    limited = hostile.replace("\n", " ")
    for limit in ("api", limited):
        assert dashboard.ask(f"/api/v1/limits/{urllib.parse.quote(limit, safe='')}/set", {"rate": "30/m"})[0] == 200

    def seen():
        families = scrape(address)
        # Who is there is known with the first heartbeat.
        return "longshore_worker_up" in families and counted(families, "longshore_worker_up", worker=worker.node) == 1 and families

    families = eventually(seen, 20)
    assert families, scrape(address)
    assert counted(families, "longshore_queue_depth", queue="cold") == 3
    assert {hostile, "cold"} <= {sample.labels["queue"] for sample in families["longshore_queue_depth"].samples}
    assert families["longshore_queue_depth"].type == "gauge" and families["longshore_limit_ahead_seconds"].unit == "seconds"
    # Two on each lane.
    assert counted(families, "longshore_worker_slots", worker=worker.node) == 4 * 2
    assert counted(families, "longshore_broker_connected", connection="broker") == 1
    assert {sample.labels["limit"]: sample.value for sample in families["longshore_limit_per_second"].samples} == {"api": 0.5, limited: 0.5}
    assert "longshore_evil" not in families


PROMETHEUS = shutil.which("prometheus")
GRAFANA = HERE.parent.parent / "packaging" / "grafana" / "longshore.json"


class Prometheus:
    """Debian's Prometheus with a folder of its own, on a free port of the loopback. It scrapes these addresses."""

    def __init__(self, folder, addresses):
        folder.mkdir()
        config = {"global": {"scrape_interval": "500ms", "scrape_timeout": "500ms"}}
        config["scrape_configs"] = [{"job_name": "longshore", "static_configs": [{"targets": addresses}]}]
        # JSON is YAML.
        (folder / "prometheus.yml").write_text(json.dumps(config))
        self.port = free_port()
        argv = [PROMETHEUS, f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data", f"--web.listen-address=127.0.0.1:{self.port}"]
        self.process = Process(argv, folder / "prometheus.log", name="prometheus")
        assert eventually(self.is_ready, 30, 0.1), self.process.text()[-3000:]

    def get(self, path):
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=10) as answer:
            return answer.read()

    def is_ready(self):
        try:
            return self.get("/-/ready")
        except OSError:
            return None

    def query(self, expression):
        """The values that an expression has now."""
        answer = json.loads(self.get("/api/v1/query?" + urllib.parse.urlencode({"query": expression})))
        return [float(row["value"][1]) for row in answer["data"]["result"]]

    def targets(self):
        return json.loads(self.get("/api/v1/targets"))["data"]["activeTargets"]

    def close(self):
        self.process.stop(5)


@pytest.fixture
def prometheus(tmp_path):
    if PROMETHEUS is None and os.environ.get("CI") != "true":
        pytest.skip("prometheus is missing: apt-get install prometheus")
    started = []

    def start(addresses):
        started.append(Prometheus(tmp_path / "prometheus", addresses))
        return started[0]

    yield start
    for server in started:
        server.close()


def queries():
    """What the dashboard asks, with its variables as Grafana fills them in."""
    for panel in json.loads(GRAFANA.read_text())["panels"]:
        for target in panel["targets"]:
            yield panel["title"], target["expr"].replace("$worker", ".*").replace("$__rate_interval", "10s")


@pytest.mark.limit(120)
def test_prometheus_scrapes_a_worker_and_has_an_answer_to_each_query_of_the_dashboard(own_lab, dashboard, prometheus):
    lab = own_lab
    worker, address = listening(lab, concurrency=2)
    # Queues, workers and limits are a dashboard's to tell.
    assert dashboard.ask("/api/v1/limits/api/set", {"rate": "30/m"})[0] == 200
    server = prometheus([address, dashboard.address.removeprefix("http://")])
    # What waits for its time is a reason to wait.
    lab.add.apply_async((1, 2), countdown=600)
    assert eventually(lambda: server.query(f'up{{instance="{address}"}}') == [1.0], 20, 0.2), server.targets()
    assert server.query(f'longshore_broker_connected{{worker="{worker.node}",connection="broker"}}') == [1.0]
    todo = dict.fromkeys(queries())

    def answered():
        for result in [lab.add.delay(n, n) for n in range(5)] + [lab.slow.delay(0.1) for _ in range(4)] + [lab.flaky.delay(1, 0.05)]:
            result.get(timeout=20)
        lab.fail.delay("oh").get(timeout=10, propagate=False)
        for asked in list(todo):
            values = server.query(asked[1])
            # A quantile of nothing is no number.
            if values and all(math.isfinite(value) for value in values):
                del todo[asked]
        return not todo

    assert eventually(answered, 60, 0.2), f"without an answer: {list(todo)}"
    assert len(list(queries())) > 30
    for target in server.targets():
        assert target["health"] == "up" and target["lastError"] == "", target
