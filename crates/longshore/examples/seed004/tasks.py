"""Seed 004's tasks, in Python: the worker of `celery -A tasks worker --loglevel=INFO`, and what the client imports."""

import os
import time

from celery import Celery

url = os.environ.get("CELERY_BROKER_URL", "redis://localhost")  # or amqp://localhost
# RabbitMQ keeps no results: there they are sent to whoever asked.
app = Celery("tasks", broker=url, backend="rpc://" if "amqp" in url.split(":")[0] else url)


def add(a, b):
    time.sleep(3)
    return a + b


@app.task
def _add(a, b):
    return add(a, b)
