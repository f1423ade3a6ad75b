//! Bearer tokens.

use subtle::ConstantTimeEq;

const SCHEME: &[u8] = b"bearer ";

/// The tokens accepted in `authorization: Bearer TOKEN`; several while they are rotated.
pub struct Tokens(Vec<Vec<u8>>);

impl Tokens {
    pub fn new(tokens: Vec<Vec<u8>>) -> Self {
        Tokens(tokens)
    }

    /// Whether a value of `authorization` has one of them. The time this takes depends only on lengths.
    pub fn admit(&self, value: &[u8]) -> bool {
        let Some((scheme, token)) = value.split_at_checked(SCHEME.len()) else { return false };
        let known = self.0.iter().fold(subtle::Choice::from(0), |found, known| found | known.as_slice().ct_eq(token));
        scheme.eq_ignore_ascii_case(SCHEME) && bool::from(known)
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
}
