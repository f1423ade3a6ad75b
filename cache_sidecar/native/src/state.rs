//! What the server, its connections and its calls share. The types refer to each other, so they are in one module; those that act
//! on them (`server`, `connection`, `handover`, `proxy`) import it, and none of them imports `server`.

use crate::access::Access;
use crate::calls::{Answer, Calls, Refused};
use crate::counters::Counters;
use crate::descriptors::Descriptors;
use crate::early::Rests;
use crate::hits::Hits;
use crate::identity::Client;
use crate::lifetime;
use crate::limits::MAX_DECOMPRESSED;
use crate::peer::Peer;
use crate::piece::Piece;
use crate::reply::Refusals;
use crate::room::{Held, Room};
use crate::trace::Traces;
use crate::upstream::Upstream;
use bytes::Bytes;
use h2::server::SendResponse;
use http::HeaderMap;
use parking_lot::Mutex;
use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Instant, SystemTime, UNIX_EPOCH};
use tokio::sync::{Semaphore, mpsc, oneshot};

/// A unary method that Python hosts.
pub struct Method {
    /// Its index.
    pub number: usize,
    pub hits: Option<Arc<Hits>>,
}

/// Bounds that settings determine.
pub struct Bounds {
    pub max_message: usize,
    /// Maximum number of calls at grpc.aio.
    pub max_proxied: usize,
    /// The limits on each connection.
    pub lifetimes: lifetime::Limits,
}

/// Calls taken by Python, and those refused meanwhile.
pub type Taken = (Vec<RunningCall>, Refused<WaitingCall>);

/// The server, shared by all connections.
pub struct Server {
    pub methods: HashMap<String, Arc<Method>>,
    /// Paths of streams whose request is one message.
    pub one_message: HashSet<String>,
    pub calls: Arc<Calls<WaitingCall>>,
    pub refusals: Refusals,
    /// Connections that are not read from at present.
    pub rests: Rests,
    /// Calls taken by Python, on their way to the runtime.
    pub taken: mpsc::UnboundedSender<Taken>,
    pub counters: Counters,
    pub traces: Traces,
    /// The socket of the private grpc.aio server.
    pub private: PathBuf,
    pub access: Access,
    /// By connection number.
    pub clients: Mutex<HashMap<u64, Arc<Client>>>,
    /// Maximum size of a request's message, in bytes.
    pub max_message: usize,
    /// The limits on each connection.
    pub lifetimes: lifetime::Limits,
    pub descriptors: Arc<Descriptors>,
    pub room: Arc<Room>,
    /// One permit for each call that may be at grpc.aio.
    pub proxied: Semaphore,
    /// One permit for each KiB that requests may take when grpc.aio has decompressed them.
    pub decompressed: Semaphore,
    /// The bits of a time in seconds since the epoch, set by tests; 0 for the machine's clock.
    time: AtomicU64,
}

impl Server {
    pub fn new(
        methods: HashMap<String, Arc<Method>>,
        one_message: HashSet<String>,
        calls: Calls<WaitingCall>,
        refusals: Refusals,
        taken: mpsc::UnboundedSender<Taken>,
        private: PathBuf,
        bounds: Bounds,
    ) -> Self {
        let Bounds { max_message, max_proxied, lifetimes } = bounds;
        Server {
            methods,
            one_message,
            calls: Arc::new(calls),
            refusals,
            rests: Rests::default(),
            taken,
            counters: Counters::default(),
            traces: Traces::default(),
            private,
            access: Access::default(),
            clients: Mutex::default(),
            max_message,
            lifetimes,
            descriptors: Arc::default(),
            room: Arc::new(Room::new(max_message, max_proxied)),
            proxied: Semaphore::new(max_proxied),
            decompressed: Semaphore::new(MAX_DECOMPRESSED.max(max_message) >> 10),
            time: AtomicU64::new(0),
        }
    }

    pub fn set_time(&self, now: f64) {
        self.time.store(now.to_bits(), Relaxed);
        self.access.changed(); // certificates may have expired
    }

    /// Seconds since the epoch.
    pub fn now(&self) -> f64 {
        match self.time.load(Relaxed) {
            0 => SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64()),
            set => f64::from_bits(set),
        }
    }
}

/// A client's connection.
pub struct Connection {
    pub server: Arc<Server>,
    pub upstream: Upstream,
    pub peer: Arc<Peer>,
    /// Calls begun so far.
    pub begun: AtomicU64,
}

/// A call that waits for Python.
pub struct WaitingCall {
    /// The number of its method.
    pub method: usize,
    pub message: Bytes,
    pub metadata: HeaderMap,
    pub deadline: Option<Instant>,
    pub connection: Arc<Connection>,
    pub respond: SendResponse<Piece>,
    pub held: Held,
}

/// A call that Python has.
pub struct RunningCall {
    pub id: u64,
    pub deadline: Option<Instant>,
    pub answer: oneshot::Receiver<Answer>,
    pub respond: SendResponse<Piece>,
    pub connection: Arc<Connection>,
    pub given_up: Arc<AtomicBool>,
    pub is_left: Arc<AtomicBool>,
    /// Counts it as at hand until it is answered.
    pub held: Held,
}
