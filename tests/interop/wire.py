"""Messages as they lie in a Redis list, made by hand: right ones, and wrong in every way that comes to mind."""

import base64
import bz2
import json
import lzma
import pickle
import uuid
import zlib

import msgpack
import yaml
from backports import zstd

from lab import pick

# What is longer than the longest message that is read, and than the longest body.
BIG, BOMB = pick(20, 50), pick(80, 1000)
EMBED = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}


def envelope(id, args=(1, 2), kwargs=None, task="lab.add", embed=EMBED, queue="celery"):
    """A message as Celery's client writes it, yet to be encoded."""
    return {
        "body": [list(args), kwargs or {}, embed],
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": {
            "lang": "py", "task": task, "id": id, "shadow": None, "eta": None, "expires": None, "group": None, "group_index": None, "retries": 0,
            "timelimit": [None, None], "root_id": id, "parent_id": None, "argsrepr": repr(args), "kwargsrepr": "{}", "origin": "gen1@lab",
            "ignore_result": False, "replaced_task_nesting": 0, "stamped_headers": None, "stamps": {},
        },
        "properties": {
            "correlation_id": id, "reply_to": str(uuid.uuid4()), "delivery_mode": 2, "delivery_info": {"exchange": "", "routing_key": queue},
            "priority": 0, "body_encoding": "base64", "delivery_tag": str(uuid.uuid4()),
        },
    }  # fmt: skip


def encode(message):
    """The bytes of a message whose body is a value (written as JSON), bytes, or text (taken as it is, with no base64)."""
    message = dict(message)
    body = message.get("body")
    if isinstance(body, (list, dict)):
        body = json.dumps(body).encode()
    if isinstance(body, bytes):
        message["body"] = base64.b64encode(body).decode()
    return json.dumps(message).encode()


def bomb():
    return b'[["' + b" " * (BOMB * 1_000_000) + b'"], {}, {}]'


def deep(levels):
    return b"[" * levels + b"]" * levels


def nested_signature(levels):
    signature = {"task": "lab.add", "args": [1], "kwargs": {}, "options": {}, "subtask_type": None, "immutable": False}
    for _ in range(levels):
        signature = {**signature, "options": {"link": [signature]}}
    return signature


def _set(path, value):
    """A message with one part set to another value."""

    def make(id):
        message = envelope(id)
        at = message
        for name in path[:-1]:
            at = at[name]
        at[path[-1]] = value
        return encode(message)

    return make


def _without(*path):
    def make(id):
        message = envelope(id)
        at = message
        for name in path[:-1]:
            at = at[name]
        del at[path[-1]]
        return encode(message)

    return make


def _body(body):
    return _set(("body",), body)


def _header(name, value):
    return _set(("headers", name), value)


def _property(name, value):
    return _set(("properties", name), value)


def _embed(**parts):
    return lambda id: encode(envelope(id, embed={**EMBED, **parts}))


def _content(kind, body, encoding="binary"):
    def make(id):
        message = envelope(id)
        message.update({"content-type": kind, "content-encoding": encoding, "body": body})
        return encode(message)

    return make


def _compressed(kind, body):
    def make(id):
        message = envelope(id)
        message["headers"]["compression"] = kind
        message["body"] = body
        return encode(message)

    return make


def _raw(data):
    return lambda id: data


def _args(args):
    return lambda id: encode(envelope(id, args=args))


GOOD_BODY = json.dumps([[1, 2], {}, EMBED]).encode()

# Must leave a FAILURE that a client can read, or a dead letter. Nothing else, and nothing more.
BAD = {
    "an empty element": _raw(b""),
    "no JSON": _raw(b"hello, this is no message"),
    "JSON that stops": lambda id: encode(envelope(id))[:-40],
    "bytes": _raw(bytes(range(256))),
    "invalid UTF-8 in a header": lambda id: encode(envelope(id)).replace(b"gen1@lab", b"gen\xff\xfelab"),
    "UTF-16": lambda id: encode(envelope(id)).decode().encode("utf-16"),
    "null": _raw(b"null"),
    "a number": _raw(b"42"),
    "a text": _raw(b'"celery"'),
    "a list": _raw(b"[]"),
    "an empty object": _raw(b"{}"),
    "something behind the message": lambda id: encode(envelope(id)) + b"{}",
    "10 000 levels of JSON": _raw(deep(10_000)),
    "a million brackets": _raw(b"[" * 1_000_000),
    "no headers and no task in the body": _without("headers"),
    "headers null": _set(("headers",), None),
    "headers a list": _set(("headers",), ["task", "lab.add"]),
    "no id": _without("headers", "id"),
    "id null": _header("id", None),
    "id a number": _header("id", 7),
    "id an object": _header("id", {"id": "x"}),
    "no task": _without("headers", "task"),
    "task null": _header("task", None),
    "task a list": _header("task", ["lab.add"]),
    "a task that nobody knows": _header("task", "no.such.task"),
    "a task with an empty name": _header("task", ""),
    "a task with a name of a megabyte": _header("task", "x" * 1_000_000),
    "eta no time": _header("eta", "tomorrow"),
    "eta a list": _header("eta", [2026]),
    "expires no time": _header("expires", "never"),
    "expires an object": _header("expires", {"in": 5}),
    "retries a text": _header("retries", "many"),
    "timelimit of texts": _header("timelimit", ["soon", "later"]),
    "no body": _without("body"),
    "body null": _body(None),
    "body a number": _set(("body",), 5),
    "base64 that stops": lambda id: encode({**envelope(id), "body": base64.b64encode(GOOD_BODY).decode()[:-3]}),
    "no base64": _body("%%% not base64 %%%"),
    "body no JSON": _body(b"hello"),
    "body JSON that stops": _body(GOOD_BODY[:-5]),
    "body of invalid UTF-8": _body(b'[["\xff\xfe"], {}, {}]'),
    "body of no elements": _body([]),
    "body of one element": _body([[1, 2]]),
    "body of two elements": _body([[1, 2], {}]),
    "body of four elements": _body([[1, 2], {}, {}, {}]),
    "body a text": _body(b'"lab.add"'),
    "body an object": _body({"no": "task"}),
    "body of 10 000 levels": _body(b"[" + deep(10_000) + b", {}, {}]"),
    f"body of {BIG} MB": _body(b'[["' + b"x" * (BIG * 1_000_000) + b'"], {}, {}]'),
    "an unknown body encoding": _property("body_encoding", "rot13"),
    "args a number": _body([5, {}, EMBED]),
    "args an object": _body([{"x": 1}, {}, EMBED]),
    "20 000 args": _args([0] * 20_000),
    "kwargs a list": _body([[1, 2], [1], EMBED]),
    "kwargs a text": _body([[1, 2], "y=2", EMBED]),
    "embed a list": _body([[1, 2], {}, [1]]),
    "embed a number": _body([[1, 2], {}, 3]),
    "callbacks a text": _embed(callbacks="lab.add"),
    "callbacks of texts": _embed(callbacks=["lab.add"]),
    "a callback without a task": _embed(callbacks=[{"args": [1]}]),
    "errbacks a number": _embed(errbacks=5),
    "errbacks of numbers": _embed(errbacks=[5]),
    "chain an object": _embed(chain={"task": "lab.add"}),
    "chain of texts": _embed(chain=["lab.add", "lab.mul"]),
    "chain with a link that is nothing": _embed(chain=[None]),
    "chord a text": _embed(chord="lab.add"),
    "chord a list": _embed(chord=[1]),
    "a callback of 200 levels": _embed(callbacks=[nested_signature(200)]),
    "pickle": _content("application/x-python-serialize", pickle.dumps([[1, 2], {}, EMBED])),
    "pickle that would run a command": _content("application/x-python-serialize", b"cos\nsystem\n(S'touch /tmp/longshore-was-here'\ntR."),
    "yaml": _content("application/x-yaml", yaml.dump([[1, 2], {}, EMBED]).encode(), "utf-8"),
    "msgpack, where it is not accepted": _content("application/x-msgpack", msgpack.packb([[1, 2], {}, EMBED])),
    "an unknown content type": _content("application/x-unheard-of", b"?"),
    "content type a number": _set(("content-type",), 5),
    "compression that nobody knows": _compressed("application/x-snappy", b"?"),
    "compression by bzip2": _compressed("application/x-bz2", bz2.compress(GOOD_BODY)),
    "compression by lzma": _compressed("application/x-lzma", lzma.compress(GOOD_BODY)),
    "compression by brotli": _compressed("application/x-brotli", b"\x0b\x02\x80hello\x03"),
    "compression a number": _compressed(5, GOOD_BODY),
    "zlib that is none": _compressed("application/x-gzip", GOOD_BODY),
    "zlib that stops": _compressed("application/x-gzip", zlib.compress(GOOD_BODY)[:-12]),
    f"a zlib bomb of {BOMB} MB": lambda id: _compressed("application/x-gzip", zlib.compress(bomb(), 1))(id),
    f"a zstd bomb of {BOMB} MB": lambda id: _compressed("application/zstd", zstd.compress(bomb()))(id),
    "zstd that stops": _compressed("application/zstd", zstd.compress(GOOD_BODY)[:-6]),
    "protocol 1 without an id": lambda id: encode({**envelope(id), "headers": {}, "body": {"task": "lab.add", "args": [1, 2], "kwargs": {}}}),
    "protocol 1 with a task that nobody knows": lambda id: encode({**envelope(id), "headers": {}, "body": {"task": "no.such", "id": id, "args": []}}),
}

# Strange, and a worker may run it, refuse it or bury it; but it must go on.
STRANGE = {
    "no delivery tag": _without("properties", "delivery_tag"),
    "no delivery info": _without("properties", "delivery_info"),
    "delivery info a text": _property("delivery_info", "celery"),
    "no properties": _without("properties"),
    "properties null": _set(("properties",), None),
    "no content type": _without("content-type"),
    "no content encoding": _without("content-encoding"),
    "content encoding utf-16": _set(("content-encoding",), "utf-16"),
    "an empty id": _header("id", ""),
    "an id of a megabyte": _header("id", "i" * 1_000_000),
    "an id with a line break and a NUL": _header("id", "a\n\0b"),
    "an id that is a path": _header("id", "../../etc/passwd"),
    "eta a number": _header("eta", 5),
    "eta in the year 9999": _header("eta", "9999-12-31T23:59:59+00:00"),
    "expires in the year 1": _header("expires", "0001-01-01T00:00:00"),
    "retries negative": _header("retries", -1),
    "retries beyond 2^64": _header("retries", 2**70),
    "retries a fraction": _header("retries", 1.5),
    "timelimit a text": _header("timelimit", "60"),
    "timelimit of one": _header("timelimit", [60]),
    "timelimit negative": _header("timelimit", [-5, -5]),
    "timelimit infinite": _header("timelimit", [float("inf"), None]),
    "timelimit zero": _header("timelimit", [0, 0]),
    "group index a text": _header("group_index", "first"),
    "stamps a list": _header("stamps", [1]),
    "stamped headers an object": _header("stamped_headers", {"a": 1}),
    "ignore_result a text": _header("ignore_result", "maybe"),
    "root id a number": _header("root_id", 5),
    "priority a text": _property("priority", "high"),
    "priority 999": _property("priority", 999),
    "priority -1": _property("priority", -1),
    "reply_to a number": _property("reply_to", 5),
    "NaN in the headers": _header("x", float("nan")),
    "the same member twice": lambda id: encode(envelope(id)).replace(b'"lang": "py"', b'"lang": "py", "lang": "rs"'),
    "a callback that nobody knows": _embed(callbacks=[{"task": "no.such", "args": [], "kwargs": {}, "options": {}, "subtask_type": None}]),
    "a chord that was never started": _embed(chord={"task": "lab.tsum", "args": [], "kwargs": {}, "options": {"task_id": "b"}, "subtask_type": None}),
    "a subtask of an unknown kind": _embed(callbacks=[{"task": "lab.add", "args": [1], "kwargs": {}, "options": {}, "subtask_type": "spiral"}]),
}

# Unusual, and right: a Python worker runs each of them.
FINE = {
    "as it should be": lambda id: encode(envelope(id)),
    "text in place of base64": lambda id: encode({**_no(envelope(id), "body_encoding"), "body": GOOD_BODY.decode()}),
    "embed null": _body([[1, 2], {}, None]),
    "embed empty": _body([[1, 2], {}, {}]),
    "an unknown part of embed": _embed(unheard_of=[1]),
    "protocol 1": lambda id: encode({**envelope(id), "headers": {}, "body": {"task": "lab.add", "id": id, "args": [1, 2], "kwargs": {}}}),
    "few headers": lambda id: encode({**envelope(id), "headers": {"task": "lab.add", "id": id}}),
    "timelimit null": _header("timelimit", None),
    "retries null": _header("retries", None),
    "eta without a fraction, in UTC": _header("eta", "2020-01-01T00:00:00Z"),
    "eta without a zone": _header("eta", "2020-01-01T00:00:00.5"),
    "expires in the year 9999": _header("expires", "9999-12-31T23:59:59+00:00"),
    "zlib": _compressed("application/x-gzip", zlib.compress(GOOD_BODY)),
    "zstd": _compressed("application/zstd", zstd.compress(GOOD_BODY)),
    "another language": _header("lang", "rs"),
    "headers of its own": _header("x-anything", {"n": [1]}),
    "escaped member names": lambda id: encode(envelope(id)).replace(b'"task"', b'"t\\u0061sk"'),
}


def _no(message, name):
    message["properties"].pop(name)
    return message
