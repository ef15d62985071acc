"""Small agents under one documented name."""

from miniagents.ext.console_user_agent import console_user_agent
from miniagents.ext.echo_agent import echo_agent
from miniagents.ext.file_agent import file_agent

__all__ = ["console_user_agent", "echo_agent", "file_agent"]
