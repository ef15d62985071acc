"""What tokens cost, offline: the tables of genai-prices."""

from decimal import Decimal
from typing import Any
from urllib.parse import urlsplit

from miniagents.usage import Usage

__all__ = ["price_of"]


def price_of(usage: Usage, provider: str, url: str, *models: str) -> Decimal | None:
    """Computes the price of a request.

    Args:
        usage: Its tokens.
        provider: Who offers the model, in the words of genai-prices: "openai", "anthropic", "aws", "google".
        url: The address that is asked, which may be that of another provider.
        *models: The names of the model, the one that is to be tried first in the first place.

    Returns:
        US dollars; None where the price is not known.
    """
    from genai_prices import Usage as Tokens
    from genai_prices import calc_price

    tokens = Tokens(
        input_tokens=usage.input_tokens,
        output_tokens=usage.output_tokens,
        cache_read_tokens=usage.cached_tokens or None,
        cache_write_tokens=usage.cache_write_tokens or None,
    )
    # An address that is nobody's is a proxy, most probably, or a server of one's own, whose models nobody knows.
    host = urlsplit(url).hostname or ""
    for model in models:
        for where in ({"provider_api_url": f"https://{host}"}, {"provider_id": provider}):
            try:
                found: Any = calc_price(tokens, model, **where)  # type: ignore[call-overload]
                return Decimal(found.total_price)
            except (LookupError, ValueError):
                continue
    return None
