"""What Anthropic refuses, as far as it is easily got wrong."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from tests.support.llm_server.openai_checks import is_base64
from tests.support.llm_server.replies import Json
from tests.support.llm_server.wire import invalid

THOUGHTS = ("thinking", "redacted_thinking")
BLOCKS = (
    *THOUGHTS,
    "text",
    "image",
    "document",
    "search_result",
    "container_upload",
    "compaction",
    "tool_use",
    "tool_result",
    "tool_reference",
    "server_tool_use",
    "mcp_tool_use",
)
PARTS_OF_RESULTS = ("text", "image", "document", "search_result", "tool_reference")
IMAGES = ("image/jpeg", "image/png", "image/gif", "image/webp")


def check_messages(body: Json, thoughts: Mapping[str, set[str]]) -> None:
    """Refuses a request for a message.

    Args:
        body: The request.
        thoughts: What was thought, by signatures, as far as the server wrote it itself.
    """
    if not isinstance(body.get("max_tokens"), int):
        raise invalid("max_tokens: Field required")
    if body["max_tokens"] < 1:
        raise invalid("max_tokens: Input should be greater than or equal to 1")
    if not body["messages"]:
        raise invalid("messages: at least one message is required")
    _check_system(body.get("system"))
    open_calls: set[str] = set()
    for index, message in enumerate(body["messages"]):
        blocks = _check_message(message, f"messages.{index}", last=index + 1 == len(body["messages"]))
        _check_thoughts(message, blocks, f"messages.{index}", thoughts)
        open_calls = _check_calls(blocks, open_calls, f"messages.{index}")
    if open_calls:
        raise invalid(f"messages: `tool_use` ids without `tool_result`: {', '.join(sorted(open_calls))}")
    _check_tools(body)
    _check_thinking(body)
    _check_cache(body)


def _blocks(content: Any) -> list[Json]:
    return [{"type": "text", "text": content}] if content and isinstance(content, str) else content or []


def _check_system(system: Any) -> None:
    for index, block in enumerate(system if isinstance(system, list) else ()):
        if block.get("type") != "text":
            raise invalid(f"system.{index}.type: Input should be 'text'")
        if not block.get("text"):
            raise invalid("system: text content blocks must be non-empty")


def _check_message(message: Json, where: str, *, last: bool) -> list[Json]:
    role, content = message.get("role"), message.get("content")
    if role not in ("user", "assistant", "system"):
        raise invalid(f"{where}: Input tag '{role}' found using 'role' does not match")
    if not content and (role != "assistant" or not last):
        raise invalid(f"{where}: all messages must have non-empty content")
    blocks = _blocks(content)
    if not isinstance(blocks, list):
        raise invalid(f"{where}.content: Input should be a valid list")
    if any(block.get("type") == "text" and not block.get("text") for block in blocks):
        raise invalid("messages: text content blocks must be non-empty")
    if last and role == "assistant" and blocks and re.search(r"\s$", blocks[-1].get("text") or ""):
        raise invalid("messages: final assistant content cannot end with trailing whitespace")
    for number, block in enumerate(blocks):
        kind = block.get("type")
        at = f"{where}.content.{number}"
        if kind not in BLOCKS and not str(kind).endswith("_tool_result"):
            raise invalid(f"{at}: Input tag '{kind}' found using 'type' does not match any of the expected tags")
        if role == "user" and kind in (*THOUGHTS, "tool_use"):
            raise invalid(f"{where}: `{kind}` blocks can only be in `assistant` messages")
        if role == "assistant" and kind == "tool_result":
            raise invalid(f"{where}: `tool_result` blocks can only be in `user` messages")
        _check_block(block, at)
    return blocks


def _check_block(block: Json, where: str) -> None:
    match block["type"]:
        case "image":
            _check_image(block.get("source"), f"{where}.image.source")
        case "document":
            kind = (block.get("source") or {}).get("type")
            if kind not in ("base64", "text", "content", "url", "file"):
                raise invalid(f"{where}.document.source: Input tag '{kind}' found using 'type' does not match")
        case "tool_use":
            if not re.fullmatch("[a-zA-Z0-9_-]+", str(block.get("id"))):
                raise invalid(f"{where}: tool_use.id: should match '^[a-zA-Z0-9_-]+$': {block.get('id')}")
            if not isinstance(block.get("input"), dict):
                raise invalid(f"{where}.tool_use.input: Input should be a valid dictionary")
            if not isinstance(block.get("name"), str):
                raise invalid(f"{where}.tool_use.name: Field required")
        case "tool_result":
            for number, part in enumerate(_blocks(block.get("content"))):
                if part.get("type") not in PARTS_OF_RESULTS:
                    raise invalid(
                        f"{where}.tool_result.content.{number}: Input tag '{part.get('type')}' does not match"
                    )
                if part["type"] == "text" and not part.get("text"):
                    raise invalid("messages: text content blocks must be non-empty")
                _check_block(part, f"{where}.tool_result.content.{number}")
        case _:
            pass


def _check_image(source: Any, where: str) -> None:
    match source:
        case {"type": "base64"}:
            if source.get("media_type") not in IMAGES:
                raise invalid(f"{where}.base64.media_type: Input should be {', '.join(map(repr, IMAGES))}")
            if not is_base64(source.get("data")):
                raise invalid(f"{where}.base64.data: invalid base64 data")
        case {"type": "url", "url": str(url)} if re.match("https?://.", url):
            pass
        case {"type": "url"}:
            raise invalid(f"{where}.url.url: Only HTTPS URLs are supported.")
        case {"type": "file"}:
            pass
        case _:
            raise invalid(f"{where}: Input tag does not match any of the expected tags: 'base64', 'url', 'file'")


def _check_thoughts(message: Json, blocks: list[Json], where: str, thoughts: Mapping[str, set[str]]) -> None:
    for number, block in enumerate(blocks):
        if block.get("type") != "thinking":
            continue
        if not isinstance(block.get("signature"), str):
            raise invalid(f"{where}.content.{number}.thinking.signature: Field required")
        known = thoughts.get(block["signature"])
        if not block["signature"] or (known is not None and block.get("thinking") not in known):
            raise invalid(f"{where}.content.{number}: Invalid `signature` in `thinking` block")
    if message["role"] == "assistant" and blocks and blocks[-1].get("type") in THOUGHTS:
        raise invalid(f"{where}: The final block in an assistant message cannot be `thinking`.")


def _check_calls(blocks: list[Json], open_calls: set[str], where: str) -> set[str]:
    """Checks that each call has its result, next to it.

    Returns:
        The calls that the next message has to answer.
    """
    results = [block.get("tool_use_id") for block in blocks if block.get("type") == "tool_result"]
    if any(block.get("type") != "tool_result" for block in blocks[: len(results)]) and open_calls:
        raise invalid(
            f"{where}: `tool_use` ids were found without `tool_result` blocks immediately after: they go first"
        )
    if open_calls - set(results):
        missing = ", ".join(sorted(open_calls - set(results)))
        raise invalid(f"{where}: `tool_use` ids were found without `tool_result` blocks: {missing}")
    if set(results) - open_calls:
        missing = ", ".join(sorted(map(str, set(results) - open_calls)))
        raise invalid(f"{where}: unexpected `tool_use_id` found in `tool_result` blocks: {missing}")
    if len(set(results)) < len(results):
        raise invalid(
            f"{where}: each tool_use must have a single result. Found multiple `tool_result` blocks with one id"
        )
    calls = [block["id"] for block in blocks if block.get("type") == "tool_use"]
    if len(set(calls)) < len(calls):
        raise invalid(f"{where}: `tool_use` ids must be unique")
    return set(calls)


def _check_tools(body: Json) -> None:
    names = []
    for index, tool in enumerate(body.get("tools") or ()):
        if "name" not in tool and tool.get("type") != "mcp_toolset":
            raise invalid(f"tools.{index}.custom.name: Field required")
        names.append(tool.get("name"))
        if tool.get("type", "custom") != "custom":
            continue
        if not re.fullmatch("[a-zA-Z0-9_-]{1,128}", tool["name"]):
            raise invalid(f"tools.{index}.custom.name: String should match pattern '^[a-zA-Z0-9_-]{{1,128}}$'")
        if not isinstance(tool.get("input_schema"), dict):
            raise invalid(f"tools.{index}.custom.input_schema: Field required")
        if tool["input_schema"].get("type") != "object":
            raise invalid(f"tools.{index}.custom.input_schema.type: Input should be 'object'")
    if len(set(names)) < len(names):
        raise invalid("tools: Tool names must be unique.")
    choice = body.get("tool_choice")
    if choice is None:
        return
    if not isinstance(choice, dict) or choice.get("type") not in ("auto", "any", "tool", "none"):
        raise invalid(f"tool_choice: Input should be an object of type 'auto', 'any', 'tool' or 'none', not {choice}")
    if not names:
        raise invalid("tool_choice: tool_choice may only be specified while providing tools")
    if choice["type"] == "tool" and choice.get("name") not in names:
        raise invalid(f"Tool '{choice.get('name')}' not found in provided tools")


def _check_thinking(body: Json) -> None:
    thinking = body.get("thinking")
    if thinking is None:
        return
    kind = thinking.get("type")
    if kind not in ("enabled", "disabled", "adaptive"):
        raise invalid(f"thinking: Input tag '{kind}' found using 'type' does not match")
    if kind == "disabled":
        return
    if (body.get("tool_choice") or {}).get("type") in ("any", "tool"):
        raise invalid("Thinking may not be enabled when tool_choice forces tool use.")
    if kind == "adaptive":
        return
    budget = thinking.get("budget_tokens")
    if not isinstance(budget, int) or budget < 1024:
        raise invalid("thinking.enabled.budget_tokens: Input should be greater than or equal to 1024")
    if budget >= body["max_tokens"]:
        raise invalid("`max_tokens` must be greater than `thinking.budget_tokens`.")
    turns = [message for message in body["messages"] if message["role"] == "assistant"]
    blocks = _blocks(turns[-1].get("content")) if turns else []
    if any(block.get("type") == "tool_use" for block in blocks) and blocks[0].get("type") not in THOUGHTS:
        raise invalid(
            f"Expected `thinking` or `redacted_thinking`, but found `{blocks[0].get('type')}`. When `thinking` is "
            "enabled, a final `assistant` message must start with a thinking block (preceding the lastmost set of "
            "`tool_use` and `tool_result` blocks)."
        )


def _check_cache(body: Json) -> None:
    """Checks the marks of what is to be cached, in the order in which the prompt is read."""
    lives = []
    for block in _cached(body):
        mark = block["cache_control"]
        if mark.get("type") != "ephemeral":
            raise invalid("cache_control.type: Input should be 'ephemeral'")
        if mark.get("ttl", "5m") not in ("5m", "1h"):
            raise invalid("cache_control.ephemeral.ttl: Input should be '5m' or '1h'")
        if block.get("type") in THOUGHTS:
            raise invalid("thinking.cache_control: Extra inputs are not permitted")
        lives.append(mark.get("ttl", "5m"))
    if len(lives) > 4:
        raise invalid(f"A maximum of 4 blocks with cache_control may be provided. Found {len(lives)}.")
    if lives != sorted(lives):
        raise invalid("a ttl='1h' cache_control block must not come after a ttl='5m' cache_control block.")


def _cached(body: Json) -> Iterator[Json]:
    system = body.get("system")
    parts: list[Any] = [*(body.get("tools") or ()), *(system if isinstance(system, list) else ())]
    for message in body["messages"]:
        parts += _blocks(message.get("content"))
    for part in (*parts, body):
        if part.get("type") == "tool_result":
            yield from (inner for inner in _blocks(part.get("content")) if inner.get("cache_control") is not None)
        if part.get("cache_control") is not None:
            yield part
