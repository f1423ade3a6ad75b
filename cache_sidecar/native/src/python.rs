//! What Python sees: `_native.pyi` says what it means.

use crate::calls::{self, Answer, Calls};
use crate::connection;
use crate::early::Judge;
use crate::entries::Entry;
use crate::hits::{Hits, Shape};
use crate::identity;
use crate::l1::{self, Rules};
use crate::lifetime;
use crate::limits::GATHER;
use crate::line::{PRIORITIES, Service};
use crate::metadata::is_visible;
use crate::reply::{Refusals, Status};
use crate::server::{self, Listener, Method, Server, Taken};
use crate::tls;
use crate::wire::{self, FRAME};
use http::header::{HeaderMap, HeaderName, HeaderValue};
use parking_lot::Mutex;
use pyo3::exceptions::{PyOSError, PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict};
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, watch};

/// Has Python told of panics, of any thread: what Rust writes of them by itself is no line of the log.
#[pyfunction]
pub fn on_panic(report: Py<PyAny>) {
    std::panic::set_hook(Box::new(move |panic| {
        // Nobody is left to be told while the interpreter ends.
        Python::try_attach(|py| {
            if let Err(error) = report.call1(py, (panic.to_string(),)) {
                error.write_unraisable(py, None);
            }
        });
    }));
}

#[pyclass(frozen)]
pub struct Memory(Arc<l1::L1>);

type Held<'py> = (i64, f64, Option<Bound<'py, PyBytes>>, f64, u8, usize);

#[pymethods]
impl Memory {
    #[new]
    fn new(max_bytes: usize, max_entries: usize, max_tombstones: usize) -> Self {
        Memory(Arc::new(l1::L1::new(max_bytes, max_entries, max_tombstones)))
    }

    fn get<'py>(&self, py: Python<'py>, id: &str) -> Option<Held<'py>> {
        self.0.get(id, |entry| {
            let value = entry.value().map(|value| PyBytes::new(py, value));
            (entry.version, entry.read_at, value, entry.timer, entry.partition, entry.cost())
        })
    }

    fn generation(&self, id: &str) -> u64 {
        self.0.generation(id)
    }

    fn put(&self, id: &str, version: i64, read_at: f64, value: Option<&[u8]>, generation: u64, timer: f64) -> bool {
        self.0.put(id, Entry::new(id, value, version, read_at, timer), generation)
    }

    fn drop(&self, id: &str, version: i64) {
        self.0.invalidate(id, version);
    }

    fn drop_partition(&self, partition: u8) {
        self.0.drop_partition(partition);
    }

    fn clear(&self) {
        self.0.clear();
    }

    fn set_trusted(&self, partition: u8, trusted: bool, now: f64) {
        self.0.set_trusted(partition, trusted, now);
    }

    fn resize(&self, max_bytes: usize, max_entries: usize) {
        self.0.resize(max_bytes, max_entries);
    }

    fn set_behind(&self, partition: u8, behind: bool) {
        self.0.set_behind(partition, behind);
    }

    fn set_trusted_until(&self, moment: f64, clock: &Bound<'_, PyAny>) -> PyResult<()> {
        // Ours first: whatever passes between the two readings makes the end come earlier, not later.
        let now = Instant::now();
        let left = (moment - clock.call0()?.extract::<f64>()?).max(0.0);
        self.0.set_trusted_until(Duration::try_from_secs_f64(left).ok().and_then(|left| now.checked_add(left)));
        Ok(())
    }

    fn set_rules(&self, soft: f64, hard: f64, stale_limit: f64, sample_every: u64) {
        self.0.set_rules(Rules { soft, hard, stale_limit, sample_every });
    }

    fn take_samples(&self) -> Vec<(String, i64)> {
        self.0.take_samples().into_iter().map(|(id, version)| (id.into(), version)).collect()
    }

    fn take_wanted(&self) -> Vec<String> {
        self.0.take_wanted().into_iter().map(String::from).collect()
    }

    /// (entries, bytes, fills, refused, evictions, hits)
    fn stats(&self) -> (usize, usize, u64, u64, u64, u64) {
        let stats = self.0.stats();
        (stats.entries, stats.bytes, stats.fills, stats.refused, stats.evictions, stats.hits)
    }
}

#[pyclass(frozen)]
pub struct Client(Arc<identity::Client>);

#[pymethods]
impl Client {
    fn peer(&self) -> &str {
        &self.0.name
    }

    fn auth_context<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let found = PyDict::new(py);
        for (name, values) in self.0.identity.properties() {
            found.set_item(name, as_bytes(py, values))?;
        }
        Ok(found)
    }

    fn peer_identity_key(&self) -> Option<&str> {
        self.0.identity.key()
    }

    fn peer_identities<'py>(&self, py: Python<'py>) -> Option<Vec<Bound<'py, PyBytes>>> {
        let key = self.0.identity.key()?;
        let (_, values) = self.0.identity.properties().iter().find(|(name, _)| *name == key)?;
        Some(as_bytes(py, values))
    }
}

fn as_bytes<'py>(py: Python<'py>, values: &[Vec<u8>]) -> Vec<Bound<'py, PyBytes>> {
    values.iter().map(|value| PyBytes::new(py, value)).collect()
}

#[pyclass(frozen)]
pub struct Tls(Arc<tls::Tls>);

#[pymethods]
impl Tls {
    #[new]
    fn new(cert: &[u8], key: &[u8], client_ca: &[u8]) -> PyResult<Self> {
        tls::Tls::new(cert, key, client_ca).map(|tls| Tls(Arc::new(tls))).map_err(PyValueError::new_err)
    }

    fn replace(&self, cert: &[u8], key: &[u8], client_ca: &[u8]) -> PyResult<()> {
        self.0.replace(cert, key, client_ca).map_err(PyValueError::new_err)
    }
}

#[pyclass(frozen)]
pub struct Call(calls::Call);

type Metadata = Vec<(String, Vec<u8>)>;

#[pymethods]
impl Call {
    fn reply(&self, message: &[u8], initial: Metadata, trailers: Metadata) -> PyResult<()> {
        let mut framed = Vec::with_capacity(FRAME + message.len());
        framed.resize(FRAME, 0);
        framed.extend_from_slice(message);
        wire::close_frame(&mut framed, FRAME);
        let (initial, trailers) = (headers(initial)?, headers(trailers)?);
        self.0.answer(Answer { code: 0, details: String::new(), message: framed.into(), initial, trailers });
        Ok(())
    }

    fn fail(&self, code: u32, details: String, initial: Metadata, trailers: Metadata) -> PyResult<()> {
        let (initial, trailers) = (headers(initial)?, headers(trailers)?);
        self.0.answer(Answer { code, details, message: Default::default(), initial, trailers });
        Ok(())
    }

    fn metadata(&self) -> Vec<(String, String)> {
        let pairs = self.0.metadata.iter().filter(|(name, _)| is_visible(name.as_str()));
        pairs.map(|(name, value)| (name.to_string(), latin1(value.as_bytes()))).collect()
    }

    fn client(&self) -> Client {
        Client(self.0.client.clone())
    }

    fn time_remaining(&self) -> Option<f64> {
        self.0.deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()).as_secs_f64())
    }

    fn is_given_up(&self) -> bool {
        self.0.is_given_up()
    }
}

fn latin1(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| char::from(*byte)).collect()
}

fn headers(pairs: Metadata) -> PyResult<HeaderMap> {
    let mut headers = HeaderMap::with_capacity(pairs.len() + 3);
    for (name, value) in pairs {
        let name = HeaderName::try_from(name).map_err(|error| PyValueError::new_err(error.to_string()))?;
        let value = HeaderValue::try_from(value).map_err(|error| PyValueError::new_err(error.to_string()))?;
        headers.append(name, value);
    }
    Ok(headers)
}

struct Running {
    draining: watch::Sender<bool>,
    ended: watch::Sender<bool>,
    thread: std::thread::JoinHandle<()>,
}

#[pyclass(frozen)]
pub struct Front {
    server: Arc<Server>,
    listeners: Mutex<Vec<Listener>>,
    taken: Mutex<Option<mpsc::UnboundedReceiver<Taken>>>,
    running: Mutex<Option<Running>>,
}

/// A method: its path, and for the hit path its L1 and the numbers of the fields `ids`, `options`, `cache`, `caches`
/// followed by how many ids it takes; and the number of its service.
type Described<'py> = (String, Option<(PyRef<'py, Memory>, u32, u32, u32, u32, usize)>, Option<usize>);
/// `max_connection_age`, `max_connection_age_grace`, `max_connection_idle`, `keepalive_time`, `keepalive_timeout`; seconds.
type Lifetimes = (f64, f64, f64, f64, f64);
/// A service's priority, its calls in progress at once, and those of all services at which it gets no more.
type Bounds = (usize, usize, usize);
type Begun<'py> = (Vec<(u64, usize, Bound<'py, PyBytes>, Bound<'py, Call>)>, Vec<u64>);

#[pymethods]
impl Front {
    #[new]
    fn new(
        private: PathBuf,
        max_message: usize,
        methods: Vec<Described<'_>>,
        services: Vec<Bounds>,
        refusals: (Vec<Status>, Status),
        lifetimes: Lifetimes,
    ) -> PyResult<Self> {
        let of_service: Vec<_> = methods.iter().map(|(_, _, service)| *service).collect();
        if services.iter().any(|bounds| bounds.0 >= PRIORITIES) || of_service.iter().flatten().any(|of| *of >= services.len()) {
            return Err(PyValueError::new_err("no such priority, or no such service"));
        }
        let services = services.into_iter().map(|(priority, most, of_all)| Service::new(priority, most, of_all));
        let calls = Calls::new(services.collect(), &of_service).map_err(os_error)?;
        let Some(refusals) = Refusals::new(refusals.0, refusals.1) else {
            return Err(PyValueError::new_err("these refusals cannot be sent"));
        };
        let methods = methods.into_iter().enumerate().map(|(number, (path, hits, _))| {
            let hits = hits.map(|(l1, ids, options, cache, caches, max_ids)| {
                Arc::new(Hits::new(Shape { ids, options, cache, caches, max_ids }, l1.0.clone(), max_message))
            });
            (path, Arc::new(Method { number, hits }))
        });
        let (sender, taken) = mpsc::unbounded_channel();
        let methods = methods.collect();
        let server = Server::new(methods, calls, refusals, sender, private, max_message, limits(lifetimes));
        let (server, taken) = (Arc::new(server), Mutex::new(Some(taken)));
        Ok(Front { server, listeners: Mutex::default(), taken, running: Mutex::default() })
    }

    fn set_tokens(&self, tokens: Vec<Vec<u8>>) {
        self.server.access.set_tokens(tokens);
    }

    fn set_allowed(&self, names: Vec<String>) {
        self.server.access.set_allowed(names);
    }

    #[pyo3(signature = (address, port, tls = None))]
    fn bind_tcp(&self, address: &str, port: u16, tls: Option<PyRef<'_, Tls>>) -> PyResult<u16> {
        let address: IpAddr = address.parse().map_err(|_| PyValueError::new_err("no IP address"))?;
        let (listener, port) =
            server::bind_tcp(SocketAddr::new(address, port), tls.map(|tls| tls.0.clone())).map_err(os_error)?;
        self.listeners.lock().push(listener);
        Ok(port)
    }

    fn bind_unix(&self, path: PathBuf) -> PyResult<()> {
        self.listeners.lock().push(server::bind_unix(&path).map_err(os_error)?);
        Ok(())
    }

    fn start(&self) -> PyResult<()> {
        let mut running = self.running.lock();
        let taken = self.taken.lock().take();
        let Some(taken) = taken else {
            return Err(PyRuntimeError::new_err("it was started already"));
        };
        let calls = self.server.calls.clone();
        let gather = move || {
            if calls.is_refusing() {
                std::thread::sleep(GATHER);
            }
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().on_thread_park(gather).build();
        let runtime = runtime.map_err(os_error)?;
        let (draining, is_draining) = watch::channel(false);
        let (ended, is_ended) = watch::channel(false);
        let listeners = std::mem::take(&mut *self.listeners.lock());
        let run = server::run(self.server.clone(), listeners, taken, is_draining, is_ended);
        let serve = move || {
            if let Err(error) = runtime.block_on(run) {
                panic!("the native engine stopped: {error}"); // as `on_panic` tells it
            }
        };
        let thread = std::thread::Builder::new().name("native engine".into()).spawn(serve).map_err(os_error)?;
        *running = Some(Running { draining, ended, thread });
        Ok(())
    }

    fn drain(&self) {
        self.listeners.lock().clear();
        if let Some(running) = &*self.running.lock() {
            running.draining.send_replace(true);
        }
    }

    fn close(&self, py: Python<'_>) {
        self.drain();
        let running = self.running.lock().take();
        if let Some(Running { ended, thread, .. }) = running {
            ended.send_replace(true);
            py.detach(|| drop(thread.join()));
        }
    }

    fn fileno(&self) -> i32 {
        self.server.calls.fileno()
    }

    fn take<'py>(&self, py: Python<'py>, limit: usize) -> PyResult<Begun<'py>> {
        let (taken, refused) = self.server.calls.take(Instant::now(), limit);
        let mut pending = Vec::with_capacity(taken.calls.len());
        let calls = taken.calls.into_iter().map(|began| {
            let (id, method, message) = (began.id, began.method, PyBytes::new(py, &began.call.message));
            let (call, waits) = connection::begin(began);
            pending.push(waits);
            Ok((id, method, message, Bound::new(py, Call(call))?))
        });
        let calls = calls.collect::<PyResult<_>>();
        if !pending.is_empty() || !refused.is_empty() {
            let _ = self.server.taken.send((pending, refused)); // an engine that has ended has no callers
        }
        Ok((calls?, taken.given_up))
    }

    /// Per path: calls that wait, that are in progress, and that may be.
    fn calls(&self) -> HashMap<&str, (usize, usize, usize)> {
        let methods = self.server.methods.iter();
        methods.map(|(path, method)| (path.as_str(), self.server.calls.of_method(method.number))).collect()
    }

    fn connections(&self) -> u64 {
        self.server.counters.connections.load(Relaxed)
    }

    fn client(&self, connection: u64) -> Option<Client> {
        self.server.clients.lock().get(&connection).cloned().map(Client)
    }

    fn set_time(&self, now: f64) {
        self.server.set_time(now);
    }

    fn counters(&self) -> HashMap<&'static str, u64> {
        let waiting = ("waiting", self.server.calls.waiting() as u64);
        self.server.counters.read().into_iter().chain([waiting]).collect()
    }

    /// Per path of the hit path: calls answered, the buckets of their latencies, and their sum in seconds.
    fn hits<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let found = PyDict::new(py);
        for (path, method) in &self.server.methods {
            if let Some(hits) = &method.hits {
                let (buckets, seconds) = hits.latency.read();
                found.set_item(path, (hits.served.load(Relaxed), buckets, seconds))?;
            }
        }
        Ok(found)
    }
}

fn limits((age, grace, idle, ping_every, ping_within): Lifetimes) -> lifetime::Limits {
    let limit = |seconds| Some(Duration::from_secs_f64(seconds)).filter(|limit| !limit.is_zero());
    let [grace, ping_every, ping_within] = [grace, ping_every, ping_within].map(Duration::from_secs_f64);
    lifetime::Limits { age: limit(age), idle: limit(idle), grace, ping_every, ping_within }
}

fn os_error(error: std::io::Error) -> PyErr {
    PyOSError::new_err(error.to_string())
}
