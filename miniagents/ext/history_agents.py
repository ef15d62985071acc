"""All chat histories under one documented name."""

from miniagents.ext.chat_history import ChatHistory, HistoryFileError, InMemoryChatHistory
from miniagents.ext.chat_history_md import ChatHistoryMD
from miniagents.ext.chat_history_redis import ChatHistoryRedis
from miniagents.ext.chat_history_sqlite import ChatHistorySQLite

__all__ = [
    "ChatHistory",
    "ChatHistoryMD",
    "ChatHistoryRedis",
    "ChatHistorySQLite",
    "HistoryFileError",
    "InMemoryChatHistory",
]
