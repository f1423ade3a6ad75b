//! How often ids were used lately, cached or not: a count-min sketch of 4-bit counters that are halved periodically (the frequency
//! sketch of TinyLFU, Einziger, Friedman and Manes, 2017).

/// Counters in a word.
const PER_WORD: usize = 16;
/// Words per cached id: with one, the counts of uncached ids would drown those of cached ones.
const WORDS: usize = 2;
/// Counts per word after which all are halved. With fewer, chance would decide among rarely used ids.
const SAMPLE: usize = 40;
const SEEDS: [u64; 4] = [0x9e37_79b9_7f4a_7c15, 0xc2b2_ae3d_27d4_eb4f, 0x1656_67b1_9e37_79f9, 0x27d4_eb2f_1656_67c5];

pub struct Sketch {
    words: Vec<u64>,
    counted: usize,
}

impl Sketch {
    /// Creates a sketch for a number of cached ids.
    pub fn new(ids: usize) -> Self {
        let words = (WORDS * ids).next_power_of_two().max(PER_WORD);
        Sketch { words: vec![0; words], counted: 0 }
    }

    /// Makes room for more ids. Each counter is duplicated, so nothing is forgotten.
    pub fn grow(&mut self, ids: usize) {
        while self.words.len() < WORDS * ids {
            self.words.extend_from_within(..);
        }
    }

    /// Counts one use.
    pub fn count(&mut self, hash: u64) {
        let mut is_counted = false;
        for (word, shift) in self.places(hash) {
            if self.words[word] >> shift & 15 < 15 {
                self.words[word] += 1 << shift;
                is_counted = true;
            }
        }
        if is_counted {
            self.counted += 1;
            if self.counted >= SAMPLE * self.words.len() {
                self.halve();
            }
        }
    }

    /// Returns the approximate number of uses, 0 to 15; never too low.
    pub fn estimate(&self, hash: u64) -> u8 {
        let counts = self.places(hash).map(|(word, shift)| (self.words[word] >> shift & 15) as u8);
        counts.into_iter().min().unwrap_or(0)
    }

    fn places(&self, hash: u64) -> [(usize, u32); 4] {
        SEEDS.map(|seed| {
            let mixed = (hash ^ hash >> 32).wrapping_mul(seed);
            let mixed = mixed ^ mixed >> 29;
            ((mixed >> 4) as usize & (self.words.len() - 1), (mixed & 15) as u32 * 4)
        })
    }

    fn halve(&mut self) {
        for word in &mut self.words {
            *word = *word >> 1 & 0x7777_7777_7777_7777;
        }
        self.counted /= 2;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(number: u64) -> u64 {
        number.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(17)
    }

    #[test]
    fn counts_up_to_fifteen() {
        let mut sketch = Sketch::new(64);
        assert_eq!(sketch.estimate(hash(1)), 0);
        for used in 1..20 {
            sketch.count(hash(1));
            assert_eq!(sketch.estimate(hash(1)), used.min(15));
        }
        assert_eq!(sketch.estimate(hash(2)), 0);
    }

    #[test]
    fn remembers_when_it_grows() {
        let mut sketch = Sketch::new(16);
        for _ in 0..5 {
            sketch.count(hash(7));
        }
        sketch.grow(1000);
        assert_eq!(sketch.estimate(hash(7)), 5);
        assert_eq!(sketch.words.len(), 2048);
    }

    #[test]
    fn forgets_by_halves() {
        let mut sketch = Sketch::new(16);
        for _ in 0..12 {
            sketch.count(hash(7));
        }
        for number in 100..100 + SAMPLE as u64 * 32 {
            sketch.count(hash(number));
        }
        assert!(sketch.estimate(hash(7)) < 12);
    }
}
