"""Each page in a real browser: axe-core finds nothing, nothing scrolls sideways on a small screen, the keyboard reaches everything, what a task brings is text and never
a script, and all of it works without script, too."""

import importlib.util
import json
import os
import urllib.request
from pathlib import Path

import pytest

from dashboard import Dashboard, RedisPlace
from lab import LABAPP, Lab
from procs import Process, eventually

pytestmark = [pytest.mark.ours, pytest.mark.limit(60)]

HOSTILE = """<script>window.ran=1</script><img src=x onerror='window.ran=1'>"><svg onload=window.ran=1>"""
# Where pictures of all pages go, for somebody who wants to look at them.
PICTURES = os.environ.get("LONGSHORE_PICTURES")
KAFKA = os.environ.get("LONGSHORE_KAFKA", "")
REACHABLE = "a[href], button, summary, pre, select, textarea, input:not([type=hidden])"

# With a word for rules it looks for those alone.
AXE = """
return axe.run(document, {resultTypes: ['violations'], ...(arguments[0] ? {runOnly: [arguments[0]]} : {})}).then((found) => found.violations.map((one) =>
    `${one.id} (${one.impact}): ${one.help}: ` + one.nodes.slice(0, 3).map((node) => node.html.slice(0, 200) + ' ' + node.failureSummary).join(' | ')));
"""


def axe():
    """axe-core, as the package of it has it on the disk: nothing of that package is run."""
    return (Path(importlib.util.find_spec("axe_playwright_python").origin).parent / "axe.min.js").read_text()


class Stage(Lab):
    """A deployment in which everything has happened that a page shows, with hostile texts in all places where somebody may write."""

    def __init__(self, server, db, folder):
        super().__init__(server, db, folder, "longshore")
        self.use()
        self.python = self.worker("python", name="python", queues="celery", concurrency=2, conf={"result_extended": True}, wait=False)
        self.ours = self.worker("longshore", name="ours", queues="ours,odd", flags=["--listen", "127.0.0.1:0"], wait=False)
        for worker in self.workers:
            worker.wait_ready()
        self.dashboard, self.place = Dashboard(self, *(["--kafka", KAFKA] if KAFKA else [])), RedisPlace(self)
        self.guarded = Dashboard(self, "--web-token", "a token that nobody guesses")
        self.beat = Process([LABAPP, "beat", "--broker", self.broker_url], folder / "beat.log", name="beat")
        self.sites = {"dashboard": self.dashboard.address, "guarded": self.guarded.address, "worker": self.address(self.ours.process)}
        self.consumer = self.consume() if KAFKA else None
        self.fill()

    @staticmethod
    def address(process):
        found = process.wait_for(r"http://127\.0\.0\.1:\d+", 30)
        return found[0]

    def consume(self):
        """A consumer of Kafka that has records in work, with hostile keys."""
        import confluent_kafka

        self.topic = f"pages-{os.getpid()}-{os.urandom(4).hex()}"
        made = Process([LABAPP, "kafka", "create-topic", self.topic, "-b", KAFKA, "--partitions", "3"], self.folder / "topic.log")
        assert made.wait(60) == 0, made.text()
        producer = confluent_kafka.Producer({"bootstrap.servers": KAFKA})
        for number in range(30):
            producer.produce(self.topic, key=f"{HOSTILE}{number}", value=HOSTILE)
        assert producer.flush(30) == 0
        # Its note says where its page is, and lies where the dashboard looks.
        argv = [LABAPP, "kafka", "consume", self.topic, "-b", KAFKA, "--group", self.topic, "--max-threads", "2", "--sleep", "600s", "--listen", "127.0.0.1:0"]
        consumer = Process(argv, self.folder / "consumer.log", env={"HOME": str(self.folder)}, name="consumer")
        self.sites["consumer"] = self.address(consumer)

        def works():
            with urllib.request.urlopen(self.sites["consumer"] + "/api/v1/kafka/consumer", timeout=20) as answer:
                return json.load(answer)["active"] == 2

        assert eventually(works, 60, 0.2), consumer.text()
        return consumer

    def command(self, *words):
        """Runs a command of ours to its end."""
        done = Process([LABAPP, *words, "--broker", self.broker_url], self.folder / f"command-{self.path('c')[-3:]}.log")
        assert done.wait(30) == 0, done.text()

    def heard(self, queue):
        """Whether the worker of this queue sends events already, for which the dashboard asks it when it has heard of it."""
        result = self.add.apply_async((1, 1), queue=queue)
        result.get(timeout=20)
        return eventually(lambda: self.dashboard.ask(f"/api/v1/tasks/{result.id}/timeline")[1].get("state") == "success", 1)

    def fill(self):
        assert all(eventually(lambda queue=queue: self.heard(queue), 30) for queue in ("ours", "celery"))
        good = [self.add.apply_async((n, n), queue=queue) for n in range(6) for queue in ("ours", "celery")]
        good.append(self.identity.apply_async((HOSTILE,), queue="ours"))
        failed = {queue: self.fail.apply_async((HOSTILE,), queue=queue) for queue in ("ours", "celery")}
        self.dead_one = self.rejected.apply_async(kwargs={"requeue": False}, queue="odd", shadow=HOSTILE)
        self.nameless = self.app.send_task(HOSTILE, (HOSTILE,), queue="ours")
        self.waits = self.echo.apply_async((HOSTILE,), {"word": HOSTILE}, queue=f"idle {HOSTILE}"[:60])
        for n in range(4):
            self.add.apply_async((n, 1), queue="idle")
        self.command("schedule", "add", "nightly <i>", "lab.add", "--every", "1h", "--args", f"[{json.dumps(HOSTILE)}, 1]")
        self.command("limits", "set", "lab.limited", "4/s")
        for each in [*good, *failed.values(), self.nameless]:
            each.get(timeout=20, propagate=False)
        self.good, self.failed = good[-1], failed
        self.runs = [self.slow.apply_async((600,), queue="celery"), self.tracked.apply_async((600, ), queue="ours")]
        argv = [LABAPP, "run", "--state-dir", self.dashboard.state, "--progress", "plain", "--emit", "none", "-j", "3"]
        script = 'case "$0" in *7) echo "$0 refused: no such item" >&2; exit 3;; esac; sleep 0.02'
        done = Process([*argv, "--name", "ended", "--", "sh", "-c", script, "{}", ":::", HOSTILE + "7", *map(str, range(90))], self.folder / "ended.log")
        self.run = Process([*argv, "--name", "going", "--listen", "127.0.0.1:0", "--", "sh", "-c", script + "; sleep 0.3", "{}", ":::", *map(str, range(9000))],
                           self.folder / "run.log", name="run")  # fmt: skip
        self.sites["run"] = self.address(self.run)
        assert done.wait(30) == 1, done.text()
        for result in failed.values():
            self.dashboard.stands(result.id, "failure")

    def pages(self):
        """Every page, by a name for it."""
        jobs = {job["name"]: job["job"] for job in self.dashboard.ask("/api/v1/jobs")[1]["jobs"]}
        of_dashboard = {
            "overview": "/", "overview-day": "/?span=day", "queues": "/queues", "queue": "/queues/idle", "tasks": "/tasks", "tasks-failed": "/tasks?state=failure",
            "tasks-broker": "/tasks?from=broker", "tasks-none": "/tasks?task=none", "tasks-wrong": "/tasks?q=colour:red", "times": "/times", "times-day": "/times?span=day", "task-failed": f"/tasks/{self.failed['ours'].id}",
            "task-celery": f"/tasks/{self.failed['celery'].id}", "task-waits": f"/tasks/{self.waits.id}", "task-dead": f"/tasks/{self.dead_one.id}",
            "task-good": f"/tasks/{self.good.id}", "task-nameless": f"/tasks/{self.nameless.id}", "task-runs": f"/tasks/{self.runs[1].id}", "workers": "/workers", "worker-ours": f"/workers/{self.ours.node}",
            "worker-celery": f"/workers/{self.python.node}", "events": "/events", "dead": "/dead", "limits": "/limits", "settings": "/settings", "queue-ours": "/queues/ours", "schedules": "/schedules",
            "jobs": "/jobs", "job-ended": f"/jobs/{jobs['ended']}", "job-going": f"/jobs/{jobs['going']}", "missing": "/queues/none",
        }  # fmt: skip
        others = {"worker": ("worker", "/"), "run": ("run", "/"), "login": ("guarded", "/login")}
        if KAFKA:
            of_dashboard |= {"kafka": "/kafka", "kafka-group": f"/kafka/{self.topic}"}
            others["consumer"] = ("consumer", "/")
        return {**{name: ("dashboard", path) for name, path in of_dashboard.items()}, **others}

    def close(self):
        if self.consumer:
            self.consumer.kill()
        self.guarded.stop()
        self.run.kill()
        self.beat.stop()
        self.dashboard.stop()
        for worker in self.workers:
            worker.kill()
        super().close()


@pytest.fixture(scope="module")
def stage(server, tmp_path_factory, database):
    stage = Stage(server, database(), tmp_path_factory.mktemp("pages"))
    yield stage
    stage.close()


@pytest.fixture
def page(stage, browser):
    browser.site = stage.dashboard.address
    browser.forget()
    browser.complaints()
    yield browser
    browser.forget()


def visits(stage, page):
    """Opens each page; what the browser complains of is a page that is not there, and nothing else."""
    for name, (site, path) in stage.pages().items():
        page.site = stage.sites[site]
        page.open(path).script("for (const one of document.querySelectorAll('details')) one.open = true")
        yield name
        complaints = [complaint for complaint in page.complaints() if not (name == "missing" and "404" in complaint)]
        assert complaints == [], name


@pytest.mark.limit(240)
def test_axe_finds_nothing_on_any_page_light_and_dark(stage, page):
    script, found = axe(), {}
    for name in visits(stage, page):
        page.script(script)
        # Of what depends on colours there is one rule.
        for scheme, rules in (("light", None), ("dark", "color-contrast")):
            page.colours(scheme)
            violations = page.script(AXE, rules)
            if violations:
                found[name, scheme] = violations
    assert found == {}, "\n".join(f"{name} {scheme}: {one}" for (name, scheme), violations in found.items() for one in violations)


def test_axe_sees_what_is_wrong(stage, page):
    page.open("/queues").script(axe())
    page.script("document.querySelector('main').insertAdjacentHTML('beforeend', '<img src=/x.png><input type=text>')")
    assert [violation.split(" ")[0] for violation in page.script(AXE)] == ["image-alt", "label"]
    page.script("document.querySelector('h1').style.color = '#bbb'")
    assert [violation.split(" ")[0] for violation in page.script(AXE, "color-contrast")] == ["color-contrast"]
    page.complaints()


def test_nothing_scrolls_sideways_on_a_small_screen(stage, page):
    page.width(360, 740)
    wide = {}
    for name in visits(stage, page):
        over = page.script("""
            const right = (one) => { const range = document.createRange(); range.selectNodeContents(one); return Math.max(range.getBoundingClientRect().right, one.getBoundingClientRect().right); };
            const wide = [...document.querySelectorAll('body *')].filter((one) => right(one) > innerWidth && one.checkVisibility());
            return [document.documentElement.scrollWidth, wide.slice(-4).map((one) => one.outerHTML.slice(0, 160))]""")
        if over[0] > 360:
            wide[name] = over
    assert wide == {}


def test_what_a_task_brings_is_shown_and_never_run(stage, page):
    shown = set()
    for name in visits(stage, page):
        assert page.script("return window.ran ?? null") is None, name
        assert page.script("return document.querySelectorAll('main script, main img, main [onload], main [onerror]').length") == 0, name
        if "<script>window.ran=1</script>" in page.text("//main"):
            shown.add(name)
    # As a result, an error, an argument, a name, a queue and a record.
    wanted = {"task-good", "task-failed", "task-celery", "task-waits", "task-nameless", "queues", "events", "tasks", "tasks-failed", "job-ended"}
    wanted |= {"consumer"} if KAFKA else set()
    assert wanted <= shown, wanted - shown


def test_the_keyboard_reaches_everything_and_where_it_is_can_be_seen(stage, page):
    unseen = {}
    for name in visits(stage, page):
        # Nothing is renewed while it is looked at.
        count = page.script("""
            window.focused = []; window.unseen = [];
            document.addEventListener('focusin', (event) => {
                const style = getComputedStyle(event.target), box = event.target.getBoundingClientRect();
                focused.push(event.target);
                if (style.outlineStyle === 'none' || parseFloat(style.outlineWidth) < 1 || box.width < 1 || box.bottom < 0 || box.top > innerHeight) unseen.push(event.target);
            });
            document.activeElement?.blur();
            return [...document.querySelectorAll(arguments[0])].filter((one) => one.checkVisibility() && !one.disabled).length""", REACHABLE)
        page.tabs(min(count + 2, 200))
        left, seen = page.script("""
            const all = [...document.querySelectorAll(arguments[0])].filter((one) => one.checkVisibility() && !one.disabled);
            return [all.filter((one) => !focused.includes(one) && !one.closest('[data-live]')).map((one) => one.outerHTML.slice(0, 120)), unseen.map((one) => one.outerHTML.slice(0, 120))]
            """, REACHABLE)
        if (left and count < 200) or seen:
            unseen[name] = (count, left[:5], seen[:5])
    assert unseen == {}


@pytest.mark.limit(90)
def test_the_focus_and_what_is_selected_stay_when_a_block_is_renewed(stage, page):
    page.open("/queues").sees("live", within="//*[@id='link']")
    page.script("""
        window.renewed = 0;
        new MutationObserver(() => window.renewed++).observe(document.querySelector('[data-live=queues]'), {childList: true});
        document.querySelector('td form button').focus()""")
    focused = "const one = document.activeElement; return [one.textContent, one.form?.elements.queue?.value ?? '']"
    before = page.script(focused)
    assert before[0] == "Pause"
    renewals(stage, page, 2)
    assert page.script(focused) == before
    page.script("document.activeElement.blur(); getSelection().selectAllChildren(document.querySelector('td a'))")
    selected = page.script("return String(getSelection())")
    stage.add.apply_async((1, 1), queue="idle")
    count = str(len(stage.place.waiting("idle")))
    # It comes when nobody holds it any more.
    assert not eventually(lambda: page.script("return String(getSelection())") != selected, 2, 0.1)
    page.script("getSelection().removeAllRanges()")
    page.sees(count, within="//tr[.//a[normalize-space()='idle']]/td[@data-label='Waiting']")


def renewals(stage, page, times):
    begun = page.script("return window.renewed")

    def renewed():
        stage.add.apply_async((1, 1), queue="idle")
        return page.script("return window.renewed") >= begun + times

    # Of many queues each is looked at in its turn, so that all together cost the broker little.
    assert eventually(renewed, 45, 0.3)


def test_everything_works_without_script(stage, page):
    page.scripting(False)
    page.open("/queues/idle").sees("waiting")
    assert page.script("return document.getElementById('link').textContent") == ""
    page.button("Pause")
    page.said("idle is paused")
    assert page.text("//h1").endswith("paused")
    page.button("Resume")
    page.said("idle goes on")
    page.type("to", "moved")
    waiting = stage.place.waiting("idle")
    page.button("Move")
    page.said(f"{len(waiting)} messages went from idle to moved")
    assert stage.place.waiting("idle") == [] and len(stage.place.waiting("moved")) == len(waiting)
    page.open("/tasks?state=failure").type("task", "lab.fail")
    page.button("Find")
    page.press(f"//input[@value='{stage.failed['ours'].id}']")
    before = stage.app.AsyncResult(stage.failed["ours"].id).date_done
    page.button("Retry ticked")
    page.said("1 sent again")
    assert eventually(lambda: stage.app.AsyncResult(stage.failed["ours"].id).date_done not in (None, before), 20, 0.1)
    page.open("/queues/moved").button("Purge")
    page.said("thrown away")
    assert stage.place.waiting("moved") == []


if PICTURES:

    @pytest.mark.limit(400)
    def test_pictures(stage, page):
        for scheme in ("light", "dark"):
            for width in (1280, 360):
                page.colours(scheme)
                page.width(width, 800)
                for name in visits(stage, page):
                    page.picture(Path(PICTURES) / f"{name}-{scheme}-{width}.png")
