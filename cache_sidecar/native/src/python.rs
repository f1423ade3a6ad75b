//! The Python API; `_native.pyi` documents it.

use crate::calls::{self, Answer, Calls};
use crate::early::Judge;
use crate::entries::Entry;
use crate::handover;
use crate::hits::{Hits, Shape};
use crate::identity;
use crate::l1::{self, Rules};
use crate::lifetime;
use crate::limits::GATHER;
use crate::line::{PRIORITIES, Service};
use crate::metadata::{binary, is_visible};
use crate::piece::Piece;
use crate::reply::{self, Refusals, UNREAD};
use crate::reuse::{Alternatives, Configuration, Figures};
use crate::server::{self, Listener};
use crate::state::{self, Bounds, Server, Taken};
use crate::status::{RESOURCE_EXHAUSTED, Status};
use crate::tls;
use crate::trace;
use crate::wire::{self, FRAME};
use http::header::{HeaderMap, HeaderName, HeaderValue};
use parking_lot::Mutex;
use pyo3::exceptions::{PyOSError, PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyString};
use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, watch};

/// Reports panics of any thread to Python, to be logged; by default Rust writes them to standard error.
#[pyfunction]
pub fn on_panic(report: Py<PyAny>) {
    std::panic::set_hook(Box::new(move |panic| {
        // While the interpreter ends there is nothing left to report to.
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

    fn newest(&self, id: &str) -> i64 {
        self.0.newest(id)
    }

    fn retract(&self, id: &str, version: i64, newest: i64) {
        self.0.retract(id, version, newest);
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
        // Our clock is read first: time that passes between the two readings makes the end earlier, not later.
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

    fn follow_reuse(&self, l1: Vec<(f64, f64)>, l1_ttls: Vec<f64>, l2_ttls: Vec<f64>, present: usize, max_keys: usize) {
        self.0.follow_reuse(Alternatives { l1, l1_ttls, l2_ttls, present }, max_keys);
    }

    fn configure_reuse(&self, entries: f64, soft: f64, hard: f64, l2_ttl: f64, slides: bool) {
        self.0.configure_reuse(Configuration { entries, soft, hard, l2_ttl, slides });
    }

    fn note_read(&self, id: &str, now: f64) {
        self.0.note_read(id, now);
    }

    fn note_change(&self, id: &str, version: i64, now: f64) {
        self.0.note_change(id, version, now);
    }

    fn halve_reuse(&self) {
        self.0.halve_reuse();
    }

    fn reuse(&self) -> ReuseFigures {
        let (Figures { reads, hits, refreshes, outdated, loads }, (keys, rate, sampled)) = self.0.reuse();
        ReuseFigures { reads, hits, refreshes, outdated, loads, keys, rate, sampled }
    }

    fn stats(&self) -> MemoryStats {
        let l1::Stats { entries, bytes, fills, refused, evictions, hits } = self.0.stats();
        MemoryStats { entries, bytes, fills, refused, evictions, hits }
    }
}

#[pyclass(frozen, get_all)]
pub struct ReuseFigures {
    reads: f64,
    hits: Vec<f64>,
    refreshes: Vec<f64>,
    outdated: Vec<f64>,
    loads: Vec<f64>,
    keys: usize,
    rate: f64,
    sampled: u64,
}

#[pyclass(frozen, get_all)]
pub struct MemoryStats {
    entries: usize,
    bytes: usize,
    fills: u64,
    refused: u64,
    evictions: u64,
    hits: u64,
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
        let (initial, trailers) = (headers(initial)?, headers(trailers)?);
        if reply::has_no_room(&self.0.peer) {
            let message = Piece::empty();
            self.0.answer(Answer { code: RESOURCE_EXHAUSTED, details: UNREAD.to_string(), message, initial, trailers });
            return Ok(());
        }
        let mut framed = Vec::with_capacity(FRAME + message.len());
        framed.resize(FRAME, 0);
        framed.extend_from_slice(message);
        wire::close_frame(&mut framed, FRAME);
        let message = Piece::of_reply(framed.into(), &self.0.peer);
        self.0.answer(Answer { code: 0, details: String::new(), message, initial, trailers });
        Ok(())
    }

    fn fail(&self, code: u32, details: String, initial: Metadata, trailers: Metadata) -> PyResult<()> {
        let (initial, trailers) = (headers(initial)?, headers(trailers)?);
        self.0.answer(Answer { code, details, message: Piece::empty(), initial, trailers });
        Ok(())
    }

    fn metadata<'py>(&self, py: Python<'py>) -> Vec<(&str, Bound<'py, PyAny>)> {
        let read = |value: &[u8], is_binary: bool| match is_binary.then(|| binary(value)).flatten() {
            Some(bytes) => PyBytes::new(py, &bytes).into_any(),
            None => PyString::new(py, &latin1(value)).into_any(),
        };
        let pairs = self.0.metadata.iter().map(|(name, value)| (name.as_str(), value.as_bytes()));
        pairs.filter(|(name, _)| is_visible(name)).map(|(name, value)| (name, read(value, name.ends_with("-bin")))).collect()
    }

    /// The only value of a header; None without any, and with several.
    fn header(&self, name: &str) -> Option<String> {
        let mut values = self.0.metadata.get_all(name).iter();
        let (Some(value), None) = (values.next(), values.next()) else { return None };
        Some(latin1(value.as_bytes()))
    }

    fn client(&self) -> Client {
        Client(self.0.peer.client.clone())
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
pub struct NativeListener {
    server: Arc<Server>,
    listeners: Mutex<Vec<Listener>>,
    taken: Mutex<Option<mpsc::UnboundedReceiver<Taken>>>,
    running: Mutex<Option<Running>>,
}

/// A unary method: its path, the index of its service, and how hits are answered.
#[pyclass(frozen)]
pub struct Method {
    path: String,
    service: Option<usize>,
    hit_path: Option<Py<HitPath>>,
}

#[pymethods]
impl Method {
    #[new]
    #[pyo3(signature = (path, *, service, hit_path))]
    fn new(path: String, service: Option<usize>, hit_path: Option<Py<HitPath>>) -> Self {
        Method { path, service, hit_path }
    }
}

#[pyclass(frozen)]
pub struct HitPath {
    l1: Arc<l1::L1>,
    shape: Shape,
}

#[pymethods]
impl HitPath {
    #[new]
    #[pyo3(signature = (memory, *, ids, options, cache, item_caches, max_ids))]
    fn new(memory: &Memory, ids: u32, options: u32, cache: u32, item_caches: u32, max_ids: usize) -> Self {
        HitPath { l1: memory.0.clone(), shape: Shape { ids, options, cache, caches: item_caches, max_ids } }
    }
}

#[pyclass(frozen)]
pub struct ServiceLimits {
    priority: usize,
    own: usize,
    all: usize,
}

#[pymethods]
impl ServiceLimits {
    #[new]
    #[pyo3(signature = (*, priority, own, all))]
    fn new(priority: usize, own: usize, all: usize) -> PyResult<Self> {
        if priority >= PRIORITIES {
            return Err(PyValueError::new_err("no such priority"));
        }
        Ok(ServiceLimits { priority, own, all })
    }
}

#[pyclass(frozen)]
pub struct Refusal(Status);

#[pymethods]
impl Refusal {
    #[new]
    #[pyo3(signature = (*, code, message, details))]
    fn new(code: u32, message: String, details: Vec<u8>) -> Self {
        Refusal(Status { code, message, details })
    }
}

#[pyclass(frozen)]
pub struct Lifetimes(lifetime::Limits);

#[pymethods]
impl Lifetimes {
    #[new]
    #[pyo3(signature = (*, max_age, grace, max_idle, keepalive_time, keepalive_timeout))]
    fn new(max_age: f64, grace: f64, max_idle: f64, keepalive_time: f64, keepalive_timeout: f64) -> Self {
        let limit = |seconds| Some(Duration::from_secs_f64(seconds)).filter(|limit| !limit.is_zero());
        Lifetimes(lifetime::Limits {
            age: limit(max_age),
            idle: limit(max_idle),
            grace: Duration::from_secs_f64(grace),
            ping_every: Duration::from_secs_f64(keepalive_time),
            ping_within: Duration::from_secs_f64(keepalive_timeout),
        })
    }
}

/// A hit that is traced: the index of its method, `traceparent`, `tracestate`, and when it began and ended.
type TracedHit = (usize, String, String, u64, u64);

/// A call to begin: its id, the index of its method, and its message.
type Begun<'py> = (u64, usize, Bound<'py, PyBytes>, Bound<'py, Call>);

#[pymethods]
impl NativeListener {
    #[allow(clippy::too_many_arguments)] // Python names each of them
    #[new]
    #[pyo3(signature = (
        private, *, max_message, max_proxied, methods, one_message, services, overloaded, late, lifetimes, bounds
    ))]
    fn new(
        private: PathBuf,
        max_message: usize,
        max_proxied: usize,
        methods: Vec<Py<Method>>,
        one_message: HashSet<String>,
        services: Vec<Py<ServiceLimits>>,
        overloaded: Vec<Py<Refusal>>,
        late: &Refusal,
        lifetimes: &Lifetimes,
        bounds: Vec<f64>,
    ) -> PyResult<Self> {
        let of_service: Vec<_> = methods.iter().map(|method| method.get().service).collect();
        if of_service.iter().flatten().any(|of| *of >= services.len()) {
            return Err(PyValueError::new_err("no such service"));
        }
        let services = services.iter().map(|limits| {
            let ServiceLimits { priority, own, all } = *limits.get();
            Service::new(priority, own, all)
        });
        let calls = Calls::new(services.collect(), &of_service).map_err(os_error)?;
        let overloaded = overloaded.iter().map(|refusal| refusal.get().0.clone()).collect();
        let Some(refusals) = Refusals::new(overloaded, late.0.clone()) else {
            return Err(PyValueError::new_err("these refusals cannot be sent"));
        };
        let methods = methods.iter().map(Py::get).enumerate().map(|(number, method)| {
            let hits = method.hit_path.as_ref().map(Py::get);
            let hits = hits.map(|of| Arc::new(Hits::new(of.shape, of.l1.clone(), max_message, &bounds)));
            (method.path.clone(), Arc::new(state::Method { number, hits }))
        });
        let (sender, taken) = mpsc::unbounded_channel();
        let limits = Bounds { max_message, max_proxied, lifetimes: lifetimes.0 };
        let methods = methods.collect();
        let server = Server::new(methods, one_message, calls, refusals, sender, private, limits);
        let (server, taken) = (Arc::new(server), Mutex::new(Some(taken)));
        Ok(NativeListener { server, listeners: Mutex::default(), taken, running: Mutex::default() })
    }

    fn limit_descriptors(&self, max: u64, max_clients: u64) {
        self.server.descriptors.limit(max, max_clients);
    }

    fn set_tokens(&self, tokens: Vec<Vec<u8>>, all: Vec<Vec<u8>>) {
        self.server.access.set_tokens(tokens, all);
    }

    fn set_allowed(&self, names: Vec<String>, all: Vec<String>) {
        self.server.access.set_allowed(names, all);
    }

    fn set_revoked(&self, lists: Vec<Vec<u8>>) -> PyResult<()> {
        self.server.access.set_revoked(&lists).map_err(PyValueError::new_err)
    }

    #[pyo3(signature = (address, port, tls = None))]
    fn bind_tcp(&self, address: &str, port: u16, tls: Option<PyRef<'_, Tls>>) -> PyResult<u16> {
        let address: IpAddr = address.parse().map_err(|_| PyValueError::new_err("not an IP address"))?;
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
            return Err(PyRuntimeError::new_err("already started"));
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
                panic!("the native engine stopped: {error}"); // reported by `on_panic`
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

    fn take<'py>(&self, py: Python<'py>, limit: usize) -> PyResult<(Vec<Begun<'py>>, Vec<u64>)> {
        let (taken, refused) = self.server.calls.take(Instant::now(), limit);
        let mut pending = Vec::with_capacity(taken.calls.len());
        let calls = taken.calls.into_iter().map(|began| {
            let (id, method, message) = (began.id, began.method, PyBytes::new(py, &began.call.message));
            let (call, waits) = handover::begin(began);
            pending.push(waits);
            Ok((id, method, message, Bound::new(py, Call(call))?))
        });
        let calls = calls.collect::<PyResult<_>>();
        if !pending.is_empty() || !refused.is_empty() {
            let _ = self.server.taken.send((pending, refused)); // the engine has ended: there are no callers
        }
        Ok((calls?, taken.given_up))
    }

    fn take_refused(&self, method: usize) -> u64 {
        self.server.calls.take_refused(method)
    }

    fn trace_hits(&self, ratio: f64) {
        self.server.traces.start(ratio);
    }

    fn take_traced(&self) -> (Vec<TracedHit>, u64) {
        let (hits, lost) = self.server.traces.take();
        let each = |hit: trace::TracedHit| (hit.method, hit.parent.into(), hit.state.into(), hit.began, hit.ended);
        (hits.into_iter().map(each).collect(), lost)
    }

    /// By the number of the method, and the kind of refusal.
    fn all_refused(&self) -> Vec<[u64; crate::calls::REFUSALS]> {
        self.server.calls.all_refused()
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
        let (owed, at_hand) = self.server.room.held();
        let now = [("waiting", self.server.calls.waiting()), ("owed_bytes", owed), ("at_hand_bytes", at_hand)];
        self.server.counters.read().into_iter().chain(now.map(|(name, value)| (name, value as u64))).collect()
    }

    /// By path of the hit path.
    fn hits(&self) -> HashMap<&str, (Vec<u64>, f64)> {
        let hits = self.server.methods.iter().filter_map(|(path, method)| Some((path.as_str(), method.hits.as_ref()?)));
        hits.map(|(path, hits)| (path, hits.durations.read())).collect()
    }
}

fn os_error(error: std::io::Error) -> PyErr {
    PyOSError::new_err(error.to_string())
}
