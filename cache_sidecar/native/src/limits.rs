//! Every bound of the server, and why it is what it is.

use std::time::Duration;

/// Connections open at once; one more is closed at once. A connection costs 15 KiB when it is idle.
pub const MAX_CONNECTIONS: u64 = 20_000;
/// h2 has no bound by default. As in `server/engines/aio.py`.
pub const MAX_STREAMS: u32 = 2_000;
/// Names and values of a call's headers, and 32 bytes each; above, RESOURCE_EXHAUSTED. As in `server/engines/aio.py`.
pub const MAX_HEADERS: usize = 16 << 10;
/// Of so many, h2 says nothing that gRPC's clients understand, and lets go of what is above. One call of a connection at a
/// time makes us hold that, less than its window does. h2's default is 16 MiB.
pub const MAX_READ_HEADERS: u32 = 256 << 10;
/// The smallest there is: nobody needs larger ones, and other calls' frames get their turn.
pub const MAX_FRAME: u32 = 16 << 10;
/// Bytes that a client may send unasked, on a call and on a connection: what a connection can make us hold.
pub const STREAM_WINDOW: u32 = 64 << 10;
pub const CONNECTION_WINDOW: u32 = 1 << 20;
/// Bytes that h2 takes of a reply before it waits for the client.
pub const SEND_BUFFER: usize = 256 << 10;
/// Calls reset within a second; above, the connection ends (CVE-2023-44487, rapid reset). A client that gives up all its calls at
/// once, because they take too long, is not to be hit: one has `MAX_STREAMS` at most.
pub const MAX_RESETS: u32 = 2 * MAX_STREAMS;
/// Those of them that were reset before they were accepted: when a connection is read late, all that its client gave up.
pub const MAX_PENDING_RESETS: usize = MAX_STREAMS as usize;
/// Frames that a client may send in a second beside calls, windows and their bodies: PING, SETTINGS, PRIORITY, RST_STREAM,
/// unknown ones. More than all resets that are allowed, and less than 2 ms of work.
pub const MAX_CONTROL: u32 = 10_000;
/// Bytes read from a connection before others get their turn: the smallest frames that fit take less than a millisecond.
pub const TURN: usize = 64 << 10;
/// Bytes of a stream that grpc.aio may send while its reader takes none: a slow reader is to be noticed soon.
pub const PROXY_WINDOW: u32 = 16 << 10;
/// What h2 counts small frames against that wait for a slow reader: h2's default ends connections to grpc.aio on which
/// many streams of small messages stall. It is trusted, and the windows bound the memory.
pub const PROXY_FRAME_BUDGET: usize = 1 << 30;

/// Bytes of a request that are gathered here. A larger one goes to grpc.aio, which has a bound for all of them together.
pub const MAX_BODY: usize = STREAM_WINDOW as usize;
/// How long the rest of a request may take to come; then it waits for it in grpc.aio.
pub const BODY_WITHIN: Duration = Duration::from_millis(50);
/// Bytes of replies that a client lets wait; above, it gets RESOURCE_EXHAUSTED instead of another.
pub const MAX_UNREAD: usize = 8 << 20;
/// How long a reply waits for its reader to take more of it; then the call is reset.
pub const READ_WITHIN: Duration = Duration::from_secs(60);

/// Calls that wait for Python, and the bytes of their requests; above, RESOURCE_EXHAUSTED.
pub const MAX_WAITING: usize = 20_000;
pub const MAX_WAITING_BYTES: usize = 64 << 20;
/// Python is taken to be stuck when it has not come for this long; calls are then refused at once, until it comes. The largest
/// requests take seconds to parse on a busy machine.
pub const STUCK_AFTER: Duration = Duration::from_secs(10);
/// How long the engine's thread lets calls and answers gather while a line stands: woken by each of them it would take a quarter of
/// a core to refuse what a tenth can, and hits have 3 ms.
pub const GATHER: Duration = Duration::from_millis(1);
/// How long nothing is read from a connection of which calls were refused: a read and a write cost more than ten refusals, and a
/// refusal has 10 ms. So do hits on that connection, and on no other.
pub const REST: Duration = Duration::from_millis(4);
/// Bytes of refusals that a connection lets wait unread; above, its calls are refused by way of h2, which has bounds of its own.
pub const UNSENT_REFUSALS: usize = 256 << 10;
/// How often calls that wait are looked at, as long as there are any.
pub const SWEEP: Duration = Duration::from_millis(5);
/// How often Python is rung whether or not there is a call, so that it is known to be stuck before one has to wait.
pub const HEARTBEAT: Duration = Duration::from_millis(250);

/// From the connection's acceptance to its first SETTINGS.
pub const HANDSHAKE_WITHIN: Duration = Duration::from_secs(10);
/// std's 128 makes a burst of connections wait a second for their SYN to be sent again.
pub const BACKLOG: i32 = 4096;
/// How long nothing is accepted when the process has no file descriptor left.
pub const OUT_OF_FILES: Duration = Duration::from_millis(50);
/// Calls of one connection answered before others get their turn.
pub const MAX_AT_ONCE: usize = 256;
