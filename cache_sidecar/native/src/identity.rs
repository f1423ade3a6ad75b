//! The identity of a client, with the properties of C-core's `auth_context`.

use std::net::IpAddr;
use x509_cert::Certificate;
use x509_cert::der::asn1::{Ia5StringRef, PrintableStringRef, TeletexStringRef, Utf8StringRef};
use x509_cert::der::oid::AssociatedOid;
use x509_cert::der::oid::db::rfc4519::COMMON_NAME;
use x509_cert::der::pem::{LineEnding, encode_string};
use x509_cert::der::{Any, Decode, Encode, Tag, Tagged};
use x509_cert::ext::pkix::SubjectAltName;
use x509_cert::ext::pkix::name::GeneralName;
use x509_cert::name::Name;

const NAMES: &str = "x509_subject_alternative_name";
const COMMON: &str = "x509_common_name";
const URIS: &str = "peer_uri";
/// From the SPIFFE-ID standard, 2.3.
const MAX_SPIFFE_ID: usize = 2048;

/// A client, as services see it.
pub struct Client {
    /// Its address, such as `ipv4:127.0.0.1:4711`, or `unix:` and a process id.
    pub name: String,
    pub identity: Identity,
}

/// The properties of a client other than its address. Certificates are verified by the caller.
#[derive(Debug)]
pub struct Identity {
    properties: Vec<(&'static str, Vec<Vec<u8>>)>,
    not_after: f64,
    serials: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Identity {
    /// For a connection without TLS.
    pub fn none() -> Self {
        Identity {
            properties: vec![
                ("transport_security_type", vec![b"insecure".to_vec()]),
                ("security_level", vec![b"TSI_SECURITY_NONE".to_vec()]),
            ],
            not_after: f64::INFINITY,
            serials: Vec::new(),
        }
    }

    /// For a connection with TLS; `chain` is the client's certificate and those that it presented with it, in DER.
    pub fn of_tls(chain: &[&[u8]], is_resumed: bool) -> Self {
        let mut identity = Identity {
            properties: vec![
                ("transport_security_type", vec![b"ssl".to_vec()]),
                ("security_level", vec![b"TSI_PRIVACY_AND_INTEGRITY".to_vec()]),
                ("ssl_session_reused", vec![is_resumed.to_string().into_bytes()]),
            ],
            not_after: f64::INFINITY,
            serials: Vec::new(),
        };
        if let Some((cert, issuers)) = chain.split_first() {
            identity.add_certificate(cert);
            let pem: String = issuers.iter().filter_map(|der| encode_string("CERTIFICATE", LineEnding::LF, der).ok()).collect();
            if !pem.is_empty() {
                identity.add("x509_pem_cert_chain", pem);
            }
        }
        for der in chain {
            identity.add_validity(der);
        }
        identity
    }

    pub fn properties(&self) -> &[(&'static str, Vec<Vec<u8>>)] {
        &self.properties
    }

    /// When the first certificate of the chain expires, in seconds since the epoch; infinity without a certificate.
    pub fn not_after(&self) -> f64 {
        self.not_after
    }

    /// The issuer's name in DER and the serial number of each certificate of the chain.
    pub fn serials(&self) -> &[(Vec<u8>, Vec<u8>)] {
        &self.serials
    }

    /// The property that identifies the client: the certificate's alternative names, or without them the common name.
    pub fn key(&self) -> Option<&'static str> {
        [NAMES, COMMON].into_iter().find(|key| self.values(key).next().is_some())
    }

    /// Whether its certificate has a name. A name of one kind must not pass for one of another: a CA may check some kinds less
    /// carefully. The same in `server/auth.py`.
    pub fn is_named(&self, name: &str) -> bool {
        let kind = match name {
            uri if uri.contains("://") => URIS,
            mailbox if mailbox.contains('@') => "peer_email",
            address if address.parse::<IpAddr>().is_ok() => "peer_ip",
            _ => "peer_dns",
        };
        self.values(kind).any(|value| value == name.as_bytes())
    }

    fn values<'a>(&'a self, key: &str) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        let found = self.properties.iter().find(|(name, _)| *name == key);
        found.into_iter().flat_map(|(_, values)| values).map(Vec::as_slice)
    }

    fn add(&mut self, key: &'static str, value: impl Into<Vec<u8>>) {
        match self.properties.iter_mut().find(|(name, _)| *name == key) {
            Some((_, values)) => values.push(value.into()),
            None => self.properties.push((key, vec![value.into()])),
        }
    }

    /// Adds the properties of a certificate; one that cannot be parsed adds nothing.
    fn add_certificate(&mut self, der: &[u8]) {
        if let Ok(pem) = encode_string("CERTIFICATE", LineEnding::LF, der) {
            self.add("x509_pem_cert", pem);
        }
        let Ok(Certificate { tbs_certificate: cert, .. }) = Certificate::from_der(der) else { return };
        self.add("x509_subject", subject(&cert.subject));
        if let Some(name) = common_name(&cert.subject) {
            self.add(COMMON, name);
        }
        let extensions = cert.extensions.unwrap_or_default();
        let names = extensions.iter().find(|extension| extension.extn_id == SubjectAltName::OID);
        let names = names.and_then(|names| SubjectAltName::from_der(names.extn_value.as_bytes()).ok());
        for name in names.iter().flat_map(|names| &names.0) {
            self.add_name(name);
        }
        if let Some(id) = self.spiffe_id() {
            self.add("peer_spiffe_id", id);
        }
    }

    /// A certificate that cannot be parsed counts as expired.
    fn add_validity(&mut self, der: &[u8]) {
        let parsed = Certificate::from_der(der).ok().map(|cert| cert.tbs_certificate);
        let Some((cert, issuer)) = parsed.and_then(|cert| cert.issuer.to_der().ok().map(|issuer| (cert, issuer))) else {
            self.not_after = f64::NEG_INFINITY;
            return;
        };
        self.not_after = self.not_after.min(cert.validity.not_after.to_unix_duration().as_secs_f64());
        self.serials.push((issuer, cert.serial_number.as_bytes().to_vec()));
    }

    /// The SPIFFE ID, if it is the only URI.
    fn spiffe_id(&self) -> Option<Vec<u8>> {
        let mut uris = self.values(URIS);
        uris.next().filter(|uri| is_spiffe(uri) && uris.next().is_none()).map(<[u8]>::to_vec)
    }

    fn add_name(&mut self, name: &GeneralName) {
        let (key, value) = match name {
            GeneralName::DnsName(name) => ("peer_dns", name.to_string()),
            GeneralName::UniformResourceIdentifier(name) => (URIS, name.to_string()),
            GeneralName::Rfc822Name(name) => ("peer_email", name.to_string()),
            GeneralName::IpAddress(address) => match ip(address.as_bytes()) {
                Some(address) => ("peer_ip", address.to_string()),
                None => return,
            },
            _ => return,
        };
        self.add(NAMES, value.clone());
        self.add(key, value);
    }
}

fn ip(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from),
        _ => <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from),
    }
}

fn is_spiffe(uri: &[u8]) -> bool {
    let Some(rest) = uri.strip_prefix(b"spiffe://") else { return false };
    let domain = rest.iter().position(|byte| *byte == b'/').unwrap_or(0);
    uri.len() <= MAX_SPIFFE_ID && (1..=255).contains(&domain) && rest.len() > domain + 1
}

/// As OpenSSL writes it: RFC 2253, with bytes beyond ASCII escaped.
fn subject(name: &Name) -> String {
    let mut text = String::new();
    for byte in name.to_string().bytes() {
        match byte {
            0x80.. => text.push_str(&format!("\\{byte:02X}")),
            _ => text.push(char::from(byte)),
        }
    }
    text
}

/// The first one.
fn common_name(name: &Name) -> Option<String> {
    let common = name.0.iter().flat_map(|part| part.0.iter()).find(|part| part.oid == COMMON_NAME)?;
    text(&common.value)
}

fn text(value: &Any) -> Option<String> {
    let text = match value.tag() {
        Tag::Utf8String => Utf8StringRef::try_from(value).ok()?.to_string(),
        Tag::PrintableString => PrintableStringRef::try_from(value).ok()?.to_string(),
        Tag::Ia5String => Ia5StringRef::try_from(value).ok()?.to_string(),
        Tag::TeletexString => TeletexStringRef::try_from(value).ok()?.to_string(),
        _ => return None,
    };
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spiffe_ids_have_a_domain_and_a_path() {
        for (uri, is) in
            [("spiffe://shop/cart", true), ("spiffe://shop", false), ("spiffe:///cart", false), ("https://a/b", false)]
        {
            assert_eq!(is_spiffe(uri.as_bytes()), is, "{uri}");
        }
    }

    #[test]
    fn what_is_no_certificate_says_nothing() {
        let identity = Identity::of_tls(&[b"nonsense"], false);
        assert_eq!((identity.key(), identity.not_after()), (None, f64::NEG_INFINITY));
        assert_eq!(Identity::none().key(), None);
    }
}
