"""What OpenAI refuses, as far as it is easily got wrong."""

import re
from base64 import b64decode
from collections.abc import Iterable, Iterator
from typing import Any

from tests.support.llm_server.replies import Json
from tests.support.llm_server.wire import invalid

NAME = re.compile("[a-zA-Z0-9_-]{1,64}")
IMAGE = re.compile(r"data:([^;,]*)((?:;[^;,]*)*),(.*)", re.DOTALL)


# Chat completions


def check_chat(body: Json) -> None:
    """Refuses a request for a chat completion."""
    if not body["messages"]:
        raise invalid("Invalid 'messages': empty array. Expected an array with minimum length 1.", "empty_array")
    open_calls: set[str] = set()
    for index, message in enumerate(body["messages"]):
        where = f"messages[{index}]"
        role = message.get("role")
        if role not in ("system", "developer", "user", "assistant", "tool", "function"):
            raise _unknown(role, f"{where}.role")
        _check_content(message, role, where)
        if role == "tool":
            if message.get("tool_call_id") not in open_calls:
                raise invalid(
                    "Invalid parameter: messages with role 'tool' must be a response to a preceding message with "
                    f"'tool_calls' ({where})."
                )
            open_calls.discard(message["tool_call_id"])
            continue
        _check_answered(open_calls)
        open_calls = _check_calls(message, where) if message.get("tool_calls") is not None else set()
    _check_answered(open_calls)
    functions = _check_tools(body, nested=True)
    _check_tool_choice(body, functions, nested=True)
    if body.get("response_format") is not None:
        _check_format(body["response_format"], "response_format", nested=True)
        if body["response_format"]["type"] == "json_object" and "json" not in str(body["messages"]).lower():
            raise invalid(
                "'messages' must contain the word 'json' in some form, to use 'response_format' of type 'json_object'."
            )
    if body.get("stream_options") is not None and not body.get("stream"):
        raise invalid("The 'stream_options' parameter is only allowed when 'stream' is enabled.")
    if body.get("max_tokens") is not None and body.get("max_completion_tokens") is not None:
        raise invalid("Setting 'max_tokens' and 'max_completion_tokens' at the same time is not supported.")


def _check_answered(open_calls: set[str]) -> None:
    if open_calls:
        raise invalid(
            "An assistant message with 'tool_calls' must be followed by tool messages responding to each "
            f"'tool_call_id'. These had no response: {', '.join(sorted(open_calls))}"
        )


def _check_calls(message: Json, where: str) -> set[str]:
    calls = message["tool_calls"]
    if not calls:
        raise invalid(f"Invalid '{where}.tool_calls': empty array. Expected an array with minimum length 1.")
    for number, call in enumerate(calls):
        at = f"{where}.tool_calls[{number}]"
        if call.get("type") not in ("function", "custom"):
            raise _unknown(call.get("type"), f"{at}.type")
        _require(call, "id", at)
        if call["type"] == "function":
            function = _require(call, "function", at, dict)
            if not NAME.fullmatch(_require(function, "name", f"{at}.function")):
                raise invalid(f"Invalid '{at}.function.name': string does not match pattern '^[a-zA-Z0-9_-]+$'.")
            _require(function, "arguments", f"{at}.function")
    names = {call["id"] for call in calls}
    if len(names) < len(calls):
        raise invalid(f"Duplicate value for 'tool_call_id' in '{where}.tool_calls'.")
    return names


def _check_content(message: Json, role: str, where: str) -> None:
    content = message.get("content")
    if content is None:
        if role == "assistant" and any(
            message.get(name) for name in ("tool_calls", "function_call", "refusal", "audio")
        ):
            return
        raise invalid(f"Invalid value for 'content': expected a string, got null ({where}).")
    if isinstance(content, str):
        return
    if not isinstance(content, list):
        raise invalid(
            f"Invalid type for '{where}.content': expected one of a string or array of objects.", "invalid_type"
        )
    if not content:
        raise invalid(
            f"Invalid '{where}.content': empty array. Expected an array with minimum length 1.", "empty_array"
        )
    allowed = {"user": ("text", "image_url", "input_audio", "file"), "assistant": ("text", "refusal")}
    for number, part in enumerate(content):
        at = f"{where}.content[{number}]"
        kind = part.get("type")
        if kind not in allowed.get(role, ("text",)):
            raise _unknown(kind, f"{at}.type")
        if kind == "text":
            _require(part, "text", at)
        elif kind == "image_url":
            image = _require(part, "image_url", at, dict)
            check_image_url(_require(image, "url", f"{at}.image_url"))
            if image.get("detail", "auto") not in ("auto", "low", "high", "original"):
                raise _unknown(image["detail"], f"{at}.image_url.detail")


def check_image_url(url: str) -> None:
    """Refuses what is neither an address on the web nor the data of an image."""
    if re.match("https?://.", url):
        return
    matched = IMAGE.fullmatch(url)
    if matched is None:
        raise invalid(f"Failed to download image from {url}. Image URL is not supported.", "invalid_image_url")
    if matched[1] not in ("image/png", "image/jpeg", "image/gif", "image/webp"):
        raise invalid("Invalid MIME type. Only image types are supported.", "invalid_image_format")
    if matched[2] != ";base64" or not is_base64(matched[3]):
        raise invalid("Invalid base64 image_url.", "invalid_base64")


def is_base64(text: Any) -> bool:
    """Whether there are bytes in it."""
    try:
        return bool(b64decode(text, validate=True))
    except (ValueError, TypeError):
        return False


# What both have


def _unknown(value: Any, where: str) -> Exception:
    return invalid(f"Invalid value: '{value}' in {where}.", "invalid_value")


def _require(fields: Json, name: str, where: str, kind: type = str) -> Any:
    value = fields.get(name)
    if value is None:
        raise invalid(f"Missing required parameter: '{where}.{name}'.", "missing_required_parameter")
    if not isinstance(value, kind):
        raise invalid(f"Invalid type for '{where}.{name}': expected {kind.__name__}.", "invalid_type")
    return value


def _check_tools(body: Json, *, nested: bool) -> set[str]:
    """Checks the tools.

    Args:
        body: The request.
        nested: Whether a function stands in a field of its own, as it does in chat completions.

    Returns:
        The names of the functions.
    """
    tools = body.get("tools")
    if tools is None:
        return set()
    if not isinstance(tools, list) or (nested and not tools):
        raise invalid("Invalid 'tools': empty array. Expected an array with minimum length 1.", "empty_array")
    names = []
    for index, tool in enumerate(tools):
        where = f"tools[{index}]"
        kind = _require(tool, "type", where)
        if kind != "function":
            if nested and kind != "custom":
                raise _unknown(kind, f"{where}.type")
            continue
        function = _require(tool, "function", where, dict) if nested else tool
        where += ".function" * nested
        name = _require(function, "name", where)
        if not NAME.fullmatch(name):
            raise invalid(f"Invalid '{where}.name': string does not match pattern '^[a-zA-Z0-9_-]+$'.", "invalid_value")
        names.append(name)
        if function.get("parameters") is not None:
            _check_schema(function["parameters"], f"function '{name}'", strict=bool(function.get("strict")))
    return set(names)


def _check_tool_choice(body: Json, functions: set[str], *, nested: bool) -> None:
    for option in ("tool_choice", "parallel_tool_calls"):
        if nested and body.get(option) is not None and not body.get("tools"):
            raise invalid(f"'{option}' is only allowed when 'tools' are specified.")
    choice = body.get("tool_choice")
    if choice is None or choice in ("none", "auto", "required"):
        return
    if not isinstance(choice, dict):
        raise _unknown(choice, "tool_choice")
    if choice.get("type") == "function":
        fields = _require(choice, "function", "tool_choice", dict) if nested else choice
        if _require(fields, "name", "tool_choice") not in functions:
            raise invalid(f"Tool choice '{fields['name']}' not found in 'tools' parameter.")


def _check_format(fields: Any, where: str, *, nested: bool) -> None:
    kind = _require(fields, "type", where)
    if kind not in ("text", "json_object", "json_schema"):
        raise _unknown(kind, f"{where}.type")
    if kind == "json_schema":
        schema = _require(fields, "json_schema", where, dict) if nested else fields
        where += ".json_schema" * nested
        if not NAME.fullmatch(_require(schema, "name", where)):
            raise invalid(f"Invalid '{where}.name': string does not match pattern '^[a-zA-Z0-9_-]+$'.")
        content = _require(schema, "schema", where, dict)
        _check_schema(content, f"response_format '{schema['name']}'", strict=bool(schema.get("strict")))


def _check_schema(schema: Any, whose: str, *, strict: bool) -> None:
    start = f"Invalid schema for {whose}: "
    if not isinstance(schema, dict) or schema.get("type") != "object":
        kind = schema.get("type") if isinstance(schema, dict) else schema
        raise invalid(
            f"{start}schema must be a JSON Schema of 'type: \"object\"', got 'type: \"{kind}\"'.",
            "invalid_function_parameters",
        )
    for part in _objects(schema) if strict else ():
        properties = set(part.get("properties") or ())
        if part.get("additionalProperties") is not False:
            raise invalid(f"{start}'additionalProperties' is required to be supplied and to be false.")
        if set(part.get("required") or ()) != properties:
            raise invalid(f"{start}'required' is required to be supplied and to be an array including every key.")


def _objects(schema: Any) -> Iterator[Json]:
    """The schemas of objects in a schema."""
    if isinstance(schema, list):
        for part in schema:
            yield from _objects(part)
    elif isinstance(schema, dict):
        if schema.get("type") == "object":
            yield schema
        for name in ("items", "anyOf", "allOf"):
            yield from _objects(schema.get(name))
        for name in ("properties", "$defs", "definitions"):
            yield from _objects(list((schema.get(name) or {}).values()))


# Responses

MOVED = {
    "messages": "'input'",
    "response_format": "'text.format'",
    "max_tokens": "'max_output_tokens'",
    "max_completion_tokens": "'max_output_tokens'",
    "reasoning_effort": "'reasoning.effort'",
}
PARTS = {"assistant": ("output_text", "refusal")}


def check_responses(body: Json) -> None:
    """Refuses a request for a response."""
    for name, instead in MOVED.items():
        if name in body:
            text = f"Unsupported parameter: '{name}'. In the Responses API, this parameter has moved to {instead}."
            raise invalid(text, "unsupported_parameter")
    if isinstance(body.get("max_output_tokens"), int) and body["max_output_tokens"] < 16:
        raise invalid("Invalid 'max_output_tokens': integer below minimum value. Expected a value >= 16.")
    _check_input(body)
    functions = _check_tools(body, nested=False)
    _check_tool_choice(body, functions, nested=False)
    if (body.get("text") or {}).get("format") is not None:
        _check_format(body["text"]["format"], "text.format", nested=False)


def _check_input(body: Json) -> None:
    items = body.get("input")
    if items is None:
        if not body.get("previous_response_id") and not body.get("prompt"):
            raise invalid("Missing required parameter: 'input'.", "missing_required_parameter")
        return
    if isinstance(items, str):
        return
    if not isinstance(items, list):
        raise invalid("Invalid type for 'input': expected one of a string or an array of input items.", "invalid_type")
    calls: list[str] = []
    results: list[str] = []
    for index, item in enumerate(items):
        where = f"input[{index}]"
        kind = item.get("type", "message")
        match kind:
            case "message":
                _check_message(item, where)
            case "function_call":
                _require(item, "name", where)
                _require(item, "arguments", where)
                calls.append(_require(item, "call_id", where))
            case "function_call_output":
                output = _require(item, "output", where, object)
                if not isinstance(output, str):
                    _check_parts(output, ("input_text", "input_image", "input_file"), f"{where}.output")
                name = _require(item, "call_id", where)
                if name not in calls and not body.get("previous_response_id"):
                    raise invalid(f"No tool call found for function call output with call_id {name}.")
                results.append(name)
            case "reasoning":
                _check_reasoning(item, items[index + 1 :], where, stored=body.get("store") is not False)
            case _:
                if not re.fullmatch(".*_(call|call_output|reference|approval_request|approval_response|tools)", kind):
                    raise _unknown(kind, f"{where}.type")
    for name in calls:
        if name not in results:
            raise invalid(f"No tool output found for function call {name}.")


def _check_message(item: Json, where: str) -> None:
    role = item.get("role")
    if role not in ("user", "assistant", "system", "developer"):
        raise _unknown(role, f"{where}.role")
    content = _require(item, "content", where, object)
    if not isinstance(content, str):
        _check_parts(content, PARTS.get(role, ("input_text", "input_image", "input_file")), f"{where}.content")


def _check_parts(parts: Any, allowed: Iterable[str], where: str) -> None:
    if not isinstance(parts, list):
        raise invalid(f"Invalid type for '{where}': expected one of an array of objects or string.", "invalid_type")
    for number, part in enumerate(parts):
        at = f"{where}[{number}]"
        kind = part.get("type")
        if kind not in allowed:
            raise invalid(
                f"Invalid value: '{kind}' in {at}. Supported values are: {', '.join(allowed)}.", "invalid_value"
            )
        if kind.endswith("_text"):
            _require(part, "text", at)
        if kind == "input_image" and not part.get("file_id"):
            check_image_url(_require(part, "image_url", at))


def _check_reasoning(item: Json, following: list[Json], where: str, *, stored: bool) -> None:
    _require(item, "summary", where, list)
    after = following[0] if following else {}
    if not after or after.get("role", "assistant") != "assistant" or after.get("type") == "function_call_output":
        name = item.get("id")
        raise invalid(f"Item '{name}' of type 'reasoning' was provided without its required following item.")
    if not stored and not item.get("encrypted_content"):
        raise invalid(
            f"Item with id '{item.get('id')}' not found. Items are not persisted when `store` is set to false."
        )
