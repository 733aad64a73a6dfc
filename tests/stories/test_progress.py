from m2dit_jax.stories.progress import ProgressTracker, StoryProgress, progress_printer


def test_the_tracker_tells_what_is_at_work_and_what_is_left():
    told = []
    tracker = ProgressTracker(4, 2, told.append)
    tracker.expect(2)
    tracker.finish([0])
    tracker.begin((1, 2))
    tracker.step(1)
    tracker.step(2)
    tracker.finish([1, 2])
    assert [(p.finished, p.at_work, p.step) for p in told] == [
        *(((0,), (), 0), ((0,), (1, 2), 0), ((0,), (1, 2), 1), ((0,), (1, 2), 2)),
        ((0, 1, 2), (), 0),
    ]
    assert told[2].seconds_left is None  # a first step may have been compiled
    assert told[3].seconds_left == told[3].seconds_a_step * 2  # one more group of two steps


def test_the_printer_keeps_last_steps_and_says_no_more_than_asked(capsys):
    report = progress_printer(every=1000.0)
    for step in (1, 2, 3):
        report(StoryProgress(12, (0,), (1, 2), step, 3, 0.5, 7.0))
    report(StoryProgress(12, (0, 1, 2)))
    assert capsys.readouterr().err == "scene 2, 3 of 12: step 3/3, 0.5 s a step, 7 s left\n"
    report = progress_printer(every=0.0)
    report(StoryProgress(12, (), (0,), 1, 3))
    assert capsys.readouterr().err == "scene 1 of 12: step 1/3\n"
