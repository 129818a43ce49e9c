"""Celery 5.6 and 5.4, as worker beside ours (the two of them sharing chords), and as client before ours. Each takes an environment from PyPI, which is made once;
the client, and 5.4, on demand (LONGSHORE_INTEROP_LONG=1)."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

from lab import HERE
from test_canvas import SHAPES

pytestmark = pytest.mark.ours
VERSIONS = {
    "5.6": ["celery==5.6.3", "kombu<5.7", "redis<7", "pytest"],
    "5.4": ["celery==5.4.0", "kombu<5.5", "redis<6", "pytest"],
}


@pytest.fixture(scope="session", params=["5.6", pytest.param("5.4", marks=pytest.mark.long)])
def older(request, tmp_path_factory):
    """The Python of an environment with an older Celery; where LONGSHORE_INTEROP_VENVS names a folder, it stays there."""
    folder = pathlib.Path(os.environ.get("LONGSHORE_INTEROP_VENVS") or tmp_path_factory.mktemp("venvs")) / f"celery-{request.param}"
    python = folder / "bin" / "python"
    if not (folder / "complete").exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *VERSIONS[request.param]], check=True)
        (folder / "complete").touch()
    return str(python)


@pytest.mark.limit(300)
def test_canvases_are_shared_with_an_older_worker(own_lab, older):
    lab = own_lab
    lab.worker("python", name="older", python=older, concurrency=4)
    lab.worker(name="ours", concurrency=2, flags=["--prefetch", "2"])
    wrong = {}
    # All at once, so that they mix. An older worker that sends the rest of a chain of groups copies it
    # onto each task of each group, at every level (measured: 41 MB for seven groups of three with
    # Celery 5.6.3, 9 kB with 5.7.0), which is more than ours accept.
    shapes = {shape: how for shape, how in SHAPES.items() if shape != "task, many groups, task"}
    sent = [(shape, make(lab).apply_async(), expected) for shape, (make, expected) in shapes.items()]
    for shape, result, expected in sent:
        try:
            got = result.get(timeout=60)
        except Exception as error:  # noqa: BLE001
            got = error
        if got != expected:
            wrong[shape] = got
    served = {worker.node: worker.text().lower().count("succeeded") for worker in lab.workers}
    print(f"{len(sent)} canvases of {len(shapes)} shapes: wrong {len(wrong)}, tasks served {served}")
    assert wrong == {} and min(served.values()) > 10
    assert lab.wait_empty(chords=False) == {}


@pytest.mark.long
@pytest.mark.limit(300)
def test_an_older_client_finds_its_results(own_lab, older):
    lab = own_lab
    lab.worker(concurrency=4)
    done = subprocess.run([older, "older_client.py", lab.broker_url], cwd=HERE, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr[-3000:]
    said = json.loads(done.stdout.splitlines()[-1])
    print(said["version"])
    assert said["wrong"] == {}
    assert lab.wait_empty(chords=False) == {}
