//! Inputs without a fuzzer: random bytes, and mutations of those that are known.

/// A generator with a seed: the same inputs each time.
#[derive(Debug)]
pub struct Seeded {
    state: u64,
}

impl Seeded {
    /// Makes a generator.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self { state: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x1405_7b7e_f767_814f }
    }

    fn next(&mut self) -> u64 {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        self.state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16
    }

    fn below(&mut self, count: usize) -> usize {
        usize::try_from(self.next() % count.max(1) as u64).unwrap_or(0)
    }

    /// Returns an input: one of `corpus` with some bytes changed, or random bytes.
    pub fn input(&mut self, corpus: &[Vec<u8>]) -> Vec<u8> {
        let mut input = match corpus {
            [] => Vec::new(),
            corpus if self.below(4) > 0 => corpus[self.below(corpus.len())].clone(),
            _ => Vec::new(),
        };
        if input.is_empty() {
            return (0..self.below(400)).map(|_| self.byte()).collect();
        }
        for _ in 0..=self.below(8) {
            let at = self.below(input.len() + 1);
            match self.below(5) {
                0 => input.insert(at, self.byte()),
                1 if at < input.len() => drop(input.remove(at)),
                2 => {
                    let end = (at + self.below(32)).min(input.len());
                    let copy = input[at..end].to_vec();
                    let to = self.below(input.len() + 1);
                    input.splice(to..to, copy);
                }
                3 => {
                    let end = (at + self.below(16)).min(input.len());
                    input.drain(at..end);
                }
                _ if at < input.len() => input[at] = self.byte(),
                _ => {}
            }
        }
        input
    }

    fn byte(&mut self) -> u8 {
        self.next().to_le_bytes()[0]
    }
}
