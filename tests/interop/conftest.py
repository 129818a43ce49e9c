"""Who serves a test is a parameter: `python` (Celery's own worker, whose behaviour is the measured expectation), `longshore`, or `mixed` (one of each on the
same queue). LONGSHORE_INTEROP_WORKERS chooses among them; LONGSHORE_INTEROP_LONG=1 runs everything at its full size.
"""

import itertools
import os
import signal
import subprocess

import pytest
from celery.backends.asynchronous import BaseResultConsumer
from celery.exceptions import TimeoutError as NoResult
from celery.result import AsyncResult

import rabbit as rabbitmq
from browser import chromium
from lab import LABAPP, LONG, OLD_LABAPP, Lab, RabbitLab
from procs import die_with_parent
from servers import RedisServer

if os.environ.get("LONGSHORE_INTEROP_PARENT"):
    die_with_parent(int(os.environ["LONGSHORE_INTEROP_PARENT"]))


def _can():
    """What our program says that it can do."""
    asked = LABAPP and subprocess.run([LABAPP, "can"], capture_output=True, text=True)
    return set(asked.stdout.split()) if asked and asked.returncode == 0 else set()


CAN = _can()


def _kinds():
    chosen = os.environ.get("LONGSHORE_INTEROP_WORKERS")
    if chosen:
        return chosen.split(",")
    return ["longshore", "mixed"] if "worker" in CAN else ["python"]


KINDS = _kinds()


def pytest_generate_tests(metafunc):
    """Tests that name `kind`, or a fixture that does, run once for each; those marked `ours` run for our workers alone,
    those marked `compared` for Celery's, too."""
    if "kind" in metafunc.fixturenames:
        if metafunc.definition.get_closest_marker("ours"):
            kinds = [kind for kind in KINDS if kind == "longshore"]
        elif metafunc.definition.get_closest_marker("celerys"):
            kinds = ["python"]
        elif metafunc.definition.get_closest_marker("compared"):
            kinds = sorted({"python", *KINDS} - {"mixed"})
        elif metafunc.definition.get_closest_marker("alone"):
            kinds = [kind for kind in KINDS if kind != "mixed"] or ["longshore"]
        elif metafunc.definition.get_closest_marker("amqp") and "amqp" not in CAN:
            kinds = ["python"]
        else:
            kinds = KINDS
        metafunc.parametrize("kind", kinds, scope="session")


def pytest_collection_modifyitems(config, items):

    def out_of_reach(item):
        needs = item.get_closest_marker("needs")
        ours = KINDS != ["python"]
        return (item.get_closest_marker("ours") and not ours) or (needs and ours and not CAN.issuperset(needs.args))

    config.hook.pytest_deselected(items=list(filter(out_of_reach, items)))
    items[:] = [item for item in items if not out_of_reach(item)]
    for item in items:
        known = item.get_closest_marker("known")
        if known and item.callspec.params["kind"] != "python":
            item.add_marker(pytest.mark.xfail(reason=known.args[0], strict=known.kwargs.get("strict", True)))
        if item.get_closest_marker("long") and not LONG:
            item.add_marker(pytest.mark.skip(reason="long: LONGSHORE_INTEROP_LONG=1"))


TAKEN = os.environ.get("LONGSHORE_INTEROP_TAKEN")
_OURS = {}


def _ours(item):
    """Several processes share the tests: whoever is first takes those of one file for one kind of worker."""
    part = f"{item.path.stem}-{getattr(item, 'callspec', None) and item.callspec.params.get('kind')}"
    if part not in _OURS:
        try:
            os.close(os.open(os.path.join(TAKEN, part), os.O_CREAT | os.O_EXCL))
            _OURS[part] = True
        except FileExistsError:
            _OURS[part] = False
    return _OURS[part]


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item):
    return None if not TAKEN or _ours(item) else True


MISSED = []


def _look_again():
    """Celery's client now and then misses a result that is stored while it subscribes (missed_result.py shows it without us). Where its wait ends in vain, the store
    is asked once more; more than two in a run are no accident."""
    wait = BaseResultConsumer._wait_for_pending

    def wait_and_look_again(self, result, **options):
        try:
            yield from wait(self, result, **options)
        except NoResult:
            self.on_wait_for_pending(result)
            if not result.ready() or len(MISSED) >= 2:
                raise
            MISSED.append(result.id)

    BaseResultConsumer._wait_for_pending = wait_and_look_again


_look_again()


def pytest_terminal_summary(terminalreporter):
    if not OLD_LABAPP:
        terminalreporter.write_line("a rolling upgrade was not tried: LONGSHORE_OLD_LABAPP names no labapp of an earlier commit")
    if MISSED:
        terminalreporter.write_line(f"results that Celery's client missed though they were stored: {len(MISSED)}")


def pytest_unconfigure():
    """Results that outlive their server have nobody to unsubscribe from, and would say so at exit."""
    AsyncResult.__del__ = lambda self: None


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    """A test that hangs is a failed test."""
    marker = item.get_closest_marker("limit")
    seconds = marker.args[0] if marker else 30

    def too_long(*_):
        raise TimeoutError(f"the test took longer than {seconds} s")

    before = signal.signal(signal.SIGALRM, too_long)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        return (yield)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """What the workers said stands beside a failure."""
    report = yield
    if report.failed:
        for name in ("lab", "own_lab"):
            lab = getattr(item, "funcargs", {}).get(name)
            for worker in getattr(lab, "workers", []):
                report.sections.append((f"{worker.node}", worker.text()[-3000:]))
    return report


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    """A redis-server for all tests that do not mistreat it."""
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    yield server
    server.stop()


_DATABASES = itertools.count()


@pytest.fixture(scope="session")
def database():
    """Gives the number of a database of the server that nobody else uses."""
    return lambda: next(_DATABASES)


@pytest.fixture(scope="session")
def browser(tmp_path_factory):
    """One browser for all tests."""
    browser = chromium(tmp_path_factory.mktemp("browser"))
    yield browser
    browser.close()


@pytest.fixture(scope="session")
def staffed(kind, server, tmp_path_factory):
    """A lab that is served by workers of this kind, for all tests that leave them as they were."""
    lab = Lab(server, next(_DATABASES), tmp_path_factory.mktemp("lab"), kind).use()
    lab.staff(concurrency=4)
    yield lab
    left = lab.wait_empty(chords=False)
    lab.close()
    assert left == {}


@pytest.fixture
def lab(staffed):
    staffed.use().forget_chords()
    yield staffed


@pytest.fixture
def own_lab(kind, server, tmp_path):
    """A lab without workers, for this test alone."""
    lab = Lab(server, next(_DATABASES), tmp_path / "lab", kind).use()
    yield lab
    lab.close()


@pytest.fixture
def own_server(tmp_path):
    """A redis-server that may be mistreated: it appends to a file, and comes back with what it had."""
    server = RedisServer(tmp_path / "redis", appendonly=True)
    yield server
    server.stop()


@pytest.fixture
def fragile_lab(kind, own_server, tmp_path):
    """A lab on such a server."""
    lab = Lab(own_server, 0, tmp_path / "lab", kind).use()
    yield lab
    lab.discard()


@pytest.fixture(scope="session")
def rabbit(tmp_path_factory):
    """A RabbitMQ for all tests that do not mistreat it."""
    if rabbitmq.HOME is None and os.environ.get("CI") != "true":
        pytest.skip(rabbitmq.MISSING)
    server = rabbitmq.RabbitServer(tmp_path_factory.mktemp("rabbit"))
    yield server
    server.stop()


def _staffed(lab):
    lab.use().staff(concurrency=4)
    yield lab
    left = lab.wait_empty(chords=False)
    lab.close()
    assert left == {}


@pytest.fixture(scope="session")
def rabbit_staffed(kind, rabbit, server, tmp_path_factory):
    """A virtual host that is served by workers of this kind; its results are in Redis."""
    yield from _staffed(RabbitLab(rabbit, server, next(_DATABASES), tmp_path_factory.mktemp("lab"), kind))


@pytest.fixture(scope="session")
def rpc_staffed(kind, rabbit, server, tmp_path_factory):
    """The same, with results that are sent to whoever asked."""
    yield from _staffed(RabbitLab(rabbit, server, next(_DATABASES), tmp_path_factory.mktemp("lab"), kind, rpc=True))


@pytest.fixture
def own_rabbit_lab(kind, rabbit, server, tmp_path):
    """A virtual host without workers, for this test alone; its results are in Redis."""
    lab = RabbitLab(rabbit, server, next(_DATABASES), tmp_path / "lab", kind).use()
    yield lab
    lab.close()
