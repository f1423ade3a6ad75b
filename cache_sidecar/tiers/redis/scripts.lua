-- The atomic operations of the sidecars in Redis. `scripts.py` makes a script of each function that it lists, with what that
-- function uses: the parts of this file are separated by blank lines, and each defines its names at the start of a line.
--
-- A stored value starts with its version, 16 hexadecimal digits, and has its kind at offset 18 (see codec.py). Keys, channel
-- and counter of a call carry the same hash tag, so they are in one slot: a script can publish only in the slot of its keys.

local VERSION = 16

local function version_of(value)
  local version = string.sub(value, 1, VERSION)
  if #version == VERSION and string.find(version, '^[0-7][0-9a-f]+$') then
    return version
  end
  return ''  -- absent, or foreign: anything is newer
end

local function stored_version(key)
  local head = redis.pcall('GETRANGE', key, 0, VERSION - 1)  -- an error if it is not even a string
  return type(head) == 'string' and version_of(head) or ''
end

local function publish(counter, channel, version, subject)
  local sequence = redis.call('INCR', counter)
  redis.call('SPUBLISH', channel, sequence .. ' ' .. version .. ' ' .. subject)
end

-- The kinds of values that matter here; the kind is at offset 18, after the layout.
local KIND, INVALIDATED, LEASE, FOREIGN = 18, 'i', 'l', 'f'

local function kind_of(value)
  return version_of(value) ~= '' and string.sub(value, KIND + 1, KIND + 1) or ''
end

-- Returns a lease with the kind FOREIGN: it took the place of a foreign value.
local function foreign(lease)
  return string.sub(lease, 1, KIND) .. FOREIGN .. string.sub(lease, KIND + 2)
end

-- Returns what a key holds. If it is absent, foreign, or marked as out of date, a lease is put there first and returned; it
-- keeps the version of the mark, and has the kind FOREIGN in the place of a foreign value. Returns false for a key that is on
-- another node by now.
local function read_or_lease(key, lease, ttl)
  local value = redis.pcall('GET', key)
  if type(value) == 'table' then
    if not string.find(value.err, 'WRONGTYPE', 1, true) then
      return false
    end
    value = ''
  end
  local kind = kind_of(value or '')
  if kind ~= '' and kind ~= INVALIDATED then
    return value
  end
  if kind == INVALIDATED then
    lease = string.sub(value, 1, VERSION) .. string.sub(lease, VERSION + 1)
  end
  redis.call('SET', key, lease, 'PX', ttl)
  if value and kind == '' then
    return foreign(lease)
  end
  return lease
end

-- KEYS: value keys of one slot. ARGV: lease, its time to live in ms, and value keys of any slots on the same node.
-- Returns what each of them holds, or a lease: see `read_or_lease`.
local function read(keys, args)
  local found = {}
  for number, key in ipairs(keys) do
    found[number] = read_or_lease(key, args[1], args[2])
  end
  for number = 3, #args do
    found[#keys + number - 2] = read_or_lease(args[number], args[1], args[2])
  end
  return found
end

-- The names are those of keys of any slots on this node, separated by spaces.
-- Returns the lines of a reading, which are this node's role, its replication id and the value of each key: with a hundred keys,
-- one command instead of as many.
local function read_lines(names)
  local info = redis.call('INFO', 'replication')
  local found = {info:match('role:(%a+)'), info:match('master_replid:(%w+)')}
  for key in names:gmatch('%S+') do
    found[#found + 1] = redis.call('GET', key) or ''
  end
  return table.concat(found, '\n')
end

-- KEYS: any on this node. ARGV: the names.
-- Returns the lines, and -1.
local function own_reading(_, args)
  return {read_lines(args[1]), -1}
end

-- KEYS: where the reading is shared. ARGV: the names, and for how many ms it is shared.
-- Returns the lines, and how many ms ago another caller had them read, or -1.
-- Of a thousand sidecars that ask four times a second, few have them read. A clock that was set back makes a shared reading
-- expire too late; it is recognized by that.
local function shared_reading(keys, args)
  local ms = tonumber(args[2])
  local shared, left = redis.pcall('GET', keys[1]), redis.pcall('PTTL', keys[1])
  if type(shared) == 'string' and type(left) == 'number' and left >= 0 and left <= ms then
    return {shared, ms - left}
  end
  local lines = read_lines(args[1])
  redis.call('SET', keys[1], lines, 'PX', ms)
  return {lines, -1}
end

-- KEYS: value key. ARGV: lease.
-- Gives a lease back, if it is still there.
local function release(keys, args)
  if redis.pcall('GET', keys[1]) ~= args[1] then
    return 0
  end
  return redis.call('UNLINK', keys[1])
end

-- KEYS: value key. ARGV: SHA-1 of what it holds, lease, its time to live in ms.
-- Puts a lease in the place of something that the caller found to be no record, if it is still there.
local function replace(keys, args)
  local value = redis.pcall('GET', keys[1])
  if type(value) ~= 'string' or redis.sha1hex(value) ~= args[1] then
    return 0
  end
  redis.call('SET', keys[1], args[2], 'PX', args[3])
  return 1
end

-- KEYS: value key, counter. ARGV: value, time to live in ms, channel, subject.
-- Writes the value if it is newer, and publishes the invalidation in any case: the value may already be there because another
-- sidecar read it from PostgreSQL and filled it in, and fills publish nothing. Returns the version that is stored if it is newer.
local function put_if_newer(keys, args)
  local stored, version = stored_version(keys[1]), string.sub(args[1], 1, VERSION)
  local is_news = stored < version
  if is_news then
    redis.call('SET', keys[1], args[1], 'PX', args[2])
  end
  publish(keys[2], args[3], version, args[4])
  return stored > version and stored or ''
end

-- For a Redis that is full; only the flags of the script differ.
local function put_if_newer_when_full(keys, args)
  return put_if_newer(keys, args)
end

-- KEYS: counter, value keys. ARGV: channel, subject, time to live in ms, a mark for each value key.
-- Marks what is older as out of date, and publishes one message, with the newest of the versions. Returns for each key the
-- version that is stored if it is newer.
local function invalidate_many(keys, args)
  local newest, newer = '', {}
  for i = 2, #keys do
    local value = args[i + 2]
    local stored, version = stored_version(keys[i]), string.sub(value, 1, VERSION)
    if stored < version then
      redis.call('SET', keys[i], value, 'PX', args[3])
    end
    newer[i - 1] = stored > version and stored or ''
    if newest < version then
      newest = version
    end
  end
  publish(keys[1], args[1], newest, args[2])
  return newer
end

-- KEYS: value key, counter. ARGV: version, mark, time to live in ms, 'v' or nothing, channel, subject.
-- PostgreSQL does not have this version: puts the mark in its place, if it is still there, and has every sidecar drop the value.
-- With 'v', only a value is replaced: that there is none is what PostgreSQL says, too.
local function retract(keys, args)
  local head = redis.pcall('GETRANGE', keys[1], 0, KIND)
  local is_there = type(head) == 'string' and version_of(head) == args[1]
  if is_there and (args[4] == '' or kind_of(head) == args[4]) then
    redis.call('SET', keys[1], args[2], 'PX', args[3])
  end
  publish(keys[2], args[5], string.rep('0', VERSION), args[6])
  return 1
end

-- KEYS: value key, counter. ARGV: channel, subject.
-- Removes a value, and has every sidecar drop it.
local function drop(keys, args)
  redis.call('UNLINK', keys[1])
  publish(keys[2], args[1], string.rep('0', VERSION), args[2])
  return 1
end

-- KEYS: counter. ARGV: channel, subject.
-- Has every sidecar drop a partition of a dataset.
local function drop_partition(keys, args)
  publish(keys[1], args[1], string.rep('0', VERSION), args[2])
  return 1
end

-- Offsets in a record of layout 03 or 13 (see codec.py): its last use, its end, the last use that PostgreSQL knows of, and the
-- history of the node that counted the last use.
local USED, END, STORED, HISTORY, SLIDING = 39, 51, 63, 75, 83
local SLIDES = {['03v'] = true, ['13v'] = true}

local function between(value, first, behind)
  return string.sub(value, first + 1, behind)
end

-- When a record expires depends on the caller's policy: if it was last used at or before `expired_before`.
local function has_expired(value, expired_before, now)
  return string.sub(value, USED + 1, END) <= expired_before or string.sub(value, END + 1, STORED) <= now
end

-- KEYS: value key. ARGV: now, expired_before, flush_before, time to live in ms, lease, its time to live in ms, this node's
-- history.
-- Returns the value, after counting its use if it has not expired; or else a lease, as `read_or_lease` does. If the use that
-- PostgreSQL knows of is at or before `flush_before`, it is updated here and returned as it was: the caller who sees that has
-- to write the use to PostgreSQL.
local function touch(keys, args)
  local value = redis.pcall('GET', keys[1])
  if type(value) == 'table' then
    if not string.find(value.err, 'WRONGTYPE', 1, true) then
      return value
    end
    value = ''
  end
  if kind_of(value or '') == '' then
    redis.call('SET', keys[1], args[5], 'PX', args[6])
    return value and foreign(args[5]) or args[5]
  end
  if #value < SLIDING or not SLIDES[string.sub(value, VERSION + 1, VERSION + 3)] then
    return value
  end
  if has_expired(value, args[2], args[1]) then
    return value
  end
  local used, stored = between(value, USED, END), between(value, STORED, HISTORY)
  if args[1] > used then
    used = args[1]
    redis.call('SETRANGE', keys[1], USED, used)
    redis.call('PEXPIRE', keys[1], args[4])
  end
  if between(value, HISTORY, SLIDING) ~= args[7] then
    redis.call('SETRANGE', keys[1], HISTORY, args[7])
  end
  if stored <= args[3] and stored < used then
    redis.call('SETRANGE', keys[1], STORED, used)
  end
  return string.sub(value, 1, USED) .. used .. string.sub(value, END + 1)
end

-- Returns the version of what is stored, but nothing where neither that nor PostgreSQL has a value: a deletion has a version, and
-- there is no row to compare it with.
local function unless_none(version, head)
  if version == string.rep('0', VERSION) and kind_of(head) ~= 'v' then
    return ''
  end
  return version_of(head)
end

-- KEYS: value key. ARGV: value, time to live in ms, lease or nothing.
-- Stores what was read from PostgreSQL under a lease, unless the lease is gone. A reader may have read v1, then v2 was
-- committed, written here, and evicted: nothing here shows any more that v1 is out of date, but the lease went with v2.
-- A record that is as new or older is replaced, as it was read earlier; of the two uses the later one is kept, with the
-- history under which it was counted. Returns the version that is stored if it is newer.
local function fill(keys, args)
  local head = redis.pcall('GETRANGE', keys[1], 0, SLIDING - 1)
  local value, version = args[1], string.sub(args[1], 1, VERSION)
  if type(head) == 'table' or head == '' then
    return ''
  end
  if kind_of(head) == LEASE then
    if head ~= args[3] then
      return ''
    end
    if version_of(head) > version then  -- `not found`, of a row whose deletion left only a mark: the next read answers
      redis.call('UNLINK', keys[1])
      return unless_none(version, head)
    end
  elseif version_of(head) > version then
    return unless_none(version, head)
  elseif version_of(head) == version and SLIDES[string.sub(head, VERSION + 1, VERSION + 3)] then
    local used = between(head, USED, END) > between(value, USED, END) and head or value
    local stored = between(head, STORED, HISTORY) > between(value, STORED, HISTORY) and head or value
    value = string.sub(value, 1, USED) .. between(used, USED, END) .. between(value, END, STORED)
      .. between(stored, STORED, HISTORY) .. between(used, HISTORY, SLIDING) .. string.sub(value, SLIDING + 1)
  end
  redis.call('SET', keys[1], value, 'PX', args[2])
  return ''
end

-- The offsets of the time at which a record was read, in hexadecimal milliseconds (see codec.py).
local READ, READ_END = 19, 31
local FIXED = {['01v'] = true, ['01d'] = true, ['11v'] = true, ['11d'] = true}

-- KEYS: value key. ARGV: time to live in ms, now in ms.
-- Keeps a record that does not slide until it is that old, if it would go earlier.
local function extend_ttl(keys, args)
  local head = redis.pcall('GETRANGE', keys[1], 0, READ_END - 1)
  if type(head) ~= 'string' or not FIXED[string.sub(head, VERSION + 1, READ)] then
    return 0
  end
  local read_at = tonumber(string.sub(head, READ + 1, READ_END), 16)
  local left = read_at and read_at + args[1] - args[2] or 0
  return left > 0 and redis.call('PEXPIRE', keys[1], left, 'GT') or 0
end

-- The field of a stream's entry that has the event.
local EVENT = 'e'

-- KEYS: stream. ARGV: the number of events that it may hold, and events.
-- Appends the events, and returns how many the stream holds then; -1, without appending any, if they would be too many.
local function append_events(keys, args)
  local there = redis.call('XLEN', keys[1])
  if there + #args - 1 > tonumber(args[1]) then
    return -1
  end
  for number = 2, #args do
    redis.call('XADD', keys[1], '*', EVENT, args[number])
  end
  return there + #args - 1
end

-- KEYS: stream. ARGV: consumer group, consumer, how many, '>' for new entries or '0' for those taken and not finished.
-- Takes entries, and returns their ids and events, by turns. Makes the group where it is missing, as after a failover.
local function take_events(keys, args)
  local function take()
    return redis.pcall('XREADGROUP', 'GROUP', args[1], args[2], 'COUNT', args[3], 'STREAMS', keys[1], args[4])
  end
  local reply = take()
  if type(reply) == 'table' and reply.err and string.find(reply.err, 'NOGROUP', 1, true) then
    redis.call('XGROUP', 'CREATE', keys[1], args[1], '0', 'MKSTREAM')
    reply = take()
  end
  if type(reply) ~= 'table' or reply.err then
    return reply or {}
  end
  local found = {}
  for _, entry in ipairs(reply[1] and reply[1][2] or {}) do
    found[#found + 1] = entry[1]
    found[#found + 1] = entry[2] and entry[2][2] or ''
  end
  return found
end

-- KEYS: stream. ARGV: consumer group, ids.
-- Removes entries that were taken.
local function finish_events(keys, args)
  redis.call('XACK', keys[1], args[1], unpack(args, 2))
  return redis.call('XDEL', keys[1], unpack(args, 2))
end

-- KEYS: stream.
-- Returns how many entries it has, and the id of the oldest, if there is one.
local function backlog_of_events(keys, _)
  local oldest = redis.call('XRANGE', keys[1], '-', '+', 'COUNT', 1)[1]
  return {redis.call('XLEN', keys[1]), oldest and oldest[1]}
end

-- KEYS: a key of its own. ARGV: a channel of its own.
-- Tries everything that the scripts above do, and returns the error messages of what was refused.
local function check(keys, args)
  local refused = {}
  local function try(...)
    local reply = redis.pcall(...)
    if type(reply) == 'table' and reply.err then
      refused[#refused + 1] = reply.err
    end
  end
  try('SET', keys[1], '0', 'PX', 1000)
  try('INCR', keys[1])
  try('GET', keys[1])
  try('GETRANGE', keys[1], 0, 0)
  try('SETRANGE', keys[1], 0, '0')
  try('PEXPIRE', keys[1], 1000)
  try('PTTL', keys[1])
  try('UNLINK', keys[1])
  try('XADD', keys[1], '1-1', EVENT, '')
  try('XLEN', keys[1])
  try('XRANGE', keys[1], '-', '+', 'COUNT', 1)
  try('XGROUP', 'CREATE', keys[1], 'check', '0', 'MKSTREAM')
  try('XREADGROUP', 'GROUP', 'check', 'check', 'COUNT', 1, 'STREAMS', keys[1], '>')
  try('XACK', keys[1], 'check', '1-1')
  try('XDEL', keys[1], '1-1')
  try('UNLINK', keys[1])
  try('SPUBLISH', args[1], '')
  return refused
end
