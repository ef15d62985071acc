"""`bedrock_agent`: the models of Anthropic, offered by AWS Bedrock."""

import os
from typing import Any

from miniagents.agents import miniagent
from miniagents.ext.llm.anthropic_wire import AnthropicWire
from miniagents.ext.llm.converse import converse
from miniagents.ext.llm.endpoint import Endpoint, checked_host
from miniagents.ext.llm.llm_common import ModelError
from miniagents.ext.llm.options import Options
from miniagents.ext.llm.provider import only_provider_parameters
from miniagents.ext.llm.sdk_clients import check_installed
from miniagents.interaction import InteractionContext

__all__ = ["DEFAULT_BEDROCK_MODEL", "bedrock_agent"]

DEFAULT_BEDROCK_MODEL = "anthropic.claude-sonnet-5"

_WHERE = ("region_name", "aws_access_key", "aws_secret_key", "aws_session_token", "aws_profile")


@miniagent
async def bedrock_agent(ctx: InteractionContext, model: str = DEFAULT_BEDROCK_MODEL, **options: Any) -> None:
    """Asks a model of Anthropic that AWS Bedrock offers. It needs `pip install "miniagents[bedrock]"`.

    Args:
        ctx: What is sent: the conversation; see `anthropic_agent`.
        model: The name of the model, or of an inference profile.
        **options: See `anthropic_agent`, and beside that: `region_name` (else the environment variable AWS_REGION or
            AWS_DEFAULT_REGION, else that of the AWS profile); `aws_access_key`, `aws_secret_key`, `aws_session_token`
            or `aws_profile` (else what boto3 finds in the environment); `api_key` for a Bedrock key (else
            AWS_BEARER_TOKEN_BEDROCK); `base_url` (else ANTHROPIC_BEDROCK_BASE_URL).

    Raises:
        ModelError: No region is known, or there are no credentials. For all else see `anthropic_agent`.

    Example:
        ```python
        reply = bedrock_agent.inquire("Hi", region_name="us-east-1")
        ```
    """
    await converse(ctx, _Bedrock(), Options.of({"model": model, **options}))


class _Bedrock(AnthropicWire):
    client_class = "AsyncAnthropicBedrock"
    price_list = "aws"
    system_name = "aws.bedrock"

    def parameters(self, options: Any) -> dict[str, Any]:
        return only_provider_parameters(super().parameters(options), _WHERE)

    def endpoint(self, options: Options) -> Endpoint:
        check_installed("botocore", "bedrock", "AWS Bedrock")
        given = options.parameters
        region = given.get("region_name") or os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
        region = region or _region_of_profile(given.get("aws_profile"))
        if not region:
            raise ModelError(
                "no AWS region is known: pass `region_name=` to the agent, or set the environment variable AWS_REGION"
            )
        url = options.base_url or os.environ.get("ANTHROPIC_BEDROCK_BASE_URL")
        url = url or f"https://bedrock-runtime.{region}.amazonaws.com"
        checked_host(url, "`base_url=`" if options.base_url else "ANTHROPIC_BEDROCK_BASE_URL")
        arguments: dict[str, Any] = {"aws_region": region, "base_url": url}
        arguments |= {name: given[name] for name in _WHERE[1:] if given.get(name)}
        if len(arguments) == 2:  # no credentials were given
            key = options.api_key or os.environ.get("AWS_BEARER_TOKEN_BEDROCK")
            arguments |= {"api_key": key} if key else {}
        secrets = [arguments.get(name) for name in ("aws_secret_key", "aws_session_token", "api_key")]
        secrets += [os.environ.get(name) for name in ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")]
        return Endpoint("AWS Bedrock", url, arguments, tuple(secret for secret in secrets if secret))


def _region_of_profile(profile: str | None) -> str | None:
    try:
        import boto3  # type: ignore[import-untyped]
    except ImportError:
        return None
    region: str | None = boto3.Session(profile_name=profile).region_name
    return region
