-- What the sidecars do in Redis in one step. Loaded as a library whose name ends in a hash of this text, so that sidecars
-- of different versions don't replace each other's.
--
-- A stored value starts with its version, 16 hexadecimal digits, and at offset 18 its kind (see codec.py). Keys, channel
-- and counter of a call carry the same hash tag, so they live in one slot: publishing inside a function needs that.

local VERSION = 16

local function stored_version(key)
  local version = redis.call('GETRANGE', key, 0, VERSION - 1)
  if #version == VERSION and not string.find(version, '[^0-9a-f]') then
    return version
  end
  return ''  -- nothing, or something foreign: anything is newer
end

local function publish(counter, channel, version, subject)
  local sequence = redis.call('INCR', counter)
  redis.call('SPUBLISH', channel, sequence .. ' ' .. version .. ' ' .. subject)
end

-- KEYS: value key. ARGV: value, time to live in ms.
-- Stores what was read from PostgreSQL, unless something newer is there. The same version is stored again: it was read later.
local function fill(keys, args)
  if stored_version(keys[1]) > string.sub(args[1], 1, VERSION) then
    return 0
  end
  redis.call('SET', keys[1], args[1], 'PX', args[2])
  return 1
end

-- KEYS: value key, counter. ARGV: value, time to live in ms, channel, subject.
-- Stores what was committed and tells every sidecar, unless that was done already.
local function change(keys, args)
  local version = string.sub(args[1], 1, VERSION)
  if stored_version(keys[1]) >= version then
    return 0
  end
  redis.call('SET', keys[1], args[1], 'PX', args[2])
  publish(keys[2], args[3], version, args[4])
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

redis.register_function('LIBRARY_fill', fill)
redis.register_function('LIBRARY_change', change)
redis.register_function('LIBRARY_drop', drop)
redis.register_function('LIBRARY_drop_partition', drop_partition)
