"""The Celery app of the workers: `celery -A worker.app worker -Q train -c 1 --without-gossip --without-mingle`.

The main process keeps house (reaper, dispatcher, sweeping) and beats for all its pool processes; each pool process
supervises one job at a time in its main thread, and keeps a warm spare where it trains. None of them loads torch.
"""

import logging
import os
import socket
from importlib.metadata import version
from typing import Any

from celery import Task, signals
from celery.apps import worker as celery_worker

from core import logs
from core.jobs import queue
from core.jobs.database import Database
from core.jobs.housekeeping import Housekeeping
from core.jobs.queue import WORK
from core.jobs.store import LIGHT, TRAIN
from core.settings import settings
from core.storage import open_storage
from worker.heartbeat import Heartbeat
from worker.place import Drain, Place
from worker.tasks import work

log = logging.getLogger(__name__)
app = queue.make_celery(settings().redis_url)


class Main:
    """The main process: made before the pool, so that its pool processes inherit the pipe and the name."""

    def __init__(self, queues: set[str]) -> None:
        self.queues = queues
        kind = "train" if TRAIN in queues else "light"
        self.name = f"{kind}@{socket.gethostname()}:{os.getpid()}"
        self.drained, self.drain = os.pipe()
        self.keeping: list[Housekeeping | Heartbeat] = []

    def begin(self) -> None:
        database = Database(settings().database_url, pool_size=2)
        self.keeping = [
            Housekeeping(database, app, open_storage(settings().storage_url), settings()),
            Heartbeat(database, self.name, settings(), trains=TRAIN in self.queues, version=version("weightsmith")),
        ]
        for thread in self.keeping:
            thread.start()

    def begin_drain(self) -> None:
        if self.drain >= 0:
            os.close(self.drain)
            self.drain = -1

    def end(self) -> None:
        for thread in self.keeping:
            thread.stop()


_main: Main | None = None
_place: Place | None = None


def on_hint(task: Task, *_hint: object) -> None:
    """Whatever the message holds, it is no more than a reason to look."""
    assert _place is not None
    queue_name = (task.request.delivery_info or {}).get("routing_key")
    work(_place, TRAIN if queue_name == TRAIN else LIGHT)


def _set_up_logging(**_: Any) -> None:
    """In the place of Celery's own, colours and all."""
    logs.own_process(settings().log_level)
    celery_worker.safe_say = lambda message, *_: logs.say_at_once("celery.apps.worker", message)


def _before_the_pool(sender: Any, **_: Any) -> None:
    global _main
    _main = Main(set(sender.app.amqp.queues.consume_from))


def _in_a_pool_process(**_: Any) -> None:
    global _place
    assert _main is not None
    os.close(_main.drain)
    _place = Place(settings(), app, worker=_main.name, queues=_main.queues, drain=Drain(_main.drained))


def _out_of_a_pool_process(**_: Any) -> None:
    if _place is not None:
        _place.close()


def _ready(**_: Any) -> None:
    assert _main is not None
    _main.begin()


def _shutting_down(**_: Any) -> None:
    if _main is not None:
        _main.begin_drain()


def _shut_down(**_: Any) -> None:
    if _main is not None:
        _main.end()


app.task(name=WORK, bind=True)(on_hint)
signals.celeryd_init.connect(_set_up_logging)  # before Celery warns of anything
signals.setup_logging.connect(_set_up_logging)
signals.worker_init.connect(_before_the_pool)
signals.worker_process_init.connect(_in_a_pool_process)
signals.worker_process_shutdown.connect(_out_of_a_pool_process)
signals.worker_ready.connect(_ready)
signals.worker_shutting_down.connect(_shutting_down)
signals.worker_shutdown.connect(_shut_down)
