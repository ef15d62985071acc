"""`offline_agent`: a model that needs no network and no key, and gives a tour of the framework."""

import asyncio
from collections.abc import AsyncIterator

from miniagents.agents import MiniAgent, miniagent
from miniagents.ext.llm.llm_common import AssistantMessage, Usage, role_of
from miniagents.interaction import InteractionContext
from miniagents.message import Message
from miniagents.messages import MessagePromise
from miniagents.sequences import MessageSequencePromise
from promising.appender import StreamAppender

__all__ = ["OFFLINE_MODEL", "offline_agent"]

OFFLINE_MODEL = "offline"
_TOKEN = 4
_RELAYS = 10

_HELP = """\
I am the offline model: no network, no key, always the same answers. I am an agent like any other. Ask me for:
- echo TEXT: I say it back, token by token
- stream: a text that comes to you through ten agents, each of which passes on every token
- parallel: three agents that work at the same time under a fourth
- error: how an error travels to whoever reads the reply
- message TEXT: what a message is, and the key by which it is known
To talk to a real model, set OPENAI_API_KEY or ANTHROPIC_API_KEY and start again."""


@miniagent
async def offline_agent(
    ctx: InteractionContext, model: str = OFFLINE_MODEL, system: str | None = None, seconds_per_token: float = 0.0
) -> None:
    """Answers the last message without any network; `help` says what it can do.

    Args:
        ctx: The conversation.
        model: What it calls itself.
        system: Is accepted as by other models, and not used.
        seconds_per_token: How long it takes for each token.
    """
    messages = await ctx.message_promises
    asked = next((str(message) for message in reversed(messages) if role_of(message) == "user"), "")
    command, _, rest = asked.strip().partition(" ")
    speaker = _speaker.fork(model=model, seconds_per_token=seconds_per_token)
    match command.lower():
        case "help" | "?" | "hi" | "hello" | "":
            ctx.reply(speaker.inquire(_HELP))
        case "echo":
            ctx.reply(speaker.inquire(rest or "(nothing)"))
        case "stream":
            ctx.reply(_through_relays(speaker))
        case "parallel":
            ctx.reply(_aggregator.inquire(rest or "promises", speaker=speaker))
        case "error":
            ctx.reply(speaker.inquire(_after_error(await _failing.inquire(rest, errors_as_messages=True))))
        case "message":
            ctx.reply(speaker.inquire(_about(Message(rest or "Hello", role="user"))))
        case _:
            ctx.reply(speaker.inquire(f"You said: {asked}\n\nI have no more to say to that; ask me for `help`."))


@miniagent(alias="SPEAKER")
async def _speaker(ctx: InteractionContext, model: str, seconds_per_token: float) -> None:
    """Streams the text it is sent, a few characters at a time, as a model would."""

    async def tokens(promise: MessagePromise) -> AsyncIterator[str]:
        text = str(await ctx.message_promises.as_single_promise())
        for start in range(0, len(text), _TOKEN):
            await asyncio.sleep(seconds_per_token)
            yield text[start : start + _TOKEN]
        usage = Usage(input_tokens=0, output_tokens=-(-len(text) // _TOKEN))
        promise.add_metadata(usage=usage, finish_reason="stop", provider_finish_reason="stop")

    ctx.reply(AssistantMessage.promise(tokens, model=model))


@miniagent(alias="RELAY")
async def _relay(ctx: InteractionContext) -> None:
    """Passes on each token as soon as it has come."""
    async for received in ctx.message_promises:
        with StreamAppender[str]() as appender:
            ctx.reply(AssistantMessage.promise(appender, **received.metadata))
            async for token in received:
                appender.append(token)


def _through_relays(speaker: MiniAgent) -> MessageSequencePromise:
    replies = speaker.inquire(
        f"This text has come to you through {_RELAYS} agents. Each of them read the stream of the one before and "
        "appended every token to a stream of its own, and none waited for the end: the first words were here before "
        "the last had been said."
    )
    for number in range(_RELAYS):
        replies = _relay.fork(alias=f"RELAY_{number + 1}").inquire(replies)
    return replies


@miniagent(alias="AGGREGATOR")
async def _aggregator(ctx: InteractionContext, speaker: MiniAgent) -> None:
    """Calls three agents at once, and joins what they say while they are still saying it."""
    topic = str(await ctx.message_promises.as_single_promise())
    opinions = [
        speaker.fork(alias=name.upper()).inquire(f"{name}: {says.format(topic)}")
        for name, says in (
            ("Optimist", "{} will make everything better."),
            ("Pessimist", "{} will make everything worse."),
            ("Realist", "{} will be documented later."),
        )
    ]
    joined = speaker.inquire([f"Three agents on {topic}, called at the same time:", *opinions])
    ctx.reply(joined)


@miniagent(alias="FAILING_AGENT")
async def _failing(ctx: InteractionContext) -> None:
    """Fails."""
    raise ValueError(str(await ctx.message_promises.as_single_promise()) or "something was wrong")


def _after_error(messages: tuple[Message, ...]) -> str:
    return (
        "I called an agent that failed. Usually its error is raised where its reply is read; I asked for "
        f"`errors_as_messages=True`, so it came as a message: {messages[-1]!r}"
    )


def _about(message: Message) -> str:
    return (
        f"A message cannot be changed, at no depth: {message!r}\nIts canonical JSON: {message.serialize()}\n"
        f"Its hash key, the same in every process: {message.hash_key}"
    )
