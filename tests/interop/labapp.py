"""The tasks of the interop tests, in Python. `crates/interop/src/main.rs` has the same ones in Rust, under the same names, and whoever serves them,
the results are the same.

As a module it is an application for `celery -A labapp worker`, set by environment variables: LAB_BROKER, LAB_RESULTS (the broker where absent) and LAB_CONF
(settings, as JSON).
"""

import ctypes
import json
import os
import random
import signal
import time

from celery import Celery, chain, group
from celery.app.task import Context
from celery.contrib.abortable import AbortableTask
from celery.exceptions import Ignore, Reject, SoftTimeLimitExceeded
from celery.signals import worker_process_init
from celery.worker.control import control_command

IMPLEMENTATION = "python"
# Of a message's properties, those that are Celery's or Kombu's own. Celery's retry puts `origin` there, too.
PROPERTIES = {"correlation_id", "reply_to", "delivery_mode", "delivery_info", "priority", "body_encoding", "delivery_tag", "origin"}


@worker_process_init.connect
def die_with_the_worker(**_):
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)


@control_command(args=[("colour", str)])
def lab_paint(state, colour="white"):
    return {"ok": f"painted {colour}"}


def mark(path, *words):
    """Appends a line to a file that several processes write to."""
    line = " ".join(str(word) for word in words) + "\n"
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(fd, line.encode())
    finally:
        os.close(fd)


def make_app(broker, results=None, conf=None, main="labapp"):
    app = Celery(main, broker=broker, backend=results or broker, set_as_current=False)
    app.conf.update(
        broker_connection_retry_on_startup=True,
        worker_hijack_root_logger=True,
        redis_socket_keepalive=True,
        **(conf or {}),
    )
    register(app)
    return app


def register(app):
    def task(name, **options):
        # Not shared: another application has tasks of its own under these names.
        return app.task(name=f"lab.{name}", shared=False, **options)

    @task("add")
    def add(x, y):
        return x + y

    @task("mul")
    def mul(x, y):
        return x * y

    @task("tsum")
    def tsum(numbers):
        """The sum of numbers, however they are nested."""
        if isinstance(numbers, list):
            return sum(tsum_of(each) for each in numbers)
        return numbers

    def tsum_of(value):
        return sum(tsum_of(each) for each in value) if isinstance(value, list) else value

    @task("identity")
    def identity(value):
        return value

    @task("echo", bind=True)
    def echo(self, *args, **kwargs):
        return {"args": list(args), "kwargs": kwargs}

    @task("defaults")
    def defaults(a, b=2, *, c=3):
        return [a, b, c]

    @task("gathered")
    def gathered(first, *rest, unit="m", **others):
        return [first, list(rest), unit, others]

    @task("halved", bind=True, max_retries=3)
    def halved(self, size, *tags, least=2):
        """Asks for retries with other arguments, until it is small enough."""
        if size > least:
            raise self.retry(args=(size // 2, *tags), kwargs={"least": least}, exc=ValueError(size), countdown=0.05)
        return [size, list(tags), self.request.retries]

    @task("alarmed")
    def alarmed(request, exc, traceback, path):
        """An errback of the new kind."""
        mark(path, "alarmed", request.id, repr(exc))

    @task("nothing")
    def nothing():
        return None

    @task("abortable", bind=True, base=AbortableTask)
    def abortable(self):
        """Runs for a minute, unless somebody asks it to end."""
        end = time.monotonic() + 60
        while time.monotonic() < end:
            if self.is_aborted():
                return "aborted"
            time.sleep(0.05)
        return "not aborted"

    @task("who", bind=True)
    def who(self, *_):
        """Which implementation and which worker served this."""
        return [IMPLEMENTATION, self.request.hostname]

    def seen(r):
        """What a task can see of its message."""
        return {
            "id": r.id,
            "root_id": r.root_id,
            "parent_id": r.parent_id,
            "group": r.group,
            "group_index": r.group_index,
            "retries": r.retries,
            "eta": r.eta,
            "expires": r.expires,
            "timelimit": list(r.timelimit) if r.timelimit else None,
            "ignore_result": r.ignore_result,
            "shadow": r.shadow,
            "reply_to": r.reply_to,
            "correlation_id": r.correlation_id,
            "origin": r.origin,
            "priority": (r.delivery_info or {}).get("priority"),
            "queue": (r.delivery_info or {}).get("routing_key"),
            "redelivered": (r.delivery_info or {}).get("redelivered"),
            "headers": r.headers,
            "stamped_headers": r.stamped_headers,
            "stamps": r.stamps,
            "properties": {name: value for name, value in (r.properties or {}).items() if name not in PROPERTIES},
        }

    @task("request", bind=True)
    def request(self, *args, **kwargs):
        return seen(self.request)

    @task("big")
    def big(size):
        return "x" * size

    @task("fail")
    def fail(message="kaboom", *_):
        raise ValueError(message, 42)

    @task("fail_as")
    def fail_as(kind, *args):
        kinds = {"KeyError": KeyError, "TypeError": TypeError, "RuntimeError": RuntimeError, "LookupError": LookupError}
        raise kinds[kind](*args)

    @task("flaky", bind=True, max_retries=5)
    def flaky(self, times, delay=0.05, value="ok"):
        """Asks for so many retries, then succeeds."""
        if self.request.retries < times:
            raise self.retry(exc=KeyError("again"), countdown=delay)
        return [value, self.request.retries]

    @task("flaky_request", bind=True, max_retries=5)
    def flaky_request(self, times):
        """Asks for so many retries, then says what it can see of its message."""
        if self.request.retries < times:
            raise self.retry(countdown=0.05)
        return seen(self.request)

    @task("flaky_value", bind=True, max_retries=5)
    def flaky_value(self, times, delay, value):
        if self.request.retries < times:
            raise self.retry(countdown=delay)
        return value

    @task("hopeless", bind=True, max_retries=2)
    def hopeless(self, delay=0.05):
        raise self.retry(exc=LookupError("never"), countdown=delay)

    @task("exhausted", bind=True, max_retries=1)
    def exhausted(self, delay=0.05):
        raise self.retry(countdown=delay)

    @task("moody", bind=True, autoretry_for=(ConnectionError,), retry_kwargs={"max_retries": 3}, retry_backoff=False, default_retry_delay=0)
    def moody(self, times):
        if self.request.retries < times:
            raise ConnectionError("refused")
        return self.request.retries

    @task("slow")
    def slow(seconds, value=None):
        time.sleep(seconds)
        return value

    @task("marked", bind=True)
    def marked(self, path, tag, seconds=0.0):
        """Writes down when it starts and when it ends."""
        mark(path, "start", tag, IMPLEMENTATION, os.getpid(), f"{time.time():.3f}", self.request.id)
        time.sleep(seconds)
        mark(path, "end", tag, IMPLEMENTATION, os.getpid(), f"{time.time():.3f}", self.request.id)
        return tag

    @task("tracked", track_started=True)
    def tracked(seconds):
        time.sleep(seconds)
        return "done"

    @task("silent", ignore_result=True)
    def silent(value):
        return value

    @task("limited", rate_limit="4/s")
    def limited(path, tag):
        mark(path, "start", tag, IMPLEMENTATION, os.getpid(), f"{time.time():.3f}")
        return tag

    @task("soft")
    def soft(seconds):
        """Ends well when its soft limit strikes."""
        try:
            time.sleep(seconds)
        except SoftTimeLimitExceeded:
            return "soft"
        return "done"

    @task("ignored")
    def ignored():
        raise Ignore()

    @task("rejected", acks_late=True)
    def rejected(requeue=False):
        raise Reject("no", requeue=requeue)

    @task("dies")
    def dies():
        """Kills the process that runs it."""
        os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(10)

    @task("dies_here")
    def dies_here():
        """Kills the worker."""
        os.kill(os.getppid(), signal.SIGKILL)
        time.sleep(10)

    @task("told")
    def told(failed_id, *, path=None, tag="told"):
        """An errback of the old kind: it is sent as a task, with the id of the task that failed."""
        if path:
            mark(path, tag, failed_id)
        return failed_id

    @task("told_all")
    def told_all(request, exc, traceback, path=None):
        """An errback of the new kind: Celery's workers call it where the task failed; longshore's send it what they can."""
        if isinstance(request, dict):
            request, exc = Context(request), app.backend.exception_to_python(exc)
        mark(path, "told_all", request.id, type(exc).__name__, len(exc.args), bool(traceback))

    @task("heard")
    def heard(value, path=None, tag="heard"):
        """A callback: it is sent the result."""
        if path:
            mark(path, tag, json.dumps(value, separators=(",", ":")))
        return value

    @task("spawn", bind=True)
    def spawn(self, count):
        """Sends tasks of its own, which become its children."""
        return [app.send_task("lab.add", (n, n)).id for n in range(count)]

    @task("replaced", bind=True)
    def replaced(self, x, y):
        return self.replace(add.s(x, y))

    @task("replaced_by_group", bind=True)
    def replaced_by_group(self, x):
        return self.replace(group(add.s(x, n) for n in range(3)))

    @task("replaced_by_chain", bind=True)
    def replaced_by_chain(self, x):
        return self.replace(add.s(x, 1) | add.s(2))

    @task("replaced_by_nothing", bind=True)
    def replaced_by_nothing(self, x):
        return self.replace(chain())

    @task("grows", bind=True)
    def grows(self, x):
        """A member of a chord that adds another one to it."""
        self.add_to_chord(add.s(x, 1000))
        return x

    @task("random_sleep")
    def random_sleep(x, most=0.01):
        time.sleep(random.random() * most)
        return x

    app.lab = {name.removeprefix("lab."): each for name, each in app.tasks.items() if name.startswith("lab.")}


if os.environ.get("LAB_BROKER"):
    app = make_app(os.environ["LAB_BROKER"], os.environ.get("LAB_RESULTS"), json.loads(os.environ.get("LAB_CONF") or "{}"))
    app.set_current()
    app.set_default()
