import time
from itertools import islice

import numpy as np
import pytest

from m2dit_jax.data.loader import Batch, StallTimer, make_loader, on_devices, world_samples
from m2dit_jax.data.worlds import WORLDS


def fake_sample(batch, row):
    """A sample that says which one it is."""
    return Batch(np.full((1, 1, 1, 1, 3), batch, np.uint8), np.full((1, 1), row, np.int32))


def seen(loader, batches):
    return [
        list(
            zip(
                batch.video[:, 0, 0, 0, 0, 0].tolist(),
                batch.token_ids[:, 0, 0].tolist(),
                strict=True,
            )
        )
        for batch in islice(loader, batches)
    ]


@pytest.mark.parametrize("threads", [1, 3])
def test_batches_come_in_order_and_from_any_place(threads):
    whole = seen(make_loader(fake_sample, range(4), threads=threads), 6)
    assert whole == [[(b, r) for r in range(4)] for b in range(6)]
    assert seen(make_loader(fake_sample, range(4), first_batch=3, threads=threads), 3) == whole[3:]


@pytest.mark.parametrize("rows", [(0,), (1, 3), (2, 3)])
def test_only_the_rows_asked_for_are_read(rows):
    part = seen(make_loader(fake_sample, rows, first_batch=2), 3)
    assert part == [[(2 + b, r) for r in rows] for b in range(3)]


def test_shapes_come_in_the_order_of_the_source_and_round_again():
    source = WORLDS["shapes"].open(0, [(2, 2)], 8, False, 5)

    def tokenize(prompts):
        return np.array([[len(prompt)] for prompt in prompts], np.int32)

    batches = list(islice(make_loader(world_samples(source, tokenize, 2), range(2)), 4))
    videos = np.concatenate([batch.video for batch in batches])
    for number, video in enumerate(videos):
        np.testing.assert_array_equal(video, source[number % 5].video)
    assert batches[0].token_ids[1, 0, 0] == len(source[1].captions[0])


def test_batches_are_put_on_devices_ahead():
    done = []

    def put(number):
        done.append(number)
        return number

    batches = on_devices(iter(range(5)), put, ahead=2)
    assert next(batches) == 0 and done == [0, 1, 2]
    assert list(batches) == [1, 2, 3, 4]


def test_waiting_is_measured():
    def slow():
        while True:
            time.sleep(0.05)
            yield 0

    waiting = StallTimer(slow())
    next(waiting)
    assert waiting.share() > 0.9
    time.sleep(0.1)
    assert waiting.share() < 0.1  # nobody asked for a batch


def test_a_wait_while_the_devices_compute_is_not_counted():
    busy = [True]
    waiting = StallTimer((time.sleep(0.05) for _ in range(2)), lambda: busy[0])
    next(waiting)
    assert waiting.share() == 0
    busy[0] = False
    next(waiting)
    assert waiting.share() > 0.5
