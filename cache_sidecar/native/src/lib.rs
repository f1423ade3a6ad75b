//! The native engine of the cache sidecar: its server, and an L1. `README.md` beside this shows a call's way through it.

#![cfg_attr(not(feature = "python"), allow(dead_code))] // much of it is used by Python only

pub mod access;
pub mod authority;
mod calls;
mod connection;
mod counters;
mod early;
pub mod entries;
pub mod hits;
pub mod huffman;
pub mod identity;
mod io;
pub mod l1;
mod lifetime;
pub mod limits;
pub mod line;
pub mod metadata;
pub mod overload;
pub mod pace;
mod peer;
mod proxy;
#[cfg(feature = "python")]
mod python;
mod reply;
mod server;
mod sketch;
mod tls;
pub mod wire;

#[cfg(feature = "python")]
#[pyo3::pymodule]
mod _native {
    #[pymodule_export]
    use crate::python::{Call, Client, Front, Memory, Tls, on_panic};
}
