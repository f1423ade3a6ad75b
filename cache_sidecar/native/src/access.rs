//! Who is let in without asking Python: hits are for those alone. Whom this does not let in, Python refuses, and says why.

use crate::identity::Identity;
use crate::metadata::{self, Way};
use http::Method;
use http::request::Parts;
use parking_lot::RwLock;
use std::sync::Arc;
use std::sync::atomic::{
    AtomicBool,
    Ordering::{Acquire, Release},
};
use subtle::ConstantTimeEq;

#[derive(Default)]
pub struct Access {
    is_on: AtomicBool,
    tokens: RwLock<Option<Arc<Tokens>>>,
    /// Names of clients' certificates.
    allowed: RwLock<Option<Vec<String>>>,
}

impl Access {
    /// Calls need one of these from now on.
    pub fn set_tokens(&self, tokens: Vec<Vec<u8>>) {
        *self.tokens.write() = Some(Arc::new(Tokens(tokens)));
        self.is_on.store(true, Release);
    }

    /// Clients of TCP that connect from now on need one of these names.
    pub fn set_allowed(&self, names: Vec<String>) {
        *self.allowed.write() = Some(names);
    }

    /// None when calls need no token.
    pub fn tokens(&self) -> Option<Arc<Tokens>> {
        if self.is_on.load(Acquire) { self.tokens.read().clone() } else { None }
    }

    pub fn is_allowed(&self, client: &Identity) -> bool {
        match &*self.allowed.read() {
            None => true,
            Some(names) => names.iter().any(|name| client.is_named(name)),
        }
    }
}

/// What a call may show as `authorization: Bearer TOKEN`; several, while they are exchanged.
pub struct Tokens(Vec<Vec<u8>>);

impl Tokens {
    /// Whether a value of `authorization` shows one. How long it takes tells nothing but lengths.
    pub fn admit(&self, value: &[u8]) -> bool {
        let Some((scheme, token)) = value.split_at_checked(SCHEME.len()) else { return false };
        let known = self.0.iter().fold(subtle::Choice::from(0), |found, known| found | known.as_slice().ct_eq(token));
        scheme.eq_ignore_ascii_case(SCHEME) && bool::from(known)
    }
}

const SCHEME: &[u8] = b"bearer ";

/// Returns how far a call may take the short ways.
pub fn way(head: &Parts, is_allowed: bool, tokens: Option<&Tokens>) -> Way {
    match metadata::way(&head.headers, tokens) {
        _ if head.method != Method::POST => Way::Proxy,
        Way::Memory if !is_allowed => Way::Python,
        way => way,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_whole_token_counts_and_nothing_else() {
        let tokens = Tokens(vec![b"first".into(), b"second".into()]);
        for (value, is) in [
            ("Bearer first", true),
            ("bearer second", true),
            ("Bearer firs", false),
            ("Bearer first ", false),
            ("Bearer ", false),
            ("Basic first", false),
            ("first", false),
            ("", false),
        ] {
            assert_eq!(tokens.admit(value.as_bytes()), is, "{value:?}");
        }
        assert!(!Tokens(vec![]).admit(b"Bearer "));
    }

    #[test]
    fn nothing_is_needed_until_it_is_said() {
        let access = Access::default();
        assert!(access.tokens().is_none() && access.is_allowed(&Identity::none()));
        access.set_tokens(vec![]);
        access.set_allowed(vec!["cart.shop".into()]);
        assert!(access.tokens().is_some() && !access.is_allowed(&Identity::none()));
    }
}
