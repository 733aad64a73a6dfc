import io

from m2dit_jax.weights.progress import Progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_without_a_terminal_there_are_a_few_lines():
    stream = io.StringIO()
    progress = Progress(10**9, stream)
    for _ in range(1000):
        progress.add(10**6)
    lines = stream.getvalue().splitlines()
    assert [line.split(",")[0] for line in lines] == [
        f"{quarter * 0.25:.2f} of 1.00 GB" for quarter in (1, 2, 3, 4)
    ]
    assert lines[-1].endswith("0 s left")


def test_a_large_step_is_one_line():
    stream = io.StringIO()
    Progress(100, stream).add(100)
    assert len(stream.getvalue().splitlines()) == 1


def test_on_a_terminal_a_bar_is_drawn_over_itself():
    stream = Terminal()
    progress = Progress(10**9, stream)
    progress.add(10**9 - 1)
    progress.add(1)
    *_, last = stream.getvalue().split("\r")
    assert last.startswith(f"[{'#' * 30}] 1.00 of 1.00 GB")
    assert last.endswith("\n")


def test_nothing_to_do():
    Progress(0, io.StringIO()).add(0)
