-- Runs one condition in a fresh Lua state. What it can reach is what is written here, and nothing else.
--
-- There is no pcall and no coroutine, so nothing can swallow the error of a limit; no setmetatable and no patterns; and
-- what is one call but can take for ever (instructions alone are counted) has a bound of its own.

local source, environment, holed, sizes, max_steps, max_seconds = ...

local STEP = 32 -- every so many instructions the limits are looked at, as each of them may copy megabytes
local MAX_REPEATS, MAX_COMPARISONS, MAX_LENGTH = 1000000, 1000000000, 1000000

local clock, error, load, next, pcall, sethook, setmetatable, tonumber, type =
    os.clock, error, load, next, pcall, debug.sethook, setmetatable, tonumber, type
local find, len, rep, insert, remove, sort = string.find, string.len, string.rep, table.insert, table.remove, table.sort

local function plain_find(text, wanted, init, plain)
    if not plain and find(wanted, "[%^%$%*%+%?%.%(%[%%%-]") then
        error("string.find has no patterns here; give true as the fourth argument to look for the text as it is", 2)
    elseif len(text) * len(wanted) > MAX_COMPARISONS then
        error("string.find has texts here that are too long for it", 2)
    end
    return find(text, wanted, init, true)
end

local function bounded_rep(text, count, separator)
    if (tonumber(count) or 0) > MAX_REPEATS then
        error("string.rep repeats at most " .. MAX_REPEATS .. " times here", 2)
    end
    return rep(text, count, separator)
end

-- A table with a few elements far apart has a length that no loop in C should be given.
local function short(list)
    if type(list) == "table" and #list > MAX_LENGTH then
        error("a table is too long", 3)
    end
    return list
end

local function before(a, b)
    return a < b
end

-- Where texts are compared, or a function of C is given, sorting would be one call without an instruction of Lua.
local function compared_here(order)
    return function(a, b) return order(a, b) end
end

local strings = {
    byte = string.byte, char = string.char, find = plain_find, format = string.format, len = len, lower = string.lower,
    rep = bounded_rep, reverse = string.reverse, sub = string.sub, upper = string.upper,
}
local tables = {
    concat = table.concat, pack = table.pack, unpack = table.unpack,
    insert = function(list, ...) return insert(short(list), ...) end,
    remove = function(list, ...) return remove(short(list), ...) end,
    sort = function(list, order) return sort(list, compared_here(order or before)) end,
}
local numbers = {
    abs = math.abs, acos = math.acos, asin = math.asin, atan = math.atan, ceil = math.ceil, cos = math.cos,
    deg = math.deg, exp = math.exp, floor = math.floor, fmod = math.fmod, huge = math.huge, log = math.log,
    max = math.max, maxinteger = math.maxinteger, min = math.min, mininteger = math.mininteger, modf = math.modf,
    pi = math.pi, rad = math.rad, sin = math.sin, sqrt = math.sqrt, tan = math.tan, tointeger = math.tointeger,
    type = math.type, ult = math.ult,
}
local codes = { char = utf8.char, codepoint = utf8.codepoint, codes = utf8.codes, len = utf8.len, offset = utf8.offset }

local world = {
    assert = assert, error = error, ipairs = ipairs, next = next, pairs = pairs, select = select, tonumber = tonumber,
    tostring = tostring, type = type, math = numbers, string = strings, table = tables, utf8 = codes,
}

for name, value in next, world do
    if environment[name] == nil then
        environment[name] = value
    end
end

for index, list in next, holed do -- a list with nil in it has the length that it had
    local size = sizes[index]
    setmetatable(list, { __len = function() return size end })
end

getmetatable("").__index = strings
local globals = _G
for name in next, globals do
    globals[name] = nil
end

local chunk, problem = load(source, "=line", "t", environment)
if not chunk then
    return nil, problem
end

local TOO_MANY_STEPS, TOO_LONG = {}, {}
local steps, deadline = 0, clock() + max_seconds
sethook(function()
    steps = steps + STEP
    if steps > max_steps then
        error(TOO_MANY_STEPS)
    elseif clock() > deadline then
        error(TOO_LONG)
    end
end, "", STEP)
local went_well, value = pcall(chunk)
sethook()

if went_well then
    return not not value
elseif value == TOO_MANY_STEPS then
    return nil, "it takes more than " .. max_steps .. " steps"
elseif value == TOO_LONG then
    return nil, "it takes more than " .. max_seconds .. " s"
elseif type(value) ~= "string" then
    return nil, "it has raised a value of the type " .. type(value)
end
return nil, value
