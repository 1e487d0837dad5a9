//! A small generator of test cases: the same ones every time.

/// Marsaglia's xorshift64.
pub struct Xorshift(u64);

impl Xorshift {
    /// Numbers that depend on `seed` alone, which must not be 0.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    pub fn next_u64(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// A number below `end`, which must not be 0.
    pub fn below(&mut self, end: u64) -> u64 {
        // The low bits of a xorshift are its weakest.
        (self.next_u64() >> 8) % end
    }

    /// One of `of`.
    pub fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len() as u64) as usize]
    }
}
