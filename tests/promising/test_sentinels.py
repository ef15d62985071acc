"""Sentinels and errors: what they are called, what they are, and that they stay themselves."""

import copy
import pickle
from typing import Any

import pytest

import miniagents.promising
import miniagents.promising.sentinels
import promising
from promising import sentinels

ALL = [sentinels.AWAIT, sentinels.CLEAR, sentinels.DEFAULT, sentinels.END, sentinels.NO_VALUE]


@pytest.mark.parametrize("sentinel", ALL, ids=repr)
def test_a_sentinel_stays_itself(sentinel: Any) -> None:
    """Copying and pickling, by itself or inside something, give the same object."""
    assert copy.copy(sentinel) is sentinel
    assert copy.deepcopy([sentinel])[0] is sentinel
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        assert pickle.loads(pickle.dumps({"sentinel": sentinel}, protocol))["sentinel"] is sentinel


@pytest.mark.parametrize("sentinel", ALL, ids=repr)
def test_a_sentinel_says_what_it_is(sentinel: Any) -> None:
    """It prints as its name, is found under it, and cannot be mistaken for a truth value or for another one."""
    assert getattr(sentinels, repr(sentinel)) is sentinel
    assert getattr(promising, repr(sentinel)) is sentinel
    assert getattr(miniagents.promising.sentinels, repr(sentinel)) is sentinel
    with pytest.raises(TypeError, match=f"`is {sentinel!r}`"):
        bool(sentinel)
    assert [other for other in ALL if other == sentinel] == [sentinel]
    assert len({*ALL}) == len(ALL)


def test_the_public_names() -> None:
    """The list of public names is true, and the names of the other package are the same objects."""
    assert len(set(promising.__all__)) == len(promising.__all__)
    for name in promising.__all__:
        assert getattr(promising, name) is not None
    for name in miniagents.promising.__all__:
        assert getattr(miniagents.promising, name) is getattr(promising, name)


def test_the_tree_of_errors() -> None:
    """Every error of the layer is a PromisingError and an ordinary exception; misuse is a RuntimeError, too."""
    for name in promising.__all__:
        found = getattr(promising, name)
        if isinstance(found, type) and issubclass(found, BaseException):
            assert issubclass(found, promising.PromisingError)
            assert issubclass(found, Exception)
            assert found.__doc__
    assert issubclass(promising.StreamClosedError, RuntimeError)
    assert issubclass(promising.UnresolvedPromiseError, RuntimeError)


def test_the_layer_needs_nothing_but_the_standard_library() -> None:
    """Importing the promise layer alone imports neither messages nor agents nor anything that was installed."""
    import subprocess
    import sys

    code = "import sys, promising; print([n for n in ('miniagents', 'pydantic', 'uvloop') if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
