//! gRPC statuses that are sent without Python.

/// Codes.
pub const DEADLINE_EXCEEDED: u32 = 4;
pub const RESOURCE_EXHAUSTED: u32 = 8;
pub const UNIMPLEMENTED: u32 = 12;
pub const INTERNAL: u32 = 13;
pub const UNAVAILABLE: u32 = 14;

/// The message while Python does not take calls.
pub const STUCK: &str = "the sidecar does not answer";

#[derive(Clone)]
pub struct Status {
    pub code: u32,
    pub message: String,
    /// The google.rpc.Status, encoded for `grpc-status-details-bin`.
    pub details: Vec<u8>,
}
