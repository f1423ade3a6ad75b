//! Listeners, and the loop of the native engine.

use crate::connection;
use crate::counters::bump;
use crate::descriptors::Held;
use crate::early::Early;
use crate::handover;
use crate::identity::{Client, Identity};
use crate::io::Gathering;
use crate::limits::{BACKLOG, HANDSHAKE_WITHIN, HEARTBEAT, OUT_OF_FILES, SPARE_CONNECTIONS, SWEEP};
use crate::peer::Peer;
use crate::state::{Server, Taken};
use crate::tls::Tls;
use socket2::{Domain, SockAddr, Socket, Type};
use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::{mpsc, watch};
use tokio::task::{AbortHandle, JoinHandle};

/// A bound socket, before the server starts.
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
    let listener: std::net::TcpListener = listen(socket, &address.into())?.into();
    let port = listener.local_addr()?.port();
    Ok((Listener::Tcp(listener, tls), port))
}

pub fn bind_unix(path: &Path) -> io::Result<Listener> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    Ok(Listener::Unix(listen(socket, &SockAddr::unix(path)?)?.into()))
}

fn listen(socket: Socket, address: &SockAddr) -> io::Result<Socket> {
    socket.bind(address)?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// Serves until `ended`; from `draining` on, no connection is accepted, and connections end with their calls.
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
                handover::refuse_all(refused);
                for pending in calls {
                    tokio::spawn(pending.run());
                }
            }
        }
    }
}

/// Periodically refuses calls that have waited too long, as long as calls are waiting.
async fn sweep(server: Arc<Server>) {
    loop {
        server.calls.begun.notified().await;
        while server.calls.waiting() > 0 {
            tokio::time::sleep(SWEEP).await;
            handover::refuse_all(server.calls.sweep(Instant::now()));
        }
    }
}

async fn accept_tcp(server: Arc<Server>, listener: TcpListener, tls: Option<Arc<Tls>>, mut draining: watch::Receiver<bool>) {
    let mut spare = Spare::default();
    loop {
        let accepted = tokio::select! {
            _ = draining.wait_for(|is_on| *is_on) => return,
            accepted = listener.accept() => accepted,
        };
        if let Some((stream, address)) = got(accepted).await {
            let _ = stream.set_nodelay(true);
            let (name, open) = (name(address), Open::new(server.clone()));
            let is_spare = open.is_spare();
            let task = match &tls {
                None => tokio::spawn(serve_tcp(open, stream, name, draining.clone())),
                Some(tls) => tokio::spawn(serve_tls(open, stream, tls.clone(), name, draining.clone())),
            };
            spare.add(task, is_spare);
        }
    }
}

async fn accept_unix(server: Arc<Server>, listener: UnixListener, mut draining: watch::Receiver<bool>) {
    let mut spare = Spare::default();
    loop {
        let accepted = tokio::select! {
            _ = draining.wait_for(|is_on| *is_on) => return,
            accepted = listener.accept() => accepted,
        };
        if let Some((stream, _)) = got(accepted).await {
            let open = Open::new(server.clone());
            let is_spare = open.is_spare();
            spare.add(tokio::spawn(serve_unix(open, stream, draining.clone())), is_spare);
        }
    }
}

/// Returns an accepted connection. Waits after an error: out of file descriptors or memory, retrying at once would spin.
async fn got<T>(accepted: io::Result<T>) -> Option<T> {
    if accepted.is_err() {
        tokio::time::sleep(OUT_OF_FILES).await;
    }
    accepted.ok()
}

/// The connections of a listener beyond the maximum, oldest first.
#[derive(Default)]
struct Spare(VecDeque<AbortHandle>);

impl Spare {
    /// Adds a connection's task if it is one of them, and ends the oldest if there are too many.
    fn add(&mut self, task: JoinHandle<()>, is_spare: bool) {
        if !is_spare {
            return;
        }
        self.0.retain(|other| !other.is_finished());
        if self.0.len() == SPARE_CONNECTIONS
            && let Some(oldest) = self.0.pop_front()
        {
            oldest.abort();
        }
        self.0.push_back(task.abort_handle());
    }
}

/// An address in C-core's format.
fn name(address: SocketAddr) -> String {
    match address {
        SocketAddr::V4(address) => format!("ipv4:{address}"),
        SocketAddr::V6(address) => format!("ipv6:%5B{}%5D:{}", address.ip(), address.port()),
    }
}

async fn serve_tcp(open: Open, stream: TcpStream, name: String, draining: watch::Receiver<bool>) {
    let peer = open.peer(name, Identity::none(), false);
    let stream = Gathering::of_client(stream, &peer);
    connection::serve(open.server.clone(), peer, stream, draining).await;
}

async fn serve_tls(open: Open, stream: TcpStream, tls: Arc<Tls>, name: String, mut draining: watch::Receiver<bool>) {
    let accepted = tokio::select! {
        _ = draining.wait_for(|is_on| *is_on) => return,
        accepted = tokio::time::timeout_at(open.ready_until, tls.accept(stream)) => accepted,
    };
    let Ok(Ok((stream, identity))) = accepted else { return bump(&open.server.counters.broken_connections) };
    let peer = open.peer(name, identity, false);
    let stream = Gathering::of_client(stream, &peer);
    connection::serve(open.server.clone(), peer, stream, draining).await;
}

async fn serve_unix(open: Open, stream: UnixStream, draining: watch::Receiver<bool>) {
    let name = stream.peer_cred().map_or("unix:".into(), |of| format!("unix:{}", of.pid().unwrap_or_default()));
    // The socket's mode and group control who may use it.
    let peer = open.peer(name, Identity::none(), true);
    let stream = Gathering::of_client(stream, &peer);
    connection::serve(open.server.clone(), peer, stream, draining).await;
}

/// Counts a connection as open until this is dropped. Made when it is accepted: a task that has not run yet counts, too.
struct Open {
    server: Arc<Server>,
    number: u64,
    /// None beyond the maximum.
    held: Option<Held>,
    ready_until: tokio::time::Instant,
}

impl Open {
    fn new(server: Arc<Server>) -> Self {
        // If there are too many, the one that has been idle for longest makes room; if none is idle, this one is spare.
        let descriptors = &server.descriptors;
        let held = descriptors.admit_client().or_else(|| server.room.end_idlest().then(|| descriptors.admit_instead()));
        if held.is_none() {
            bump(&server.counters.refused_connections);
        }
        bump(&server.counters.connections);
        let number = server.counters.accepted.fetch_add(1, Relaxed);
        Open { server, number, held, ready_until: tokio::time::Instant::now() + HANDSHAKE_WITHIN }
    }

    fn is_spare(&self) -> bool {
        self.held.is_none()
    }

    fn peer(&self, name: String, identity: Identity, is_exempt: bool) -> Peer {
        let client = Arc::new(Client { name, identity });
        self.server.clients.lock().insert(self.number, client.clone());
        let early = Early::new(self.number, self.server.calls.clone(), self.server.refusals.blocks.clone());
        let mut peer = Peer::new(self.number, client, is_exempt, self.ready_until, early, self.server.room.clone());
        peer.is_spare = self.is_spare();
        peer
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.server.clients.lock().remove(&self.number);
        self.server.counters.connections.fetch_sub(1, Relaxed);
        self.server.calls.ring(); // a drain waits for the last connection
    }
}
