"""What clients do, at random: questions of all kinds, faults, bursts, leaving.

Knows nothing of how calls are made.
"""

import asyncio
import random
import secrets
from collections.abc import Awaitable, Callable, Mapping, Sequence

import grpc

from tests.soak.clients import Client
from tests.soak.questions import Item, Questions, encode


class Habits:
    """What one client does next, at random.

    Args:
        urls: of the picture servers; see `Questions`.
        max_queue: of the service.
        max_message_mb: of the service.
    """

    def __init__(
        self, questions: Questions, urls: Mapping[str, str], max_queue: int, max_message_mb: int, seed: int
    ) -> None:
        self._questions = questions
        self._urls = urls
        self._max_queue = max_queue
        self._too_large = bytes(max_message_mb * 2**20 + 1)
        self._numbers = random.Random(seed)
        weights: dict[Callable[[Client], Awaitable[None]], int] = {
            self.single: 40,
            self.mixed: 12,
            self.stream: 8,
            self.long: 3,
            self.burst: 2,
            self.leave: 6,
            self.expire: 6,
            self.unknown_option: 3,
            self.failing_request: 3,
            self.garbage: 3,
            self.wrong_token: 3,
            self.too_large: 2,
        }
        self._kinds, self._weights = list(weights), list(weights.values())

    def next(self, client: Client) -> Awaitable[None]:
        """Something to do."""
        return self._numbers.choices(self._kinds, self._weights)[0](client)

    def all(self) -> Sequence[Callable[[Client], Awaitable[None]]]:
        """Each thing that a client does."""
        return self._kinds

    def sound(self, count: int) -> list[Item]:
        return [self._questions.sound(self._numbers, self._urls["sound"]) for _ in range(count)]

    async def single(self, client: Client) -> None:
        await client.ask(self.sound(1))

    async def mixed(self, client: Client) -> None:
        faulty = [self._questions.faulty(self._numbers, self._urls) for _ in range(3)]
        items = faulty + self.sound(6)
        self._numbers.shuffle(items)
        await client.ask(items, request_size=self._numbers.choice([None, 4]))

    async def stream(self, client: Client) -> None:
        await client.ask(self.sound(self._numbers.randrange(20, 60)), request_size=self._numbers.choice([1, 1, 3]))

    async def long(self, client: Client) -> None:
        await client.ask(self.sound(self._numbers.randrange(2 * self._max_queue, 5 * self._max_queue)))

    async def burst(self, client: Client) -> None:
        await asyncio.gather(*(client.ask([item]) for item in self.sound(2 * self._max_queue)))

    async def leave(self, client: Client) -> None:
        await client.leave(self.sound(self._numbers.choice([1, 50])), self._numbers.uniform(0, 0.3))

    async def expire(self, client: Client) -> None:
        await client.expire(self.sound(self._numbers.choice([1, 50])), self._numbers.uniform(0.001, 0.3))

    async def unknown_option(self, client: Client) -> None:
        # A document's preset replaces what the request says.
        items = [item for item in self.sound(8) if "preset" not in item.fields]
        items = [Item(item.fields, code="INVALID_OPTIONS") for item in items]
        await client.ask(items, {"num_beans": 2})

    async def failing_request(self, client: Client) -> None:
        number = self._numbers.choice([float("nan"), float("inf")])
        await client.refused(encode(self.sound(1), {"temperature": number}), None, None)

    async def garbage(self, client: Client) -> None:
        message = b"\xff" + self._numbers.randbytes(self._numbers.randrange(1, 300))
        await client.refused(message, grpc.StatusCode.INVALID_ARGUMENT, None)

    async def wrong_token(self, client: Client) -> None:
        token = self._numbers.choice(["none", "wrong", secrets.token_urlsafe()])
        await client.refused(encode(self.sound(1)), grpc.StatusCode.UNAUTHENTICATED, token)

    async def too_large(self, client: Client) -> None:
        await client.refused(self._too_large, grpc.StatusCode.RESOURCE_EXHAUSTED, None)
