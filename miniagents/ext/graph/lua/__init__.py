"""Lua for conditions, in a sandbox: a small script looks at copies of values and says yes or no.

* `script`: `Script`, a text that has been checked; `reading`: which names it reads
* `sandbox`, `sandbox.lua`: how it runs, with which limits; `copying`: Python's values as Lua's
* `errors`: what goes wrong

It needs `pip install "miniagents[lua]"`.
"""

from miniagents.ext.graph.lua.errors import LuaProblem
from miniagents.ext.graph.lua.script import Script

__all__ = ["LuaProblem", "Script"]
