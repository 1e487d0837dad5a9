//! Where an image runs, other than where it was linked.

use super::Symbols;

/// The addresses that the image's first byte has had.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Positions {
    bases: Vec<u64>,
}

impl Positions {
    /// Those that an ELF itself knows: as linked, and where QEMU loads it.
    #[must_use]
    pub fn of(symbols: &Symbols) -> Self {
        let mut positions = Self::default();
        positions.add(symbols.base());
        // A vmlinux has no physical addresses of its own; then this is the same once more.
        positions.add(symbols.load_address());
        positions
    }

    /// Adds an address at which the image's first byte was seen: its load address, or where KASLR
    /// put it. The one added last counts first.
    pub fn add(&mut self, base: u64) {
        self.bases.retain(|known| *known != base);
        self.bases.insert(0, base);
    }

    /// The address as linked of what is at an address that was seen in a running guest; `None`
    /// if it is in no known position of the image.
    #[must_use]
    pub fn as_linked(&self, symbols: &Symbols, address: u64) -> Option<u64> {
        let extent = symbols.extent();
        let size = extent.end.wrapping_sub(extent.start);
        self.bases
            .iter()
            .map(|base| address.wrapping_sub(*base))
            .find(|offset| *offset < size)
            .map(|offset| extent.start + offset)
    }
}
