"""Seed 004's tasks, in Python: the worker of `celery -A tasks worker --loglevel=INFO`, and what the client imports."""

import os
import time

from celery import Celery

url = os.environ.get("CELERY_BROKER_URL", "redis://localhost")
app = Celery("tasks", broker=url, backend=url)


def add(a, b):
    time.sleep(3)
    return a + b


@app.task
def _add(a, b):
    return add(a, b)
