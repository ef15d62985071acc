"""What goes wrong with caches."""

__all__ = ["CacheUnavailableError"]


class CacheUnavailableError(Exception):
    """The server of a cache could not be reached, or did not answer in time.

    The operation may have been carried out or not. It was repeated as long as that was safe. The message names host and
    port; start the server, or look whether they are the right ones.
    """
