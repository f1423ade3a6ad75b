//! A short run of what `make fuzz-native` does for long: the corpus, and what mutations make of it.

#[path = "../fuzz/targets.rs"]
mod targets;

use std::fs;
use std::path::Path;

const MUTATIONS: usize = 20_000;

/// The same numbers in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % bound.max(1) as u64) as usize
    }

    fn mutate(&mut self, corpus: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes = corpus[self.below(corpus.len())].clone();
        for _ in 0..=self.below(4) {
            let at = self.below(bytes.len() + 1);
            match self.below(5) {
                0 if at < bytes.len() => bytes[at] ^= 1 << self.below(8),
                1 if at < bytes.len() => bytes[at] = self.below(256) as u8,
                2 if at < bytes.len() => drop(bytes.remove(at)),
                3 => bytes.insert(at, self.below(256) as u8),
                _ => {
                    let other = &corpus[self.below(corpus.len())];
                    bytes.truncate(at);
                    bytes.extend_from_slice(&other[self.below(other.len())..]);
                }
            }
        }
        bytes
    }
}

/// The files of a tar archive, as `fuzz/corpus.py` writes it: for each a header with its size in octal, then its bytes, both
/// padded to whole blocks; blocks of zeros end it.
fn files_of(mut archive: &[u8]) -> Vec<Vec<u8>> {
    const BLOCK: usize = 512;
    let mut files = Vec::new();
    while archive[0] != 0 {
        let octal = std::str::from_utf8(&archive[124..135]).unwrap();
        let size = usize::from_str_radix(octal, 8).unwrap();
        archive = &archive[BLOCK..];
        files.push(archive[..size].to_vec());
        archive = &archive[size.next_multiple_of(BLOCK)..];
    }
    files
}

#[test]
fn the_corpus_and_its_mutations() {
    for (name, target) in targets::ALL {
        let archive = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(name).with_extension("tar");
        let corpus = files_of(&fs::read(archive).unwrap());
        assert!(!corpus.is_empty(), "{name}");
        corpus.iter().for_each(|bytes| target(bytes));
        let mut random = Random(0x9e37_79b9_7f4a_7c15);
        for _ in 0..MUTATIONS {
            target(&random.mutate(&corpus));
        }
    }
}
