"""Nothing gets out of the sandbox of Lua, and nothing holds it up."""

import asyncio
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import pytest

from miniagents.ext.graph.lua import LuaProblem, Script, sandbox
from miniagents.ext.threads import in_thread

VERSIONS = ("lua54", "lua55", "lua53")
BOUND = 0.7
"""Seconds of the processor in which each script has to end: a tenth is the limit, and a single step may take long."""


def each_version(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Takes each version of Lua that may be there. The first one, which mostly is, has the limit that it always has."""
    for version in VERSIONS:
        monkeypatch.setattr(sandbox, "_VERSIONS", (version,))
        yield version
        monkeypatch.setattr(sandbox, "MAX_SECONDS", 0.02)


def holds(source: str, **cached: Any) -> bool:
    return Script(source).run(cached, None)


def outcome_of(source: str, **cached: Any) -> bool | str:
    """What a script returns, or what is the matter with it."""
    try:
        return holds(source, **cached)
    except LuaProblem as problem:
        return str(problem)


@contextmanager
def bounded() -> Iterator[None]:
    """Measures the time of this thread: others may keep the machine busy."""
    started = time.thread_time()
    yield
    assert time.thread_time() - started < BOUND


OFFERED = {
    "": "assert error ipairs math next pairs select string table tonumber tostring type utf8",
    "string": "byte char find format len lower rep reverse sub upper",
    "table": "concat insert pack remove sort unpack",
    "math": "abs acos asin atan ceil cos deg exp floor fmod huge log max maxinteger min mininteger modf pi rad sin sqrt"
    " tan tointeger type ult",
    "utf8": "char codepoint codes len offset",
}


def test_only_what_is_listed_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of all that Lua has the sandbox offers what is harmless, and nothing else."""
    for version in each_version(monkeypatch):
        there = import_module(f"lupa.{version}").LuaRuntime().globals()
        assert {name for name in there if holds(f"{name} ~= nil")} == set(OFFERED[""].split())
        for library in OFFERED.keys() - {""}:
            offered = {name for name in there[library] if holds(f"{library}.{name} ~= nil")}
            assert offered == set(OFFERED[library].split()), version


HOLES = "local t, i = {}, 1 while i > 0 do t[i], t[i + 1], i = 1, 1, i * 2 end "
"""A table that Lua takes for one of 2^62 elements."""

# Each returns true if it has got hold of something that it must not have.
ESCAPES = {
    "a method of texts": "('').dump or (''):len() == 0 and ('').gsub or ('').match or ('').gmatch or ('').pack",
    "texts and the library are one": "return ('').rep ~= string.rep or ('').find ~= string.find",
    "the table of globals": "_G or _G ~= nil",
    "a field of the table of globals": "_G.io",
    "a local environment": "local _ENV = {} return io",
    "a field of the environment": "_ENV['io']",
    "the environment of a function": "return getfenv or setfenv",
    "a name that is made": "local name = 'i' .. 'o' return string[name] or math[name] or table[name] or utf8[name]",
    "load": "load or loadstring or loadfile or dofile or require or package",
    "load, called": "load('return 1')() == 1",
    "load, as a text": "('return io'):load()",
    "Python": "python or python ~= nil",
    "Python, called": "python.eval('1') == 1",
    "attributes of a value": "value.__class__ or value.append or value.__len__ or value.__index",
    "attributes of a text": "text.__class__ or text.encode or text.format('{0.__class__}', text) ~= '{0.__class__}'",
    "attributes of a number": "(1).__class__",
    "a metatable": "getmetatable('').__index",
    "a metatable of one's own": "setmetatable({}, {__index = function() return true end}).x",
    "fields named as those of a metatable": "local t = {__index = {x = 1}, __call = error} return t.x or t()",
    "a table that is called": "({__call = function() return true end})()",
    "finalizers": "local t = {__gc = function() while true do end end} t = nil return t",
    "closing": "local t <close> = {__close = function() end} return true",
    "closing of a list with a length": "local t <close> = value return true",
    "names of metatables in texts": "('').__index or ('').__name or ('').__metatable",
    "a text changed": "('').rep = 1 return true",
    "swallowed errors": "pcall(error) == false",
    "swallowed errors with a handler": "xpcall(error, function() end) == false",
    "swallowed errors in a coroutine": "coroutine.resume(coroutine.create(error)) == false",
    "wrapped": "coroutine.wrap(function() return true end)()",
    "the debugger": "debug.getregistry() or debug.sethook()",
    "the collector": "collectgarbage('stop') == 0",
    "files": "io.open('/etc/passwd') ~= nil",
    "the system": "os.execute('true') or os.getenv('HOME') or os.exit()",
    "warnings and output": "warn or print",
    "raw access": "rawget or rawset or rawequal or rawlen",
    "patterns": "('aaa'):find('a*') == 1",
    "patterns in a class": "string.find('a', '[a]')",
    "moves": "table.move",
    "chance": "math.random or math.randomseed",
    "modules of C": "package.loadlib or package.loaded or package.cpath",
    "a goto out of a function": "return (function() goto out end)() ::out:: return true",
    "constants": "local x <const> = 1 x = 2 return true",
    "an error that is a value": "error({code = 1})",
    "an error that is a function": "error(error)",
    "an error with a tostring": "error({__tostring = function() while true do end end})",
    "the hook": "hook or sethook or TOO_MANY_STEPS or environment or source or holed",
    "an argument": "... ~= nil",
    "the arguments of the chunk": "return select('#', ...) > 0",
    "self": "self or this or arg",
    "a format with an address": "string.format('%p', {}):sub(1, 2) == ''",
    "a format with a huge width": "('%99999999d'):format(1)",
    "a format with a huge precision": "('%.99999999f'):format(1)",
    "binary code": "\x1bLua",
    "binary code after return": "return \x1bLuaS",
    "a comment that closes": "io --]] or 1",
    "a bracket that closes": "1) or (io",
    "an end that closes": "1 end return io",
    "overflow of integers": "math.maxinteger + 1 ~= math.mininteger or math.mininteger // -1 ~= math.mininteger",
    "division by zero": "1 // 0",
    "modulo zero": "1 % 0",
    "indices that overflow": "('x'):sub(math.mininteger, math.maxinteger) ~= 'x' or ('x'):byte(math.maxinteger)",
    "bytes that overflow": "#{('x'):byte(math.mininteger, math.maxinteger)} ~= 1",
    "characters that there are not": "utf8.char(-1)",
    "characters that are too large": "string.char(256)",
    "a code point out of the text": "utf8.codepoint('x', 1, math.maxinteger)",
    "concat out of the table": "table.concat({}, '', math.mininteger, math.maxinteger)",
    "insert out of the table": "table.insert({}, math.maxinteger, 1)",
    "insert with too much": "table.insert({}, 1, 2, 3)",
    "remove out of the table": "table.remove({}, math.maxinteger)",
    "select out of the arguments": "select(math.mininteger, 1)",
    "next after what is not there": "next({}, 'x')",
    "a loop at the end of integers": "local n = math.maxinteger for i = n - 1, n do x = i end return x ~= n",
    "a loop without steps": "for i = 1, 2, 0 do end return false",
    "sort with an error": "table.sort({3, 2, 1}, function() error('x') end) return true",
    "sort of what cannot be compared": "table.sort({3, {}, 1}) return true",
    "sort in disorder": "local t = {} for i = 1, 100 do t[i] = i % 7 end"
    " table.sort(t, function() return true end) return #t ~= 100",
    "repeated NaN times": "('x'):rep(0/0)",
    "repeated by a text": "#('x'):rep('3') ~= 3",
    "a find in nothing": "string.find(nil, {})",
    "insert into a table with holes": HOLES + "table.insert(t, 1, 0) return false",
    "remove from a table with holes": HOLES + "table.remove(t, 1) return false",
    "an insert into nothing": "table.insert(nil, 1)",
}


@pytest.mark.parametrize("source", ESCAPES.values(), ids=ESCAPES)
def test_nothing_gets_out(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """No way leads to Python, to the system, to other code or around a limit."""
    for version in each_version(monkeypatch):
        with bounded():
            outcome = outcome_of(source, value=[1, None], text="x")
        assert outcome is False or isinstance(outcome, str), version


# Each would go on for ever, or until there is no memory left.
HOGS = {
    "while": "while true do end return 1",
    "repeat": "repeat until false return 1",
    "goto": "::again:: goto again return 1",
    "for": "for i = 1, 1e12 do end return 1",
    "for, with integers": "for i = math.mininteger, math.maxinteger do end return 1",
    "for, with a function": "for x in function() return 1 end do end return 1",
    "for, with an error that cannot be caught": "while true do local f = function() error('x') end end return 1",
    "calls": "local function f() return 1 + f() end return f()",
    "calls of each other": "local f local function g() return 1 + f() end function f() return 1 + g() end return f()",
    "tail calls": "local function f() return f() end return f()",
    "calls with more and more arguments": "local function f(...) return f(1, ...) end return f()",
    "calls of methods": "local t = {} function t:f() return #(self:f()) end return t:f()",
    "a table": "local t = {} while true do t[#t + 1] = {} end return 1",
    "a table of texts": "local t, i = {}, 0 while true do i = i + 1 t['k' .. i] = i end return 1",
    "a large table": "local t = {} for i = 1, 1e9 do t[i] = i end return 1",
    "closures": "local f = 1 while true do local g = f f = function() return g end end return 1",
    "a text that doubles": "local s = 'x' while true do s = s .. s end return 1",
    "a text that is copied": "local s = ('x'):rep(1000000) while true do local t = s .. 'y' end return 1",
    "texts that are compared": "local a, b = ('\\0'):rep(900000), ('\\0'):rep(900000) while a <= b do end return 1",
    "texts that are turned": "local s = ('x'):rep(1000000) while true do s = s:reverse() end return 1",
    "texts that are formatted": "local s = ('x'):rep(1000000) while true do local t = ('%s'):format(s) end return 1",
    "texts that are measured": "local s = ('x'):rep(1000000) while true do utf8.len(s) end return 1",
    "texts that are numbers": "local s = ('9'):rep(1000000) while true do local n = tonumber(s) end return 1",
    "texts that are keys": "local t, s = {}, ('x'):rep(1000000) while true do t[s .. 1] = 1 end return 1",
    "rep": "('x'):rep(1e9)",
    "rep of nothing": "(''):rep(1e18)",
    "rep of nothing, as a text": "(''):rep('1e18')",
    "rep of nothing, largest": "string.rep('', math.maxinteger, '')",
    "rep with a separator": "('x'):rep(1e6, ('y'):rep(1e6))",
    "rep, many times": "while true do local s = ('x'):rep(1000000) end return 1",
    "rep and find": "local s = ('a'):rep(1000000) while true do s:find('ab', 1, true) end return 1",
    "find": "local s = ('a'):rep(1000000) return s:find(('a'):rep(500000) .. 'b', 1, true)",
    "find, many times": "local s, n = ('a'):rep(20000), ('a'):rep(9999) .. 'b' while true do s:find(n) end return 1",
    "concat": "local t = {} for i = 1, 1000 do t[i] = ('x'):rep(10000) end return table.concat(t)",
    "concat, many times": "local t = {} for i = 1, 9000 do t[i] = '' end while true do table.concat(t) end return 1",
    "unpack": "table.unpack({}, 1, 1e8)",
    "unpack, just small enough": "return select('#', table.unpack({}, 1, 900000))",
    "unpack, many times": "while true do local n = select('#', table.unpack({}, 1, 50000)) end return 1",
    "unpack of all integers": "table.unpack({}, math.mininteger, math.maxinteger)",
    "bytes": "('x'):rep(1000000):byte(1, -1)",
    "code points": "utf8.codepoint(('x'):rep(1000000), 1, -1)",
    "sort of a table with holes": HOLES + "table.sort(t) return 1",
    "concat of a table with holes": HOLES + "return table.concat(t)",
    "insert in front": "local t = {} while true do table.insert(t, 1, 0) end return 1",
    "sort of large texts": "local t, s = {}, ('x'):rep(1000000) for i = 1, 9000 do t[i] = s end table.sort(t) return 1",
    "sort that does not compare": "table.sort({1, 2, 3}, function() while true do end end) return 1",
    "sort by a function of C": "local t, s = {}, ('x'):rep(1000000) for i = 1, 9000 do t[i] = s end"
    " table.sort(t, string.upper) return 1",
    "sort, many times": "local t = {} for i = 1, 5000 do t[i] = -i end while true do table.sort(t) end return 1",
    "next over a table with holes": "local t = {} for i = 1, 20000 do t[i] = 1 end for i = 1, 20000 do t[i] = nil end"
    " while true do next(t) end return 1",
    "memory that is always nearly full": "local t = {} for i = 1, 30000 do t[i] = {} end"
    " while true do local s = ('x'):rep(1000000) .. ('y'):rep(500000) end return 1",
}


@pytest.mark.parametrize("source", HOGS.values(), ids=HOGS)
def test_nothing_goes_on_for_ever(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What takes too many steps, too long or too much memory is an error after a bounded time."""
    for version in each_version(monkeypatch):
        with bounded():
            outcome = outcome_of(source)
        assert isinstance(outcome, str), version


# Each is too much for the compiler, or would be.
MONSTERS = {
    "10 MB": "1" + " + 1" * 2_500_000,
    "brackets": "(" * 9_000 + "1" + ")" * 9_000,
    "tables": "{" * 9_000 + "}" * 9_000,
    "functions": "return " + "function() return " * 1_000 + "end " * 1_000,
    "signs": "- " * 9_000 + "1",
    "negations": "not " * 4_000 + "1",
    "concatenations": "return a" + "..a" * 6_000,
    "powers": "2" + "^2" * 9_000,
    "calls": "a" + "()" * 9_000,
    "comparisons": "1" + "<1" * 9_000,
    "conditions": "return a" + " and a" * 3_000,
    "blocks": "do " * 4_000 + "return 1 " + "end " * 4_000,
    "branches": "return 1 " + "if a then " * 1_000,
    "locals": "".join(f"local l{number} = 1 " for number in range(1_000)) + "return 1",
    "gotos": "".join(f"goto g{number} " for number in range(1_000)) + "return 1",
    "labels": "".join(f"::l{number}:: " for number in range(1_900)) + "return 1",
    "constants": "{" + ",".join(f"{number}.5" for number in range(2_500)) + "}",
    "brackets that open": "[[" * 9_000,
    "brackets of levels": "[" + "=" * 9_000 + "[",
    "comments that open": "--[[" * 4_500,
    "escapes": "'" + "\\u{7FFFFFFF}" * 1_500 + "'",
    "nothing but backslashes": "\\" * 9_000,
}


@pytest.mark.parametrize("source", MONSTERS.values(), ids=MONSTERS)
def test_no_source_is_too_much(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sources that are as large, deep or odd as they can be are refused, or run, in a bounded time."""
    for version in each_version(monkeypatch):
        with bounded():
            outcome = outcome_of(source)
        assert len(str(outcome)) < 1000, version


def test_binary_code_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """What Lua has compiled, which nobody checks, is no script."""
    for version in each_version(monkeypatch):
        lua = import_module(f"lupa.{version}").LuaRuntime(encoding="latin-1")
        binary = lua.eval("string.dump(function() return 1 end)")
        for source in (binary, f"return {binary}"):
            with pytest.raises(LuaProblem):
                Script(source)


def test_each_evaluation_starts_afresh() -> None:
    """What a script has changed, the next one does not see."""
    Script("string.rep = nil math.pi = 3 x = 1 string.x = 1 type = nil next = nil return 1").run({}, None)
    assert holds("string.rep and math.pi > 3.1 and x == nil and ('').x == nil and type(next) == 'function'")


def test_one_script_runs_often() -> None:
    """A script is stateless: whenever it runs it finds the same, and what it is given."""
    script = Script("count = (count or 0) + 1 return count == expected")
    assert [script.run({"expected": 1}, None) for _ in range(3)] == [True] * 3
    assert script.run({"expected": 1, "count": 1}, None) is False


async def test_scripts_run_in_threads_side_by_side() -> None:
    """Evaluations at the same time do not know of each other."""
    script = Script("local sum = 0 for i = 1, n do sum = sum + i end return sum == n * (n + 1) // 2 and n")
    outcomes = await asyncio.gather(*(in_thread(script.run, {"n": number}, None) for number in range(1, 200)))
    assert outcomes == [True] * 199


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("while true do end return 1", "it takes more than 200000 steps"),
        ("local s = ('x'):rep(1000000) while true do local t = s .. 1 end return 1", "it takes more than 0.1 s"),
        ("local s = 'x' while true do s = s .. s end return 1", "it uses more than 4000000 bytes"),
        ("return ('x'):rep(1000001)", "string.rep repeats at most 1000000 times here"),
        ("return ('x'):find('x*')", "string.find has no patterns here; give true as the fourth argument"),
        ("return ('x'):rep(90000):find(('x'):rep(80000), 1, true)", "string.find has texts here that are too long"),
        ("error(('x'):rep(1000000), 0)", "x" * 500),
    ],
)
def test_errors_of_limits_say_which(source: str, message: str) -> None:
    """The message names the limit, and is not long."""
    outcome = str(outcome_of(source))
    assert outcome.startswith(message)
    assert len(outcome) <= 500


def test_memory_that_is_full_to_the_last_byte_ends_no_process() -> None:
    """Lua ends the process where memory is missing outside of a protected call: there is none such."""
    script = """
from miniagents.ext.graph.lua import LuaProblem, Script, sandbox
filled = Script("local t = {} for i = 1, n do t[i] = i .. 'x' end return t[n] or n == 0")
outcomes = set()
for size in range(60_000, 400_000, 997):
    sandbox.MAX_MEMORY = size
    for n in (0, 20, 4000):
        try:
            outcomes.add(filled.run({"n": n}, None))
        except LuaProblem as problem:
            outcomes.add("problem")
print(outcomes == {True, "problem"})
"""
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "True\n", "")
