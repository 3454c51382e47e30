"""A real service under a mixed load, faults and restarts for as long as one likes; or pictures that fail to load.

    python -m tests.soak --minutes 30
    python -m tests.soak pictures --failures 10000

The first starts `python -m executor` with the demo checkpoint and tokens, and asks it in every way: single documents,
long requests, streams, beams, captions, sampling; bytes, data: URIs, URLs; jina's own client; broken pictures, dead and
slow servers, wrong types, unknown options, garbage, wrong tokens, too large messages; calls that are cancelled or
expire; bursts beyond `max_queue`. Meanwhile tokens are rotated, and the service is ended by SIGTERM and kill -9 and
started again, under load.

Exit status 1, with reasons, where a question was lost (no right answer and no expected error in the end, asked again
where the service says so), an answer was not that of plain transformers, a client read a path or a traceback, a call
was cut without a kill -9, the process did not end as it must, or memory, descriptors or threads grew within a life
(see `lives.MOST_GROWTH`). Prints a line every minute, then a table.

The second loads pictures in this process until so many have failed, in every way: what a client sends, what picture
servers do, loading that is cancelled. Prints what the process holds ten times. Exit status 1 where something grows.
"""

import argparse
import asyncio
import os
import signal
import sys
import tempfile
from pathlib import Path

from tests.soak import pictures
from tests.soak.lives import plan
from tests.soak.service import soak


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.soak", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--clients", type=int, default=6)
    commands = parser.add_subparsers(title="instead of a service", metavar="")
    of_pictures = commands.add_parser("pictures", help="load pictures in vain")
    of_pictures.add_argument("--failures", type=int, default=10_000)
    options = parser.parse_args()
    return soak_pictures(options.failures) if "failures" in options else soak_service(options.minutes, options.clients)


def soak_pictures(failures: int) -> int:
    seen: list[pictures.Left] = []

    def report(done: int, left: pictures.Left) -> None:
        seen.append(left)
        print(f"{done:7,} failures: {left}", flush=True)

    ends = asyncio.run(pictures.soak(failures, report, max(failures // 10, 1)))
    print(dict(ends.most_common()))
    problems = pictures.growth(seen)
    print("soak: nothing grows" if not problems else f"soak: GROWS: {', '.join(problems)}")
    return 1 if problems else 0


def soak_service(minutes: float, clients: int) -> int:
    os.environ |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "JINA_OPTOUT_TELEMETRY": "1"}
    for name in [name for name in os.environ if name.startswith("BLIP2_")]:
        del os.environ[name]
    lives = plan(60 * minutes)
    with tempfile.TemporaryDirectory() as folder:
        signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))  # so that the service ends too
        running = soak(lives, Path(folder), clients, 16, 64, 1.0, 20, 60, lambda line: print(line, flush=True))
        verdict = asyncio.run(running)
        if verdict.problems:
            for log in sorted(Path(folder).glob("*.log")):
                print(f"{log.name} ends with:\n{log.read_text(errors='replace')[-2000:]}")
    print(verdict.table())
    print("\n".join(["soak: FAILED", *verdict.problems]) if verdict.problems else "soak: nothing lost, nothing wrong")
    return 1 if verdict.problems else 0


if __name__ == "__main__":
    sys.exit(main())
