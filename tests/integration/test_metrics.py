"""What Prometheus sees of a running service, after work that is known."""

import base64
import socket
from collections.abc import Iterator

import grpc
import prometheus_client
import pytest
from docarray import DocList
from grpc_health.v1 import health_pb2, health_pb2_grpc
from jina import Client
from jina.proto import jina_pb2, jina_pb2_grpc
from transformers import AutoTokenizer

from demo.service import CHECKPOINT, ROOT, Service, free_port
from executor import Blip2Executor, ImagePrompt, Response
from executor.telemetry.observer import SILENT
from tests.integration.inprocess import TIMEOUT_S, as_request, hold_service, numbered, serve_executor
from tests.integration.test_load import answers, call
from tests.support.raw_calls import UNARY, outcome
from tests.support.scraping import Scrape
from tests.support.starting import start_and_fail

QUESTION = "how many cats are there?"
TOKEN = "a-token-of-24-characters"


@pytest.fixture
def metrics_port(demo_environment, monkeypatch) -> int:
    port = free_port()
    monkeypatch.setenv("BLIP2_METRICS_PORT", str(port))
    return port


@pytest.fixture
def served(metrics_port) -> Iterator[tuple[int, Blip2Executor]]:
    with serve_executor() as (port, executor):
        yield port, executor


def ask(port: int, *prompts: ImagePrompt) -> list[Response]:
    return list(Client(port=port).post("/", inputs=DocList[ImagePrompt](prompts), return_type=DocList[Response]))


def count_tokens(answers: list[str]) -> int:
    """By the tokenizer alone; each answer has an end."""
    tokenizer = AutoTokenizer.from_pretrained(CHECKPOINT)
    return sum(len(tokenizer(answer).input_ids) for answer in answers)


def test_known_requests_are_counted_exactly_and_no_text_of_a_client_is_seen(
    served, metrics_port, two_cats, pictures_url, tmp_path
):
    port, _ = served
    data_uri = "data:image/jpeg;base64," + base64.b64encode(two_cats).decode()
    replies = [
        ask(port, prompt)[0]
        for prompt in (
            ImagePrompt(img_bytes=two_cats, prompt=QUESTION),
            ImagePrompt(img=data_uri, prompt="is there a dog?"),
            ImagePrompt(img=f"{pictures_url}/two-cats.jpg", prompt="a photo of"),
            ImagePrompt(img=f"{pictures_url}/marked-path.jpg", prompt=QUESTION),
            ImagePrompt(img_bytes=b"marked-bytes", prompt=QUESTION),
            ImagePrompt(img="marked-scheme://x", prompt=QUESTION),
            ImagePrompt(img_bytes=two_cats, prompt=""),
            ImagePrompt(id="marked-id", img_bytes=two_cats, prompt="marked prompt", preset="marked-preset"),
        )
    ]
    answered = [reply.answer for reply in replies if not reply.error]
    assert len(answered) == 3

    scrape = Scrape(metrics_port)
    assert scrape.above_zero("blip2_documents_total", "code") == {
        "OK": 3,
        **dict.fromkeys(
            ("IMAGE_NOT_FOUND", "NOT_AN_IMAGE", "UNSUPPORTED_SCHEME", "EMPTY_PROMPT", "INVALID_OPTIONS"), 1
        ),
    }
    assert scrape.above_zero("blip2_pictures_total", "source") == {"bytes": 2, "data": 1, "url": 2}
    assert scrape.value("blip2_fetch_seconds_count") == 2
    assert scrape.value("blip2_picture_decode_seconds_count") == 4
    assert scrape.value("blip2_document_seconds_count") == scrape.value("blip2_queue_wait_seconds_count") == 3
    assert scrape.value("blip2_batch_documents_bucket", le="1.0") == scrape.value("blip2_batch_documents_sum") == 3
    assert scrape.value("blip2_feature_cache_misses_total") == 1
    assert scrape.value("blip2_feature_cache_hits_total") == 2
    assert scrape.value("blip2_tokens_total") == count_tokens(answered)
    assert scrape.above_zero("blip2_stage_seconds_count", "stage") == {"encode": 1, "prefill": 3, "decode": 3}
    for name in ("document", "queue_wait", "fetch", "picture_decode", "token", "model_load"):
        sample = f"blip2_{name}_seconds"
        assert scrape.value(sample if name == "model_load" else f"{sample}_sum") > 0
    for name in ("documents_in_service", "request_bytes_in_service", "queue_documents", "pictures_loading", "draining"):
        assert scrape.value(f"blip2_{name}") == 0
    for text in ("marked", "cats", "127.0.0.1", pictures_url, str(ROOT), str(tmp_path)):
        assert text not in scrape.text


def test_local_pictures_are_counted(metrics_port, monkeypatch):
    monkeypatch.setenv("BLIP2_ALLOWED_LOCAL_DIRS", str(ROOT / "demo" / "pictures"))
    with serve_executor() as (port, _):
        (reply,) = ask(port, ImagePrompt(img=str(ROOT / "demo" / "pictures" / "two-cats.jpg"), prompt=QUESTION))
        assert reply.answer == "two"
        assert Scrape(metrics_port).above_zero("blip2_pictures_total", "source") == {"file": 1}


def test_what_waits_is_seen_while_it_waits_and_travels_as_one_batch(metrics_port, picture):
    with hold_service("GatedExecutor") as held, grpc.insecure_channel(f"127.0.0.1:{held.port}") as channel:
        first = call(channel, "unary", numbered(picture, 0))
        assert held.engine.entered.acquire(timeout=TIMEOUT_S)
        second = call(channel, "unary", numbered(picture, 1, 2, 3, 4))
        held.batcher.wait_for_submitted(range(5))

        scrape = Scrape(metrics_port)
        assert scrape.value("blip2_queue_documents") == 4
        assert scrape.value("blip2_documents_in_service") == 5
        assert scrape.value("blip2_calls_in_progress") == 2
        assert scrape.value("blip2_request_bytes_in_service") == 5 * (len(picture) + len("how many cats?"))
        assert scrape.value("blip2_queue_wait_seconds_count") == 1

        held.engine.let(2)
        replies = answers(first) + answers(second)
        scrape = Scrape(metrics_port)
    assert all(replies)
    buckets = {size: scrape.value("blip2_batch_documents_bucket", le=f"{size}.0") for size in (1, 2, 4)}
    assert buckets == {1: 1, 2: 1, 4: 2}
    assert scrape.value("blip2_batch_documents_sum") == scrape.value("blip2_queue_wait_seconds_count") == 5
    assert scrape.value("blip2_stage_seconds_count", stage="encode") == scrape.value("blip2_feature_cache_misses_total")
    assert scrape.value("blip2_feature_cache_hits_total") == 4
    assert scrape.value("blip2_tokens_total") == count_tokens(replies)


@pytest.mark.parametrize(
    ("limit", "padding", "seeds"),
    [({"max_queue": 1}, 0, (1, 2, 3)), ({"max_queue_mb": 1}, 600_000, (1, 2))],
    ids=["documents", "bytes"],
)
def test_documents_for_which_there_is_no_room_are_counted(tiny_t5, picture, monkeypatch, limit, padding, seeds):
    metrics_port = free_port()
    settings = {"model": str(tiny_t5), "metrics_port": metrics_port} | limit
    with (
        hold_service(uses_with=settings) as held,
        grpc.insecure_channel(f"127.0.0.1:{held.port}") as channel,
    ):
        inside = call(channel, "unary", numbered(picture, 0))
        assert held.engine.entered.acquire(timeout=TIMEOUT_S)
        assert answers(call(channel, "unary", numbered(picture + bytes(padding), *seeds))) == [""] * len(seeds)
        held.engine.let(1)
        assert answers(inside) == ["0"]
        expected = {"OK": 1, "OVERLOADED": len(seeds)}
        assert Scrape(metrics_port).above_zero("blip2_documents_total", "code") == expected


def test_requests_that_fail_as_a_whole_are_counted(served, metrics_port, two_cats):
    port, _ = served
    infinite = as_request(DocList[ImagePrompt]([ImagePrompt(img_bytes=two_cats, prompt=QUESTION)]))
    infinite.proto_with_data.parameters["temperature"] = float("inf")
    broken = jina_pb2.DataRequestProto()
    broken.header.exec_endpoint = "/"
    broken.data.docs_bytes = b"\xff" + two_cats
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        stub = jina_pb2_grpc.JinaSingleDataRequestRPCStub(channel)
        for _ in range(2):
            stub.process_single_data(infinite, TIMEOUT_S)
        channel.unary_unary(UNARY)(broken.SerializeToString(), TIMEOUT_S)
    scrape = Scrape(metrics_port)
    assert scrape.above_zero("blip2_requests_failed_total", "code") == {"INVALID_OPTIONS": 2, "INVALID_DOCUMENT": 1}
    assert scrape.above_zero("blip2_documents_total", "code") == {}


@pytest.mark.parametrize("kind", ["unary", "stream"])
def test_calls_that_are_refused_are_counted_by_reason(tiny_t5, picture, monkeypatch, kind):
    metrics_port = free_port()
    settings = {"model": str(tiny_t5), "auth_tokens": TOKEN, "max_calls": 1, "metrics_port": metrics_port}
    token = (("authorization", f"Bearer {TOKEN}"),)
    with (
        hold_service(uses_with=settings) as held,
        grpc.insecure_channel(f"127.0.0.1:{held.port}") as channel,
    ):
        assert outcome(channel, UNARY, b"\xff")[0] is grpc.StatusCode.UNAUTHENTICATED
        assert outcome(channel, UNARY, b"\xff\xff\xff", metadata=token)[0] is grpc.StatusCode.INVALID_ARGUMENT
        request = as_request(numbered(picture, 0))
        inside = jina_pb2_grpc.JinaSingleDataRequestRPCStub(channel).process_single_data.future(
            request, TIMEOUT_S, metadata=token
        )
        assert held.engine.entered.acquire(timeout=TIMEOUT_S)
        for _ in range(2):
            assert outcome(channel, UNARY, metadata=token)[0] is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert Scrape(metrics_port).value("blip2_draining") == 0

        with grpc.insecure_channel(f"127.0.0.1:{held.port}") as watching:
            health = health_pb2_grpc.HealthStub(watching).Watch(health_pb2.HealthCheckRequest(), timeout=TIMEOUT_S)
            assert next(health).status == health_pb2.HealthCheckResponse.SERVING
            ended = held.shut_down()
            assert next(health).status == health_pb2.HealthCheckResponse.NOT_SERVING
        assert outcome(channel, UNARY, metadata=token)[0] is grpc.StatusCode.UNAVAILABLE
        scrape = Scrape(metrics_port)
        assert scrape.value("blip2_draining") == scrape.value("blip2_calls_in_progress") == 1
        assert scrape.above_zero("blip2_calls_refused_total", "reason") == {
            "unauthenticated": 1,
            "unreadable": 1,
            "overloaded": 2,
            "draining": 1,
        }
        held.engine.let(1)
        inside.result(TIMEOUT_S)
        ended.result(TIMEOUT_S)
        with socket.socket() as probe, pytest.raises(ConnectionRefusedError):
            probe.connect(("127.0.0.1", metrics_port))


def test_metrics_that_fail_cost_no_answer(served, metrics_port, two_cats, monkeypatch):
    failed = []

    def fail(*args: object) -> None:
        failed.append(args)
        raise RuntimeError("broken")

    monkeypatch.setattr(prometheus_client.Counter, "inc", fail)
    monkeypatch.setattr(prometheus_client.Histogram, "observe", fail)
    prompts = [ImagePrompt(img_bytes=two_cats, prompt=prompt) for prompt in (QUESTION, "", QUESTION)]
    replies = ask(served[0], *prompts)
    assert [reply.answer for reply in replies] == ["two", "", "two"]
    assert replies[1].error.startswith("EMPTY_PROMPT")
    assert len(failed) > len(prompts)


def test_python_dash_m_serves_metrics_and_a_second_one_on_their_port_says_why_it_cannot(tmp_path, two_cats):
    metrics_port = free_port()
    with Service(log=tmp_path / "log", metrics_port=metrics_port) as service:
        assert ask(service.port, ImagePrompt(img_bytes=two_cats, prompt=QUESTION))[0].answer == "two"
        scrape = Scrape(metrics_port)
        assert scrape.value("blip2_documents_total", code="OK") == 1
        assert scrape.value("process_resident_memory_bytes") > 0
        (build,) = [sample.labels for sample in scrape if sample.name == "blip2_build_info"]
        assert (build["device"], build["dtype"], build["compile"]) == ("cpu", "float32", "off")

        finished = start_and_fail(metrics_port=metrics_port)
        assert service.stop() == 0
    message = f"blip2: cannot start: metrics_port {metrics_port} cannot be listened on: in use"
    assert message in finished.stderr
    assert "Traceback" not in finished.stderr
    with socket.socket() as probe, pytest.raises(ConnectionRefusedError):
        probe.connect(("127.0.0.1", metrics_port))


def test_without_a_port_nothing_is_counted(demo_environment):
    with serve_executor() as (_, executor):
        assert executor.server_policy.observer is SILENT
        assert executor.server_policy.metrics_port is None
