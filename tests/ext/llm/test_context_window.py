"""What of a long conversation is sent."""

import logging
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from miniagents import InteractionContext, Message, MiniAgents, miniagent
from miniagents.ext.llm.budget import BudgetExceededError
from miniagents.ext.llm.context_window import ContextLimits, Fitted, context_agent, fit
from miniagents.ext.llm.conversation import sendable
from miniagents.ext.llm.hooks import ContextOverflow, Hooks
from miniagents.ext.llm.llm_common import AssistantMessage, SystemMessage, ToolResultMessage, UserMessage, role_of
from miniagents.ext.llm.parts import ImagePart, ToolCallPart, tool_calls_of
from miniagents.ext.llm.tokens import count_message_tokens, count_tokens
from miniagents.testing import run_with_virtual_clock

TEXT = "x" * 40  # 14 tokens as a message


def call(identifier: str = "c", text: str | None = None) -> list[Message]:
    part = ToolCallPart(id=identifier, name="look", arguments="{}")
    return [AssistantMessage(text, parts=[part]), ToolResultMessage("seen", tool_call_id=identifier, tool_name="look")]


async def fitted(
    messages: list[Message], *, hooks: Hooks | None = None, summarizer: Any = None, **limits: Any
) -> Fitted:
    return await fit(messages, ContextLimits(**limits), hooks=hooks, summarizer=summarizer)


def texts(messages: Any) -> list[str]:
    return [str(message) for message in messages]


async def test_what_fits_is_sent_as_it_is() -> None:
    """Nothing changes, and nothing is told, where the limits are kept."""
    told: list[Any] = []
    messages = [SystemMessage("Be kind."), UserMessage("Hi"), AssistantMessage("Hello"), UserMessage("Bye")]
    kept = await fitted(
        messages, max_context_length=1000, max_messages_in_context=3, hooks=Hooks({"on_context_overflow": told.append})
    )
    assert kept.messages == tuple(messages)
    assert (kept.dropped, told) == ((), [])


async def test_the_oldest_are_dropped() -> None:
    """What remains is the end of the conversation, and begins with what the user has said."""
    messages = [Message(f"{number}{TEXT}", role=("user", "assistant")[number % 2]) for number in range(9)]
    kept = await fitted(messages, max_context_length=75)
    assert [text[0] for text in texts(kept.messages)] == ["4", "5", "6", "7", "8"]
    assert [text[0] for text in texts(kept.dropped)] == ["0", "1", "2", "3"]
    kept = await fitted(messages, max_messages_in_context=4)
    assert [text[0] for text in texts(kept.messages)] == ["6", "7", "8"]


async def test_the_system_prompt_is_always_sent_and_counts() -> None:
    """System messages and the system prompt beside the conversation leave less room for the rest."""
    messages = [SystemMessage("s" * 400), UserMessage(TEXT), UserMessage(TEXT), UserMessage("last")]
    kept = await fitted(messages, max_context_length=120)
    assert texts(kept.messages) == ["s" * 400, "last"]
    kept = await fit(messages[1:], ContextLimits(max_context_length=115), system="s" * 400)
    assert texts(kept.messages) == ["last"]


async def test_calls_and_results_stay_together() -> None:
    """A message that calls tools and all of its results are sent, or none of them is."""
    messages = [UserMessage(TEXT), *call("a"), AssistantMessage("I see"), UserMessage("And now?")]
    for limit in range(1, 80):
        kept = await fitted(messages, max_context_length=limit)
        assert sum(role_of(message) == "tool" for message in kept.messages) == sum(
            len(tool_calls_of(message)) for message in kept.messages
        )
        assert str(kept.messages[-1]) == "And now?"


async def test_the_turn_in_progress_outlives_what_was_before() -> None:
    """The newest message of the user and the calls after it are the last to go; the very last call always stays."""
    messages = [UserMessage(TEXT), AssistantMessage(TEXT), UserMessage("Do it"), *call("a"), *call("b")]
    kept = await fitted(messages, max_context_length=30)
    assert texts(kept.messages) == ["Do it", "", "seen", "", "seen"]
    kept = await fitted(messages, max_context_length=20)
    assert texts(kept.messages) == ["Do it", "", "seen"]
    assert kept.messages[-1].tool_call_id == "b"


async def test_calls_of_earlier_turns_can_be_left_out() -> None:
    """What the model said beside the calls stays; the calls of the turn in progress stay anyway."""
    messages = [
        UserMessage("1"),
        *call("a", "I look."),
        *call("b"),
        AssistantMessage("2"),
        UserMessage("3"),
        *call("c"),
    ]
    kept = await fitted(messages, keep_function_calls_in_context=False)
    assert texts(kept.messages) == ["1", "I look.", "2", "3", "", "seen"]


async def test_long_messages_are_cut_in_their_middle() -> None:
    """Beginning and end stay, and the text says how much is missing; the message itself is not changed."""
    message = UserMessage("a" * 1000 + "\U0001f600" * 1000 + "z" * 1000)
    kept = await fitted([message], max_token_per_message=100)
    (cut,) = kept.messages
    text = str(cut)
    assert count_message_tokens(cut) <= 100
    assert text.startswith("aaa")
    assert text.endswith("zzz")
    assert f"{3000 - (text.index(chr(10)) + len(text) - text.rindex(chr(10)) - 1)} characters were left out" in text
    assert len(str(message)) == 3000


async def test_tool_results_are_cut_and_arguments_are_not() -> None:
    """A long result gets shorter; what the model has written stays valid JSON."""
    arguments = '{"text": "' + "y" * 1000 + '"}'
    part = ToolCallPart(id="c", name="look", arguments=arguments)
    messages = [
        UserMessage("?"),
        AssistantMessage(parts=[part]),
        ToolResultMessage("r" * 1000, tool_call_id="c", tool_name="look"),
    ]
    kept = await fitted(messages, max_token_per_message=50)
    assert tool_calls_of(kept.messages[1])[0].arguments == arguments
    assert count_message_tokens(kept.messages[2]) <= 50


async def test_limits_that_cannot_be_met() -> None:
    """The system prompt and the end of the conversation are sent all the same, as short as can be."""
    kept = await fitted([SystemMessage("s" * 400), UserMessage("u" * 4000)], max_context_length=50)
    assert texts(kept.messages)[0] == "s" * 400
    assert count_message_tokens(kept.messages[1]) <= 16


async def test_prompts() -> None:
    """The note on the overflow and the note on what was dropped stand where the dropped messages were."""
    messages = [SystemMessage("S"), UserMessage(TEXT), AssistantMessage(TEXT), UserMessage("last")]
    kept = await fitted(
        messages,
        max_messages_in_context=1,
        prompt_when_context_overflow="Over.",
        prompt_when_message_is_dropped="Gone.",
    )
    assert texts(kept.messages) == ["S", "Over.", "Gone.", "last"]
    assert [role_of(message) for message in kept.messages] == ["system", "system", "system", "user"]


async def test_the_event() -> None:
    """It says how long the conversation was, and what is not sent."""
    told: list[ContextOverflow] = []
    messages = [UserMessage(TEXT), UserMessage(TEXT), UserMessage("last")]
    await fitted(messages, max_context_length=15, hooks=Hooks({"on_context_overflow": told.append}))
    (event,) = told
    assert (event.context_length, event.max_context_length) == (count_tokens(messages), 15)
    assert texts(event.dropped) == [TEXT, TEXT]


async def test_dropped_messages_are_summarised() -> None:
    """The summary stands in their place; the same ones are not summarised again, and a longer beginning from there."""
    asked: list[str] = []

    @miniagent
    async def summarizer(ctx: InteractionContext) -> None:
        system, told = await ctx.message_promises
        assert str(system) == "Sum up!"
        asked.append(str(told))
        ctx.reply(f"summary {len(asked)}")

    messages: list[Message] = [UserMessage(f"{number} {TEXT}") for number in range(4)]
    limits = {
        "max_messages_in_context": 2,
        "dropping_strategy": "summary_dropping",
        "prompt_when_message_is_dropped": "Sum up!",
    }
    async with MiniAgents():
        kept = await fitted(messages, summarizer=summarizer, **limits)
        assert texts(kept.messages)[0] == "Summary of what was said before:\nsummary 1"
        await fitted(messages, summarizer=summarizer, **limits)
        assert len(asked) == 1
        kept = await fitted([*messages, UserMessage("5")], summarizer=summarizer, **limits)
    assert texts(kept.messages)[0].endswith("summary 2")
    assert "summary 1" in asked[1]
    assert f"user: 2 {TEXT}" in asked[1]
    assert "user: 1" not in asked[1]


async def test_a_summarizer_that_fails(caplog: pytest.LogCaptureFixture) -> None:
    """The conversation goes on without a summary, except where it is a budget that is exceeded."""

    @miniagent
    async def broken(ctx: InteractionContext) -> None:
        raise ValueError("no")

    @miniagent
    async def poor(ctx: InteractionContext) -> None:
        raise BudgetExceededError("no money", None, None)  # type: ignore[arg-type]

    messages: list[Message] = [UserMessage(f"failing {number}") for number in range(4)]
    async with MiniAgents():
        with caplog.at_level(logging.ERROR):
            kept = await fitted(
                messages, summarizer=broken, max_messages_in_context=2, dropping_strategy="summary_dropping"
            )
        assert texts(kept.messages) == ["failing 2", "failing 3"]
        assert "could not be summarised" in caplog.text
        with pytest.raises(BudgetExceededError):
            await fitted(messages, summarizer=poor, max_messages_in_context=2, dropping_strategy="summary_dropping")


async def test_alone_in_a_chain() -> None:
    """The agent replies with what fits."""
    async with MiniAgents():
        kept = await context_agent.inquire([UserMessage("1"), UserMessage("2")], max_messages_in_context=1)
        assert texts(kept) == ["2"]
        with pytest.raises(TypeError, match="max_mesages"):
            await context_agent.inquire("1", max_mesages=1)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_context_length", 0),
        ("max_token_per_message", -1),
        ("dropping_strategy", "x"),
        ("context_handling_method", ""),
    ],
)
def test_wrong_limits(name: str, value: Any) -> None:
    """A limit that cannot be meant is refused by its name."""
    with pytest.raises(ValueError, match=name):
        ContextLimits(**{name: value})


def test_words_in_any_case() -> None:
    """The documentation writes "Accurate"."""
    assert ContextLimits(context_handling_method="Accurate").method == "accurate"


MESSAGES = st.lists(
    st.one_of(
        st.builds(lambda text: [UserMessage(text)], st.text(max_size=200)),
        st.builds(lambda text: [AssistantMessage(text)], st.text(max_size=200)),
        st.builds(lambda text: [SystemMessage(text)], st.text(max_size=50)),
        st.builds(call, st.sampled_from("abc"), st.none() | st.text(max_size=20)),
        st.builds(lambda: [UserMessage("look", parts=[ImagePart(url="https://here/x.png")])]),
    ),
    max_size=12,
).map(lambda units: [message for unit in units for message in unit])


@given(
    MESSAGES,
    st.none() | st.integers(1, 400),
    st.none() | st.integers(1, 100),
    st.none() | st.integers(1, 8),
    st.booleans(),
)
def test_invariants(
    messages: list[Message], length: int | None, each: int | None, number: int | None, calls: bool
) -> None:
    """Order, pairs, system messages and the newest message of the user are kept whatever the limits are."""

    async def check() -> None:
        kept = await fitted(
            messages,
            max_context_length=length,
            max_token_per_message=each,
            max_messages_in_context=number,
            keep_function_calls_in_context=calls,
        )
        assert sendable(kept.messages) == list(kept.messages)
        roles = [role_of(message) for message in messages]
        sent = [role_of(message) for message in kept.messages]
        assert sent.count("system") == roles.count("system")
        assert ("user" in sent) is ("user" in roles)
        dropped = {id(message) for message in kept.dropped}
        assert not dropped & {id(message) for message in kept.messages}
        if length is not None and kept.dropped and count_tokens(kept.messages) > length:
            newest = max((place for place, role in enumerate(sent) if role == "user"), default=0)
            first = next((place for place, role in enumerate(sent) if role != "system"), 0)
            assert newest <= first or len(sent) - newest <= 1  # nothing more could be dropped

    run_with_virtual_clock(check())
