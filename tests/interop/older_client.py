"""A client with an older Celery: sends canvases of every shape, and says which came to another result than they should. Run by `test_older.py`."""

import json
import sys

import celery

import labapp
from test_canvas import SHAPES


class Lab:
    def __init__(self, url):
        self.app = labapp.make_app(url)
        self.app.set_current()
        self.app.set_default()

    def __getattr__(self, name):
        return self.app.lab[name]


def main(url, shapes):
    lab, wrong = Lab(url), {}
    if lab.echo.apply_async((1,), {"k": 2}, priority=3, headers={"x": 1}).get(timeout=20) != {"args": [1], "kwargs": {"k": 2}}:
        wrong["options"] = "?"
    try:
        lab.fail.delay("oh").get(timeout=20)
    except ValueError as error:
        if error.args != ("oh", 42):
            wrong["error"] = repr(error)
    for shape in shapes or SHAPES:
        make, expected = SHAPES[shape]
        try:
            got = make(lab).apply_async().get(timeout=20)
        except Exception as error:  # noqa: BLE001
            got = repr(error)
        if got != expected:
            wrong[shape] = got
    print(json.dumps({"version": celery.__version__, "wrong": wrong}))


main(sys.argv[1], sys.argv[2:])
