//! The connection to the private grpc.aio server.

use crate::descriptors::Descriptors;
use crate::io::Gathering;
use crate::limits::{CONNECTION_WINDOW, MAX_STREAMS, PROXY_FRAME_BUDGET, PROXY_WINDOW, SEND_BUFFER};
use crate::piece::Piece;
use h2::client::{self, SendRequest};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Mutex;

const CONNECT_WITHIN: Duration = Duration::from_secs(5);

/// Connects when first needed, and reconnects when the connection is lost.
#[derive(Default)]
pub struct Upstream {
    open: Mutex<Option<SendRequest<Piece>>>,
}

/// Why there is no connection.
pub enum Failure {
    /// The server is gone.
    Gone,
    /// There are too few file descriptors.
    Full,
}

impl Upstream {
    pub async fn ready(&self, path: &Path, descriptors: &Arc<Descriptors>) -> Result<SendRequest<Piece>, Failure> {
        loop {
            let open = self.open.lock().await.clone();
            let (requests, is_new) = match open {
                Some(requests) => (requests, false),
                None => (self.connect(path, descriptors).await?, true),
            };
            match requests.ready().await {
                Ok(requests) => return Ok(requests),
                Err(_) if is_new => return Err(Failure::Gone),
                Err(_) => *self.open.lock().await = None,
            }
        }
    }

    async fn connect(&self, path: &Path, descriptors: &Arc<Descriptors>) -> Result<SendRequest<Piece>, Failure> {
        let mut open = self.open.lock().await;
        // Another call of the connection may have been first: a second one would cost two more descriptors.
        if let Some(requests) = &*open {
            return Ok(requests.clone());
        }
        let held = descriptors.admit_upstream().ok_or(Failure::Full)?;
        let socket = tokio::time::timeout(CONNECT_WITHIN, tokio::net::UnixStream::connect(path)).await;
        let socket = socket.map_err(|_| Failure::Gone)?.map_err(|_| Failure::Gone)?;
        let (requests, connection) = client::Builder::new()
            .initial_window_size(PROXY_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_send_buffer_size(SEND_BUFFER)
            .data_frame_budget(PROXY_FRAME_BUDGET)
            .max_header_list_size(u32::MAX)
            .initial_max_send_streams(MAX_STREAMS as usize)
            .max_concurrent_reset_streams(MAX_STREAMS as usize)
            .enable_push(false)
            .handshake(Gathering::new(socket))
            .await
            .map_err(|_| Failure::Gone)?;
        tokio::spawn(async move {
            let _ = connection.await;
            drop(held);
        });
        *open = Some(requests.clone());
        Ok(requests)
    }
}
