"""Answers that are objects."""

from dataclasses import dataclass
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from miniagents import MiniAgents
from miniagents.ext.llm.llm_common import AssistantMessage, InvalidReplyError
from miniagents.ext.llm.structured import ReplyType, strict_schema
from tests.ext.llm.helpers import BOTH_WAYS, Provider, texts
from tests.support.llm_server import Reply, ToolCall


class Street(BaseModel):
    name: str


class City(BaseModel):
    name: str
    people: int = 0
    streets: list[Street] = []


PIECES = ('{"name": "Ro', 'me", "people": 3, "stre', 'ets": [{"name": "Via A', 'ppia"}]}')
ROME = City(name="Rome", people=3, streets=[Street(name="Via Appia")])


def answering(provider: Provider, *pieces: str, model: str) -> Reply:
    """The answer as text, or as the arguments of a tool where a model has no format of its own."""
    if provider.is_openai or model.startswith("claude-sonnet-5"):
        return Reply(pieces)
    return Reply((ToolCall("City", pieces),))


@pytest.fixture(params=["claude-sonnet-5", "claude-3-haiku"])
def model(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.mark.parametrize("stream", BOTH_WAYS)
async def test_an_object(provider: Provider, model: str, stream: bool) -> None:
    """The answer is validated, and its text is the JSON."""
    reply = answering(provider, *PIECES, model=model)
    message = await provider.ask(reply, reply_type=City, model=model, stream=stream)
    assert message.parsed == ROME
    assert City.model_validate_json(message.text or "") == ROME
    assert (message.finish_reason, message.tool_calls) == ("stop", ())
    sent = provider.server.requests[0].body
    if provider.is_openai:
        assert sent["response_format"]["json_schema"]["strict"] is True
    elif model == "claude-sonnet-5":
        assert sent["output_config"]["format"]["type"] == "json_schema"
    else:
        assert sent["tool_choice"] == {"type": "tool", "name": "City"}


async def test_partial_objects(provider: Provider, model: str) -> None:
    """They grow while the answer streams, and the last one is the object itself."""
    provider.server.script(answering(provider, *PIECES, model=model))
    async with MiniAgents():
        async for promise in provider.agent.inquire("Hi", reply_type=City, model=model):
            found: list[Any] = [partial async for partial in promise.partial_objects()]  # type: ignore[attr-defined]
    assert [partial.name for partial in found] == ["Ro", "Rome", "Rome", "Rome", "Rome"]
    assert all(isinstance(partial, City) for partial in found)
    assert found[0].people is None
    assert found[2].streets[0].name == "Via A"
    assert found[-1] == ROME


async def test_answers_are_mended(provider: Provider, model: str) -> None:
    """The model is told what is wrong, and all of the conversation is in the reply."""
    wrong = answering(provider, '{"name": "Rome", "people": "many"}', model=model)
    provider.server.script(wrong, answering(provider, *PIECES, model=model))
    async with MiniAgents():
        messages: Any = await provider.agent.inquire("Hi", reply_type=City, model=model)
    assert [message.role for message in messages] == ["assistant", "user", "assistant"]
    assert "people: Input should be a valid integer" in str(messages[1])
    assert messages[-1].parsed == ROME
    with pytest.raises(ValidationError):
        _ = messages[0].parsed


async def test_answers_that_cannot_be_mended(provider: Provider) -> None:
    """After so many attempts it is an error, with the last answer."""
    provider.server.script(*[Reply(("no",))] * 2)
    async with MiniAgents():
        with pytest.raises(InvalidReplyError, match="City") as caught:
            await provider.agent.inquire("Hi", reply_type=City, max_repairs=1, model="claude-sonnet-5")
    assert caught.value.partial_text == "no"


async def test_with_tools(provider: Provider) -> None:
    """Tools are called first; the object is the last answer."""

    def count() -> int:
        """Counts."""
        return 3

    provider.server.script(Reply((ToolCall("count"),)), Reply(PIECES))
    async with MiniAgents():
        messages = await provider.agent.inquire("Hi", reply_type=City, tools=[count], model="claude-sonnet-5")
    last = messages[-1]
    assert isinstance(last, AssistantMessage)
    assert texts(messages)[:2] == ["", "3"]
    assert last.parsed == ROME


async def test_other_types(provider: Provider) -> None:
    """Lists, unions, dataclasses and plain values are possible, too."""

    @dataclass
    class Size:
        width: int

    for kind, text, value in [
        (list[int], '{"value": [1, 2]}', [1, 2]),
        (City | Street, '{"value": {"name": "x"}}', City(name="x")),
        (Size, '{"width": 3}', Size(3)),
        (int, '{"value": 5}', 5),
        (City, '```json\n{"name": "Rome"}\n```', City(name="Rome")),
    ]:
        message = await provider.ask(Reply((text,)), reply_type=kind, model="claude-sonnet-5")
        assert message.parsed == value


async def test_the_object_is_no_part_of_the_message(provider: Provider) -> None:
    """Two answers of the same text are equal, whatever they are parsed as."""
    one = await provider.ask(Reply(PIECES), reply_type=City, model="claude-sonnet-5")
    other = await provider.ask(Reply(PIECES), model="claude-sonnet-5")
    assert one == other
    assert one.hash_key == other.hash_key
    assert other.parsed is None


def test_what_is_no_type() -> None:
    """What pydantic has no schema for is refused."""
    with pytest.raises(TypeError, match="no type that pydantic"):
        ReplyType(object())


def test_strict_schemas() -> None:
    """All properties are required and no others allowed; a table of any keys cannot be strict."""
    strict = strict_schema(City.model_json_schema())
    assert strict is not None
    assert strict["required"] == ["name", "people", "streets"]
    assert strict["$defs"]["Street"]["additionalProperties"] is False
    assert "default" not in str(strict)
    assert strict_schema(ReplyType(dict[str, int]).schema) is None


async def test_partial_objects_of_a_text(provider: Provider) -> None:
    """An answer that is a text has none."""
    provider.server.script(Reply(("x",)))
    async with MiniAgents():
        async for promise in provider.agent.inquire("Hi"):
            with pytest.raises(TypeError, match="reply_type"):
                _ = [part async for part in promise.partial_objects()]  # type: ignore[attr-defined]
