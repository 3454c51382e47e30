"""How much is let in, and what is said to the rest."""

import pytest

from executor.errors import DocumentError, ErrorCode
from executor.scheduling.admission import Admission


def test_documents_beyond_the_limit_are_refused_until_one_has_left():
    admission = Admission(max_documents=2, max_bytes=100)
    first = admission.document()
    first.__enter__()
    with admission.document():
        with pytest.raises(DocumentError) as refused, admission.document():
            pass
        assert refused.value.code is ErrorCode.OVERLOADED
        assert str(refused.value) == ("OVERLOADED: 2 documents are in the service (max_queue); try again in 1 s.")
        first.__exit__(None, None, None)
        with admission.document():
            assert admission.documents == 2
    assert admission.documents == 0


def test_a_place_is_free_again_after_an_error():
    admission = Admission(max_documents=1, max_bytes=1)
    for _ in range(3):
        with pytest.raises(KeyError), admission.document():
            raise KeyError
    assert admission.documents == 0


def test_bytes_beyond_the_limit_are_refused_but_a_request_alone_never_is():
    admission = Admission(max_documents=9, max_bytes=2_000_000)
    with admission.request(5_000_000):
        refused = pytest.raises(DocumentError, match=r"OVERLOADED: 2 MB of requests .* \(max_queue_mb\)")
        with refused, admission.request(1):
            pass
    with admission.request(1_500_000), admission.request(500_000):
        assert admission.bytes == 2_000_000
    assert admission.bytes == 0


def test_the_hint_grows_with_the_time_that_documents_stay(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("executor.scheduling.admission.time.monotonic", lambda: now[0])
    admission = Admission(max_documents=1, max_bytes=1)
    for _ in range(100):
        with admission.document():
            now[0] += 4.2
    with admission.document(), pytest.raises(DocumentError, match=r"try again in 5 s\.$"), admission.document():
        pass
    for _ in range(100):
        with admission.document():
            now[0] += 4000
    with admission.document(), pytest.raises(DocumentError, match=r"try again in 60 s\.$"), admission.document():
        pass
