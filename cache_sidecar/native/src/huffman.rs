//! The Huffman code of HTTP/2's headers (RFC 7541, appendix B).

/// The code is canonical, so it is defined by the lengths in bits of the codes of bytes 0 to 255 and of the end mark.
#[rustfmt::skip]
const LENGTHS: [u8; 257] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30, 28,
    28, 28, 28, 28, 28, 28, 28, 28, 6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6,
    5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10, 13, 6, 7, 7, 7, 7, 7, 7,
    7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6,
    15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5, 6, 7, 6, 5, 5, 6, 7, 7,
    7, 7, 7, 15, 11, 14, 13, 28, 20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23,
    24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24, 22, 21, 20, 22, 22, 23, 23, 21,
    23, 22, 22, 24, 21, 22, 23, 23, 21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23,
    26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25, 19, 21, 26, 27, 27, 26, 27, 24,
    21, 21, 26, 26, 28, 27, 27, 27, 20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23,
    26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26, 30,
];
const LONGEST: usize = 30;

/// For each length, the first code, the index of its symbol in `order`, and the number of codes.
struct Code {
    first: [u32; LONGEST + 1],
    place: [u16; LONGEST + 1],
    count: [u16; LONGEST + 1],
    /// Symbols by the length of their codes, then by value.
    order: [u16; 257],
}

const CODE: Code = canonical();

const fn canonical() -> Code {
    let mut code = Code { first: [0; LONGEST + 1], place: [0; LONGEST + 1], count: [0; LONGEST + 1], order: [0; 257] };
    let (mut length, mut placed, mut next) = (1, 0, 0);
    while length <= LONGEST {
        next <<= 1;
        code.first[length] = next;
        code.place[length] = placed;
        let mut symbol = 0;
        while symbol < LENGTHS.len() {
            if LENGTHS[symbol] as usize == length {
                code.order[placed as usize] = symbol as u16;
                placed += 1;
                code.count[length] += 1;
                next += 1;
            }
            symbol += 1;
        }
        length += 1;
    }
    code
}

/// Decodes a string; None if it is invalid.
pub fn decode(coded: &[u8]) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(coded.len() * 8 / 5);
    let (mut code, mut length) = (0, 0);
    for bit in coded.iter().flat_map(|byte| (0..8).rev().map(move |shift| u32::from(byte >> shift & 1))) {
        (code, length) = (code << 1 | bit, length + 1);
        let offset = code.wrapping_sub(*CODE.first.get(length)?);
        if offset < u32::from(CODE.count[length]) {
            let symbol = CODE.order[usize::from(CODE.place[length]) + offset as usize];
            bytes.push(u8::try_from(symbol).ok()?); // the end mark is invalid in a string
            (code, length) = (0, 0);
        }
    }
    // The padding is the beginning of the end mark: all ones.
    (length < 8 && code == (1 << length) - 1).then_some(bytes)
}

#[cfg(test)]
pub fn encode(bytes: &[u8]) -> Vec<u8> {
    let mut bits: Vec<bool> = Vec::new();
    for byte in bytes {
        let length = usize::from(LENGTHS[usize::from(*byte)]);
        let place = CODE.order.iter().position(|symbol| *symbol == u16::from(*byte)).expect("every byte has a code");
        let code = CODE.first[length] + (place - usize::from(CODE.place[length])) as u32;
        bits.extend((0..length).rev().map(|shift| code >> shift & 1 == 1));
    }
    bits.resize(bits.len().next_multiple_of(8), true);
    bits.chunks(8).map(|bits| bits.iter().fold(0, |byte, bit| byte << 1 | u8::from(*bit))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_examples_of_the_rfc() {
        let coded = [0xf1, 0xe3, 0xc2, 0xe5, 0xf2, 0x3a, 0x6b, 0xa0, 0xab, 0x90, 0xf4, 0xff];
        assert_eq!(decode(&coded).as_deref(), Some(&b"www.example.com"[..]));
        assert_eq!(encode(b"www.example.com"), coded);
    }

    #[test]
    fn every_byte_comes_back() {
        let bytes: Vec<u8> = (0..=255).collect();
        assert_eq!(decode(&encode(&bytes)), Some(bytes));
    }

    #[test]
    fn what_is_not_of_this_code_is_nothing() {
        assert_eq!(LENGTHS.last(), Some(&30));
        for coded in [&[0xff; 4][..], &[0xff], &[0x00], &[0xff, 0xff, 0xff, 0xfc]] {
            assert_eq!(decode(coded), None, "{coded:?}");
        }
        assert_eq!(decode(&[]), Some(vec![]));
    }
}
