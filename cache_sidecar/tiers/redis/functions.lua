-- What the sidecars do in Redis in one step. Loaded as a library whose name ends in a hash of this text, so that sidecars
-- of different versions don't replace each other's.
--
-- A stored value starts with its version, 16 hexadecimal digits, and at offset 18 its kind (see codec.py). Keys, channel
-- and counter of a call carry the same hash tag, so they live in one slot: publishing inside a function needs that.

local VERSION = 16

local function version_of(value)
  local version = string.sub(value, 1, VERSION)
  if #version == VERSION and not string.find(version, '[^0-9a-f]') then
    return version
  end
  return ''  -- nothing, or something foreign: anything is newer
end

local function stored_version(key)
  local head = redis.pcall('GETRANGE', key, 0, VERSION - 1)  -- an error when it is not even a string
  return type(head) == 'string' and version_of(head) or ''
end

local function publish(counter, channel, version, subject)
  local sequence = redis.call('INCR', counter)
  redis.call('SPUBLISH', channel, sequence .. ' ' .. version .. ' ' .. subject)
end

-- What a value is, at offset 18, behind its layout: only these are told apart here.
local KIND, INVALIDATED, LEASE, FOREIGN = 18, 'i', 'l', 'f'

local function kind_of(value)
  return version_of(value) ~= '' and string.sub(value, KIND + 1, KIND + 1) or ''
end

-- Returns a lease, and with it that it took the place of something foreign.
local function foreign(lease)
  return string.sub(lease, 1, KIND) .. FOREIGN .. string.sub(lease, KIND + 2)
end

-- Returns what a key holds, after putting a lease where there is nothing, something foreign, or the mark that it is out of
-- date, whose version the lease keeps. Returns false for a key that is on another node by now; of a lease in the place of
-- something foreign, the kind FOREIGN says so.
local function look(key, lease, ttl)
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
-- Returns what each of them holds, and leases where there was nothing: see `look`.
local function read(keys, args)
  local found = {}
  for number, key in ipairs(keys) do
    found[number] = look(key, args[1], args[2])
  end
  for number = 3, #args do
    found[#keys + number - 2] = look(args[number], args[1], args[2])
  end
  return found
end

-- ARGV: counters of any slots on this node.
-- Returns what each of them says: one command, four times a second and sidecar, instead of a hundred.
local function counts(_, args)
  local found = {}
  for number, counter in ipairs(args) do
    found[number] = redis.call('GET', counter) or '0'
  end
  return found
end

-- KEYS: value key. ARGV: lease.
-- Gives a lease back, if it is still there.
local function release(keys, args)
  if redis.pcall('GET', keys[1]) ~= args[1] then
    return 0
  end
  return redis.call('UNLINK', keys[1])
end

-- KEYS: value key, counter. ARGV: value, time to live in ms, channel, subject.
-- Stores what was committed, unless it is there already, and tells every sidecar in any case: it may be there because
-- somebody read it from PostgreSQL and filled it in, and a fill tells nobody.
local function change(keys, args)
  local version = string.sub(args[1], 1, VERSION)
  local is_news = stored_version(keys[1]) < version
  if is_news then
    redis.call('SET', keys[1], args[1], 'PX', args[2])
  end
  publish(keys[2], args[3], version, args[4])
  return is_news and 1 or 0
end

-- KEYS: counter, value keys. ARGV: channel, subject, time to live in ms, a mark for each value key.
-- Marks what is older as out of date, and tells every sidecar once, with the newest of the versions.
local function mark(keys, args)
  local newest = ''
  for i = 2, #keys do
    local value = args[i + 2]
    local version = string.sub(value, 1, VERSION)
    if stored_version(keys[i]) < version then
      redis.call('SET', keys[i], value, 'PX', args[3])
    end
    if newest < version then
      newest = version
    end
  end
  publish(keys[1], args[1], newest, args[2])
  return 1
end

-- KEYS: value key, counter. ARGV: channel, subject.
-- Removes a value and tells every sidecar to.
local function drop(keys, args)
  redis.call('UNLINK', keys[1])
  publish(keys[2], args[1], string.rep('0', VERSION), args[2])
  return 1
end

-- KEYS: counter. ARGV: channel, subject.
-- Tells every sidecar to drop a partition of a dataset.
local function drop_partition(keys, args)
  publish(keys[1], args[1], string.rep('0', VERSION), args[2])
  return 1
end

-- Where a record of the layout 03 keeps its times (see codec.py): its last use, its end, the use PostgreSQL knows of, and the
-- history of the node that counted the last use.
local USED, END, STORED, HISTORY, SLIDING = 39, 51, 63, 75, 83

local function between(value, first, behind)
  return string.sub(value, first + 1, behind)
end

-- How long after its last use a record is over only the caller knows: what was used at `over`, or before, is.
local function is_over(value, over, now)
  return string.sub(value, USED + 1, END) <= over or string.sub(value, END + 1, STORED) <= now
end

-- KEYS: value key. ARGV: now, over, overdue, time to live in ms, lease, its time to live in ms, the history of this node.
-- Returns the value, after noting its use if it is not over; or the lease that stands in its place from now on, as `look` does.
-- A stored use that is overdue is brought up to date here, and returned as it was: who sees it has to tell PostgreSQL.
local function slide(keys, args)
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
  if #value < SLIDING or string.sub(value, VERSION + 1, VERSION + 3) ~= '03v' then
    return value
  end
  if is_over(value, args[2], args[1]) then
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

-- KEYS: value key. ARGV: value, time to live in ms, lease or nothing.
-- Stores what was read from PostgreSQL since the lease was given, unless anything happened to the key: then what was read may
-- be out of date, even if what told so is gone by now. Where a record is held, what is newer or as new replaces it, as it was
-- read later; and the later use counts, with the history that it was counted under.
local function fill(keys, args)
  local head = redis.pcall('GETRANGE', keys[1], 0, SLIDING - 1)
  local value, version = args[1], string.sub(args[1], 1, VERSION)
  if type(head) == 'table' or head == '' then
    return 0
  end
  if kind_of(head) == LEASE then
    if head ~= args[3] then
      return 0
    end
    if version_of(head) > version then  -- `there is none` of a row whose deletion left only the mark: the next read says it
      redis.call('UNLINK', keys[1])
      return 0
    end
  elseif version_of(head) > version then
    return 0
  elseif version_of(head) == version and string.sub(head, VERSION + 1, VERSION + 3) == '03v' then
    local used = between(head, USED, END) > between(value, USED, END) and head or value
    local stored = between(head, STORED, HISTORY) > between(value, STORED, HISTORY) and head or value
    value = string.sub(value, 1, USED) .. between(used, USED, END) .. between(value, END, STORED)
      .. between(stored, STORED, HISTORY) .. between(used, HISTORY, SLIDING) .. string.sub(value, SLIDING + 1)
  end
  redis.call('SET', keys[1], value, 'PX', args[2])
  return 1
end

-- Where a record says when it was read, in hexadecimal milliseconds (see codec.py).
local READ, READ_END = 19, 31
local PROLONGED = {['01v'] = true, ['01d'] = true}

-- KEYS: value key. ARGV: time to live in ms, now in ms.
-- Keeps a record whose expiry no read puts off until so long after it was read, if it would go earlier.
local function prolong(keys, args)
  local head = redis.pcall('GETRANGE', keys[1], 0, READ_END - 1)
  if type(head) ~= 'string' or not PROLONGED[string.sub(head, VERSION + 1, READ)] then
    return 0
  end
  local read_at = tonumber(string.sub(head, READ + 1, READ_END), 16)
  local left = read_at and read_at + args[1] - args[2] or 0
  return left > 0 and redis.call('PEXPIRE', keys[1], left, 'GT') or 0
end

-- KEYS: a key of its own. ARGV: a channel of its own.
-- Tries everything that the functions above do, and returns what was refused, in the server's own words.
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
  try('UNLINK', keys[1])
  try('SPUBLISH', args[1], '')
  return refused
end

-- Reads at one go what one node holds, of many slots: a call per slot costs three times as much. The keys it does not declare
-- are on the same node as the one it does; where that is no longer so, the caller hears it.
redis.register_function{function_name='LIBRARY_read', callback=read, flags={'allow-cross-slot-keys'}}
redis.register_function{function_name='LIBRARY_counts', callback=counts, flags={'no-writes', 'allow-cross-slot-keys'}}
redis.register_function{function_name='LIBRARY_release', callback=release, flags={'allow-oom'}}
redis.register_function('LIBRARY_fill', fill)
redis.register_function('LIBRARY_change', change)
-- Told also by a Redis that is full: what follows frees memory, or takes as little as a bare version does.
redis.register_function{function_name='LIBRARY_change_full', callback=change, flags={'allow-oom'}}
redis.register_function{function_name='LIBRARY_mark', callback=mark, flags={'allow-oom'}}
redis.register_function{function_name='LIBRARY_drop', callback=drop, flags={'allow-oom'}}
redis.register_function{function_name='LIBRARY_drop_partition', callback=drop_partition, flags={'allow-oom'}}
redis.register_function('LIBRARY_slide', slide)
redis.register_function('LIBRARY_prolong', prolong)
redis.register_function('LIBRARY_check', check)
