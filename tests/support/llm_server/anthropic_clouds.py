"""Anthropic's messages as Vertex AI and Bedrock pass them on."""

import hmac
import json
import re
import struct
from base64 import b64encode
from binascii import crc32
from typing import Any, ClassVar
from urllib.parse import unquote

from tests.support.llm_server.anthropic_messages import AnthropicWire
from tests.support.llm_server.openai_chat import OpenAIWire
from tests.support.llm_server.replies import Json, Request, StreamError
from tests.support.llm_server.wire import AwsCredentials, Memory, Refusal, invalid


class _CloudWire(AnthropicWire):
    @classmethod
    def model_of(cls, request: Request) -> Any:
        matched = cls.path.fullmatch(request.path)
        return unquote(matched[1]) if matched else None

    @classmethod
    def check(cls, request: Request, memory: Memory) -> None:
        if "model" in request.body:
            raise invalid("model: Extra inputs are not permitted")
        if not isinstance(request.body.get("anthropic_version"), str):
            raise invalid("anthropic_version: Field required")
        super().check(request, memory)


class VertexWire(_CloudWire):
    """Vertex AI: the model stands in the path, Google's errors beside Anthropic's."""

    path = re.compile(
        "(?:/v1)?/projects/[^/]+/locations/[^/]+/publishers/anthropic/models/"
        "((?!count-tokens:)[^/]+):(?:rawPredict|streamRawPredict)"
    )
    count_path: ClassVar[re.Pattern[str]] = re.compile(".*/publishers/anthropic/models/count-tokens:rawPredict")
    default_errors = AnthropicWire.default_errors | {
        401: ("UNAUTHENTICATED", "Request had invalid authentication credentials.", None),
        403: ("PERMISSION_DENIED", "Permission 'aiplatform.endpoints.predict' denied on resource.", None),
        404: ("NOT_FOUND", "Publisher Model was not found or your project does not have access to it.", None),
        429: ("RESOURCE_EXHAUSTED", "Quota exceeded for aiplatform.googleapis.com.", None),
    }
    codes: ClassVar = {"UNAUTHENTICATED": 401, "PERMISSION_DENIED": 403, "NOT_FOUND": 404, "RESOURCE_EXHAUSTED": 429}

    @classmethod
    def streams(cls, request: Request) -> bool:
        return request.path.endswith(":streamRawPredict")

    @staticmethod
    def key_of(request: Request) -> str | None:
        return OpenAIWire.key_of(request)

    @staticmethod
    def wrong_key(key: str | None) -> Refusal:
        return Refusal(401, "UNAUTHENTICATED", "Request had invalid authentication credentials.")

    @staticmethod
    def unknown_model(model: str) -> Refusal:
        return Refusal(404, "NOT_FOUND", f"Publisher Model `publishers/anthropic/models/{model}` was not found.")

    @staticmethod
    def error(kind: str, text: str, code: str | None) -> Json:
        if kind in VertexWire.codes:
            return {"error": {"code": VertexWire.codes[kind], "message": text, "status": kind}}
        return AnthropicWire.error(kind, text, code)


class BedrockWire(_CloudWire):
    """Bedrock: the model stands in the path, events come in binary frames, errors are those of AWS."""

    path = re.compile("/model/([^/]+)/invoke(-with-response-stream)?")
    request_id_header = "x-amzn-requestid"
    stream_type = "application/vnd.amazon.eventstream"
    default_errors = {
        400: ("ValidationException", "Malformed input request.", None),
        403: ("AccessDeniedException", "You don't have access to the model with the specified model ID.", None),
        404: ("ResourceNotFoundException", "Could not resolve the foundation model from the model identifier.", None),
        408: ("ModelTimeoutException", "The model took too long.", None),
        424: ("ModelErrorException", "The model could not answer.", None),
        429: ("ThrottlingException", "Too many requests, please wait before trying again.", None),
        500: ("InternalServerException", "The system encountered an unexpected error during processing.", None),
        503: ("ServiceUnavailableException", "Bedrock is unable to process your request.", None),
    }
    kinds: ClassVar = {
        "invalid_request_error": "ValidationException",
        "rate_limit_error": "ThrottlingException",
        "api_error": "InternalServerException",
        "timeout_error": "ModelTimeoutException",
        "overloaded_error": "ServiceUnavailableException",
    }

    @classmethod
    def streams(cls, request: Request) -> bool:
        return request.path.endswith("-stream")

    @classmethod
    def check_access(cls, request: Request, memory: Memory) -> None:
        authorization = request.headers.get("authorization", "")
        if authorization.startswith("Bearer "):
            if memory.api_key not in (None, OpenAIWire.key_of(request)):
                raise Refusal(403, "AccessDeniedException", "Authentication failed: the API key is not valid.")
        elif not authorization.startswith("AWS4-HMAC-SHA256 "):
            raise Refusal(403, "MissingAuthenticationTokenException", "Missing Authentication Token")
        elif memory.aws is not None:
            check_signature(request, memory.aws)

    @staticmethod
    def unknown_model(model: str) -> Refusal:
        return Refusal(404, "ResourceNotFoundException", f"Could not resolve the foundation model: {model}")

    @classmethod
    def check(cls, request: Request, memory: Memory) -> None:
        if "stream" in request.body:
            raise invalid("stream: Extra inputs are not permitted")
        super().check(request, memory)

    @staticmethod
    def error(kind: str, text: str, code: str | None) -> Json:
        return {"message": text}

    @staticmethod
    def error_headers(kind: str) -> dict[str, str]:
        return {"x-amzn-errortype": BedrockWire.kinds.get(kind, kind)}

    def event(self, data: Json | str) -> bytes:
        content = data.encode() if isinstance(data, str) else self.encoded(data)
        chunk = json.dumps({"bytes": b64encode(content).decode(), "p": "abcdefgh"}).encode()
        return frame(chunk, event_type="chunk", message_type="event")

    def stream_error(self, piece: StreamError) -> bytes:
        kind = self.kinds.get(piece.kind, piece.kind)
        content = json.dumps({"message": piece.text}).encode()
        return frame(content, exception_type=kind[0].lower() + kind[1:], message_type="exception")

    def stop(self) -> Json:
        if self.reply.bare or self.reply.usage is None:
            return super().stop()
        usage = self.usage()
        counts = {"inputTokenCount": usage["input_tokens"], "outputTokenCount": usage["output_tokens"]}
        metrics = counts | {"invocationLatency": 2, "firstByteLatency": 1}
        return super().stop() | {"amazon-bedrock-invocationMetrics": metrics}


def frame(payload: bytes, **headers: str) -> bytes:
    """A message of AWS's event streams: lengths, their checksum, headers, the payload, the checksum of all."""
    headers["content_type"] = "application/json"
    fields = {f":{name.replace('_', '-')}": text for name, text in headers.items()}
    encoded = b"".join(
        struct.pack(">B", len(name)) + name.encode() + struct.pack(">BH", 7, len(text)) + text.encode()
        for name, text in fields.items()
    )
    prelude = struct.pack(">II", 16 + len(encoded) + len(payload), len(encoded))
    message = prelude + struct.pack(">I", crc32(prelude)) + encoded + payload
    return message + struct.pack(">I", crc32(message))


def check_signature(request: Request, aws: AwsCredentials) -> None:
    """Refuses a request whose signature (AWS SigV4) is not what these credentials give."""
    from botocore.auth import SigV4Auth
    from botocore.awsrequest import AWSRequest
    from botocore.credentials import Credentials

    fields = dict(re.findall(r"(Credential|SignedHeaders|Signature)=([^,\s]+)", request.headers["authorization"]))
    access_key, _, scope = fields.get("Credential", "").partition("/")
    token = request.headers.get("x-amz-security-token")
    if access_key != aws.access_key or token != aws.session_token:
        raise Refusal(403, "UnrecognizedClientException", "The security token included in the request is invalid.")
    date = request.headers.get("x-amz-date", "")
    if scope != f"{date[:8]}/{aws.region}/bedrock/aws4_request":
        text = f"Credential should be scoped to a valid region and service, not {scope}."
        raise Refusal(403, "InvalidSignatureException", text)
    names = fields.get("SignedHeaders", "").split(";")
    signed = AWSRequest(
        method=request.method,
        url=f"http://{request.headers['host']}{request.target}",
        headers={name: request.headers.get(name, "") for name in names},
        data=request.content,
    )
    signed.context["timestamp"] = date
    signer = SigV4Auth(Credentials(aws.access_key, aws.secret_key, aws.session_token), "bedrock", aws.region)
    expected = signer.signature(signer.string_to_sign(signed, signer.canonical_request(signed)), signed)
    if "host" not in names or not hmac.compare_digest(expected, fields.get("Signature", "")):
        text = "The request signature we calculated does not match the signature you provided."
        raise Refusal(403, "InvalidSignatureException", text)
