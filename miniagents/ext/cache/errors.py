"""What goes wrong with caches."""

__all__ = ["CacheUnavailableError"]


class CacheUnavailableError(Exception):
    """The server of a cache could not be reached, did not answer in time, or refuses.

    The operation may have been carried out or not. It was repeated as long as that was safe. The message names host and
    port, and what the server has said: start it, look whether they are the right ones, give the right password, let it
    have more memory.
    """
