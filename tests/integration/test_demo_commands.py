"""`make demo` and `make serve`, less the virtual environment."""

import re
import signal
import subprocess
import sys

from demo.service import ROOT, Program, free_port


def test_demo_prints_picture_question_answer_and_time():
    finished = subprocess.run(
        [sys.executable, "-m", "demo.ask"], cwd=ROOT, capture_output=True, text=True, timeout=240, check=True
    )
    lines = dict(line.split(":", 1) for line in finished.stdout.splitlines() if ":" in line)
    assert lines["Picture"].strip() == "demo/pictures/two-cats.jpg"
    assert lines["Question"].strip() == "Question: how many cats are there? Answer:"
    assert lines["Answer"].strip() == "two"
    assert lines["Time"].strip().endswith("connecting included")
    assert "exit status 0" in finished.stdout


def test_serve_prints_a_client_that_works_when_pasted_and_ends_on_ctrl_c(tmp_path):
    command = [sys.executable, "-m", "demo.serve", "--port", str(free_port())]
    snippet = re.compile(r"^from docarray.*?^print\(.*?\n", re.MULTILINE | re.DOTALL)
    with Program(command, tmp_path / "log") as serving:
        serving.wait_until(lambda: snippet.search(serving.told()) is not None)
        found = snippet.search(serving.told())
        assert found
        pasted = subprocess.run(
            [sys.executable, "-i"],
            input=found[0] + "\n",
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        serving.process.send_signal(signal.SIGINT)
        assert serving.process.wait(60) == 0
    assert "two" in pasted.stdout
