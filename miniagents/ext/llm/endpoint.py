"""Where a model is asked and with what key, and errors that say the one and not the other."""

import os
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, Self
from urllib.parse import urlsplit

from miniagents.ext.llm.llm_common import MissingKeyError, ModelError

__all__ = ["Endpoint", "Home", "checked_host", "checked_key"]

_NO_KEY = "none"  # what is sent as the key where none is needed, since the SDKs insist on one
_SHORTEST_KEY = 6  # anything shorter is none of a provider's, and may be part of any word
_MASK = "[key]"


class Home(NamedTuple):
    """Where a provider is at home, and which environment variables lead elsewhere.

    Attributes:
        provider: The name of the provider, for people.
        url: Its own address.
        domain: What the addresses end with for which it wants a key.
        key_variable: The environment variable of the key.
        url_variable: The environment variable of the address.
    """

    provider: str
    url: str
    domain: str
    key_variable: str
    url_variable: str


class Endpoint(NamedTuple):
    """Where one call goes.

    Attributes:
        provider: Whose protocol it speaks, for people.
        url: The address.
        arguments: What the client of the SDK is made with.
        secrets: What must not show anywhere.
    """

    provider: str
    url: str
    arguments: Mapping[str, Any]
    secrets: tuple[str, ...] = ()

    @classmethod
    def find(cls, home: Home, api_key: str | None = None, base_url: str | None = None) -> Self:
        """Finds out where to ask.

        Args:
            home: The provider.
            api_key: The key; that of the environment otherwise.
            base_url: The address; that of the environment or else the provider's own otherwise.

        Returns:
            The endpoint. A server of one's own needs no key.

        Raises:
            MissingKeyError: There is no key, and the provider wants one.
            ModelError: The key, or the address, cannot be one.
        """
        url = (base_url or os.environ.get(home.url_variable) or "").strip() or home.url
        host = checked_host(url, "`base_url=`" if base_url else home.url_variable)
        key = (api_key or os.environ.get(home.key_variable) or "").strip()
        if not key:
            if host == home.domain or host.endswith(f".{home.domain}"):
                raise MissingKeyError(
                    f"there is no key for {home.provider}: set the environment variable {home.key_variable}, or pass "
                    "`api_key=` to the agent"
                )
            key = _NO_KEY
        checked_key(key, home.provider, "`api_key=`" if api_key else home.key_variable)
        return cls(home.provider, url, {"api_key": key, "base_url": url}, (key,))

    @property
    def place(self) -> str:
        """The address, for people: without what may be secret in it."""
        parts = urlsplit(self.url)
        port = f":{parts.port}" if parts.port else ""
        return f"{parts.scheme}://{parts.hostname}{port}{parts.path}"

    def __repr__(self) -> str:
        return f"<Endpoint {self.place}>"  # tools that show local variables would else show the key

    def masked(self, text: str) -> str:
        """Hides the keys, and a password in the address, wherever they stand in a text."""
        for secret in (*self.secrets, urlsplit(self.url).password or ""):
            if len(secret) >= _SHORTEST_KEY:
                text = text.replace(secret, _MASK)
        return text

    def clean(self, error: BaseException) -> None:
        """Hides the secrets in an error and in all that it was caused by: servers and transports may repeat them.

        Errors of SDKs hold the request, with the key among its headers; it is replaced by one without headers. Where
        the server has repeated a secret, its response and the errors below are left out altogether.

        Args:
            error: The error, which is changed.
        """
        for part in _chain(error):
            cleaned = tuple(self._cleaned(argument) for argument in part.args)
            if cleaned != part.args:
                part.args = cleaned
            attributes = vars(part)
            for name in ("message", "body", "api_message"):
                if name in attributes:
                    setattr(part, name, self._cleaned(attributes[name]))
            for name in ("request", "_request"):
                if attributes.get(name) is not None:
                    attributes[name] = _without_headers(attributes[name])
            if attributes.get("response") is not None:
                attributes["response"] = self._clean_response(attributes["response"])

    def _clean_response(self, response: Any) -> Any:
        try:
            content = response.content
        except Exception:  # it is a stream that nobody has read
            content = b""
        if any(secret.encode() in content for secret in self.secrets if len(secret) >= _SHORTEST_KEY):
            content = b""
        made = type(response)(
            response.status_code,
            headers=[
                (name, self.masked(value))
                for name, value in response.headers.items()
                if name.lower() not in ("content-encoding", "content-length", "transfer-encoding", "set-cookie")
            ],
            content=content,
        )
        made.request = _without_headers(response.request)
        return made

    def _cleaned(self, value: Any) -> Any:
        if isinstance(value, str):
            return self.masked(value)
        if isinstance(value, dict):
            return {name: self._cleaned(item) for name, item in value.items()}
        if isinstance(value, list):
            return [self._cleaned(item) for item in value]
        return value


def checked_host(url: str, source: str) -> str:
    """Checks an address.

    Args:
        url: The address.
        source: Where it comes from, for the error.

    Returns:
        The host in it.

    Raises:
        ModelError: It is none.
    """
    try:
        parts = urlsplit(url)
        host = parts.hostname if parts.scheme in ("http", "https") else None
        parts.port  # noqa: B018  (raises if it is none)
    except ValueError:
        host = None
    if host is None:
        raise ModelError(f"{source} is no address of a server; one looks like this: http://127.0.0.1:8000/v1")
    return host


def checked_key(key: str, provider: str, source: str) -> None:
    """Checks a key before the SDK does, which would fail with an error that holds it.

    Args:
        key: The key.
        provider: Whose it is.
        source: Where it comes from, for the error.

    Raises:
        ModelError: It holds what no key holds.
    """
    if not key.isascii() or not key.isprintable():
        raise ModelError(f"{source} holds characters that no key of {provider} has; copy it once more")


def _without_headers(request: Any) -> Any:
    return type(request)(request.method, request.url.copy_with(username=None, password=None))


def _chain(error: BaseException) -> Iterator[BaseException]:
    pending = [error]
    seen: set[int] = set()
    while pending:
        part = pending.pop()
        if id(part) not in seen:
            seen.add(id(part))
            yield part
            pending.extend(other for other in (part.__cause__, part.__context__) if other is not None)
