"""The load generator against the service, and what becomes of its numbers. Peers are left to the benchmark itself."""

import json
import os
import subprocess
import sys
import time

import pytest
import torch

from benchmarks import overhead, overload, scaling, summary, workload
from benchmarks.architectures import ARCHITECTURES, build, write
from benchmarks.load_generator import _Outcome, percentiles, summarise
from benchmarks.wire import decode, encode
from demo.service import CHECKPOINT, ROOT
from executor.checkpoints.loading import load


def cell(answers_per_s, concurrency=32, p50=10.0, asked=None, **other):
    numbers = {"concurrency": concurrency, "rate": asked, "answers_per_s": answers_per_s, "latency_ms": {"p50": p50}}
    return numbers | {"batch": 4.0, "wrong": 0, "errors": 0} | other


def reply(answer):
    return json.dumps({"answer": answer}).encode()


def test_the_load_generator_measures_the_service(service, tmp_path):
    cases = tmp_path / "cases.json"
    workload.save(workload.build(CHECKPOINT, 8), cases)
    command = [sys.executable, "-m", "benchmarks.load_generator", "--protocol", "jina", "--port", str(service.port)]
    command += [
        "--workload",
        str(cases),
        "--concurrency",
        "1",
        "4",
        "--rate",
        "20",
        "--seconds",
        "0.5",
        "--warm-up",
        "0",
    ]
    done = subprocess.run(command, cwd=ROOT, env=os.environ, capture_output=True, text=True, check=True)
    cells = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(cell["concurrency"], cell["rate"]) for cell in cells] == [(1, None), (4, None), (None, 20)]
    for measured in cells:
        assert (measured["wrong"], measured["errors"], measured["reason"]) == (0, 0, "")
        assert measured["answered"] > 0
        assert 0 < measured["latency_ms"]["p50"] <= measured["latency_ms"]["p99"]


def test_random_weights_on_disk_are_those_of_the_architecture(tmp_path, monkeypatch):
    small = {name: dict(part) if isinstance(part, dict) else part for name, part in ARCHITECTURES["base"].items()}
    small["vision_config"]["num_hidden_layers"] = small["qformer_config"]["num_hidden_layers"] = 1
    small["text_config"] |= {"num_layers": 1, "num_decoder_layers": 1, "vocab_size": 128}
    monkeypatch.setitem(ARCHITECTURES, "small", small)
    built = build("small", torch.device("cpu"), "float16").model.state_dict()
    loaded = load(str(write("small", "float32", tmp_path)), device="cpu", dtype="float16").model.state_dict()
    assert {name: (weight.shape, weight.dtype) for name, weight in loaded.items()} == {
        name: (weight.shape, weight.dtype) for name, weight in built.items()
    }
    assert 0.01 < loaded["language_model.lm_head.weight"].std() < 0.03


def test_pictures_of_the_workload_differ_and_its_answers_are_many():
    cases = workload.build(CHECKPOINT, 16)
    assert len({case.picture for case in cases}) == 16
    assert len({case.answer for case in cases}) > 4


def test_only_right_answers_within_the_seconds_count():
    outcomes = [
        _Outcome(0, 0.0, 1.0, reply("two")),
        _Outcome(1, 0.0, 1.5, reply("two")),  # wrong
        _Outcome(0, 1.0, 2.5, reply("two")),  # late
        _Outcome(0, 1.0, 1.2, None, "TimeoutError: "),
        _Outcome(0, 1.0, 1.2, b"{}"),
    ]
    summed = summarise("ray", ["two", "three"], outcomes, begun=0.0, seconds=2.0)
    assert summed["answers_per_s"] == 0.5
    assert (summed["answered"], summed["wrong"], summed["errors"]) == (3, 1, 2)
    assert summed["latency_ms"] == percentiles([1000.0, 1500.0, 1500.0])
    assert summed["reason"] == "'two' instead of 'three'"


def test_who_was_refused_is_an_error_with_a_latency_of_its_own():
    outcomes = [
        _Outcome(0, 0.0, 0.001, None, "AioRpcError: OVERLOADED: 2 calls are in progress"),
        _Outcome(0, 0.0, 0.5, None, "TimeoutError: "),
        _Outcome(0, 0.0, 1.0, reply("two")),
    ]
    summed = summarise("ray", ["two"], outcomes, begun=0.0, seconds=2.0)
    assert (summed["answered"], summed["errors"], summed["refused"]) == (1, 2, 1)
    assert summed["refused_ms"]["p99"] == 1.0
    assert summed["latency_ms"]["p50"] == 1000.0


def test_percentiles_lie_between_observations():
    assert percentiles([float(number) for number in range(101)]) == {"p50": 50.0, "p95": 95.0, "p99": 99.0}
    assert percentiles([1.0]) == {"p50": 1.0, "p95": 1.0, "p99": 1.0}
    assert percentiles([]) == {}


@pytest.mark.parametrize("protocol", ["litserve", "bentoml", "ray"])
def test_http_requests_hold_the_picture_and_the_prompt(protocol):
    body = json.loads(encode(protocol, b"\x00\xff", "how many?"))
    question = body["questions"][0] if protocol == "bentoml" else body
    assert question == {"image": "AP8=", "prompt": "how many?"}


def test_a_failed_jina_reply_is_an_error_and_no_answer():
    from jina.types.request.data import DataRequest

    request = DataRequest()
    request.add_exception(ValueError("broken"))
    with pytest.raises(ValueError, match="broken"):
        decode("jina", request.proto.SerializeToString())


def test_numbers_are_medians_over_rounds_and_faults_are_summed():
    rounds = [{"ours": [cell(rate, wrong=1)]} for rate in (10.0, 30.0, 20.0)]
    numbers = summary.medians(rounds)["ours"]["32"]
    assert (numbers["answers_per_s"], numbers["lowest"], numbers["highest"]) == (20.0, 10.0, 30.0)
    assert (numbers["wrong"], numbers["p50"], numbers["p99"], numbers["batch"]) == (3, 10.0, None, 4.0)


def test_ratios_are_of_the_same_round():
    rounds = [{"ours": [cell(ours)], "ray": [cell(theirs)]} for ours, theirs in ((10.0, 5.0), (40.0, 10.0), (9.0, 3.0))]
    assert summary.ratios(rounds) == {"ray": {"32": 3.0}}
    rounds[1]["ray"][0]["answers_per_s"] = 0.0
    assert summary.ratios(rounds) == {}


def test_the_service_is_compared_with_its_engine():
    rounds = [{"ours": [cell(20.0, 1, p50=25.0), cell(80.0, 32), cell(70.0, 128)]}]
    engine = [{"answers_per_s": 100.0, "lone_ms": 22.0}]
    assert summary.against_engine(rounds, engine) == {"share_of_engine": 0.8, "added_ms": 3.0}
    assert summary.against_engine([{"ray": [cell(5.0)]}], engine) == {}


def test_the_table_has_a_row_for_each_server_and_load():
    rounds = [{"ours": [cell(20.0), cell(5.0, None, asked=5.0)], "ray": [cell(10.0), cell(5.0, None, asked=5.0)]}]
    lines = summary.table(summary.medians(rounds), summary.ratios(rounds)).splitlines()
    assert len(lines) == 6
    assert lines[2].startswith("| ours | 32 | 20.0 (20.0 to 20.0) | 10.0 | - | - | 4.0 | 0 | 0 | - |")
    assert lines[4].endswith("| 2.00 |")
    assert "| ray | 5/s |" in lines[5]


def test_goodput_is_compared_within_each_round():
    def loaded(times, answers_per_s):
        fields = {"times": times, "rate": times, "memory_mb": 1.0, "cores": 0.1, "answered": 1, "refused": 2}
        latencies = {"latency_ms": {"p50": 1.0, "p99": 2.0}, "refused_ms": {}}
        return fields | latencies | {"answers_per_s": answers_per_s, "wrong": 0, "errors": 3}

    rounds = [
        [loaded(None, 99.0), loaded(1.0, whole), loaded(4.0, part)] for whole, part in ((10, 5), (20, 12), (5, 4))
    ]
    summed = overload.summarise(rounds)
    assert summed["goodput_ratio"] == {"4": 0.6}
    assert [row["answers_per_s"] for row in summed["cells"]] == [99.0, 10, 5]
    assert (summed["cells"][2]["refused"], summed["cells"][2]["errors"]) == (6, 3)
    assert len(overload.table(summed["cells"]).splitlines()) == 5


def test_overhead_is_compared_within_each_round():
    def side(answers_per_s, cpu_ms):
        return cell(answers_per_s, cpu_ms=cpu_ms, wrong=1)

    rounds = [
        {"off": side(100.0, 8.0), "on": side(98.0, 8.4)},
        {"off": side(50.0, 9.0), "on": side(50.0, 9.0)},
        {"off": side(200.0, 5.0), "on": side(150.0, 6.0)},
    ]
    result = overhead.summarise(rounds)
    assert result["throughput_ratio"] == 0.98
    assert result["cpu_ratio"] == pytest.approx(1.05)
    assert result["cpu_ms_added"] == pytest.approx(0.4)
    assert result["sides"]["on"] == {"answers_per_s": 98.0, "p50_ms": 10.0, "cpu_ms": 8.4, "wrong": 3, "errors": 0}
    lines = overhead.table(result).splitlines()
    assert lines[4] == "| on / off | 0.980 | | 1.050 | | |"


def test_cpu_is_compared_at_equal_throughput():
    rounds = [
        {"off": cell(100.0, cpu_ms=1.0), "on": cell(100.0 * ratio, cpu_ms=1.02 * ratio**-0.4)}
        for ratio in (0.5, 0.8, 0.9, 1.6)
    ]
    ratio, error = overhead.summarise(rounds)["cpu_ratio_at_equal_throughput"]
    assert ratio == pytest.approx(1.02)
    assert error == pytest.approx(0, abs=1e-9)
    assert overhead.summarise(rounds[:2])["cpu_ratio_at_equal_throughput"] is None


def test_the_cpu_seconds_of_a_process_are_those_that_it_took():
    before, used = overhead.cpu_s(os.getpid()), time.process_time()
    while time.process_time() - used < 0.2:
        pass
    assert overhead.cpu_s(os.getpid()) - before == pytest.approx(0.2, abs=0.1)


def test_scaling_is_measured_against_one_of_the_same_kind_in_the_same_round():
    def measured(**rates):
        ways = {name: (name.rstrip("12").replace("cut", "one of 2 hosts cut"), int(name[-1])) for name in rates}
        return {
            way: cell(rates[name], latency_ms={"p50": 1, "p99": 2}, answered=9, reason="") for name, way in ways.items()
        }

    rows = scaling.summarise([measured(hosts1=10, hosts2=20, cut2=10), measured(hosts1=20, hosts2=60, cut2=20)])
    assert [(row["kind"], row["number"], row["answers_per_s"], row["ratio"], row["answered"]) for row in rows] == [
        ("hosts", 1, 15, 1, 18),
        ("hosts", 2, 40, 2.5, 18),
        ("one of 2 hosts cut", 2, 15, 1, 18),
    ]
    assert "| hosts | 2 | 40.0 | 2.50 | 1 | 2 | 18 | 0 | 0 |" in scaling.table(rows)
