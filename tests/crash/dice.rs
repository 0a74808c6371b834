//! Numbers from a seed (splitmix64): the same seed gives the same trial.

#[derive(Debug, Clone)]
pub struct Dice(u64);

impl Dice {
    /// Makes the dice of a seed and of what is tried with it.
    pub fn new(seed: u64, what: &str) -> Self {
        let mixed = what.bytes().fold(seed, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3));
        Self(mixed)
    }

    /// Returns a number below `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % end
    }

    pub fn coin(&mut self) -> bool {
        self.below(2) == 0
    }
}
