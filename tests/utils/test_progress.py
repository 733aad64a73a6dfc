import sys

import pytest

from m2dit_jax.utils.progress import progress_bar


def test_without_a_terminal_there_are_a_few_lines(capsys):
    with progress_bar(10**9, "convert", "B") as bar:
        for _ in range(1000):
            bar.update(10**6)
    first, last = capsys.readouterr().err.splitlines()
    assert first.startswith("convert: 0 bytes of 1.00 GB, ")
    assert last.startswith("convert: 1.00 GB of 1.00 GB, ") and last.endswith("00:00 left")


def test_a_line_is_written_when_it_is_time(capsys, monkeypatch):
    monkeypatch.setattr("m2dit_jax.utils.progress._LINE_EVERY", 0.0)
    with progress_bar(3, "encode", "clips") as bar:
        bar.set_postfix_str("1 skipped", refresh=False)
        bar.update()
    lines = capsys.readouterr().err.splitlines()
    assert lines[1].startswith("encode: 1 of 3 clips, ")
    assert lines[1].endswith(" left, 1 skipped") and "clips/s" in lines[1]


def test_on_a_terminal_a_bar_is_drawn_over_itself(capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with progress_bar(4, "evaluate", "stories") as bar:
        bar.update(4)
    written = capsys.readouterr().err
    assert written.count("\n") == 1 and written.endswith("\n")
    assert "\revaluate: 100%|█" in written


def test_an_interruption_leaves_the_cursor_on_a_new_line(capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with pytest.raises(KeyboardInterrupt), progress_bar(4, "evaluate", "stories") as bar:
        bar.update()
        raise KeyboardInterrupt
    assert capsys.readouterr().err.endswith("\n")


def test_of_nothing_to_do_nothing_is_said(capsys):
    with progress_bar(0, "convert", "B"):
        pass
    assert capsys.readouterr().err == ""
