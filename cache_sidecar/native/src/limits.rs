//! All bounds of the server, with their reasons.

use std::time::Duration;

/// Connections of a listener beyond the maximum (`descriptors.rs`): probes must be answered even when all are taken. Only
/// health checks are; the newest connection replaces the oldest, so that clients that reconnect don't keep probes out.
pub const SPARE_CONNECTIONS: usize = 32;
/// Maximum number of streams of a connection; h2 has no default. As in `server/engines/aio.py`.
pub const MAX_STREAMS: u32 = 2_000;
/// Maximum bytes of a call's headers, plus 32 for each; above it RESOURCE_EXHAUSTED. As in `server/engines/aio.py`.
pub const MAX_HEADERS: usize = 16 << 10;
/// Above this h2 drops headers, and answers in a way that gRPC clients don't understand. Only one call of a connection at a time
/// can make us buffer so much, which is less than the connection's window. h2's default is 16 MiB.
pub const MAX_READ_HEADERS: u32 = 256 << 10;
/// The minimum of HTTP/2: larger frames have no use here, and would delay those of other calls.
pub const MAX_FRAME: u32 = 16 << 10;
/// Flow control windows of a call and a connection, in bytes: the most that a connection can make us buffer.
pub const STREAM_WINDOW: u32 = 64 << 10;
pub const CONNECTION_WINDOW: u32 = 1 << 20;
/// Bytes of a reply that h2 buffers before it waits for the client.
pub const SEND_BUFFER: usize = 256 << 10;
/// Maximum number of resets within a second; above it the connection is closed (CVE-2023-44487, rapid reset). A client that
/// cancels all its calls at once, because they take too long, must not be affected: it has at most `MAX_STREAMS`.
pub const MAX_RESETS: u32 = 2 * MAX_STREAMS;
/// The same for calls reset before they were accepted: when a connection is read late, all that its client cancelled.
pub const MAX_PENDING_RESETS: usize = MAX_STREAMS as usize;
/// Maximum number of control frames per second: PING, SETTINGS, PRIORITY, RST_STREAM, and unknown ones. More than all resets
/// allowed, and less than 2 ms of work.
pub const MAX_CONTROL: u32 = 10_000;
/// Maximum number of small DATA frames per second, besides `SMALL_OF_CALL` for each call: each costs as much as one of 16 KiB. gRPC
/// clients send a message in as large frames as they may.
pub const MAX_SMALL: u32 = 1_000;
pub const SMALL_OF_CALL: u32 = 4;
/// Bytes of a DATA frame that is not small.
pub const SMALL_FRAME: usize = 256;
/// How long a connection that is ended has for reading why.
pub const GOODBYE: Duration = Duration::from_millis(500);
/// Bytes unread by a client that will not read why its connection ends.
pub const UNREAD_GOODBYE: usize = 16 << 10;
/// Bytes read from a connection before others get their turn: the smallest frames in it take less than a millisecond.
pub const TURN: usize = 64 << 10;
/// Bytes of a stream that grpc.aio may send ahead of its reader: small, so that slow readers are noticed soon.
pub const PROXY_WINDOW: u32 = 16 << 10;
/// h2's budget for small frames that wait for a slow reader: with the default, h2 ends connections to grpc.aio on which many
/// streams of small messages stall. grpc.aio is trusted, and the windows bound the memory.
pub const PROXY_FRAME_BUDGET: usize = 1 << 30;

/// How long a request may take to arrive, from its headers on; after that DEADLINE_EXCEEDED. As in `server/engines/requests.py`.
pub const BODY_WITHIN: Duration = Duration::from_secs(10);
/// How long to wait for the end of a request whose message is complete; grpc.aio does without.
pub const END_WITHIN: Duration = Duration::from_millis(50);
/// How long h2 remembers a stream that we have reset, to ignore what its client still sends; `room.rs` counts it until then.
pub const REMEMBERED: Duration = Duration::from_secs(1);
/// About what h2 and we have for each of its streams, in bytes, apart from headers and messages.
pub const STREAM_BYTES: usize = 2 << 10;
/// The same for the task of a call that is not complete.
pub const TASK_BYTES: usize = 2 << 10;
/// Maximum bytes of incomplete requests and unread replies over all connections, see `room.rs`. A sidecar without clients takes 100
/// MiB, and the injector's `memory-limit` leaves it as much for these.
pub const MAX_OWED: usize = 24 << 20;
/// The same for complete calls that wait for Python or grpc.aio; above it RESOURCE_EXHAUSTED.
pub const MAX_AT_HAND: usize = 24 << 20;
/// Maximum bytes that compressed requests may take when decompressed by grpc.aio, at any moment; further ones wait.
pub const MAX_DECOMPRESSED: usize = 16 << 20;
/// Maximum bytes of a compressed request that the engine's thread decompresses itself, before and after; larger ones are left to
/// grpc.aio. At worst, 8 KiB of empty blocks, that takes 0.3 ms.
pub const MAX_PACKED: usize = 8 << 10;
pub const MAX_UNPACKED: usize = 32 << 10;
/// How long a turn may take in which requests are decompressed; the rest of them are left to grpc.aio.
pub const UNPACK_WITHIN: Duration = Duration::from_millis(2);
/// The most that `deflate` and `gzip` can save: so many bytes for one.
pub const MAX_RATIO: usize = 1032;
/// Maximum bytes of unread replies of a client; above it, calls get RESOURCE_EXHAUSTED.
pub const MAX_UNREAD: usize = 8 << 20;
/// How long a reply waits for its reader to make room; then the call is reset.
pub const READ_WITHIN: Duration = Duration::from_secs(60);

/// Maximum number of calls waiting for Python, and bytes of their requests; above it RESOURCE_EXHAUSTED.
pub const MAX_WAITING: usize = 20_000;
pub const MAX_WAITING_BYTES: usize = MAX_AT_HAND;
/// Python counts as stuck when it has not taken calls for this long; calls are then refused at once, until it does. The largest
/// requests take seconds to parse on a busy machine.
pub const STUCK_AFTER: Duration = Duration::from_secs(10);
/// How long the engine's thread collects calls and answers while calls are being refused: woken by each of them, it would take a
/// quarter of a core to refuse what a tenth can, and hits have 3 ms.
pub const GATHER: Duration = Duration::from_millis(1);
/// How long reading from a connection pauses after calls were refused: a read and a write cost more than ten refusals, and a
/// refusal has 10 ms. Hits on the same connection are delayed, too; those on others are not.
pub const REST: Duration = Duration::from_millis(4);
/// Maximum bytes of unread refusals of a connection; above it, its calls are refused through h2, which has its own bounds.
pub const UNSENT_REFUSALS: usize = 256 << 10;
/// How often waiting calls are checked, as long as there are any.
pub const SWEEP: Duration = Duration::from_millis(5);
/// How often Python is woken even without a call, so that a stuck Python is known before a call has to wait.
pub const HEARTBEAT: Duration = Duration::from_millis(250);

/// Maximum time from accepting a connection to its first SETTINGS.
pub const HANDSHAKE_WITHIN: Duration = Duration::from_secs(10);
/// With std's 128, a burst of connections waits a second for retransmitted SYNs.
pub const BACKLOG: i32 = 4096;
/// How long accepting pauses when the process has no file descriptor left.
pub const OUT_OF_FILES: Duration = Duration::from_millis(50);
/// Maximum number of calls of one connection answered before others get their turn.
pub const MAX_AT_ONCE: usize = 256;
