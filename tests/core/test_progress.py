"""Progress: plain lines where there is no terminal, a bar that shows its numbers where there is."""

from bench.core.progress import Progress, open_progress


def test_plain_lines_name_phase_step_numbers_and_time_left(capsys, monkeypatch):
    now = iter([0.0, 10.0, 11.0, 20.0, 40.0])
    monkeypatch.setattr("bench.core.progress.monotonic", lambda: next(now))
    progress = Progress("lines")
    progress.start("train", 4, done=0)
    progress.update(0, loss=2.0)
    progress.update(1, loss=1.5)  # a second later: too soon for another line
    progress.update(2, loss=1.25, keep=0.05)
    progress.update(4, loss=1.0)
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        "train: 0/4  loss 2  time left unknown",
        "train: 2/4  loss 1.25  keep 0.05  20 s left",
        "train: 4/4  loss 1  0 s left",
    ]


def test_a_resumed_phase_judges_its_pace_by_the_new_steps(capsys, monkeypatch):
    now = iter([0.0, 10.0])
    monkeypatch.setattr("bench.core.progress.monotonic", lambda: next(now))
    progress = Progress("lines")
    progress.start("train", 100, done=90)
    progress.update(95)
    assert capsys.readouterr().err == "train: 95/100    10 s left\n"


def test_off_says_nothing_and_a_bar_goes_to_standard_error(capsys):
    for mode in ("off", "bar"):
        with open_progress(mode) as progress:
            progress.start("train", 2)
            progress.update(2, loss=0.5, keep=0.05)
    out, err = capsys.readouterr()
    assert out == ""
    assert "train" in err and "loss 0.5" in err and "keep 0.05" in err
