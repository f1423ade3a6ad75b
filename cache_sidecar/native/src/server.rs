//! Listeners, and what all connections share.

use crate::access::Access;
use crate::calls::{Calls, Refused};
use crate::connection::{self, Asked, Pending};
use crate::counters::{Counters, bump};
use crate::early::{Early, Rests};
use crate::hits::Hits;
use crate::identity::{Client, Identity};
use crate::io::Gathering;
use crate::lifetime;
use crate::limits::{BACKLOG, HANDSHAKE_WITHIN, HEARTBEAT, MAX_CONNECTIONS, OUT_OF_FILES, SWEEP};
use crate::peer::Peer;
use crate::reply::Refusals;
use crate::tls::Tls;
use parking_lot::Mutex;
use socket2::{Domain, SockAddr, Socket, Type};
use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Instant, SystemTime, UNIX_EPOCH};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::{mpsc, watch};

/// A unary method that Python hosts.
pub struct Method {
    /// Its place among them.
    pub number: usize,
    pub hits: Option<Arc<Hits>>,
}

/// Calls that Python took, and those that were refused meanwhile.
pub type Taken = (Vec<Pending>, Refused<Asked>);

pub struct Server {
    pub methods: HashMap<String, Arc<Method>>,
    pub calls: Arc<Calls<Asked>>,
    pub refusals: Refusals,
    /// Connections that are not read from for a while.
    pub rests: Rests,
    /// What Python took, on its way to the runtime.
    pub taken: mpsc::UnboundedSender<Taken>,
    pub counters: Counters,
    /// The socket of grpc.aio.
    pub private: PathBuf,
    pub access: Access,
    /// By the numbers of their connections.
    pub clients: Mutex<HashMap<u64, Arc<Client>>>,
    /// Bytes that a request's message may have.
    pub max_message: usize,
    /// Of each connection.
    pub lifetimes: lifetime::Limits,
    /// The time that a test set, in seconds since the epoch, as bits; 0 for the machine's.
    time: AtomicU64,
}

impl Server {
    pub fn new(
        methods: HashMap<String, Arc<Method>>,
        calls: Calls<Asked>,
        refusals: Refusals,
        taken: mpsc::UnboundedSender<Taken>,
        private: PathBuf,
        max_message: usize,
        lifetimes: lifetime::Limits,
    ) -> Self {
        Server {
            methods,
            calls: Arc::new(calls),
            refusals,
            rests: Rests::default(),
            taken,
            counters: Counters::default(),
            private,
            access: Access::default(),
            clients: Mutex::default(),
            max_message,
            lifetimes,
            time: AtomicU64::new(0),
        }
    }

    pub fn set_time(&self, now: f64) {
        self.time.store(now.to_bits(), Relaxed);
    }

    /// Seconds since the epoch.
    pub fn now(&self) -> f64 {
        match self.time.load(Relaxed) {
            0 => SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64()),
            set => f64::from_bits(set),
        }
    }
}

/// A socket that listens, until the server starts.
pub enum Listener {
    Tcp(std::net::TcpListener, Option<Arc<Tls>>),
    Unix(std::os::unix::net::UnixListener),
}

pub fn bind_tcp(address: SocketAddr, tls: Option<Arc<Tls>>) -> io::Result<(Listener, u16)> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(!address.ip().is_unspecified())?;
    }
    let listener: std::net::TcpListener = listening(socket, &address.into())?.into();
    let port = listener.local_addr()?.port();
    Ok((Listener::Tcp(listener, tls), port))
}

pub fn bind_unix(path: &Path) -> io::Result<Listener> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    Ok(Listener::Unix(listening(socket, &SockAddr::unix(path)?)?.into()))
}

fn listening(socket: Socket, address: &SockAddr) -> io::Result<Socket> {
    socket.bind(address)?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// Serves until `ended`; from `draining` on, nothing new is accepted, and connections end with their calls.
pub async fn run(
    server: Arc<Server>,
    listeners: Vec<Listener>,
    mut taken: mpsc::UnboundedReceiver<Taken>,
    draining: watch::Receiver<bool>,
    mut ended: watch::Receiver<bool>,
) -> io::Result<()> {
    for listener in listeners {
        let (server, draining) = (server.clone(), draining.clone());
        match listener {
            Listener::Tcp(listener, tls) => {
                drop(tokio::spawn(accept_tcp(server, TcpListener::from_std(listener)?, tls, draining)));
            }
            Listener::Unix(listener) => drop(tokio::spawn(accept_unix(server, UnixListener::from_std(listener)?, draining))),
        }
    }
    let mut beat = tokio::time::interval(HEARTBEAT);
    beat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    tokio::spawn(sweep(server.clone()));
    let resting = server.clone();
    tokio::spawn(async move { resting.rests.run().await });
    loop {
        tokio::select! {
            _ = ended.wait_for(|is_on| *is_on) => return Ok(()),
            _ = beat.tick() => server.calls.ring(),
            Some((calls, refused)) = taken.recv() => {
                connection::refuse_all(refused);
                for pending in calls {
                    tokio::spawn(pending.run());
                }
            }
        }
    }
}

/// Refuses calls that wait in vain, as long as calls wait.
async fn sweep(server: Arc<Server>) {
    loop {
        server.calls.begun.notified().await;
        while server.calls.waiting() > 0 {
            tokio::time::sleep(SWEEP).await;
            connection::refuse_all(server.calls.sweep(Instant::now()));
        }
    }
}

async fn accept_tcp(server: Arc<Server>, listener: TcpListener, tls: Option<Arc<Tls>>, mut draining: watch::Receiver<bool>) {
    loop {
        let accepted = tokio::select! {
            _ = draining.wait_for(|is_on| *is_on) => return,
            accepted = listener.accept() => accepted,
        };
        if let Some((stream, address)) = admitted(&server, accepted).await {
            let _ = stream.set_nodelay(true);
            let name = name(address);
            match &tls {
                None => drop(tokio::spawn(serve_tcp(server.clone(), stream, name, draining.clone()))),
                Some(tls) => drop(tokio::spawn(serve_tls(server.clone(), stream, tls.clone(), name, draining.clone()))),
            }
        }
    }
}

async fn accept_unix(server: Arc<Server>, listener: UnixListener, mut draining: watch::Receiver<bool>) {
    loop {
        let accepted = tokio::select! {
            _ = draining.wait_for(|is_on| *is_on) => return,
            accepted = listener.accept() => accepted,
        };
        if let Some((stream, _)) = admitted(&server, accepted).await {
            tokio::spawn(serve_unix(server.clone(), stream, draining.clone()));
        }
    }
}

/// Returns what was accepted, unless there are too many connections.
async fn admitted<T>(server: &Server, accepted: io::Result<T>) -> Option<T> {
    match accepted {
        Ok(_) if server.counters.connections.load(Relaxed) >= MAX_CONNECTIONS => {
            bump(&server.counters.refused_connections);
            None
        }
        Ok(stream) => Some(stream),
        Err(_) => {
            // Of the process's file descriptors, or of the machine's memory: trying again at once would spin.
            tokio::time::sleep(OUT_OF_FILES).await;
            None
        }
    }
}

/// An address as C-core writes it.
fn name(address: SocketAddr) -> String {
    match address {
        SocketAddr::V4(address) => format!("ipv4:{address}"),
        SocketAddr::V6(address) => format!("ipv6:%5B{}%5D:{}", address.ip(), address.port()),
    }
}

async fn serve_tcp(server: Arc<Server>, stream: TcpStream, name: String, draining: watch::Receiver<bool>) {
    let open = Open::new(server);
    let peer = open.peer(name, Identity::none());
    let (early, is_resting) = (peer.early.clone(), peer.is_resting.clone());
    connection::serve(open.server.clone(), peer, Gathering::of_client(stream, early, is_resting), draining).await;
}

async fn serve_tls(server: Arc<Server>, stream: TcpStream, tls: Arc<Tls>, name: String, mut draining: watch::Receiver<bool>) {
    let open = Open::new(server);
    let accepted = tokio::select! {
        _ = draining.wait_for(|is_on| *is_on) => return,
        accepted = tokio::time::timeout_at(open.ready_until, tls.accept(stream)) => accepted,
    };
    let Ok(Ok((stream, identity))) = accepted else { return bump(&open.server.counters.broken_connections) };
    let peer = open.peer(name, identity);
    let (early, is_resting) = (peer.early.clone(), peer.is_resting.clone());
    connection::serve(open.server.clone(), peer, Gathering::of_client(stream, early, is_resting), draining).await;
}

async fn serve_unix(server: Arc<Server>, stream: UnixStream, draining: watch::Receiver<bool>) {
    let open = Open::new(server);
    let name = stream.peer_cred().map_or("unix:".into(), |of| format!("unix:{}", of.pid().unwrap_or_default()));
    // Who may use the socket is said by its mode and group.
    let mut peer = open.peer(name, Identity::none());
    peer.is_allowed = true;
    let (early, is_resting) = (peer.early.clone(), peer.is_resting.clone());
    connection::serve(open.server.clone(), peer, Gathering::of_client(stream, early, is_resting), draining).await;
}

/// Counts a connection as open.
struct Open {
    server: Arc<Server>,
    number: u64,
    ready_until: tokio::time::Instant,
}

impl Open {
    fn new(server: Arc<Server>) -> Self {
        server.counters.connections.fetch_add(1, Relaxed);
        let number = server.counters.accepted.fetch_add(1, Relaxed);
        Open { server, number, ready_until: tokio::time::Instant::now() + HANDSHAKE_WITHIN }
    }

    fn peer(&self, name: String, identity: Identity) -> Peer {
        let client = Arc::new(Client { name, identity });
        self.server.clients.lock().insert(self.number, client.clone());
        let is_allowed = self.server.access.is_allowed(&client.identity);
        let early = Early::new(self.number, self.server.calls.clone(), self.server.refusals.blocks.clone());
        Peer::new(self.number, client, is_allowed, self.ready_until, early)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.server.clients.lock().remove(&self.number);
        self.server.counters.connections.fetch_sub(1, Relaxed);
        self.server.calls.ring(); // whoever drains waits for the last one
    }
}
