"""`console_user_agent`: the person at the terminal, as an agent."""

from weakref import WeakKeyDictionary

from miniagents.agents import miniagent
from miniagents.context import MiniAgents
from miniagents.ext.chat_history import ChatHistory, InMemoryChatHistory
from miniagents.ext.console import Console, console_here
from miniagents.ext.llm.llm_common import UserMessage, is_said_by_assistant
from miniagents.interaction import InteractionContext
from miniagents.messages import MessagePromise
from miniagents.sequences import MessageSequencePromise
from promising.errors import PromiseCancelledError

__all__ = ["DEFAULT_CONTEXT_MESSAGES", "console_user_agent"]

DEFAULT_CONTEXT_MESSAGES = 200


@miniagent
async def console_user_agent(
    ctx: InteractionContext,
    chat_history: ChatHistory | None = None,
    context_messages: int = DEFAULT_CONTEXT_MESSAGES,
) -> None:
    """Shows what assistants say, token by token, then asks the person, and replies with the conversation so far.

    In a terminal: Enter sends, Alt+Enter breaks the line, a paste is one message; Ctrl+C during an answer cancels the
    answer and keeps what was said, at the prompt it leaves, as does Ctrl+D; `/help` says more. An error is shown, and
    the chat goes on. In a pipe each line that is not blank is a message, and an error ends the chat.

    Args:
        ctx: What is to be shown.
        chat_history: Where both sides are recorded. Otherwise they are remembered as long as the `MiniAgents` context.
        context_messages: How many of the last messages to reply with.

    Raises:
        EOFError: The input has ended, or the person leaves.
        KeyboardInterrupt: Ctrl+C at the prompt.
    """
    conversation = _conversation(chat_history)
    await conversation.show(ctx.message_promises)
    text = await conversation.ask()
    await conversation.history.record(MessagePromise.of(UserMessage(text)))
    messages = (await conversation.history.aload_chat_history())[conversation.cleared :]
    ctx.reply(messages[-context_messages:])


class _Conversation:
    """What lasts from one call of the agent to the next."""

    def __init__(self, history: ChatHistory, console: Console) -> None:
        self.history = history
        self.cleared = 0  # how many of the oldest messages the person does not want to be sent any more
        self._console = console

    async def show(self, promises: MessageSequencePromise) -> None:
        """Shows messages and records them, also what has come of one that fails."""
        with self._console.interrupts(promises.cancel):
            try:
                async for promise in promises:
                    if is_said_by_assistant(promise):
                        await self._show_one(promise)
                    await self.history.record(promise)
            except PromiseCancelledError as error:
                self._console.note("(interrupted)", error)
            except Exception as error:
                self._console.report(error)

    async def _show_one(self, promise: MessagePromise) -> None:
        has_begun = False
        try:
            async for token in promise:
                if not has_begun:
                    has_begun = True
                    self._console.begin_answer()
                self._console.write(token)
        except BaseException:
            await self.history.record_interrupted(promise)
            raise
        finally:
            if has_begun:
                self._console.end_answer()

    async def ask(self) -> str:
        """Asks until the person says something that is not a command."""
        while True:
            text = await self._console.read()
            command = text.strip()
            if command == "/exit":
                raise EOFError("the person left")
            if command == "/clear":
                self.cleared = len(await self.history.aload_chat_history())
                self._console.note("What was said so far is not sent any more. The history keeps it.")
            elif command == "/help":
                self._console.note(_HELP)
            elif command:
                return text


_conversations: "WeakKeyDictionary[MiniAgents, dict[int, _Conversation]]" = WeakKeyDictionary()


def _conversation(history: ChatHistory | None) -> _Conversation:
    context = MiniAgents.current()
    if context is None:
        return _Conversation(history or InMemoryChatHistory(), console_here())
    known = _conversations.setdefault(context, {})
    if id(history) not in known:
        known[id(history)] = _Conversation(history or InMemoryChatHistory(), console_here())
    return known[id(history)]


_HELP = """\
Enter sends, Alt+Enter breaks the line, a paste is one message.
Ctrl+C during an answer stops the answer, at the prompt it leaves, as Ctrl+D does.
/clear  the model no longer sees what was said so far
/exit   leaves
/help   shows this"""
