from m2dit_jax.stories.progress import ProgressTracker, progress_printer


def test_the_tracker_tells_what_is_at_work_and_what_is_left():
    reports = []
    tracker = ProgressTracker(4, 2, reports.append)
    tracker.expect(2)
    tracker.finish([0])
    tracker.begin((1, 2))
    tracker.step(1)
    tracker.step(2)
    tracker.finish([1, 2])
    assert [(p.finished, p.at_work, p.step) for p in reports] == [
        *(((0,), (), 0), ((0,), (1, 2), 0), ((0,), (1, 2), 1), ((0,), (1, 2), 2)),
        ((0, 1, 2), (), 0),
    ]
    assert reports[2].seconds_left is None  # a first step may have been compiled
    assert reports[3].seconds_left == reports[3].seconds_per_step * 2  # one more group of two steps


def test_the_printer_has_a_bar_for_each_group_of_scenes(capsys):
    report = progress_printer()
    tracker = ProgressTracker(12, 3, report)
    tracker.expect(2)
    for group in ((1, 2), (3,)):
        tracker.begin(group)
        for step in (1, 2, 3):
            tracker.step(step)
        tracker.finish(group)
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(",")[0] for line in lines if "0 of 3" not in line] == [
        "scene 2",
        "scene 4 of 12: 3 of 3 steps",
    ]
    assert lines[1].startswith("scene 2, 3 of 12: 3 of 3 steps")
    assert lines[-1].endswith("0 s for all scenes")
