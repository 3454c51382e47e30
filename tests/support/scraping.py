"""What Prometheus would see of a service."""

from __future__ import annotations

import urllib.request
from collections.abc import Iterator

from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample


class Scrape:
    """The samples of one scrape.

    Attributes:
        text: as it came.
    """

    def __init__(self, port: int, host: str = "127.0.0.1") -> None:
        with urllib.request.urlopen(f"http://{host}:{port}/metrics", timeout=30) as reply:
            self.text = reply.read().decode()

    def __iter__(self) -> Iterator[Sample]:
        for family in text_string_to_metric_families(self.text):
            yield from family.samples

    def value(self, name: str, **labels: str) -> float:
        """The one sample with this name and these labels."""
        (found,) = [sample.value for sample in self if sample.name == name and sample.labels == labels]
        return found

    def above_zero(self, name: str, label: str) -> dict[str, float]:
        """Label value -> sample, of those that are not 0."""
        return {sample.labels[label]: sample.value for sample in self if sample.name == name and sample.value}

    def names(self) -> set[str]:
        return {sample.name for sample in self}
