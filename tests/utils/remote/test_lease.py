"""One writer at a time, by an object in a bucket; the bucket is a dictionary here."""

import json
from types import SimpleNamespace

import psutil
import pytest

from m2dit_jax.utils.remote import lease as lease_module
from m2dit_jax.utils.remote.lease import NAME, Lease, Taken


class Objects(dict):
    """What a lease needs of a bucket."""

    def read(self, name):
        return self.get(name)

    def write(self, name, content):
        self[name] = content

    def create(self, name, content):
        if name in self:
            return False
        self[name] = content
        return True

    def delete(self, names):
        for name in names:
            self.pop(name, None)


@pytest.fixture
def objects():
    return Objects()


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Time in which no second is waited for."""
    now = [0.0]

    def sleep(seconds):
        now[0] += seconds

    time = SimpleNamespace(sleep=sleep, monotonic=lambda: now[0], time=lambda: 0.0)
    monkeypatch.setattr(lease_module, "time", time)
    return now


def elsewhere(objects, **changes):
    """Makes the lease that of a process on another machine."""
    objects[NAME] = json.dumps(
        {**json.loads(objects[NAME]), "host": "elsewhere", **changes}
    ).encode()


def test_a_lease_is_taken_renewed_and_given_back(objects):
    lease = Lease(objects)
    lease.take()
    before = objects[NAME]
    lease.renew()
    assert objects[NAME] != before
    lease.release()
    assert NAME not in objects


def test_one_of_a_process_that_lives_is_not_taken(objects, monkeypatch):
    first = Lease(objects)
    first.take()
    elsewhere(objects, process=7)
    beats = iter(range(1, 100))

    def sleep(_):
        elsewhere(objects, beat=next(beats))

    monkeypatch.setattr(lease_module.time, "sleep", sleep)
    with pytest.raises(Taken, match="process 7 on elsewhere"):
        Lease(objects).take()


def test_one_without_a_beat_is_taken_after_a_minute(objects, quick):
    Lease(objects).take()
    elsewhere(objects)
    Lease(objects).take()
    assert lease_module.EXPIRES <= quick[0] < lease_module.EXPIRES + 5


def test_one_of_a_process_here_that_has_ended_is_taken_at_once(objects, quick, monkeypatch):
    Lease(objects).take()
    objects[NAME] = objects[NAME].replace(b'"process": ', b'"process": 9')
    monkeypatch.setattr(psutil, "pid_exists", lambda _: False)
    Lease(objects).take()
    assert quick[0] < 5


def test_who_lost_the_lease_is_told_at_the_next_beat_and_leaves_it_to_the_other(objects):
    first, second = Lease(objects), Lease(objects)
    first.take()
    second.take()  # of the same process: it has ended, as far as it can see
    with pytest.raises(Taken):
        first.renew()
    first.release()
    second.renew()


@pytest.mark.parametrize("content", [b"", b"{", b"[1]"])
def test_a_damaged_lease_is_nobodys(objects, content):
    objects[NAME] = content
    Lease(objects).take()
