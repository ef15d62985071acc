"""The shape of the packages: what they export, and what they cost to import."""

import ast
import importlib
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import miniagents
import promising

ROOT = Path(__file__).parents[1]
MODULES = sorted(
    name
    for package in (promising, miniagents)
    for _, name, _ in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
    if not name.endswith("__main__")
)

PUBLIC = """
from miniagents import miniagent, MiniAgents, MiniAgent, InteractionContext, Message, MessagePromise
from miniagents import MessageSequencePromise, Frozen, ErrorMessage, END
from miniagents.miniagents import MiniAgents, miniagent, InteractionContext, MessageSequence
from miniagents.messages import Message, MessagePromise, MessageSequencePromise
from miniagents.utils import adialog_loop, achain_loop, join_messages, split_messages
from miniagents.promising.sentinels import AWAIT, CLEAR
from promising.sentinels import AWAIT, CLEAR
from promising import Promise, StreamedPromise, StreamAppender, PromisingContext
from miniagents.ext.llm.openai import openai_agent
from miniagents.ext.llm.anthropic import anthropic_agent
from miniagents.ext.llm.llm_common import UserMessage, SystemMessage, AssistantMessage
from miniagents.ext.history_agents import ChatHistory, InMemoryChatHistory, ChatHistoryMD
from miniagents.ext.history_agents import ChatHistoryRedis, ChatHistorySQLite
from miniagents.ext.misc_agents import console_user_agent, echo_agent, file_agent
from miniagents.ext.cache import Cache, MemoryCache, RedisCache, cached, register, CacheUnavailableError
from miniagents.ext.task_graph import Agent, AgentModule, ExecutionState, FlowControlConfig, FlowControlModule
from miniagents.ext.task_graph import FlowDecision, Middleware, ModuleConfig, ModuleType, Node, NodeConfig
from miniagents.ext.task_graph import SnapshotControl, Task, TaskStatus, NonRetryableException
from miniagents.ext.workflow import Agent, AgentStatus, Context, DependencyConfig, DependencyLifecycle, DependencyType
from miniagents.ext.workflow import Priority, ResourcePool, ResourceRequirements, ResourceType, RetryPolicy
from miniagents.ext.workflow import StateResult, StateStatus, TypedContextData
from miniagents.ext.graph import Graph, NodePolicy, NodeStarted, NodeRetried, NodeSkipped, NodeFinished, NodeFailed
from miniagents.ext.graph import DecisionTaken, GraphFinished
from miniagents.ext.checkpoints import CheckpointStore, SQLiteCheckpointStore, RedisCheckpointStore, FileCheckpointStore
from miniagents.testing import CheckpointStoreConformance
from miniagents.testing import CacheConformance, ChatHistoryConformance
from miniagents.ext.chat_history_md import ChatHistoryMD
from miniagents.ext.console_user_agent import console_user_agent
from miniagents.ext.cache import Cache, MemoryCache, RedisCache
from miniagents.testing import ScriptedModel
""".strip().splitlines()


@pytest.mark.parametrize("name", ["promising", "miniagents", *MODULES])
def test_exports_are_exact(name: str) -> None:
    """Each module says what it is for, and `__all__` names what there is; that it is sorted is for ruff to see."""
    module = importlib.import_module(name)
    assert module.__doc__
    assert all(hasattr(module, exported) for exported in module.__all__)
    assert len(set(module.__all__)) == len(module.__all__)


@pytest.mark.parametrize("line", PUBLIC)
def test_documented_imports(line: str) -> None:
    """The documented imports work."""
    exec(line, {})


def test_names_are_the_same_objects_everywhere() -> None:
    """A documented name that stands in two places is one object."""
    from miniagents.ext.chat_history_md import ChatHistoryMD
    from miniagents.ext.history_agents import ChatHistoryMD as Gathered
    from miniagents.promising.sentinels import AWAIT

    assert AWAIT is promising.AWAIT is miniagents.AWAIT
    assert Gathered is ChatHistoryMD


def test_the_promise_layer_needs_the_standard_library_only() -> None:
    """No module of `promising` imports anything else."""
    for path in (ROOT / "promising").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            for name in names:
                assert name.partition(".")[0] in {*sys.stdlib_module_names, "promising"}, f"{path.name} imports {name}"


def test_heavy_libraries_are_imported_when_they_are_used() -> None:
    """Importing the package, its agents of models, the console and the command line imports none of them."""
    code = (
        "import sys, miniagents, miniagents.ext.llm.openai, miniagents.ext.llm.anthropic, miniagents.testing\n"
        "import miniagents.ext.history_agents, miniagents.ext.misc_agents, miniagents.ext.offline_model\n"
        "import miniagents.ext.graph, miniagents.ext.task_graph, miniagents.ext.workflow, miniagents.ext.checkpoints\n"
        "import miniagents.ext.cache\n"
        "heavy = {'openai', 'anthropic', 'redis', 'lupa', 'tenacity', 'opentelemetry'}\n"
        "print((heavy | {'rich', 'prompt_toolkit', 'typer'}) & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
