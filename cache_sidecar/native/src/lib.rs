//! The native engine of the cache sidecar: a server and an L1. `../README.md` describes the path of a call.

#![cfg_attr(not(feature = "python"), allow(dead_code))] // much of it is only used by the Python API

pub mod access;
pub mod authority;
mod body;
mod calls;
mod connection;
mod counters;
mod descriptors;
mod durations;
mod early;
pub mod entries;
mod handover;
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
mod piece;
mod proxy;
#[cfg(feature = "python")]
mod python;
mod reply;
pub mod reuse;
mod room;
mod server;
mod sketch;
mod state;
mod status;
mod tls;
mod tokens;
pub mod trace;
pub mod unpack;
mod upstream;
pub mod wire;

#[cfg(feature = "python")]
#[pyo3::pymodule]
mod _native {
    #[pymodule_export]
    use crate::python::{
        Call, Client, HitPath, Lifetimes, Memory, MemoryStats, Method, NativeListener, Refusal, ReuseFigures, ServiceLimits,
        Tls, on_panic,
    };
}
