"""`CacheConformance`: the tests that every cache passes. It needs pytest and pytest-asyncio.

* `values`: what is set comes back, or was refused; `samples`: values of all kinds
* `lifetimes`: what is gone after a time
* `namespaces`: prefixes, suffixes and whole keys
* `atomic`: what several do at the same time
* `mailboxes`: each message once, in order
* `base`: what they share
"""

from miniagents.testing.cache_conformance.atomic import AtomicTests
from miniagents.testing.cache_conformance.lifetimes import LifetimeTests
from miniagents.testing.cache_conformance.mailboxes import MailboxTests
from miniagents.testing.cache_conformance.namespaces import NamespaceTests
from miniagents.testing.cache_conformance.values import ValueTests

__all__ = ["CacheConformance"]


class CacheConformance(ValueTests, LifetimeTests, NamespaceTests, AtomicTests, MailboxTests):
    """Tests whether a cache does what each has to do. Derive from it, and override the fixture `cache`.

    Override `other`, too, where several objects can share what they keep. The tests take real time, some tenths of a
    second those of times to live; they are patient with slow machines.

    Example:
        ```python
        class TestMyCache(CacheConformance):
            @pytest_asyncio.fixture
            async def cache(self):
                async with MyCache() as cache:
                    yield cache
        ```
    """
