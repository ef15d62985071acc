"""Cancelling an answer closes its HTTP response at once: the server notices, and stops to generate and to bill."""

import asyncio
import gc
from typing import Any

import pytest

from miniagents import InteractionContext, MessagePromise, MessageSequencePromise, MiniAgents, miniagent
from promising import PromiseCancelledError
from tests.ext.llm.helpers import BOTH_WAYS, Provider
from tests.support.llm_server import Gate, Reply


async def first_of(replies: MessageSequencePromise) -> MessagePromise:
    return await anext(aiter(replies))


@pytest.mark.parametrize("what", ["message", "call"])
async def test_between_tokens(provider: Provider, what: str) -> None:
    """Cancelling a message in mid-stream, or the call, closes the response; the tokens stay readable."""
    gate = Gate()
    provider.server.script(Reply(("first", gate, "second")))
    async with MiniAgents():
        replies = provider.agent.inquire("Hi")
        message = await first_of(replies)
        reader = aiter(message)
        assert await anext(reader) == "first"
        await gate.reached.wait()
        assert (message if what == "message" else replies).cancel()
        with pytest.raises(PromiseCancelledError):
            await anext(reader)
        with pytest.raises(PromiseCancelledError):
            await message
        assert message.pieces_so_far == ("first",)
        assert message.metadata["model"] == "served-model"  # known by then, and not taken back
        await provider.server.client_disconnected(0)


@pytest.mark.parametrize("stream", BOTH_WAYS)
async def test_before_the_first_byte(provider: Provider, stream: bool) -> None:
    """A request that has not been answered yet is given up, too."""
    gate = Gate()
    provider.server.script(Reply(("x",), hold=gate))
    async with MiniAgents():
        replies = provider.agent.inquire("Hi", stream=stream)
        await gate.reached.wait()
        assert replies.cancel()
        await provider.server.client_disconnected(0)
        with pytest.raises(PromiseCancelledError):
            await (await first_of(replies))


async def test_while_nobody_reads_on(provider: Provider) -> None:
    """An answer that comes only as far as it is read is closed when it is cancelled in between."""
    gate = Gate()
    provider.server.script(Reply(("first", "second", gate)))
    async with MiniAgents(start_everything_soon_by_default=False):
        message = await first_of(provider.agent.inquire("Hi"))
        assert await anext(aiter(message)) == "first"
        await gate.reached.wait()
        assert message.pieces_so_far == ("first",)
        assert message.cancel()
        await provider.server.client_disconnected(0)


async def test_before_the_first_step(provider: Provider) -> None:
    """A call that is cancelled at once sends nothing."""
    async with MiniAgents():
        replies = provider.agent.inquire("Hi")
        assert replies.cancel()
        with pytest.raises(PromiseCancelledError):
            await replies
    assert provider.server.requests == []


async def test_while_the_conversation_is_on_its_way(provider: Provider) -> None:
    """Cancelling a call that waits for what it is to send sends nothing, and leaves that alone."""
    gate = asyncio.Event()

    @miniagent
    async def slow(ctx: InteractionContext) -> None:
        await gate.wait()
        ctx.reply("done")

    async with MiniAgents():
        question = slow.inquire()
        replies = provider.agent.inquire(question)
        await first_of(replies)
        assert replies.cancel()
        gate.set()
        assert str((await question)[0]) == "done"
    assert provider.server.requests == []


async def test_leaving_the_context_by_an_error(provider: Provider) -> None:
    """What fails around a call ends it, and the context waits until the response is closed."""
    gate = Gate()
    provider.server.script(Reply(("first", gate)))
    with pytest.raises(LookupError):
        async with MiniAgents():
            provider.agent.inquire("Hi")
            await gate.reached.wait()
            raise LookupError
    await provider.server.client_disconnected(0)


async def test_cancelling_through_other_agents(provider: Provider) -> None:
    """An agent that forwards the answer, and has ended long ago, passes the cancellation on to what it started."""
    gate = Gate()
    provider.server.script(Reply(("first", gate)))

    @miniagent
    async def forwarding(ctx: InteractionContext) -> None:
        ctx.reply(provider.agent.inquire(ctx.message_promises))

    async with MiniAgents():
        replies = forwarding.inquire("Hi")
        await gate.reached.wait()
        assert replies.cancel()
        await provider.server.client_disconnected(0)


async def test_a_reader_that_goes_disturbs_nobody(provider: Provider) -> None:
    """Cancelling one who reads the answer leaves the answer to the others."""
    gate = Gate()
    provider.server.script(Reply(("first", gate, "second")))
    async with MiniAgents():
        message = await first_of(provider.agent.inquire("Hi"))
        reader = asyncio.ensure_future(message)
        await gate.reached.wait()
        reader.cancel()
        gate.open()
        assert str(await message) == "firstsecond"


async def test_others_go_on(provider: Provider) -> None:
    """Of two answers through one client, the other one comes to its end; the client can be used further."""
    gates = Gate(), Gate()
    provider.server.script(Reply((gates[0], "x")), Reply((gates[1], "y")))
    async with MiniAgents():
        first = provider.agent.inquire("1")
        await gates[0].reached.wait()
        second = provider.agent.inquire("2")
        await gates[1].reached.wait()
        first.cancel()
        await provider.server.client_disconnected(0)
        gates[1].open()
        assert str((await second)[0]) == "y"
        assert str((await provider.agent.inquire("3"))[0]) == "3 "


async def test_cancelling_without_a_context(provider: Provider) -> None:
    """Outside a context, too, cancelling closes the response, and the client with it."""
    gate = Gate()
    provider.server.script(Reply(("first", gate)))
    replies = provider.agent.inquire("Hi")
    message = await first_of(replies)
    reader = asyncio.ensure_future(read(message))
    await gate.reached.wait()
    assert message.cancel()
    await provider.server.client_disconnected(0)
    with pytest.raises(PromiseCancelledError):
        await reader


async def test_cancelling_what_has_ended(provider: Provider) -> None:
    """A complete answer stays as it is."""
    async with MiniAgents():
        replies = provider.agent.inquire("Hi")
        (message,) = await replies
        assert not replies.cancel()
        assert (await replies)[0] is message


async def test_nothing_is_left_for_the_collector(provider: Provider) -> None:
    """After a cancellation no generator of the SDK is left that somebody would have to close."""
    left: list[Any] = []
    gate = Gate()
    provider.server.script(Reply(("first", gate)))
    async with MiniAgents():
        replies = provider.agent.inquire("Hi")
        await gate.reached.wait()
        replies.cancel()
        await provider.server.client_disconnected(0)
    gc.collect()
    asyncio.get_running_loop().set_exception_handler(lambda _, context: left.append(context))
    await asyncio.get_running_loop().shutdown_asyncgens()
    assert left == []


async def read(message: MessagePromise) -> list[str]:
    return [token async for token in message]
