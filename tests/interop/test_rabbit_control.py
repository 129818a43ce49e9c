"""Remote control and events over RabbitMQ: the tests of test_control.py, and Flower."""

import pytest

from test_control import *  # noqa: F403
from test_tools import test_beat_sends_what_is_due_and_the_worker_runs_it, test_flower_shows_the_worker_its_tasks_and_its_numbers  # noqa: F401

pytestmark = [pytest.mark.amqp, pytest.mark.alone, pytest.mark.needs("control", "amqp")]


@pytest.fixture
def lab(rabbit_staffed):
    rabbit_staffed.use().forget_chords()
    yield rabbit_staffed


@pytest.fixture
def own_lab(own_rabbit_lab):
    yield own_rabbit_lab
