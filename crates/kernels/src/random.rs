//! SplitMix64: random numbers that depend on a seed alone, on every machine.
//!
//! Source: Steele, Lea and Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014,
//! <https://doi.org/10.1145/2660193.2660195>. (`grammar`, which depends on nothing, has its own.)

/// The step between two states: 2^64 divided by the golden ratio, made odd.
const GAMMA: u64 = 0x9e37_79b9_7f4a_7c15;

/// A generator of 64 random bits at a time.
#[derive(Debug, Clone)]
pub struct SplitMix64(u64);

impl SplitMix64 {
    /// A generator whose state is the seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next 64 bits.
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(GAMMA);
        finalize(self.0)
    }

    /// A number below `n`; the bias of the multiplication is under 2^-40 for a million.
    pub fn below(&mut self, n: usize) -> usize {
        ((u128::from(self.draw()) * n as u128) >> 64) as usize
    }
}

/// The first number that a generator with this seed draws: unrelated for neighbouring seeds.
pub fn mix(seed: u64) -> u64 {
    finalize(seed.wrapping_add(GAMMA))
}

/// A number for one place of a seed's series: unrelated for neighbouring places and seeds.
pub fn mix_at(seed: u64, place: u64) -> u64 {
    finalize(seed ^ place.wrapping_add(1).wrapping_mul(GAMMA))
}

fn finalize(z: u64) -> u64 {
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first values for seed 1234567, from the reference implementation in C.
    #[test]
    fn the_published_series() {
        let mut random = SplitMix64::new(1_234_567);
        assert_eq!(random.draw(), 6_457_827_717_110_365_317);
        assert_eq!(random.draw(), 3_203_168_211_198_807_973);
        assert_eq!(random.draw(), 9_817_491_932_198_370_423);
        assert_eq!(mix(1_234_567), 6_457_827_717_110_365_317);
        assert_eq!(mix_at(0, 2), mix(2_u64.wrapping_mul(GAMMA)));
    }
}
