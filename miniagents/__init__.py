"""A framework of promises and streams for software that is made of many agents.

* `agents`, `interaction`: `@miniagent`, calling an agent, and what its function is given
* `context`: `MiniAgents`, the scope in which agents work; `persist`: handing each message to handlers
* `message`, `frozen`, `canonical`: immutable messages, and the JSON by whose hash they are addressed
* `messages`, `sequences`: promises of messages, and whatever can be sent as one flat stream of them
* `error_messages`: errors that travel as messages; `loops`: conversations; `text`: joining and splitting
* `utils`, `miniagents`, `promising`: other documented names for some of these
* `ext`: models, history, the console: what is optional, written with agents; `testing`: what your own tests need
"""

from miniagents.agents import AgentCall, MiniAgent, miniagent
from miniagents.context import MiniAgents, run
from miniagents.error_messages import ErrorMessage
from miniagents.frozen import Frozen
from miniagents.interaction import InteractionContext
from miniagents.loops import achain_loop, adialog_loop
from miniagents.message import Message
from miniagents.messages import MessagePromise
from miniagents.sequences import MessageSequence, MessageSequencePromise, MessageType
from miniagents.text import join_messages, split_messages
from promising.sentinels import AWAIT, CLEAR, END

__version__ = "0.1.0"

__all__ = [
    "AWAIT",
    "CLEAR",
    "END",
    "AgentCall",
    "ErrorMessage",
    "Frozen",
    "InteractionContext",
    "Message",
    "MessagePromise",
    "MessageSequence",
    "MessageSequencePromise",
    "MessageType",
    "MiniAgent",
    "MiniAgents",
    "achain_loop",
    "adialog_loop",
    "join_messages",
    "miniagent",
    "run",
    "split_messages",
]
