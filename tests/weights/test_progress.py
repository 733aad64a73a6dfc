import sys

from m2dit_jax.weights.progress import Progress


def test_without_a_terminal_there_are_a_few_lines(capsys):
    progress = Progress(10**9)
    for _ in range(1000):
        progress.add(10**6)
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(",")[0] for line in lines] == [
        f"{quarter * 0.25:.2f} of 1.00 GB" for quarter in (1, 2, 3, 4)
    ]
    assert lines[-1].endswith("0 s left")


def test_a_large_step_is_one_line(capsys):
    Progress(100).add(100)
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_on_a_terminal_a_bar_is_drawn_over_itself(capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    progress = Progress(10**9)
    progress.add(10**9 - 1)
    progress.add(1)
    _, bar, numbers = capsys.readouterr().err.rpartition(f"[{'#' * 30}]")
    assert bar
    assert numbers.startswith(" 1.00 of 1.00 GB")
    assert numbers.endswith("\n")


def test_nothing_to_do():
    Progress(0).add(0)
