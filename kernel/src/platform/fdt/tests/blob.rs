//! Writes trees for tests, broken ones too, which no well-meant writer would.

use std::vec::Vec;

/// A blob under construction; it starts inside the root node.
#[derive(Clone)]
pub struct Blob {
    reservations: Vec<u8>,
    structure: Vec<u8>,
    strings: Vec<u8>,
}

impl Blob {
    /// A root with the `#address-cells` and `#size-cells` given.
    pub fn new(address_cells: u32, size_cells: u32) -> Self {
        let empty = Self {
            reservations: Vec::new(),
            structure: std::vec![0, 0, 0, 1, 0, 0, 0, 0],
            strings: Vec::new(),
        };
        empty
            .cells("#address-cells", &[address_cells])
            .cells("#size-cells", &[size_cells])
    }

    /// What most trees here have: two cells each, and 128 MiB from 1 GiB on.
    pub fn with_memory() -> Self {
        Self::new(2, 2).memory("memory@40000000", &[0, 0x4000_0000, 0, 0x800_0000])
    }

    pub fn memory(self, name: &str, reg: &[u32]) -> Self {
        self.node(name, |n| n.text("device_type", "memory").cells("reg", reg))
    }

    pub fn reserve(mut self, address: u64, size: u64) -> Self {
        self.reservations.extend(address.to_be_bytes());
        self.reservations.extend(size.to_be_bytes());
        self
    }

    pub fn node(mut self, name: &str, fill: impl FnOnce(Self) -> Self) -> Self {
        self.begin(name);
        let mut filled = fill(self);
        filled.word(2);
        filled
    }

    /// Begins a node that the caller ends with `word(2)`.
    pub fn begin(&mut self, name: &str) {
        self.word(1);
        self.structure.extend(name.as_bytes());
        self.structure.push(0);
        self.align();
    }

    pub fn property(mut self, name: &str, value: &[u8]) -> Self {
        self.add(name, value);
        self
    }

    pub fn add(&mut self, name: &str, value: &[u8]) {
        let name = [name.as_bytes(), b"\0"].concat();
        let known = self.strings.windows(name.len()).position(|w| w == name);
        let offset = known.unwrap_or_else(|| {
            self.strings.extend(&name);
            self.strings.len() - name.len()
        });
        self.word(3);
        self.word(value.len() as u32);
        self.word(offset as u32);
        self.structure.extend(value);
        self.align();
    }

    pub fn cells(self, name: &str, cells: &[u32]) -> Self {
        let value: Vec<u8> = cells.iter().flat_map(|cell| cell.to_be_bytes()).collect();
        self.property(name, &value)
    }

    pub fn text(self, name: &str, text: &str) -> Self {
        self.property(name, &[text.as_bytes(), b"\0"].concat())
    }

    pub fn chosen(self, fill: impl FnOnce(Self) -> Self) -> Self {
        self.node("chosen", fill)
    }

    /// A PL011 with a `reg` of these cells.
    pub fn pl011(self, name: &str, reg: &[u32]) -> Self {
        self.node(name, |n| {
            n.property("compatible", b"arm,pl011\0arm,primecell\0")
                .cells("reg", reg)
        })
    }

    pub fn word(&mut self, word: u32) {
        self.structure.extend(word.to_be_bytes());
    }

    fn align(&mut self) {
        self.structure
            .resize(self.structure.len().next_multiple_of(4), 0);
    }

    /// How long the structure block is so far.
    pub fn len(&self) -> usize {
        self.structure.len()
    }

    /// The blob, its root closed.
    pub fn finish(mut self) -> Vec<u8> {
        self.word(2);
        self.word(9);
        let structure_at = 40 + self.reservations.len() + 16;
        let strings_at = structure_at + self.structure.len();
        let size = strings_at + self.strings.len();
        let header = [
            0xd00d_feed,
            size,
            structure_at,
            strings_at,
            40,
            17,
            16,
            0,
            self.strings.len(),
            self.structure.len(),
        ];
        let mut blob: Vec<u8> = header
            .iter()
            .flat_map(|&field| (field as u32).to_be_bytes())
            .collect();
        blob.extend(self.reservations);
        blob.extend([0; 16]);
        blob.extend(self.structure);
        blob.extend(self.strings);
        blob
    }
}
