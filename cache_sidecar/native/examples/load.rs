//! A load generator for unary gRPC calls that takes far less of its core than the server it measures; see `tests/bench/fast_load.py`.
//!
//! `load ADDRESS PATH PAYLOADS CONNECTIONS IN_FLIGHT SECONDS RATE SAMPLE_EVERY [NAME VALUE]...`: the payloads are a file of framed
//! gRPC messages, each under 16 KiB; with a rate over 0 that many calls begin each second, and latency counts from when a call was
//! due; names and values are metadata of each call. Prints JSON. A call counts as served when its trailers say status 0 and exactly one whole message came.

#[path = "load/client.rs"]
mod client;

use _native::wire;
use client::{Client, Payloads, Tally};
use std::cell::RefCell;
use std::error::Error;
use std::fmt::Write;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::Notify;
use tokio::task::{JoinSet, LocalSet};
use tokio::time::timeout;

/// A server that says nothing for so long with calls in flight has failed.
const STALL: Duration = Duration::from_secs(20);

/// Calls that are due within this time of each other, on one connection, may be sent together: a wake-up for each would take most
/// of the core. Latency counts from when each was due.
const TOGETHER: Duration = Duration::from_millis(2);

/// When calls begin.
#[derive(Clone, Copy)]
struct Pace {
    in_flight: usize,
    /// Between two calls of a connection; None for whenever one has ended.
    every: Option<Duration>,
    seconds: f64,
}

async fn run(arguments: &[String]) -> Result<String, Box<dyn Error>> {
    let [address, path, payloads, connections, in_flight, seconds, rate, sample_every, metadata @ ..] = arguments else {
        return Err("eight arguments are needed, see the source".into());
    };
    let (metadata, []) = metadata.as_chunks() else { return Err("a name of metadata has no value".into()) };
    let metadata: Vec<_> = metadata.iter().map(|[name, value]| (name.as_str(), value.as_str())).collect();
    let (connections, rate): (u32, f64) = (connections.parse()?, rate.parse()?);
    let every = (rate > 0.0).then(|| Duration::from_secs_f64(f64::from(connections) / rate));
    let pace = Pace { in_flight: in_flight.parse()?, every, seconds: seconds.parse()? };
    let payloads = Rc::new(Payloads::new(frames(&std::fs::read(payloads)?)?));
    let tally = Rc::new(RefCell::new(Tally::new(sample_every.parse()?)));
    let authority = if address.starts_with("unix:") { "localhost" } else { address };
    let mut tasks = JoinSet::new();
    let start = Instant::now();
    let shared = every.filter(|every| *every < TOGETHER).map(|_| tick_for_all(start + Duration::from_secs_f64(pace.seconds)));
    for _ in 0..connections {
        let client = Client::new(path, authority, &metadata, payloads.clone(), tally.clone());
        match address.strip_prefix("unix:") {
            Some(path) => drop(tasks.spawn_local(drive(client, UnixStream::connect(path).await?, pace, shared.clone()))),
            None => {
                let stream = TcpStream::connect(address).await?;
                stream.set_nodelay(true)?;
                tasks.spawn_local(drive(client, stream, pace, shared.clone()));
            }
        }
    }
    while let Some(ended) = tasks.join_next().await {
        ended??;
    }
    let seconds = start.elapsed().as_secs_f64();
    Ok(report(&mut tally.borrow_mut(), seconds))
}

/// Makes the calls of one connection; `shared` says when to look for calls that are due, where all have the same ticks.
async fn drive<S: AsyncRead + AsyncWrite + Unpin>(
    mut client: Client,
    mut stream: S,
    pace: Pace,
    shared: Option<Arc<Notify>>,
) -> Result<(), String> {
    let mut buffer = vec![0; 1 << 17];
    let start = Instant::now();
    let end = start + Duration::from_secs_f64(pace.seconds);
    let mut due = start;
    let ticks = match (shared, pace.every) {
        (Some(shared), _) => shared,
        (None, Some(every)) => tick(every, start, end),
        (None, None) => Arc::new(Notify::new()),
    };
    loop {
        let now = Instant::now();
        while now < end && pace.every.map_or(client.active() < pace.in_flight, |_| due <= now && due < end) {
            client.call(pace.every.map_or(now, |_| due));
            due += pace.every.unwrap_or_default();
        }
        if !client.unsent.is_empty() {
            stream.write_all(&client.unsent).await.map_err(|error| error.to_string())?;
            client.unsent.clear();
        }
        let is_over = now >= end || pace.every.is_some() && due >= end;
        if client.is_closed || is_over && client.active() == 0 {
            return Ok(());
        }
        let read = tokio::select! {
            read = timeout(STALL, stream.read(&mut buffer)) => read,
            () = ticks.notified(), if !is_over => continue,
        };
        match read.map_err(|_| format!("the server sent nothing for {} s", STALL.as_secs()))? {
            Ok(count) if count > 0 => client.feed(&buffer[..count])?,
            _ => client.lost("connection closed by the server"),
        }
    }
}

/// Says each time that a call is due. A thread does, as tokio's timers are a millisecond late, which is more than a hit takes.
fn tick(every: Duration, start: Instant, end: Instant) -> Arc<Notify> {
    let ticks = Arc::new(Notify::new());
    let told = ticks.clone();
    std::thread::spawn(move || {
        let mut due = start;
        while due < end {
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            told.notify_one();
            due += every;
        }
    });
    ticks
}

/// Wakes all connections until the end. One that is not waiting at that moment looks for what is due before it waits.
fn tick_for_all(end: Instant) -> Arc<Notify> {
    let ticks = Arc::new(Notify::new());
    let told = ticks.clone();
    std::thread::spawn(move || {
        while Instant::now() < end {
            std::thread::sleep(TOGETHER);
            told.notify_waiters();
        }
        // Whoever waits for a last call that was due.
        std::thread::sleep(TOGETHER);
        told.notify_waiters();
    });
    ticks
}

/// Splits a file into its framed messages.
fn frames(mut rest: &[u8]) -> Result<Vec<Vec<u8>>, Box<dyn Error>> {
    let mut frames = Vec::new();
    while let Some(length) = wire::announced(rest) {
        let (frame, behind) = rest.split_at_checked(wire::FRAME + length).ok_or("the payloads are cut short")?;
        frames.push(frame.to_vec());
        rest = behind;
    }
    if frames.is_empty() { Err("there are no payloads".into()) } else { Ok(frames) }
}

fn report(tally: &mut Tally, seconds: f64) -> String {
    tally.latencies.sort_unstable();
    tally.refusals.sort_unstable();
    let errors: Vec<_> = tally.errors.iter().map(|(reason, count)| format!("{reason:?}: {count}")).collect();
    let samples = tally.samples.iter().map(|(index, message)| {
        let hex = message.iter().fold(String::new(), |mut hex, byte| {
            let _ = write!(hex, "{byte:02x}");
            hex
        });
        format!("[{index}, \"{hex}\"]")
    });
    let samples: Vec<_> = samples.collect();
    format!(
        "{{\"seconds\": {seconds}, \"reply_bytes\": {}, \"errors\": {{{}}}, \"samples\": [{}], \"latencies\": {:?}, \"refusals\": {:?}}}",
        tally.bytes,
        errors.join(", "),
        samples.join(", "),
        tally.latencies,
        tally.refusals
    )
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    println!("{}", LocalSet::new().block_on(&runtime, run(&arguments))?);
    Ok(())
}
