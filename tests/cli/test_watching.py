"""What a person sees of a run on a terminal, and what is left of it after Ctrl-C and a resume."""

import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
from fcntl import ioctl

import pytest
from runs import read_metrics

COMMAND = "from bitgraph.cli.main import main; main()"


def on_terminal(arguments, seen, columns=160):
    """Run a command on a terminal; `seen` gets all that was shown so far, and the process."""
    ours, theirs = pty.openpty()
    ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
    environment = {**os.environ, "TERM": "xterm-256color", "PYTHONWARNINGS": "error"}
    for size in ("COLUMNS", "LINES"):  # they would go before what the terminal says
        environment.pop(size, None)
    process = subprocess.Popen(
        [sys.executable, "-c", COMMAND, *map(str, arguments)],
        stdin=theirs, stdout=theirs, stderr=theirs, env=environment, start_new_session=True,
    )  # fmt: skip
    os.close(theirs)
    shown = ""
    while True:
        try:
            data = os.read(ours, 65536)
        except OSError:  # Linux says so when the other end is closed
            break
        if not data:
            break
        shown += re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", data.decode(errors="replace"))
        seen(shown, process)
    os.close(ours)
    return process.wait(60), shown


@pytest.mark.parametrize("columns", [80, 160])
def test_a_terminal_shows_how_a_run_goes(lavapipe, small_run, tmp_path, columns):
    """Loss, eval, tokens a second, device memory and time left, in one line."""
    arguments = small_run("vulkan", tmp_path / "run")
    code, shown = on_terminal(arguments, lambda shown, process: None, columns)
    assert code == 0, shown
    bar = re.compile(
        r"(\d+)/12 +loss (\d\.\d{4}) +eval (\d\.\d{4}) +([\d,]+) tokens/s +"
        r"([\d.]+ [KM]iB) +(?:\d:\d\d:\d\d +)?left +(\d:\d\d:\d\d|-:--:--)"
    )
    bars = bar.findall(shown)
    assert bars, shown
    assert ("training ━" in shown) == (columns == 160)
    records = read_metrics(tmp_path / "run")
    steps = {r["step"]: f"{r['loss']:.4f}" for r in records if r["event"] == "step"}
    assert all(steps[int(step)] == loss for step, loss, *_ in bars if int(step))
    assert bars[-1][0] == "12"
    (needed,) = set(re.findall(r"device memory needed: ([\d.]+ [KM]iB)", shown))
    assert {memory for *_, memory, _ in bars} == {needed}
    assert "-:--:--" not in bars[-1][-1]
    losses = {f"{r['loss']:.4f}" for r in records if r["event"] == "eval"}
    assert {evaluation for _, _, evaluation, *_ in bars} <= losses


def test_ctrl_c_leaves_a_report_and_a_resumed_run_a_whole_one(bitgraph, small_run, tmp_path):
    run, pressed = tmp_path / "run", []

    def press(shown, process):
        if not pressed and "writing the checkpoint of step 4" in shown:
            pressed.append(os.killpg(process.pid, signal.SIGINT))

    arguments = (*small_run("numpy", run), "--samples", 2)
    code, shown = on_terminal(arguments, press)
    assert (code, shown.split()[-1]) == (130, "stopped")
    assert "Traceback" not in shown
    assert re.search(r"--resume goes\s+on from", shown)
    stopped = read_metrics(run)[-1]["step"]
    assert 4 <= stopped < 12
    page = (run / "report.html").read_text()
    assert page.count('class="sample card"') == 0
    again = bitgraph(*arguments, "--resume")
    assert again.code == 0, again.err
    events = [(r["event"], r["step"]) for r in read_metrics(run)]
    assert [step for event, step in events if event == "step"] == list(range(1, 13))
    assert ("resume", stopped) in events
    assert events[-2:] == [("sample", 12), ("sample", 12)]
    page = (run / "report.html").read_text()
    assert page.count('class="sample card"') == 2
    assert (run / "loss.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
