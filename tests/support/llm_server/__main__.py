"""A server that echoes, for manual trials."""

import argparse
import asyncio
from contextlib import suppress

from tests.support.llm_server.faults import Faults
from tests.support.llm_server.replies import Reply, Request, Responder, echo
from tests.support.llm_server.server import LLMServer
from tests.support.llm_server.waiting import Delay


def slow_echo(delay: float) -> Responder:
    def reply(request: Request) -> Reply:
        return Reply(tuple(part for word in echo(request).pieces for part in (Delay(delay), word)))

    return reply


async def main() -> None:
    parser = argparse.ArgumentParser(description="A server that echoes, for manual trials.")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--delay", type=float, default=0.1, help="seconds before each word")
    parser.add_argument("--faults", type=float, default=0, metavar="RATE", help="the part of the answers that fail")
    parser.add_argument("--seed", type=int, default=0, help="which of them fail")
    options = parser.parse_args()
    faults = Faults(slow_echo(options.delay), rate=options.faults, seed=options.seed)
    async with LLMServer(default=faults, port=options.port, keep=False) as server:
        for provider in ("openai", "anthropic"):
            print(f"{provider.upper()}_BASE_URL={getattr(server, f'{provider}_url')}")
        for cloud in ("vertex", "bedrock"):
            print(f"ANTHROPIC_{cloud.upper()}_BASE_URL={getattr(server, f'{cloud}_url')}")
        print(flush=True, end="")
        await asyncio.Event().wait()


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        asyncio.run(main())
