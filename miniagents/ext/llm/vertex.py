"""`vertex_agent`: the models of Anthropic, offered by Google Vertex."""

import os
from typing import Any

from miniagents.agents import miniagent
from miniagents.ext.llm.anthropic_wire import AnthropicWire
from miniagents.ext.llm.converse import converse
from miniagents.ext.llm.endpoint import Endpoint, checked_host, checked_key
from miniagents.ext.llm.llm_common import ModelError
from miniagents.ext.llm.options import Options
from miniagents.ext.llm.provider import only_provider_parameters
from miniagents.ext.llm.sdk_clients import check_installed
from miniagents.interaction import InteractionContext

__all__ = ["DEFAULT_VERTEX_MODEL", "vertex_agent"]

DEFAULT_VERTEX_MODEL = "claude-sonnet-5"

_WHERE = ("project", "location", "access_token", "credentials")


@miniagent
async def vertex_agent(ctx: InteractionContext, model: str = DEFAULT_VERTEX_MODEL, **options: Any) -> None:
    """Asks a model of Anthropic that Google Vertex offers. It needs `pip install "miniagents[vertex]"`.

    Args:
        ctx: What is sent: the conversation; see `anthropic_agent`.
        model: The name of the model.
        **options: See `anthropic_agent`, and beside that: `project` (else the environment variable
            ANTHROPIC_VERTEX_PROJECT_ID or GOOGLE_CLOUD_PROJECT, else that of the credentials); `location` (else
            CLOUD_ML_REGION); `access_token` or `credentials` (else Google's default credentials of this machine);
            `base_url` (else ANTHROPIC_VERTEX_BASE_URL).

    Raises:
        ModelError: No location is known. For all else see `anthropic_agent`.

    Example:
        ```python
        reply = vertex_agent.inquire("Hi", project="my-project", location="europe-west1")
        ```
    """
    await converse(ctx, _Vertex(), Options.of({"model": model, **options}))


class _Vertex(AnthropicWire):
    client_class = "AsyncAnthropicVertex"
    price_list = "google"
    system_name = "gcp.vertex_ai"

    def parameters(self, options: Any) -> dict[str, Any]:
        return only_provider_parameters(super().parameters(options), _WHERE)

    def endpoint(self, options: Options) -> Endpoint:
        given = options.parameters
        if not given.get("access_token"):
            check_installed("google.auth", "vertex", "Google Vertex")
        location = given.get("location") or os.environ.get("CLOUD_ML_REGION")
        if not location:
            raise ModelError(
                "no Google Cloud location is known: pass `location=` to the agent, or set the environment variable "
                "CLOUD_ML_REGION"
            )
        arguments: dict[str, Any] = {"region": location}
        project = given.get("project") or os.environ.get("ANTHROPIC_VERTEX_PROJECT_ID")
        project = project or os.environ.get("GOOGLE_CLOUD_PROJECT")
        arguments |= {"project_id": project} if project else {}
        url = options.base_url or os.environ.get("ANTHROPIC_VERTEX_BASE_URL")
        if url:
            checked_host(url, "`base_url=`" if options.base_url else "ANTHROPIC_VERTEX_BASE_URL")
            arguments["base_url"] = url
        token = given.get("access_token")
        if token:
            checked_key(token, "Google Vertex", "`access_token=`")
        arguments |= {name: given[name] for name in ("access_token", "credentials") if given.get(name)}
        return Endpoint(
            "Google Vertex", url or _default_url(location), arguments, tuple(secret for secret in (token,) if secret)
        )


def _default_url(location: str) -> str:
    """What the SDK asks, for errors."""
    return f"https://{'' if location == 'global' else f'{location}-'}aiplatform.googleapis.com/v1"
