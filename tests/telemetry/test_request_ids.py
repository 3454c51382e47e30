"""Which id a call gets."""

import re

import pytest

from executor.telemetry import request_ids


@pytest.mark.parametrize(
    "well_formed",
    ["a", "x" * 64, "8b2f6a0e-5c0e-4f0e-9d2c-0e6a3f1c2b4d", "Root=1-67891233-abcdef012345678912345678", "a.b_c:d@e+f"],
)
def test_a_well_formed_id_is_the_clients(well_formed):
    assert request_ids.chosen((("user-agent", "x"), ("x-request-id", well_formed))) == well_formed


@pytest.mark.parametrize(
    "hostile",
    ["", "x" * 65, "a b", "a/1", "a\nb", "a\n", '"}', "ä", "\x1b[31m", "%s", "{0}", b"bytes"],
)
def test_any_other_is_replaced(hostile):
    chosen = request_ids.chosen((("x-request-id", hostile),))
    assert re.fullmatch(r"[0-9a-f]{16}", chosen)


def test_without_one_each_call_gets_its_own():
    assert request_ids.chosen(()) != request_ids.chosen(())


def test_outside_of_a_call_there_is_none():
    assert request_ids.current() is None
