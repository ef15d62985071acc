"""Messages come back equal, wherever in the data they are."""

from dataclasses import dataclass, field
from typing import Any

import pytest
from pydantic import BaseModel

from miniagents.frozen import Frozen
from miniagents.message import Message
from miniagents.testing.checkpoint_store_conformance.base import Reopen, Store, StoreTests, begin, of
from miniagents.testing.sample_messages import SAMPLE_MESSAGES, QuotingMessage

__all__ = ["MessageTests"]

_CONVERSATION = 120
_DEPTH = 150


@dataclass
class Notebook:
    """A dataclass with messages inside."""

    pages: list[Message] = field(default_factory=list)


class Folder(BaseModel):
    """A pydantic model with messages inside."""

    first: Message
    by_name: dict[str, Message]


class Envelope(Frozen):
    """A frozen object that is no message, with messages inside."""

    content: tuple[Message, ...]


class MessageTests(StoreTests):
    """Tests of messages in the data of entries."""

    @pytest.mark.parametrize("name", SAMPLE_MESSAGES)
    async def test_any_message_comes_back_equal(self, store: Store, reopen: Reopen, name: str) -> None:
        """Class, text, metadata and hash key are what they were, for entries and for what is told."""
        message = SAMPLE_MESSAGES[name]
        claim = await begin(store)
        await store.append(claim, [of("a", "state", data={"reply": (message, "text")}), of("a", "state", data=message)])
        await store.tell(claim.run_id, of("a", "told", data=[message]))
        first, second, third = await (await reopen()).read(claim.run_id)
        assert first.data == {"reply": (message, "text")}
        for found in (first.data["reply"][0], second.data, third.data[0]):
            assert type(found) is type(message)
            assert found == message
            assert found.hash_key == message.hash_key
            assert [type(inner) for inner in found.iter_nested()] == [type(inner) for inner in message.iter_nested()]

    async def test_messages_in_containers(self, store: Store, reopen: Reopen) -> None:
        """Messages are found in containers, models, dataclasses and other messages, at any depth."""
        one, two = Message("one", role="user"), Message("two")
        hashable: tuple[Any, ...] = (one, two)
        data: dict[str, Any] = {
            "list": [one, [two, {"deep": (one,)}]],
            "set": set(hashable),
            "notebook": Notebook([one, two]),
            "folder": Folder(first=one, by_name={"two": two}),
            "envelope": Envelope(content=(one, two)),
            "quoting": QuotingMessage("quoting", quoted=one, answers=[two, one]),
        }
        claim = await begin(store)
        await store.append(claim, [of("a", "state", data=data)])
        (entry,) = await (await reopen()).read(claim.run_id)
        assert entry.data == data
        assert entry.data["list"][0] is entry.data["folder"].first is entry.data["quoting"].quoted

    async def test_classes_of_one_name(self, store: Store) -> None:
        """Messages of classes that have the same name by chance are not mistaken for each other."""
        first, second = _another_class(), _another_class()
        second.__qualname__ = f"Other{second.__qualname__}"
        assert first("x") == second("x")
        claim = await begin(store)
        await store.append(claim, [of("a", "state", data=[first("x"), second("x")])])
        (entry,) = await store.read(claim.run_id)
        assert [type(message) for message in entry.data] == [first, second]

    async def test_a_growing_conversation(self, store: Store, reopen: Reopen) -> None:
        """A conversation is recorded with each of its messages, and is at each point what it was then."""
        claim = await begin(store)
        said: list[Message] = []
        for number in range(_CONVERSATION):
            said.append(Message(f"message {number}", role="user" if number % 2 else "assistant"))
            await store.append(
                claim, [of("talk", "state", visit=number, data={"said": tuple(said), "last": said[-5:]})]
            )
        entries = await (await reopen()).read(claim.run_id)
        for number, entry in enumerate(entries, 1):
            assert entry.data == {"said": tuple(said[:number]), "last": said[max(0, number - 5) : number]}
        assert entries[0].data["said"][0] is entries[-1].data["said"][0]

    async def test_messages_in_messages(self, store: Store, reopen: Reopen) -> None:
        """Messages may be nested deeper than functions may be."""
        message = Message("innermost")
        for number in range(_DEPTH):
            message = QuotingMessage(f"level {number}", quoted=message)
        claim = await begin(store)
        await store.append(claim, [of("a", "state", data=[message])])
        (entry,) = await (await reopen()).read(claim.run_id)
        assert entry.data == [message]

    async def test_messages_stay_when_others_go(self, store: Store, reopen: Reopen) -> None:
        """What later entries need stays when earlier ones are removed, also pieces of conversations."""
        said = [Message(f"message {number}") for number in range(_CONVERSATION)]
        claim = await begin(store)
        for number in range(0, _CONVERSATION, 10):
            await store.append(claim, [of("talk", "state", visit=number, data=said[: number + 10])])
        await store.prune(claim, before=12)
        await store.tell(claim.run_id, of("talk", "told", data=said[:20]))
        await store.append(claim, [of("talk", "state", visit=999, data=said[::-1])])
        await store.prune(claim, before=13)
        told, last = await (await reopen()).read(claim.run_id)
        assert told.data == said[:20]
        assert last.data == said[::-1]
        await store.append(claim, [of("talk", "state", visit=1000, data=said)])
        assert (await (await reopen()).read(claim.run_id))[-1].data == said


def _another_class() -> type[Message]:
    class Namesake(Message):
        pass

    return Namesake
