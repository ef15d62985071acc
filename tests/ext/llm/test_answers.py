"""What is made of an answer: its text, token by token, and what the message says about itself."""

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from miniagents import MiniAgents
from miniagents.ext.llm.llm_common import AssistantMessage, CharacterJoiner, valid_text
from tests.ext.llm.helpers import BOTH_WAYS, Provider, tokens_of
from tests.support.llm_server import Delta, Gate, Reply, Thinking, ToolCall


@pytest.mark.parametrize("stream", BOTH_WAYS)
async def test_answer_and_metadata(provider: Provider, stream: bool) -> None:
    """The answer is one assistant message that says its model, finish reason and usage."""
    message = await provider.ask(Reply(("Hello", ", ", "world")), stream=stream)
    assert (message.text, message.role, message.model) == ("Hello, world", "assistant", "served-model")
    assert (message.finish_reason, message.reasoning) == ("stop", None)
    assert message.usage is not None
    assert (message.usage.input_tokens, message.usage.output_tokens) == (7, 5)
    assert bool(provider.server.requests[0].body.get("stream")) is stream


@pytest.mark.parametrize("stream", BOTH_WAYS)
async def test_tokens_are_those_of_the_server(provider: Provider, stream: bool) -> None:
    """A stream has the server's tokens, an answer at once is one token."""
    provider.server.script(Reply(("Hello", ", ", "world")))
    async with MiniAgents():
        tokens = await tokens_of(provider.agent.inquire("Hi", stream=stream))
    assert tokens == (["Hello", ", ", "world"] if stream else ["Hello, world"])


async def test_tokens_arrive_while_the_server_is_still_answering(provider: Provider) -> None:
    """A token can be read before the next one has been sent."""
    gate = Gate()
    provider.server.script(Reply(("first", gate, "second")))
    async with MiniAgents():
        message = await anext(aiter(provider.agent.inquire("Hi")))
        reader = aiter(message)
        assert await anext(reader) == "first"
        gate.open()
        assert await anext(reader) == "second"


async def test_the_message_says_at_once_which_model_was_asked(provider: Provider) -> None:
    """Before anything has come the message is known to be the assistant's, and which model it is asked of."""
    gate = Gate()
    provider.server.script(Reply(("x",), hold=gate))
    async with MiniAgents():
        message = await anext(aiter(provider.agent.inquire("Hi")))
        assert (message.message_class, message.metadata["model"]) == (AssistantMessage, "some-model")
        gate.open()
        assert (await message).model == "served-model"  # type: ignore[attr-defined]


OPENAI_WORDS = {
    "stop": "stop", "length": "length", "tool_calls": "tool_calls", "function_call": "tool_calls",
    "content_filter": "content_filter", "MAX_TOKENS": "length", "eos": "stop",
}  # fmt: skip
ANTHROPIC_WORDS = {
    "end_turn": "stop", "stop_sequence": "stop", "pause_turn": "stop", "max_tokens": "length", "tool_use": "tool_calls",
    "refusal": "content_filter", "model_context_window_exceeded": "length", "unheard_of": "stop",
}  # fmt: skip


@pytest.mark.parametrize("stream", BOTH_WAYS)
async def test_finish_reasons_are_translated(provider: Provider, stream: bool) -> None:
    """Each word for the end becomes one of four, and the provider's own stands beside it."""
    for word, meaning in (OPENAI_WORDS if provider.is_openai else ANTHROPIC_WORDS).items():
        message = await provider.ask(Reply(("x",), finish=word), stream=stream)
        assert (message.finish_reason, message.provider_finish_reason) == (meaning, word)


@pytest.mark.parametrize("stream", BOTH_WAYS)
async def test_an_answer_without_text(provider: Provider, stream: bool) -> None:
    """A model that only calls tools has said nothing, which is no error."""
    message = await provider.ask(Reply((ToolCall("search", ('{"q"', ": 1}")),)), stream=stream)
    assert (message.text, message.finish_reason) == ("", "tool_calls")


@pytest.mark.parametrize("stream", BOTH_WAYS)
async def test_reasoning_is_metadata(provider: Provider, stream: bool) -> None:
    """What a model says to itself is kept apart from what it says."""
    message = await provider.ask(Reply((Thinking("h"), Thinking("m", signature="s"), "answer")), stream=stream)
    assert (message.text, message.reasoning) == ("answer", "hm")


@pytest.mark.parametrize("stream", BOTH_WAYS)
async def test_reasoning_by_its_other_name(openai_provider: Provider, stream: bool) -> None:
    """Some servers call it `reasoning`; what is no text by that name is left out."""
    message = await openai_provider.ask(Reply((Delta({"reasoning": "hm"}), "answer")), stream=stream)
    assert (message.text, message.reasoning) == ("answer", "hm")
    message = await openai_provider.ask(Reply((Delta({"reasoning": {"effort": 1}}), "answer")), stream=stream)
    assert (message.text, message.reasoning) == ("answer", None)


@pytest.mark.parametrize("stream", BOTH_WAYS)
async def test_a_refusal_is_what_the_model_says(openai_provider: Provider, stream: bool) -> None:
    """A model that refuses says so in another field; people are to see it."""
    message = await openai_provider.ask(Reply((Delta({"refusal": "I won't."}),)), stream=stream)
    assert message.text == "I won't."


@pytest.mark.parametrize("stream", BOTH_WAYS)
async def test_of_several_choices_the_first_is_the_answer(openai_provider: Provider, stream: bool) -> None:
    """Choices come interleaved; they are not mixed."""
    choices: list[Any] = [
        {"index": index, "delta": {"content": text}, "message": {"content": text}, "finish_reason": None}
        for index, text in ((0, "good"), (1, "bad"))
    ]
    if stream:
        reply = Reply(({"choices": choices[1:]}, {"choices": choices[:1]}, {"choices": choices}))
        assert (await openai_provider.ask(reply, n=2)).text == "goodgood"
    else:
        choices[0]["finish_reason"] = "stop"
        body = f'{{"choices": {choices!r}}}'.replace("'", '"').replace("None", "null").encode()
        assert (await openai_provider.ask(Reply(body=body), n=2, stream=False)).text == "good"


@pytest.mark.parametrize("stream", BOTH_WAYS)
async def test_a_server_that_leaves_fields_out(provider: Provider, stream: bool) -> None:
    """Without usage, ids and names the message says what is known: the model that was asked."""
    message = await provider.ask(Reply(("fine",), bare=True, usage=None), stream=stream)
    assert (message.text, message.usage, message.finish_reason) == ("fine", None, "stop")
    assert message.model == ("some-model" if provider.is_openai else "served-model")


@pytest.mark.parametrize("stream", BOTH_WAYS)
async def test_usage_that_is_none(provider: Provider, stream: bool) -> None:
    """What is no number counts as unknown, and half of the usage is better than none."""
    name = "prompt_tokens" if provider.is_openai else "input_tokens"
    message = await provider.ask(Reply(("x",), usage={name: "many"}), stream=stream)
    assert message.usage is not None
    assert (message.usage.input_tokens, message.usage.output_tokens) == (0, 5)


@pytest.mark.parametrize("stream", BOTH_WAYS)
async def test_cached_tokens_are_input_tokens(anthropic_provider: Provider, stream: bool) -> None:
    """Tokens from the cache and into it are part of the input, as they are with every other provider."""
    usage = {"cache_read_input_tokens": 100, "cache_creation_input_tokens": 10}
    message = await anthropic_provider.ask(Reply(("x",), usage=usage), stream=stream)
    assert message.usage is not None
    assert message.usage.input_tokens == 117


async def test_usage_at_the_end_may_be_partial(anthropic_provider: Provider) -> None:
    """The last event says the tokens of the output alone, as old servers do: those of the input are known before."""
    start = {"type": "message_start", "message": {"model": "m", "content": [], "usage": {"input_tokens": 3}}}
    end = {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 2}}
    message = await anthropic_provider.ask(Reply((start, end), finish=None))
    assert message.usage is not None
    assert (message.usage.input_tokens, message.usage.output_tokens) == (3, 2)


async def test_the_finish_reason_is_the_mark_of_the_end(provider: Provider) -> None:
    """An answer with a finish reason is complete, also where the stream has no last event."""
    assert (await provider.ask(Reply(("x",), final_mark=False))).finish_reason == "stop"


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize("escaped", [True, False])
@pytest.mark.parametrize("split", [1, (2, 7), 0])
async def test_text_arrives_whole_however_it_is_cut(
    provider: Provider, split: int | tuple[int, ...], escaped: bool, newline: str
) -> None:
    """Bytes of a character in two segments, and halves of a character in two tokens, come together again."""
    reply = Reply(("é€😀", "\ud83d", "\ude00!", "\ud83d"), split=split, escaped=escaped, newline=newline)
    message = await provider.ask(reply)
    assert message.text == "é€😀😀!\ufffd"


async def test_an_answer_at_once_is_valid_text(provider: Provider) -> None:
    """Half of a character is replaced there, too."""
    assert (await provider.ask(Reply(("a\ud83d",)), stream=False)).text == "a\ufffd"


@given(text=st.text(st.characters(exclude_categories=[])), cuts=st.lists(st.integers(0, 30)))
def test_joining_characters(text: str, cuts: list[int]) -> None:
    """Tokens are valid Unicode wherever a text is cut, and together the same as the valid form of the whole."""
    halves = text.encode("utf-16-le", "surrogatepass")
    places = sorted({0, *(2 * cut for cut in cuts if 2 * cut < len(halves)), len(halves)})
    tokens = [halves[start:end].decode("utf-16-le", "surrogatepass") for start, end in pairwise(places)]
    joiner = CharacterJoiner()
    joined = [*map(joiner.feed, tokens), joiner.rest()]
    assert "".join(joined) == valid_text(text)
    assert all(token.encode() or not token for token in joined)
