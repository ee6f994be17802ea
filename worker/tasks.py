"""The task: a hint has come, so look at the queue. Which job it named does not matter: the claim decides."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from core.jobs import store
from worker.place import Place
from worker.recorder import AWAY
from worker.slots import Share
from worker.supervisor import supervise

log = logging.getLogger(__name__)


def work(place: Place, queue: str) -> None:
    """Take jobs and see them through until there is nothing to take, or no slot, or the worker is to stop."""
    with place.drain.on_sigterm():
        while not place.drain.requested():
            if not work_once(place, queue):
                return


def work_once(place: Place, queue: str) -> bool:
    """One job. A slot comes before the claim: who has no room takes no work."""
    with slot_for(place, queue) as held:
        if held is None:
            return False
        try:
            with place.database.transaction() as session:
                claim = store.claim(
                    session,
                    queue=queue,
                    worker=place.name,
                    lease_seconds=place.settings.lease_seconds,
                    gpu=held.suits_gpu_jobs,
                )
        except AWAY as error:
            log.warning("no claim, the database is away: %s", str(error).splitlines()[0])
            return False
        if claim is None:
            return False
        held.is_free = supervise(place, claim, held.share)
    return True


class Held:
    """A slot in hand (`share`), or the leave to work without one."""

    def __init__(self, share: Share | None) -> None:
        self.share = share
        self.is_free = True
        """once the work is done: False when a child does not die"""

    @property
    def suits_gpu_jobs(self) -> bool:
        """Preparing the data of a job that needs a GPU needs none."""
        return self.share is None or self.share.slot.device == "cuda"


@contextmanager
def slot_for(place: Place, queue: str) -> Iterator[Held | None]:
    """Lock a slot for work that trains; None when all are busy."""
    if queue != store.TRAIN or place.slots is None:
        yield Held(None)
        return
    index = place.slots.take()
    if index is None:
        yield None
        return
    held = Held(place.slots.shares[index])
    try:
        yield held
    finally:
        if held.is_free:
            place.slots.release(index)
        else:
            place.slots.abandon(index)
