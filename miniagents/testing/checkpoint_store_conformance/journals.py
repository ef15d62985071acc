"""What is appended comes back, in the order in which it was appended, and nothing else."""

import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
from pydantic import BaseModel

from miniagents.testing.checkpoint_store_conformance.base import Reopen, Store, StoreTests, begin, of, refused

__all__ = ["JournalTests"]

_MANY = 5_000


@dataclass
class Progress:
    """Some data of a user's class."""

    done: int
    names: list[str]


class Settings(BaseModel):
    """Some data of a pydantic model."""

    limit: float
    tags: set[str] = set()


_DATA: dict[str, Any] = {
    "nothing": None,
    "plain": {"a": [1, 2.5, True, None, "x"], "b": {}},
    "strings": ["", "\ud83d", "\u2028\x00\n", '"quoted"', "back\\slash", "'; DROP TABLE entries; --", "日本語 🎉"],
    "keys": {"$ref": "x", "$refs": "0" * 40, "$class": 1, "": 0, '"}': 2},
    "what_looks_like_a_reference": ['{"$ref":"' + "0" * 40 + '"}', {"$ref": "0" * 40}, [{"$refs": "1" * 40}]],
    "types": (b"\x00\xff", datetime(2026, 1, 2, 3, 4, tzinfo=UTC), UUID(int=5), {1, 2}, frozenset({"a"}), (1, (2,))),
    "numbers": [0, -1, 2**70, 0.1, -0.0, 1e300, 5e-324],
    "classes": [Progress(3, ["a"]), Settings(limit=0.5, tags={"x"})],
    "large": "0123456789abcdef" * 20_000,
}


class JournalTests(StoreTests):
    """Tests of `append`, `tell`, `read` and `prune`."""

    async def test_entries_come_back_in_order(self, store: Store, reopen: Reopen) -> None:
        """What is appended is numbered 1, 2, 3, and is read so, here and by others."""
        claim = await begin(store)
        before = time.time()
        first = await store.append(claim, [of("write", "started"), of("write", "finished", data={"text": "a"})])
        second = await store.append(claim, [of("check", "started", visit=2, attempt=3, data=[1])])
        told = await store.tell(claim.run_id, ("note", "", 0, 0, "from outside"))
        entries = await (await reopen()).read(claim.run_id)
        assert entries == [*first, *second, told] == await store.read(claim.run_id)
        assert [tuple(entry)[:6] for entry in entries] == [
            (1, "started", "write", 1, 1, None),
            (2, "finished", "write", 1, 1, {"text": "a"}),
            (3, "started", "check", 2, 3, [1]),
            (4, "note", "", 0, 0, "from outside"),
        ]
        assert all(before - 1 <= entry.time <= time.time() + 1 for entry in entries)

    @pytest.mark.parametrize("name", _DATA)
    async def test_data_comes_back_as_it_was(self, store: Store, reopen: Reopen, name: str) -> None:
        """Data of all kinds comes back equal, and of the same types."""
        claim = await begin(store)
        await store.append(claim, [of("node", "state", data=_DATA[name])])
        await store.tell(claim.run_id, of("node", "told", data=_DATA[name]))
        for entry in await (await reopen()).read(claim.run_id):
            assert entry.data == _DATA[name]
            assert repr(entry.data) == repr(_DATA[name])

    async def test_data_is_what_it_was_when_it_was_appended(self, store: Store) -> None:
        """What the user changes afterwards, in what was given or read, changes nothing in the journal."""
        claim = await begin(store)
        data = {"items": [1]}
        await store.append(claim, [of("node", "state", data=data)])
        data["items"].append(2)
        (await store.read(claim.run_id))[0].data["items"].append(3)
        assert (await store.read(claim.run_id))[0].data == {"items": [1]}

    async def test_reading_from_a_number_on(self, store: Store, reopen: Reopen) -> None:
        """A reader who knows the first entries is given the others."""
        claim = await begin(store)
        for number in range(1, 8):
            await store.append(claim, [of("node", "state", data=number), of("node", "more")])
        for after in (0, 1, 2, 7, 13, 14, 100):
            for reader in (store, await reopen()):
                entries = await reader.read(claim.run_id, after)
                assert [entry.sequence for entry in entries] == list(range(after + 1, 15))

    async def test_nothing_to_append(self, store: Store) -> None:
        """No entries are no entry; without a status nothing happens at all."""
        claim = await begin(store)
        assert await store.append(claim, []) == []
        assert await store.append(claim, iter([]), status="paused") == []
        assert await store.read(claim.run_id) == []
        assert (await store.info(claim.run_id)).status == "paused"

    async def test_what_cannot_be_written_is_refused(self, store: Store) -> None:
        """Of entries one of which cannot be written none is appended; the error names the path and the node."""
        claim = await begin(store)
        with pytest.raises(TypeError, match=r"value\.inner\[0\]") as caught:
            await store.append(claim, [of("good", "started"), of("bad", "state", data={"inner": [object()]})])
        assert "bad" in caught.value.__notes__[0]
        with pytest.raises(TypeError):
            await store.tell(claim.run_id, of("bad", "answer", data=object()))
        assert await store.read(claim.run_id) == []

    @pytest.mark.parametrize(
        "entry",
        [
            ("", "node", 1, 1, None),
            ("kind", "x" * 201, 1, 1, None),
            ("kind", "a\x00b", 1, 1, None),
            ("kind", "\ud83d", 1, 1, None),
            ("kind", "node", -1, 1, None),
            ("kind", "node", 1, 2**63, None),
        ],
    )
    async def test_what_is_no_entry(self, store: Store, entry: Any) -> None:
        """Names that are empty, endless or half, and numbers that are out of range, are refused."""
        claim = await begin(store)
        with pytest.raises(ValueError, match="of an entry"):
            await store.append(claim, [of("good", "started"), entry])
        assert await store.read(claim.run_id) == []

    @pytest.mark.parametrize(
        "entry", [None, "kind", ("kind",), (1, "node", 1, 1, None), ("kind", "node", 1.0, 1, None)]
    )
    async def test_what_is_of_another_type(self, store: Store, entry: Any) -> None:
        """What is no entry, or not of the right types, is refused."""
        claim = await begin(store)
        with pytest.raises(TypeError):
            await store.append(claim, [entry])
        with pytest.raises(TypeError):
            await store.tell(claim.run_id, entry)

    @pytest.mark.parametrize("node", ["a/b", "..", "a b", "Ä", "日本", "x" * 200, ".hidden", "a:b*?", "\n"])
    async def test_any_name_of_a_node(self, store: Store, reopen: Reopen, node: str) -> None:
        """Nodes may have any name."""
        claim = await begin(store)
        await store.append(claim, [of(node, "started")])
        (entry,) = await (await reopen()).read(claim.run_id)
        assert entry.node == node

    async def test_thousands_of_entries(self, store: Store, reopen: Reopen) -> None:
        """A long journal is read whole, and from any place."""
        claim = await begin(store)
        for start in range(0, _MANY, 1_000):
            await store.append(claim, [of("node", "state", visit=start + n, data=start + n) for n in range(1_000)])
        other = await reopen()
        assert [entry.data for entry in await other.read(claim.run_id)] == list(range(_MANY))
        assert [entry.sequence for entry in await other.read(claim.run_id, _MANY - 3)] == [_MANY - 2, _MANY - 1, _MANY]
        (last,) = await store.append(claim, [of("node", "finished")])
        assert last.sequence == _MANY + 1

    async def test_removing_what_is_not_needed(self, store: Store, reopen: Reopen) -> None:
        """The first entries can be removed; the numbers of the others stay and go on."""
        claim = await begin(store)
        for number in range(1, 6):
            await store.append(claim, [of("node", "state", data=number), of("node", "more", data=number)])
        told = await store.tell(claim.run_id, of("", "note"))
        await store.prune(claim, before=8)
        for reader in (store, await reopen()):
            assert [entry.sequence for entry in await reader.read(claim.run_id)] == [8, 9, 10, 11]
            assert [entry.sequence for entry in await reader.read(claim.run_id, 9)] == [10, 11]
        await store.prune(claim, before=2)
        await store.prune(claim, before=1_000)
        assert await store.read(claim.run_id) == [told]
        (last,) = await store.append(claim, [of("node", "state")])
        assert last.sequence == 12
        assert [entry.sequence for entry in await (await reopen()).read(claim.run_id)] == [11, 12]
        await claim.release()
        with refused("StaleClaimError"):
            await store.prune(claim, before=12)
