"""What the agents of all providers can be told, beside the conversation."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, Self

from miniagents.ext.llm.hooks import HooksArgument

if TYPE_CHECKING:
    from miniagents.ext.llm.context_window import ContextLimits
    from miniagents.ext.llm.limits import RequestLimit

__all__ = ["Options"]


@dataclass(frozen=True, kw_only=True, repr=False)
class Options:
    """The keyword arguments that every LLM agent takes, in `fork` as in `inquire`.

    Attributes:
        model: The name of the model.
        system: An instruction for the whole conversation: text, a message, or parts in the words of the provider.
        stream: Whether to have the answer token by token, or at once.
        api_key: The key of the provider; its environment variable otherwise.
        base_url: The address of the server; its environment variable, or else the provider's own otherwise.
        http_client: An `httpx2.AsyncClient` of one's own, which is not closed.
        proxy: The address of an HTTP proxy.
        timeout: How many seconds a request may take in all.
        stall_timeout: How many seconds a server may be silent in the middle of an answer; `timeout` otherwise.
        max_retries: How often a request is tried again that failed before its first token for a reason that may pass.
        request_limit: A limit for requests at once or per minute, shared by all that are given the same one.
        reply_type: A pydantic model, or any type that pydantic knows: the answer is an object of it, see
            `AssistantMessage.parsed`.
        max_repairs: How often the model is asked to mend an answer that does not fit `reply_type`.
        tools: What the model may call: functions, agents, registry entries, `Tool`s.
        tool_choice: "auto", "required", "none", or the name of a tool that has to be called first.
        parallel_tool_calls: False to let the model ask for one call at a time.
        max_turns: How many requests a conversation with tools may take.
        execute_function_concurrently: Whether the calls of one turn run at the same time, or one after the other.
        max_tool_result_length: How many characters of a tool's result the model gets; the middle of longer ones is cut.
        approver: Who is asked before a tool runs that was declared with `requires_approval=True`: a function of an
            `ApprovalRequest`, or an agent. The user at the terminal otherwise.
        hooks: What is to be told of what happens, see `miniagents.ext.llm.hooks`.
        user_id: For whom the agent works: reaches every hook, every tool that takes it, and the agents below.
        chat_id: In which conversation: likewise.
        agent_name: Which agent: reaches hooks and tools; the alias of the agent otherwise.
        manual_stop_signal_function: A function, sync or async, of a user id and a chat id that returns True when the
            agent is to stop.
        check_for_stop_signal_time: How many seconds there are between two calls of that function.
        context: What of a long conversation is sent; see `miniagents.ext.llm.context_window`.
        summarizer: The agent that summarises what is not sent, where the limits of the context say so.
        parameters: All else: what the SDK's method takes, and what goes to the body of the request as it is.
    """

    model: str
    system: Any = None
    stream: bool = True
    api_key: str | None = None
    base_url: str | None = None
    http_client: Any = None
    proxy: str | None = None
    timeout: float = 600.0
    stall_timeout: float | None = None
    max_retries: int = 4
    request_limit: "RequestLimit | None" = None
    reply_type: Any = None
    max_repairs: int = 2
    tools: Iterable[Any] = ()
    tool_choice: Any = None
    parallel_tool_calls: bool | None = None
    max_turns: int = 25
    execute_function_concurrently: bool = True
    max_tool_result_length: int | None = None
    approver: Any = None
    hooks: HooksArgument = None
    user_id: str | None = None
    chat_id: str | None = None
    agent_name: str | None = None
    manual_stop_signal_function: Callable[..., Any] | None = None
    check_for_stop_signal_time: float = 1.0
    context: "ContextLimits | None" = None
    summarizer: Any = None
    parameters: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuses what cannot be meant."""
        if self.max_turns < 1:
            raise ValueError(f"max_turns is {self.max_turns}; a conversation takes at least 1 request")
        if self.max_retries < 0 or self.max_repairs < 0:
            raise ValueError("max_retries and max_repairs cannot be negative; 0 is for none")
        for name in ("timeout", "stall_timeout", "check_for_stop_signal_time"):
            seconds = getattr(self, name)
            if seconds is not None and seconds <= 0:
                raise ValueError(f"{name} is {seconds}; give a positive number of seconds")

    @classmethod
    def of(cls, arguments: Mapping[str, Any]) -> Self:
        """Sorts the keyword arguments of an agent.

        Args:
            arguments: The arguments. Those that are none of these go to `parameters`.

        Returns:
            The options.

        Raises:
            TypeError: An argument is almost called like an option.
        """
        for name in arguments.keys() - _NAMES:
            meant = get_close_matches(name, _NAMES, n=1, cutoff=_ALIKE)
            if meant:  # it would go to the provider, who may ignore it
                raise TypeError(f"there is no option {name!r}; is {meant[0]!r} meant?")
        known = {name: value for name, value in arguments.items() if name in _NAMES}
        return cls(**known, parameters={name: value for name, value in arguments.items() if name not in _NAMES})

    def __repr__(self) -> str:
        return f"<Options for {self.model}>"  # tools that show local variables would else show the key


_ALIKE = (
    0.88  # as are `max_turn` and `max_turns`; no two parameters of the providers' are, and no option and one of them
)
_NAMES = frozenset(option.name for option in fields(Options)) - {"parameters"}
