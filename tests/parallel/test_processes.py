import pytest

from m2dit_jax.parallel.processes import Processes, gather_errors, preempted


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"count": 2}, "belong together, got coordinator None, processes 2, process None"),
        ({"coordinator": "a:1", "count": 2}, "belong together"),
        ({"coordinator": "a:1", "count": 2, "number": 2}, "less than --processes 2, got 2"),
        ({"coordinator": "a:1", "count": 2, "number": -1}, "at least 0"),
        (
            {"coordinator": "a", "count": 2, "number": 0},
            "from 1 to 65535, got 'a'",
        ),
        (
            {"coordinator": "a:b", "count": 2, "number": 0},
            "from 1 to 65535, got 'a:b'",
        ),
        ({"detect": True, "count": 2}, "--distributed finds the processes by itself"),
    ],
)
def test_flags_that_do_not_fit_are_named(flags, message):
    with pytest.raises(ValueError, match=message):
        Processes(**flags)


def test_one_process_needs_no_others():
    assert not Processes().several
    Processes().start()
    assert gather_errors("alone", None) is None and gather_errors("alone", "broken") == "broken"
    assert not preempted(3)
