"""The canvases of test_canvas.py over RabbitMQ, with results in Redis."""

import pytest

from test_canvas import *  # noqa: F403

pytestmark = pytest.mark.amqp


@pytest.fixture
def lab(rabbit_staffed):
    rabbit_staffed.use().forget_chords()
    yield rabbit_staffed


@pytest.fixture
def own_lab(own_rabbit_lab):
    yield own_rabbit_lab
