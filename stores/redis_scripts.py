"""The Lua scripts that change an entity's hash: one call, one atomic step for all views of that entity.

KEYS[1] is the hash. ARGV is a sequence of operations, those of one view together and in order. An
operation is a number and as many arguments as its magnitude says:

    put     n    "_v:{view}" version "_ts:{view}" timestamp, then field and value of every feature
    delete  -n   "_v:{view}" tombstone "_ts:{view}", then the field of every feature

A version has 33 bytes: order (big-endian, biased by 2^63), lsn (big-endian), row (16 bytes), and a flag
byte that is 1 while the entity is undecided. A tombstone is a version followed by the delete's event
time as a protobuf Timestamp. Versions are compared as 32-bit numbers, four at a time, because Lua compares
strings by locale and its own numbers are doubles, exact to 53 bits only. The rule is that of
`stores.rows.FeatureWriter`.

The reply has one digit an operation: 1 if it was applied, plus 2 if the entity is undecided after it.

What runs for every entity defines no functions: Lua would build each of them anew on every call.
"""

_SLICE = 4_000
"""Fields and values of one HSET or HDEL, an even number: Lua's stack takes 8,000 arguments."""

_EXPIRE_IF_BARE = """
        local bare = true
        for _, field in ipairs(redis.call('HKEYS', key)) do
          if #field > 4 and string.sub(field, 1, 4) == '_ts:' then bare = false end
        end
        if bare then redis.call('PEXPIRE', key, RETENTION) end
"""

_COMPARE_AND_SET = """
local key, i, last, outcomes = KEYS[1], 1, #ARGV, ''
local view, stored, s1, s2, s3, s4, s_row, s_mark, winner, size, unmarked
repeat
  local n, offered = tonumber(ARGV[i]), ARGV[i + 2]
  if ARGV[i + 1] ~= view then
    view, winner, unmarked = ARGV[i + 1], nil, false
    stored = redis.call('HGET', key, view)
    if stored then s1, s2, s3, s4, s_row, s_mark = struct.unpack('>I4I4I4I4c16B', stored) end
  end

  -- order and lsn in two halves each
  local o1, o2, o3, o4, o_row, o_mark = struct.unpack('>I4I4I4I4c16B', offered)
  local applied, mark = true, o_mark
  if not stored then
    s_mark = 0
  elseif o_row == s_row then
    applied = o3 > s3 or (o3 == s3 and o4 >= s4)
    if n > 0 and (o1 < s1 or (o1 == s1 and o2 < s2)) then mark = 1 end
  elseif n < 0 then applied = false
  elseif o1 ~= s1 then applied = o1 > s1
  elseif o2 ~= s2 then applied = o2 > s2
  elseif o3 ~= s3 then applied = o3 > s3
  elseif o4 ~= s4 then applied = o4 > s4
  else
    local a, b, c, d = struct.unpack('>I4I4I4I4', o_row)
    local e, f, g, h = struct.unpack('>I4I4I4I4', s_row)
    if a ~= e then applied = a > e
    elseif b ~= f then applied = b > f
    elseif c ~= g then applied = c > g
    else applied = d > h end
  end

  if s_mark == 1 then mark = 1 elseif not applied then mark = 0 end
  if not MARKING then mark = (applied or (n < 0 and s1 == 0 and s2 == 0)) and 0 or 1 end
  if applied then
    stored, s1, s2, s3, s4, s_row, s_mark = offered, o1, o2, o3, o4, o_row, o_mark
    winner, size = i, n
  end
  if mark ~= s_mark then
    stored, s_mark = string.sub(stored, 1, 32) .. (mark == 1 and '\\1' or '\\0') .. string.sub(stored, 34), mark
    if winner then ARGV[winner + 2] = stored else unmarked = true end
  end
  outcomes = outcomes .. (applied and (mark == 1 and '3' or '1') or (mark == 1 and '2' or '0'))
  i = i + (n < 0 and -n or n) + 1

  if i > last or ARGV[i + 1] ~= view then  -- the view's operations end: write what has won
    if winner then
      local verb, from, to = 'HSET', winner + 1, winner + size
      if size < 0 then verb, from, to = 'HDEL', winner + 3, winner - size end
      local changed = 0
      repeat
        local stop = to - from < SLICE and to or from + SLICE - 1
        changed = changed + redis.call(verb, key, unpack(ARGV, from, stop))
        from = stop + 1
      until from > to
      if size > 0 then
        if changed > 0 then redis.call('PERSIST', key) end  -- it may have held versions only
      else
        redis.call('HSET', key, view, stored)
        EXPIRE_IF_BARE
      end
    elseif unmarked then
      redis.call('HSET', key, view, stored)
    end
  end
until i > last
return outcomes
"""

_UPDATE_PLAIN = """
local function varint(bytes, at)  -- a signed protobuf varint, exact to 49 bits; and the position after it
  local value, scale, first = 0, 1, at
  while true do
    local byte = string.byte(bytes, at)
    at = at + 1
    if at - first <= 7 then
      value = value + (byte % 128) * scale
      scale = scale * 128
    end
    if byte < 128 then break end
  end
  if at - first == 10 then value = value - scale end  -- ten bytes: the upper bits are all ones
  return value, at
end

local function timestamp(bytes)  -- seconds and nanoseconds of a protobuf Timestamp
  local parts, at = {0, 0}, 1
  while at <= #bytes do
    local tag = string.byte(bytes, at)
    parts[tag / 8], at = varint(bytes, at + 1)
  end
  return parts[1], parts[2]
end

local function compare(a, b)
  local a_seconds, a_nanos = timestamp(a)
  local b_seconds, b_nanos = timestamp(b)
  if a_seconds ~= b_seconds then return a_seconds - b_seconds end
  return a_nanos - b_nanos
end

local key, i, last, outcomes = KEYS[1], 1, #ARGV, ''
repeat
  local n, offered = tonumber(ARGV[i]), ARGV[i + 3]
  local version, present = unpack(redis.call('HMGET', key, ARGV[i + 1], ARGV[i + 2]))
  local applied = true
  if present then
    local newer = compare(offered, present)
    applied = newer > 0 or (newer == 0 and not version)
  end
  if applied and version and #version > 33 then
    applied = compare(offered, string.sub(version, 34)) > 0
  end
  if applied then
    for from = i + 2, i + n, SLICE do
      redis.call('HSET', key, unpack(ARGV, from, math.min(i + n, from + SLICE - 1)))
    end
    redis.call('PERSIST', key)
  end
  outcomes = outcomes .. (applied and 1 or 0)
  i = i + n + 1
until i > last
return outcomes
"""

_DROP = """
local key, removed = KEYS[1], 0
for from = 1, #ARGV, SLICE do
  removed = removed + redis.call('HDEL', key, unpack(ARGV, from, math.min(#ARGV, from + SLICE - 1)))
end
if removed > 0 and redis.call('EXISTS', key) == 1 then
  EXPIRE_IF_BARE
end
return removed > 0 and '1' or '0'
"""


def write_script(retention_ms: int) -> str:
    """Applies operations by their versions. A hash left with versions only expires after the retention."""
    return _complete(_COMPARE_AND_SET.replace("MARKING", "true"), retention_ms)


def decide_script(retention_ms: int) -> str:
    """As `write_script`, but a view is undecided after it unless its operation was applied, or deletes what is
    deleted already."""
    return _complete(_COMPARE_AND_SET.replace("MARKING", "false"), retention_ms)


def update_plain_script(retention_ms: int) -> str:
    """Puts without a version: here an operation is n, then "_v:{view}" "_ts:{view}" timestamp and the
    features. Applied if the timestamp is newer than the stored one and than a tombstone's; an equal one
    only where the view has no version at all."""
    return _complete(_UPDATE_PLAIN, retention_ms)


def drop_script(retention_ms: int) -> str:
    """Removes the fields in ARGV; the reply is 1 if there were any."""
    return _complete(_DROP, retention_ms)


def _complete(script: str, retention_ms: int) -> str:
    script = script.replace("EXPIRE_IF_BARE", _EXPIRE_IF_BARE)
    return script.replace("SLICE", str(_SLICE)).replace("RETENTION", str(retention_ms))
