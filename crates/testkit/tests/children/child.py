"""A child that speaks frames. A task is some words, done by one of WORKERS threads."""

import os
import queue
import signal
import struct
import sys
import threading
import time

# What is printed goes to stderr, so that frames stay alone.
frames = os.dup(1)
os.dup2(2, 1)
lock = threading.Lock()
tasks = queue.Queue()
soft, freed = {}, {}


def write(data):
    view = memoryview(data)
    while view:
        view = view[os.write(frames, view):]


def say(kind, number, body=b""):
    with lock:
        write(struct.pack("<IcQ", 9 + len(body), kind, number) + body)


def read(count):
    data = b""
    while len(data) < count:
        piece = os.read(0, min(count - len(data), 1 << 16))
        if not piece:
            sys.exit(0)
        data += piece
    return data


def gate(name):
    with lock:
        return freed.setdefault(name, threading.Event())


def perform(number, body):
    word, _, rest = body.partition(b" ")
    if word == b"pid":
        return str(os.getpid()).encode()
    if word == b"hold":
        gate(rest).wait()
    elif word == b"free":
        gate(rest).set()
    elif word == b"die":
        os.kill(os.getpid(), signal.SIGKILL)
    elif word == b"exit":
        print("sorry", flush=True)
        os._exit(int(rest))
    elif word == b"soft":
        soft[number].wait()
        return b"softened"
    elif word == b"hang":
        print("hanging", rest.decode(), flush=True)
        time.sleep(1000)
    elif word == b"sleep":
        time.sleep(int(rest) / 1000)
    elif word == b"print":
        print(rest.decode(), flush=True)
    elif word == b"garbage":
        with lock:
            write(b"Traceback (most recent call last):\n")
    elif word == b"stranger":
        say(b"A", number + 1000)
    elif word == b"grow":
        rest = bytearray(int(rest) << 20)
        time.sleep(1000)
    return rest


def work():
    while True:
        number, body = tasks.get()
        say(b"B", number)
        say(b"A", number, perform(number, body))


for _ in range(int(os.environ.get("WORKERS", "1"))):
    threading.Thread(target=work, daemon=True).start()
say(b"H", 0)
while True:
    time.sleep(float(os.environ.get("SLOW", "0")))
    length, kind, number = struct.unpack("<IcQ", read(13))
    body = read(length - 9)
    if kind == b"T":
        soft[number] = threading.Event()
        tasks.put((number, body))
    elif kind == b"S":
        soft[number].set()
