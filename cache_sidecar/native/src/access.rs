//! Which callers may be answered without Python, and which may take their time to send a request. The others are refused by Python,
//! with the reason.

use crate::identity::Identity;
use crate::metadata::{self, Route};
use crate::peer::{Peer, Rights};
use crate::tokens::Tokens;
use http::Method;
use http::request::Parts;
use parking_lot::RwLock;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{
    AtomicBool, AtomicU64,
    Ordering::{Acquire, Release},
};
use tokio::sync::watch;
use x509_cert::crl::CertificateList;
use x509_cert::der::{Decode, Encode};

/// Health checks need no token and no name.
const HEALTH: &str = "/grpc.health.v1.Health/";

pub struct Access {
    is_on: AtomicBool,
    /// Those that may call the data services, and all.
    tokens: RwLock<Option<Arc<Tokens>>>,
    known_tokens: RwLock<Option<Arc<Tokens>>>,
    /// Names in clients' certificates, likewise.
    allowed: RwLock<Option<Vec<String>>>,
    known: RwLock<Option<Vec<String>>>,
    /// Serial numbers of certificates, by their issuers' names in DER.
    revoked: RwLock<HashMap<Vec<u8>, HashSet<Vec<u8>>>>,
    /// The number of changes of names and revocations so far, and who waits for the next one.
    version: AtomicU64,
    changes: watch::Sender<()>,
}

impl Default for Access {
    fn default() -> Self {
        Access {
            is_on: AtomicBool::default(),
            tokens: RwLock::default(),
            known_tokens: RwLock::default(),
            allowed: RwLock::default(),
            known: RwLock::default(),
            revoked: RwLock::default(),
            version: AtomicU64::new(1),
            changes: watch::Sender::new(()),
        }
    }
}

impl Access {
    /// From now on, calls need one of `all`; those with one of `tokens` may call the data services.
    pub fn set_tokens(&self, tokens: Vec<Vec<u8>>, all: Vec<Vec<u8>>) {
        *self.tokens.write() = Some(Arc::new(Tokens::new(tokens)));
        *self.known_tokens.write() = Some(Arc::new(Tokens::new(all)));
        self.is_on.store(true, Release);
    }

    /// From now on, TCP clients need one of the names `all`; those with one of `names` may call the data services.
    pub fn set_allowed(&self, names: Vec<String>, all: Vec<String>) {
        *self.allowed.write() = Some(names);
        *self.known.write() = Some(all);
        self.changed();
    }

    /// Replaces the revocation lists, in DER; Python has verified them. Err has a message, and nothing is changed.
    pub fn set_revoked(&self, lists: &[Vec<u8>]) -> Result<(), String> {
        let mut revoked: HashMap<Vec<u8>, HashSet<Vec<u8>>> = HashMap::new();
        for list in lists {
            let list = CertificateList::from_der(list).map_err(|error| error.to_string())?.tbs_cert_list;
            let serials = list.revoked_certificates.unwrap_or_default().into_iter();
            let issuer = list.issuer.to_der().map_err(|error| error.to_string())?;
            revoked.entry(issuer).or_default().extend(serials.map(|of| of.serial_number.as_bytes().to_vec()));
        }
        *self.revoked.write() = revoked;
        self.changed();
        Ok(())
    }

    /// Reports changes of names and revocations.
    pub fn changes(&self) -> watch::Receiver<()> {
        self.changes.subscribe()
    }

    /// The number of changes so far, never 0.
    pub fn version(&self) -> u64 {
        self.version.load(Acquire)
    }

    /// Lets all connections compare what they know with what has changed.
    pub fn changed(&self) {
        self.version.fetch_add(1, Release);
        self.changes.send_replace(());
    }

    /// None when calls need no token.
    pub fn tokens(&self) -> Option<Arc<Tokens>> {
        if self.is_on.load(Acquire) { self.tokens.read().clone() } else { None }
    }

    /// Whether its certificate, or one that it presented with it, is revoked.
    pub fn is_revoked(&self, client: &Identity) -> bool {
        let revoked = self.revoked.read();
        let is_listed = |(issuer, serial): &(Vec<u8>, Vec<u8>)| revoked.get(issuer).is_some_and(|of| of.contains(serial));
        client.serials().iter().any(is_listed)
    }

    pub fn rights(&self, client: &Identity) -> Rights {
        let has_one_of = |names: &RwLock<Option<Vec<String>>>| {
            names.read().as_ref().is_none_or(|names| names.iter().any(|name| client.is_named(name)))
        };
        let is_valid = !self.is_revoked(client);
        Rights { is_allowed: is_valid && has_one_of(&self.allowed), is_known: is_valid && has_one_of(&self.known) }
    }

    /// Whether a caller may take its time to send the request. Its role is only looked at when that is complete.
    pub fn may_wait(&self, head: &Parts, peer: &Peer) -> bool {
        let has_token = || {
            let tokens = self.known_tokens.read().clone();
            let mut shown = head.headers.get_all("authorization").iter();
            tokens.is_none_or(|tokens| shown.any(|value| tokens.admit(value.as_bytes())))
        };
        head.uri.path().starts_with(HEALTH) || peer.is_known(self) && has_token()
    }
}

/// Returns the route of a call, by its method, metadata and client.
pub fn route(head: &Parts, is_allowed: bool, tokens: Option<&Tokens>) -> Route {
    match metadata::route(&head.headers, tokens) {
        _ if head.method != Method::POST => Route::Proxy,
        Route::Memory if !is_allowed => Route::Python,
        route => route,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_needed_until_it_is_said() {
        let access = Access::default();
        let rights = access.rights(&Identity::none());
        assert!(access.tokens().is_none() && rights.is_allowed && rights.is_known);
        access.set_tokens(vec![], vec![]);
        access.set_allowed(vec![], vec!["cart.shop".into()]);
        let rights = access.rights(&Identity::none());
        assert!(access.tokens().is_some() && !rights.is_allowed && !rights.is_known);
    }

    #[test]
    fn changes_are_counted_and_told_and_an_invalid_list_is_none() {
        let access = Access::default();
        let (changes, before) = (access.changes(), access.version());
        assert!(access.set_revoked(&[b"nonsense".to_vec()]).is_err());
        assert!(!changes.has_changed().unwrap() && access.version() == before);
        access.set_revoked(&[]).unwrap();
        access.set_allowed(vec![], vec![]);
        assert!(changes.has_changed().unwrap() && access.version() == before + 2);
    }
}
