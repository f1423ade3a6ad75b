//! TLS on the TCP listener. Python reads the files, also when they change.

use crate::identity::Identity;
use parking_lot::RwLock;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{HandshakeKind, RootCertStore, ServerConfig};
use std::io;
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

const HTTP2: &[u8] = b"h2";

/// Takes effect with the next handshake; existing connections are kept.
pub struct Tls(RwLock<Arc<ServerConfig>>);

impl Tls {
    /// The arguments are PEM: a certificate with its intermediates, its key, and the authorities of client certificates; if these are
    /// empty, clients need none. Err has a message.
    pub fn new(cert: &[u8], key: &[u8], client_ca: &[u8]) -> Result<Self, String> {
        Ok(Tls(RwLock::new(Arc::new(config(cert, key, client_ca)?))))
    }

    pub fn replace(&self, cert: &[u8], key: &[u8], client_ca: &[u8]) -> Result<(), String> {
        // The session cache is replaced, too: no session that began under another authority is resumed.
        *self.0.write() = Arc::new(config(cert, key, client_ca)?);
        Ok(())
    }

    /// Performs the handshake, and returns the client's identity.
    pub async fn accept<S: AsyncRead + AsyncWrite + Unpin>(&self, stream: S) -> io::Result<(TlsStream<S>, Identity)> {
        let config = self.0.read().clone();
        let stream = TlsAcceptor::from(config).accept(stream).await?;
        let (_, session) = stream.get_ref();
        if session.alpn_protocol() != Some(HTTP2) {
            return Err(io::ErrorKind::InvalidData.into()); // as C-core does; rustls would accept clients without ALPN
        }
        let is_resumed = session.handshake_kind() == Some(HandshakeKind::Resumed);
        let chain: Vec<&[u8]> = session.peer_certificates().unwrap_or_default().iter().map(AsRef::as_ref).collect();
        let identity = Identity::of_tls(&chain, is_resumed);
        Ok((stream, identity))
    }
}

fn config(cert: &[u8], key: &[u8], client_ca: &[u8]) -> Result<ServerConfig, String> {
    let provider = Arc::new(ring::default_provider());
    let key = PrivateKeyDer::from_pem_slice(key).map_err(|error| format!("the key: {error}"))?;
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    let builder = if client_ca.is_empty() {
        builder.with_no_client_auth()
    } else {
        let mut roots = RootCertStore::empty();
        for root in certificates(client_ca)? {
            roots.add(root).map_err(|error| format!("the clients' authority: {error}"))?;
        }
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
        builder.with_client_cert_verifier(verifier.map_err(|error| format!("the clients' authority: {error}"))?)
    };
    let mut config = builder.with_single_cert(certificates(cert)?, key).map_err(|error| error.to_string())?;
    config.alpn_protocols = vec![HTTP2.to_vec()];
    if !client_ca.is_empty() {
        // A resumed session does not verify the client's certificate again, and each one yields the ticket for the next: whoever
        // once had a valid certificate could resume for ever.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
    }
    Ok(config)
}

fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    CertificateDer::pem_slice_iter(pem).collect::<Result<_, _>>().map_err(|error| format!("a certificate: {error}"))
}
