"""What of a long conversation is sent."""

import asyncio
import itertools
import logging
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from miniagents import AWAIT, END, InteractionContext, Message, MiniAgent, MiniAgents, achain_loop, miniagent
from miniagents.ext.llm import context_window
from miniagents.ext.llm.budget import BudgetExceededError
from miniagents.ext.llm.context_window import ContextLimits, Fitted, context_agent, fit
from miniagents.ext.llm.conversation import sendable
from miniagents.ext.llm.cutting import cut_message, cut_text
from miniagents.ext.llm.hooks import ContextOverflow, Hooks
from miniagents.ext.llm.llm_common import AssistantMessage, SystemMessage, ToolResultMessage, UserMessage, role_of
from miniagents.ext.llm.parts import ImagePart, TextPart, ThinkingPart, ToolCallPart, tool_calls_of
from miniagents.ext.llm.summaries import SUMMARY, Summaries
from miniagents.ext.llm.tokens import count_message_tokens, count_text_tokens, count_tokens
from miniagents.testing import run_with_virtual_clock
from tests.ext.llm.helpers import Provider
from tests.ext.tools.helpers import call_of, calling, saying

TEXT = "x" * 40  # 14 tokens as a message


@pytest.fixture(autouse=True)
def _no_summaries_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(context_window, "_summaries", Summaries())


def call(identifier: str = "c", text: str | None = None) -> list[Message]:
    part = ToolCallPart(id=identifier, name="look", arguments="{}")
    return [AssistantMessage(text, parts=[part]), ToolResultMessage("seen", tool_call_id=identifier, tool_name="look")]


async def fitted(
    messages: Sequence[Message], *, hooks: Hooks | None = None, summarizer: Any = None, **limits: Any
) -> Fitted:
    return await fit(messages, ContextLimits(**limits), hooks=hooks, summarizer=summarizer)


def texts(messages: Any) -> list[str]:
    return [str(message) for message in messages]


class Scribe:
    """An agent that summarises, and what it was told."""

    def __init__(self, *answers: Any) -> None:
        self.told: list[str] = []
        self.prompts: list[str] = []
        self._answers = answers

        @miniagent(alias="SCRIBE")
        async def scribe(ctx: InteractionContext, model: str = "some-model", system: str = "") -> None:
            prompt, told = await ctx.message_promises
            assert (role_of(prompt), role_of(told)) == ("system", "user")
            self.prompts.append(str(prompt))
            self.told.append(str(told))
            number = len(self.told)
            answer = self._answers[number - 1] if number <= len(self._answers) else f"summary {number}"
            if isinstance(answer, BaseException):
                raise answer
            ctx.reply(answer)

        self.agent = scribe

    async def fit(self, messages: Sequence[Message], agent: MiniAgent | None = None, **limits: Any) -> Fitted:
        summarizer = agent or self.agent
        return await fitted(messages, summarizer=summarizer, dropping_strategy="summary_dropping", **limits)


def numbered(number: int) -> list[Message]:
    return [UserMessage(f"{place} {TEXT}") for place in range(number)]


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
    """The summary stands in their place, as something that the user has said, which is no order to the model."""
    scribe = Scribe()
    async with MiniAgents():
        kept = await scribe.fit(
            [SystemMessage("S"), *numbered(4)],
            max_messages_in_context=2,
            prompt_when_message_is_dropped="Sum up!",
            prompt_when_context_overflow="Over.",
        )
    assert texts(kept.messages) == ["S", "Over.", f"{SUMMARY}summary 1", f"2 {TEXT}", f"3 {TEXT}"]
    assert [role_of(message) for message in kept.messages] == ["system", "system", "user", "user", "user"]
    assert scribe.prompts == ["Sum up!"]
    assert scribe.told == [f"user: 0 {TEXT}\n\nuser: 1 {TEXT}"]


async def test_the_summarizer_is_told_of_calls_and_images() -> None:
    """What is no text is named, and what agents have said inside of a tool is left out."""
    scribe = Scribe()
    calling, result = call("a", "I look.")
    inner = AssistantMessage("inner", inside_tool_call="a")
    image = UserMessage("This?", parts=[ImagePart(url="https://here/x.png")])
    async with MiniAgents():
        await scribe.fit([image, calling, inner, result, UserMessage("last")], max_messages_in_context=1)
    assert scribe.told == ["user: This? [an image]\n\nassistant: I look. [calls look with {}]\n\ntool: seen"]
    assert "Summarize" in scribe.prompts[0]


async def test_a_summary_is_asked_for_once() -> None:
    """What was summarised is not summarised again, and a longer beginning from the summary that there is."""
    scribe = Scribe()
    async with MiniAgents():
        for number in (4, 4, 5, 5):
            kept = await scribe.fit(numbered(number), max_messages_in_context=2)
    assert texts(kept.messages)[0] == f"{SUMMARY}summary 2"
    assert scribe.told[1:] == [f"{SUMMARY}summary 1\n\nuser: 2 {TEXT}"]


async def test_summaries_by_others_are_not_taken() -> None:
    """A fork that does the same is the same; another model, or another instruction, is not."""
    scribe = Scribe()
    async with MiniAgents():
        for model in ("a", "a", "b"):
            await scribe.fit(numbered(4), scribe.agent.fork(model=model), max_messages_in_context=2)
        assert len(scribe.told) == 2
        french = scribe.agent.fork(model="b", system="Answer in French.")
        await scribe.fit(numbered(4), french, max_messages_in_context=2)
        assert len(scribe.told) == 3
        await scribe.fit(
            numbered(4),
            french,
            max_messages_in_context=2,
            prompt_when_message_is_dropped="Sum up!",
        )
    assert len(scribe.told) == 4


async def test_few_summaries_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that nobody has needed for the longest time are forgotten."""
    monkeypatch.setattr("miniagents.ext.llm.summaries._MOST", 2)
    scribe = Scribe()
    async with MiniAgents():
        for name in ("a", "b", "a", "c", "a", "c", "b"):
            await scribe.fit([UserMessage(name), UserMessage("last")], max_messages_in_context=1)
    assert scribe.told == ["user: a", "user: b", "user: c", "user: b"]
    assert len(context_window._summaries._known) == 2


async def test_summaries_are_bounded() -> None:
    """A summary that is too long is cut, and counts: the limit holds with it."""
    scribe = Scribe("s" * 100_000)
    async with MiniAgents():
        kept = await scribe.fit(numbered(40), max_context_length=200)
    assert "characters were left out" in str(kept.messages[0])
    assert count_tokens(kept.messages) <= 200
    assert count_message_tokens(kept.messages[0]) <= 50
    assert len(kept.messages) > 5
    assert all(len(summary) < 400 for summary in context_window._summaries._known.values())


async def test_a_known_summary_may_be_too_long() -> None:
    """It is cut where there is less room than there was, or messages are to be shorter."""
    scribe = Scribe("s" * 100_000)
    limits: dict[str, Any]
    async with MiniAgents():
        for limits, most in (({}, 2_000), ({"max_context_length": 400}, 100), ({"max_token_per_message": 40}, 40)):
            kept = await scribe.fit(numbered(4), max_messages_in_context=2, **limits)
            assert count_message_tokens(kept.messages[0]) in range(most - 5, most + 1)
    assert len(scribe.told) == 1


async def test_a_long_message_is_summarised_without_its_middle() -> None:
    """One message alone is never too long for the summarizer."""
    scribe = Scribe()
    async with MiniAgents():
        await scribe.fit([UserMessage("w" * 400_000), UserMessage("last")], max_context_length=5_000)
    assert len(scribe.told) == 1
    assert count_text_tokens(scribe.told[0]) in range(2_490, 2_501)


async def test_long_histories_are_summarised_in_portions() -> None:
    """No request for a summary is longer than a model takes, and each goes on from the summary before."""
    scribe = Scribe()
    messages = [UserMessage(f"{number} " + "w" * 4_000) for number in range(10)]
    async with MiniAgents():
        kept = await scribe.fit([*messages, UserMessage("last")], max_context_length=5_000, max_messages_in_context=1)
    assert len(scribe.told) == 5
    assert max(map(count_text_tokens, scribe.told)) < 2_600
    assert all(told.startswith(f"{SUMMARY}summary {number}") for number, told in enumerate(scribe.told[1:], 1))
    assert texts(kept.messages) == [f"{SUMMARY}summary 5", "last"]


async def test_only_what_is_said_to_the_user_is_the_summary() -> None:
    """Of a summarizer that uses tools, calls and results are no part of it."""
    scribe = Scribe([ToolResultMessage("noise", tool_call_id="x", tool_name="y"), AssistantMessage("the summary")])
    async with MiniAgents():
        kept = await scribe.fit(numbered(3), max_messages_in_context=1)
    assert texts(kept.messages)[0] == f"{SUMMARY}the summary"


@pytest.mark.parametrize("answer", [ValueError("no"), "  "])
async def test_a_summarizer_that_fails(answer: Any, caplog: pytest.LogCaptureFixture) -> None:
    """The conversation goes on without a summary, and the next request tries again."""
    scribe = Scribe(answer)
    async with MiniAgents(errors_as_messages=True):  # an error as a message is no summary either
        with caplog.at_level(logging.ERROR):
            kept = await scribe.fit(numbered(4), max_messages_in_context=2, prompt_when_message_is_dropped="Sum up!")
        assert texts(kept.messages) == [f"2 {TEXT}", f"3 {TEXT}"]
        assert "could not be summarised" in caplog.text
        kept = await scribe.fit(numbered(4), max_messages_in_context=2, prompt_when_message_is_dropped="Sum up!")
        assert texts(kept.messages)[0] == f"{SUMMARY}summary 2"


async def test_a_summary_that_exceeds_the_budget() -> None:
    """Budgets hold for summaries, too."""
    scribe = Scribe(BudgetExceededError("no money", None, None))  # type: ignore[arg-type]
    async with MiniAgents():
        with pytest.raises(BudgetExceededError):
            await scribe.fit(numbered(4), max_messages_in_context=2)


async def test_a_summary_can_be_cancelled(caplog: pytest.LogCaptureFixture) -> None:
    """Who does not want to wait for it any longer does not get a conversation without it."""
    asked = asyncio.Event()

    @miniagent
    async def thinker(ctx: InteractionContext) -> None:
        asked.set()
        await asyncio.Event().wait()

    async with MiniAgents():
        task = asyncio.create_task(Scribe().fit(numbered(4), thinker, max_messages_in_context=2))
        await asked.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert not caplog.records


async def test_nobody_to_summarise() -> None:
    """It is an error at once, not only when something is dropped."""
    with pytest.raises(ValueError, match="summarizer="):
        await fitted([UserMessage("1")], dropping_strategy="summary_dropping", max_messages_in_context=5)


async def test_alone_in_a_chain() -> None:
    """The agent replies with what fits."""
    async with MiniAgents():
        kept = await context_agent.inquire([UserMessage("1"), UserMessage("2")], max_messages_in_context=1)
        assert texts(kept) == ["2"]
        assert texts(await context_agent.inquire(["1", "2"])) == ["1", "2"]
        assert await context_agent.inquire(max_messages_in_context=1) == ()


async def test_between_agents() -> None:
    """In a loop it stands before an agent and limits what that sees."""
    seen: list[list[str]] = []
    words = iter(["one", "two", "three"])

    @miniagent
    async def user(ctx: InteractionContext) -> None:
        word = next(words, None)
        if word is None:
            ctx.reply(END)
        else:
            ctx.reply([ctx.message_promises, UserMessage(word)])

    @miniagent
    async def model(ctx: InteractionContext) -> None:
        messages = await ctx.message_promises
        seen.append(texts(messages))
        ctx.reply([messages, AssistantMessage(f"answer {len(seen)}")])

    await achain_loop([user, AWAIT, context_agent.fork(max_messages_in_context=3), model])
    assert seen == [["one"], ["one", "answer 1", "two"], ["two", "answer 2", "three"]]


async def test_the_event_of_the_agent() -> None:
    """It says for whom the conversation was too long."""
    told: list[ContextOverflow] = []
    limited = context_agent.fork(
        max_messages_in_context=1, hooks={"on_context_overflow": told.append}, user_id="u", chat_id="c"
    )
    async with MiniAgents():
        await limited.inquire(numbered(2))
        await limited.inquire(numbered(2), agent_name="Ada")
    assert [(event.user_id, event.chat_id, event.agent_name) for event in told] == [
        ("u", "c", "CONTEXT_AGENT"),
        ("u", "c", "Ada"),
    ]


async def test_unknown_limits() -> None:
    """A misspelt name is an error that lists the names that there are."""
    async with MiniAgents():
        with pytest.raises(TypeError, match=r"'max_mesages'; there are .*max_messages_in_context"):
            await context_agent.inquire("1", max_mesages=1)


@pytest.mark.parametrize(
    ("name", "value", "error"),
    [
        ("max_context_length", 0, ValueError),
        ("max_token_per_message", -1, ValueError),
        ("max_messages_in_context", "8", TypeError),
        ("max_messages_in_context", 1.5, TypeError),
        ("max_context_length", True, TypeError),
        ("dropping_strategy", "x", ValueError),
        ("context_handling_method", "", ValueError),
        ("context_handling_method", None, ValueError),
        ("prompt_when_context_overflow", 1, TypeError),
        ("prompt_when_message_is_dropped", b"", TypeError),
    ],
)
def test_wrong_limits(name: str, value: Any, error: type[Exception]) -> None:
    """A limit that cannot be meant is refused by its name."""
    with pytest.raises(error, match=name):
        ContextLimits(**{name: value})


def test_words_in_any_case() -> None:
    """The documentation writes "Accurate"."""
    assert ContextLimits(context_handling_method="Accurate").method == "accurate"
    assert ContextLimits(dropping_strategy="Summary_Dropping") == ContextLimits(dropping_strategy="summary_dropping")


@pytest.mark.parametrize(
    ("limits", "is_unlimited"),
    [
        ({}, True),
        ({"prompt_when_context_overflow": "Over."}, True),
        ({"max_context_length": 1}, False),
        ({"max_token_per_message": 1}, False),
        ({"max_messages_in_context": 1}, False),
        ({"keep_function_calls_in_context": False}, False),
    ],
)
def test_unlimited(limits: dict[str, Any], is_unlimited: bool) -> None:
    """Without limits nothing has to be fitted."""
    assert ContextLimits(**limits).is_unlimited is is_unlimited


async def test_counting_accurately(monkeypatch: pytest.MonkeyPatch) -> None:
    """The vocabulary decides what fits, and how much of a long message is left."""
    tiktoken = pytest.importorskip("tiktoken")
    from tiktoken import registry

    ranks = {bytes([byte]): byte for byte in range(256)} | {b"hello": 256}
    encoding = tiktoken.Encoding("o200k_base", pat_str=r"\w+|\W", mergeable_ranks=ranks, special_tokens={})
    monkeypatch.setitem(registry.ENCODINGS, "o200k_base", encoding)
    messages = [UserMessage("hello " * 20), UserMessage("hello")]  # 44 and 5 tokens, by the estimate 34 and 6
    for limit, number in ((49, 2), (48, 1)):
        kept = await fitted(messages, context_handling_method="accurate", max_context_length=limit)
        assert (len(kept.messages), kept.context_length) == (number, 49)
    kept = await fitted([UserMessage("hello " * 500)], context_handling_method="accurate", max_token_per_message=100)
    assert 95 <= count_message_tokens(kept.messages[0], "accurate") <= 100


async def test_the_event_comes_once_for_each_message(openai_provider: Provider) -> None:
    """However many requests it takes to answer it."""
    told: list[ContextOverflow] = []

    async def look() -> str:
        """Looks."""
        return "seen"

    agent = openai_provider.agent.fork(
        tools=[look],
        context=ContextLimits(max_messages_in_context=3, prompt_when_context_overflow="Over."),
        hooks={"on_context_overflow": told.append},
    )
    conversation = [*numbered(3), *call("a"), UserMessage("And now?")]
    openai_provider.server.script(*[calling(call_of("look"))] * 2, saying("Well."), saying("Well."))
    async with MiniAgents():
        await agent.inquire(conversation)
        assert len(told) == 1
        await agent.inquire(conversation)
    assert len(told) == 2
    for request in openai_provider.server.requests:
        assert [message["content"] for message in request.body["messages"]].count("Over.") == 1


FAR = UserMessage(TEXT)


async def test_what_happened_inside_a_tool_belongs_to_the_call() -> None:
    """It is neither counted nor sent to the model, and stays or goes with the call."""
    calling, result = call("a")
    inner = [AssistantMessage("i" * 4_000, inside_tool_call="a"), *call("inner")]
    inner = [message.model_copy(update={"inside_tool_call": "a"}) for message in inner]
    messages = [UserMessage("1"), calling, *inner, result, UserMessage("2")]
    kept = await fitted(messages, max_context_length=100, max_token_per_message=20, max_messages_in_context=4)
    assert kept.messages == tuple(messages)
    assert kept.context_length == count_tokens([messages[0], calling, result, messages[-1]])
    kept = await fitted(messages, max_messages_in_context=3)
    assert (kept.messages, kept.dropped) == (tuple(messages[-1:]), tuple(messages[:-1]))
    kept = await fitted(messages, keep_function_calls_in_context=False)
    assert texts(kept.messages) == ["1", "2"]


async def test_calls_and_results_without_each_other() -> None:
    """A result that is missing is filled, and one that nobody asked for is left out."""
    (calling, _), (_, orphan) = call("a"), call("b")
    kept = await fitted([UserMessage("1"), orphan, calling, orphan, UserMessage("2")], max_messages_in_context=10)
    assert texts(kept.messages) == ["1", "", "cancelled", "2"]
    assert sendable(kept.messages) == list(kept.messages)


async def test_calls_of_one_message_have_one_place() -> None:
    """Results stand with their call, also where something was said in between."""
    parts = [ToolCallPart(id=identifier, name="look", arguments="{}") for identifier in "ab"]
    results = [ToolResultMessage(f"r{name}", tool_call_id=name, tool_name="look") for name in "ab"]
    messages = [UserMessage("1"), AssistantMessage(parts=parts), results[0], UserMessage("2"), results[1]]
    kept = await fitted(messages, max_messages_in_context=10)
    assert texts(kept.messages) == ["1", "", "ra", "rb", "2"]


async def test_order_is_kept() -> None:
    """System messages stay where they are, and the notes stand where messages are missing."""
    messages = [
        SystemMessage("S1"),
        FAR,
        Message("S2", role="developer"),
        AssistantMessage(TEXT),
        UserMessage("last"),
        SystemMessage("S3"),
    ]
    kept = await fitted(messages, max_messages_in_context=1, prompt_when_message_is_dropped="Gone.")
    assert texts(kept.messages) == ["S1", "Gone.", "S2", "last", "S3"]


async def test_notes_in_the_turn_in_progress() -> None:
    """Where calls of the turn in progress are dropped, that is where the note stands."""
    messages = [UserMessage("Do it"), *call("a"), *call("b")]
    kept = await fitted(messages, max_messages_in_context=3, prompt_when_message_is_dropped="Gone.")
    assert texts(kept.messages) == ["Do it", "Gone.", "", "seen"]


async def test_a_conversation_may_begin_with_the_model_if_nothing_is_dropped() -> None:
    """A greeting stays."""
    messages = [AssistantMessage("Welcome"), UserMessage("Hi")]
    assert (await fitted(messages, max_context_length=1000)).messages == tuple(messages)
    assert (await fitted([FAR, *messages], max_messages_in_context=2)).messages == tuple(messages[1:])


async def test_the_model_alone() -> None:
    """Where no user has said anything, what the model has said last is sent."""
    messages = [AssistantMessage(str(number)) for number in range(4)]
    assert texts((await fitted(messages, max_messages_in_context=2)).messages) == ["2", "3"]


async def test_system_prompts_are_not_cut() -> None:
    """A limit for each message is not meant for them."""
    kept = await fitted([SystemMessage("s" * 4_000), UserMessage("u" * 4_000)], max_token_per_message=50)
    assert len(str(kept.messages[0])) == 4_000
    assert count_message_tokens(kept.messages[1]) <= 50


async def test_what_has_to_be_sent_is_cut_evenly() -> None:
    """The question is not given up for a result that is hardly longer, nor is a short one cut at all."""
    short, (calling, _) = UserMessage("And?"), call("a")
    result = ToolResultMessage("r" * 4_000, tool_call_id="a", tool_name="look")
    question = UserMessage("q" * 4_400)
    kept = await fitted([question, calling, result], max_context_length=1_000)
    lengths = [count_message_tokens(message) for message in kept.messages]
    assert sum(lengths) in range(990, 1_001)
    assert abs(lengths[0] - lengths[2]) < 3
    kept = await fitted([short, calling, result], max_context_length=500)
    assert kept.messages[0] is short
    assert count_tokens(kept.messages) in range(490, 501)


async def test_every_text_of_a_message_can_be_cut() -> None:
    """Texts among the parts, too, the longest first; images and thoughts stay."""
    image, thought = ImagePart(url="https://here"), ThinkingPart(text="t" * 400)
    parts = [thought, TextPart(text="a" * 4_000), image, TextPart(text="short")]
    kept = await fitted([UserMessage(parts=parts)], max_token_per_message=1_700)
    cut: Any = kept.messages[0]
    assert count_message_tokens(cut) in range(1_690, 1_701)
    assert (cut.parts[0], *cut.parts[2:]) == (thought, image, parts[3])
    kept = await fitted([UserMessage("a" * 4_000, parts=[image])], max_token_per_message=1_700)
    assert count_message_tokens(kept.messages[0]) in range(1_690, 1_701)
    kept = await fitted([Message(note="n" * 4_000)], max_token_per_message=50)
    assert count_message_tokens(kept.messages[0]) in range(40, 51)


async def test_what_stays_of_earlier_calls() -> None:
    """Text and images of the message, whatever form they have, without the thoughts that led to the call."""
    part = ToolCallPart(id="a", name="look", arguments="{}")
    parts = [ThinkingPart(text="Hm", signature="s"), TextPart(text="I look."), part]
    result = call("a")[1]
    kept = await fitted(
        [UserMessage("1"), AssistantMessage(parts=parts), result, UserMessage("2")],
        keep_function_calls_in_context=False,
    )
    assert kept.messages[1] == AssistantMessage(parts=[TextPart(text="I look.")])
    assert kept.dropped == ()


async def test_the_event_names_the_limit() -> None:
    """The length is named where it is what was exceeded."""
    told: list[ContextOverflow] = []
    hooks = Hooks({"on_context_overflow": told.append})
    await fitted(numbered(3), max_context_length=20, hooks=hooks)
    await fitted(numbered(3), max_context_length=1_000, max_messages_in_context=1, hooks=hooks)
    assert [event.max_context_length for event in told] == [20, None]


@given(st.text(max_size=3_000), st.integers(-5, 200))
def test_cutting_texts(text: str, limit: int) -> None:
    """What is left are a beginning and an end with the marker between, as long as it may be and no longer."""
    cut = cut_text(text, limit, count_text_tokens)
    if cut == text:
        assert count_text_tokens(text) <= limit or len(text) < 50
        return
    start, rest = cut.split("\n[... ", 1)
    number, end = rest.split(" characters were left out here ...]\n", 1)
    assert text.startswith(start)
    assert text.endswith(end)
    assert len(cut) < len(text)
    assert int(number) == len(text) - len(start) - len(end)
    assert count_text_tokens(cut) in (limit, limit - 1) or (start, end) == ("", "")
    cut.encode()


def test_halves_of_characters() -> None:
    """A text that holds the two halves of a character is not cut between them, or else says that a half is missing."""
    for limit in range(15, 25):
        cut_text("\ud83d\ude00" * 1_000, limit, count_text_tokens).encode()


async def test_what_cannot_be_cut_leaves_less_for_the_rest() -> None:
    """Images are not cut, so that texts have to be shorter."""
    (calling, _), image = call("a"), ImagePart(url="https://here")
    result = ToolResultMessage("r" * 16_000, tool_call_id="a", tool_name="look")
    kept = await fitted([UserMessage("This?", parts=[image]), calling, result], max_context_length=2_000)
    assert count_tokens(kept.messages) in range(1_990, 2_001)


async def test_the_notes_leave_less_for_the_rest() -> None:
    """They count also where the newest message has to be cut."""
    for length in (640, 4_000):  # it would fit without the notes, and not even then
        kept = await fitted(
            [UserMessage(TEXT * 10), UserMessage("u" * length)],
            max_context_length=200,
            prompt_when_context_overflow="o" * 100,
            prompt_when_message_is_dropped="d" * 100,
        )
        assert len(kept.messages) == 3
        assert count_tokens(kept.messages) in range(190, 201)


async def test_a_turn_in_progress_that_is_too_long() -> None:
    """What the model is not told of is not cut."""
    calling, _ = call("a")
    inner = AssistantMessage("i" * 4_000, inside_tool_call="a")
    result = ToolResultMessage("r" * 4_000, tool_call_id="a", tool_name="look")
    kept = await fitted([UserMessage("Do it"), calling, inner, result], max_context_length=100)
    assert kept.messages[2] is inner
    assert count_tokens([*kept.messages[:2], kept.messages[3]]) in range(95, 101)


async def test_instructions_alone() -> None:
    """Where there is nothing but a system prompt it is sent, however little room there is."""
    messages = (SystemMessage("S" * 400),)
    assert (await fitted(messages, max_context_length=1)).messages == messages


async def test_vocabularies_are_loaded_outside_of_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before anything is counted accurately."""
    loaded: list[str | None] = []

    async def load(model: str | None) -> None:
        loaded.append(model)
        raise ImportError("no tiktoken")

    monkeypatch.setattr(context_window, "load_vocabulary", load)
    with pytest.raises(ImportError, match="no tiktoken"):
        await fit(numbered(1), ContextLimits(context_handling_method="accurate"), model="gpt-4o")
    await fitted(numbered(1), max_context_length=10)
    assert loaded == ["gpt-4o"]


def test_huge_texts_are_cut_without_counting_them_often() -> None:
    """Where it is cut is searched for from below, so that a text is counted whole only once or twice."""
    counted: list[int] = []

    def count(text: str) -> int:
        counted.append(len(text))
        return len(text)

    cut_text("x" * 1_000_000, 100, count)
    assert sum(counted) < 1_010_000


async def test_markers_say_how_much_is_missing_of_the_whole() -> None:
    """Also where two limits are exceeded."""
    kept = await fitted([UserMessage("a" * 100_000)], max_token_per_message=1_000, max_context_length=100)
    assert str(kept.messages[0]).count("[...") == 1
    assert "99" in str(kept.messages[0])
    assert count_tokens(kept.messages) in range(98, 101)


def test_cut_messages_are_copies() -> None:
    """The message itself is not changed, and what else it says stays."""
    message = UserMessage("x" * 400, agent="Ada")
    cut = cut_message(message, 50, count_message_tokens, count_text_tokens)
    assert (len(str(message)), cut.agent) == (400, "Ada")  # type: ignore[attr-defined]
    assert cut_message(cut, 50, count_message_tokens, count_text_tokens) is cut


@st.composite
def conversations(draw: st.DrawFn) -> list[Message]:
    """Conversations in which every message says which one it is, as its `agent`."""
    numbers = itertools.count()
    tag = lambda: {"agent": str(next(numbers))}  # noqa: E731
    text = st.integers(0, 200).map("x".__mul__)
    messages: list[Message] = []
    for kind in draw(st.lists(st.sampled_from("uuuaaacccsion"), max_size=14)):
        match kind:
            case "u":
                messages.append(UserMessage(draw(text), **tag()))
            case "a":
                messages.append(AssistantMessage(draw(text), **tag()))
            case "s":
                messages.append(SystemMessage(draw(text), **tag()))
            case "i":
                messages.append(UserMessage(draw(text), parts=[ImagePart(url="https://here/x.png")], **tag()))
            case "o":
                messages.append(ToolResultMessage("orphan", tool_call_id="nobody", tool_name="look", **tag()))
            case "n":
                messages.append(AssistantMessage(draw(text), inside_tool_call="any", **tag()))
            case _:
                first = next(numbers)
                ids = [f"{first}-{number}" for number in range(draw(st.integers(1, 3)))]
                parts = [ToolCallPart(id=name, name="look", arguments="y" * 20) for name in ids]
                messages.append(AssistantMessage(draw(st.none() | text), parts=parts, agent=str(first)))
                for name in ids:
                    if draw(st.booleans()):
                        messages.append(AssistantMessage(draw(text), inside_tool_call=name, **tag()))
                    if draw(st.integers(0, 9)):
                        messages.append(ToolResultMessage(draw(text), tool_call_id=name, tool_name="look", **tag()))
    return messages


def number_of(message: Any) -> int:
    return int(message.agent)


def is_said(message: Any) -> bool:
    return role_of(message) != "system" and not message.inside_tool_call


@given(
    conversations(),
    st.none() | st.integers(1, 600),
    st.none() | st.integers(1, 100),
    st.none() | st.integers(1, 8),
    st.booleans(),
    st.none() | st.just("Gone."),
)
def test_invariants(
    messages: list[Message], length: int | None, each: int | None, most: int | None, calls: bool, prompt: str | None
) -> None:
    """What holds for every conversation and all limits."""
    limits = {
        "max_context_length": length,
        "max_token_per_message": each,
        "max_messages_in_context": most,
        "keep_function_calls_in_context": calls,
        "prompt_when_message_is_dropped": prompt,
    }
    everything = run_with_virtual_clock(fitted(messages)).messages
    kept = run_with_virtual_clock(fitted(messages, **limits))
    notes = [message for message in kept.messages if str(message) == "Gone."]
    sent: list[Any] = [message for message in kept.messages if str(message) not in ("Gone.", "cancelled")]
    said: list[Any] = [message for message in kept.messages if role_of(message) != "system" and is_said(message)]
    numbers = list(map(number_of, sent))
    originals = {number_of(message): message for message in messages}

    # A subsequence, apart from cuts and notes, and what is not sent are messages as they were.
    assert numbers == sorted(set(numbers))
    assert all(originals[number_of(message)] is message for message in kept.dropped)
    assert not {*map(number_of, kept.dropped)} & {*numbers}
    assert len(notes) == bool(kept.dropped and prompt)
    # Calls and results are together.
    told = [message for message in kept.messages if not getattr(message, "inside_tool_call", None)]
    assert sorted(map(id, sendable(told))) == sorted(map(id, told))
    # System messages are sent as they are.
    assert [id(m) for m in messages if role_of(m) == "system"] == [id(m) for m in sent if role_of(m) == "system"]
    # What is dropped is older than what stays, the newest message of the user apart.
    users = [number_of(message) for message in messages if role_of(message) == "user"]
    dropped = [number_of(message) for message in kept.dropped]
    stays = [number_of(m) for m in sent if role_of(m) != "system" and number_of(m) != (users or [-1])[-1]]
    if users:
        assert users[-1] in numbers
    if dropped and stays:
        assert max(dropped) < min(stays)
    # It begins with the user, if something had to be dropped.
    if kept.dropped and users:
        assert role_of(said[0]) == "user"
    # The limits hold, unless there is nothing that could be dropped or cut.
    last_unit = [m for m in said if not users or number_of_unit(m, sent) >= users[-1]]
    whole = [m if m.agent is None else originals[number_of(m)] for m in last_unit]
    shortest = [cut_message(m, 16, count_message_tokens, count_text_tokens) for m in whole]
    if most is not None and len(said) > most:
        assert len(said) == len(last_unit)
    if length is not None and count_tokens(told) > length:
        assert len(said) == len(last_unit)
        assert count_tokens(last_unit) == count_tokens(shortest)
    # Nothing is dropped or cut without need.
    all_said = [message for message in everything if is_said(message)]
    all_told = [message for message in everything if not getattr(message, "inside_tool_call", None)]
    if calls and (length is None or count_tokens(all_told) <= length) and (most is None or len(all_said) <= most):
        assert not kept.dropped
        if each is None:
            assert kept.messages == everything


def number_of_unit(message: Any, sent: list[Any]) -> int:
    """Of a result that was filled in: the message with its call."""
    if message.agent is not None:
        return number_of(message)
    return next(number_of(m) for m in sent if any(call.id == message.tool_call_id for call in tool_calls_of(m)))
