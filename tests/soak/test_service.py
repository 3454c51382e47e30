"""The short form of the soak, and what it makes of a service that grows or ends wrongly."""

import asyncio
import signal

import pytest

from tests.soak.lives import Life, Sample
from tests.soak.service import cut_calls, soak


def test_nothing_is_lost_or_wrong_under_load_faults_and_restarts(tmp_path):
    lives = [Life(4, signal.SIGTERM), Life(1.5, signal.SIGKILL), Life(1, signal.SIGTERM)]
    lines: list[str] = []
    verdict = asyncio.run(
        soak(
            lives,
            tmp_path,
            3,
            pictures=6,
            max_queue=16,
            sample_s=0.5,
            rotation_s=2,
            stock_client_s=30,
            report=lines.append,
            report_s=2,
        )
    )
    assert not verdict.problems, "\n".join([verdict.table(), *verdict.problems])
    assert [life.status for life in lives] == [0, -signal.SIGKILL, 0]
    for name in ("right", "expected errors", "token rotations"):
        assert verdict.tally.counts[name], verdict.table()
    assert lines


@pytest.mark.parametrize(("grows", "faults"), [("megabytes", 1), ("descriptors", 1), ("threads", 1), (None, 0)])
def test_a_life_in_which_something_grows_is_faulty(grows, faults):
    samples = [
        {"megabytes": 500.0, "descriptors": 50, "threads": 20} | ({grows: 500 + 10 * number} if grows else {})
        for number in range(30)
    ]
    life = Life(30, signal.SIGTERM, [Sample(**sample) for sample in samples], status=0)
    assert len(life.faults()) == faults


@pytest.mark.parametrize(
    ("end", "status", "by_itself", "faults"),
    [
        (signal.SIGTERM, 0, False, 0),
        (signal.SIGTERM, 1, False, 1),
        (signal.SIGTERM, -9, False, 1),
        (signal.SIGTERM, 0, True, 1),
        (signal.SIGKILL, -9, False, 0),
    ],
)
def test_a_life_that_ends_otherwise_than_it_must_is_faulty(end, status, by_itself, faults):
    assert len(Life(1, end, [], by_itself, status).faults()) == faults


def test_calls_that_a_service_has_cut_are_found_in_its_log():
    told = "WARN   blip2@1 3 calls have no answer after 2 s and     [11/27/26 17:27:05]\n       are cut\n"
    assert cut_calls(told)
    assert cut_calls(told.replace("answer after", "[11/27/26 17:27:05]\n       answer after"))
    assert not cut_calls("INFO   blip2@1 auth_tokens_file has changed, it has 1     [11/27/26 17:27:16]\n   tokens\n")
