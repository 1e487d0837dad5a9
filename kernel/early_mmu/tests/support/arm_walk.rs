//! A table walker of its own: stage 1, EL1&0, VMSAv8-64, written along the Arm ARM's pseudo-code
//! (`AArch64.S1Walk` and the functions it calls), in numbers, without any code of the crate.

/// `TCR_EL1` and `TTBRn_EL1`, as far as they matter.
#[derive(Clone, Copy, Debug)]
pub struct Regime {
    /// Base of the first table.
    pub ttbr: u64,
    /// Bit 55 of the addresses that it translates.
    pub upper: bool,
    /// 64 − TxSZ.
    pub iasize: u32,
    /// log2 of the granule.
    pub granulebits: u32,
    /// Address bits resolved per level; granulebits − 3 in hardware.
    pub stride: u32,
    /// The first level with blocks: 1 for the 4 KiB granule, 2 for the others; one less with 52-bit
    /// output addresses.
    pub first_block_level: i32,
    pub format: Format,
    /// log2 of the entries that the Contiguous bit joins at levels 0 to 3: `ContiguousSize`.
    pub contiguous: [u32; 4],
}

/// `ContiguousSize` for 64-bit descriptors.
pub fn contiguous_sizes(granulebits: u32) -> [u32; 4] {
    match granulebits {
        12 => [0, 4, 4, 4],
        14 => [0, 0, 5, 7],
        _ => [0, 0, 5, 5],
    }
}

/// Where a descriptor has the upper bits of its output address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// 48 bits, in place.
    Plain,
    /// `TCR_EL1.DS`: bits 49:48 in place, 51:50 in 9:8; shareability is `TCR_EL1.SHn`, here inner.
    Lpa2,
    /// 64 KiB with `FEAT_LPA`: bits 51:48 in 15:12.
    Lpa64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    AddressRange,
    Translation(i32),
    AccessFlag(i32),
    /// A table that is not in memory.
    External(i32),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Translation {
    pub pa: u64,
    pub level: i32,
    pub el1_read: bool,
    pub el1_write: bool,
    pub el1_execute: bool,
    pub el0_access: bool,
    pub el0_execute: bool,
    pub attr_indx: u64,
    pub shareability: u64,
    pub global: bool,
    pub contiguous: bool,
}

/// The format that a geometry claims, told by where it claims to have addresses.
pub fn format<G: early_mmu::Geometry>() -> Format {
    match (G::OA_BITS, G::LPA2) {
        (52, true) => Format::Lpa2,
        (52, false) => Format::Lpa64,
        _ => Format::Plain,
    }
}

/// The output address of a descriptor whose entry translates 2^`size` bytes.
pub fn output<G: early_mmu::Geometry>(descriptor: u64, size: u32) -> u64 {
    output_address(format::<G>(), descriptor, size)
}

/// `AArch64.NextTableBase` and `AArch64.LeafBase`.
fn output_address(format: Format, descriptor: u64, size: u32) -> u64 {
    let low = descriptor % (1 << 48);
    let (low, high) = match format {
        Format::Plain => (low, 0),
        Format::Lpa2 => (low, (descriptor >> 8 & 3) * 4 + (descriptor >> 48 & 3)),
        Format::Lpa64 => (low >> 16 << 16, descriptor >> 12 & 15),
    };
    (low + (high << 48)) >> size << size
}

impl Regime {
    /// `AArch64.S1StartLevel`.
    pub fn start_level(&self) -> i32 {
        3 - ((self.iasize - 1 - self.granulebits) / self.stride) as i32
    }

    pub fn translate(
        &self,
        va: u64,
        read: impl Fn(u64) -> Option<u64>,
    ) -> Result<Translation, Fault> {
        let root = (self.start_level(), self.ttbr, 0);
        self.translate_from(root, va, read, |_, _, _| {})
    }

    /// The walk from a table on that a walker remembers: its level, its base, and the descriptors
    /// above it, one over the other, for what they forbid. `visit` is shown each table descriptor on
    /// the way, with its level and with what is above it.
    pub fn translate_from(
        &self,
        (mut level, mut base, mut limits): (i32, u64, u64),
        va: u64,
        read: impl Fn(u64) -> Option<u64>,
        mut visit: impl FnMut(i32, u64, u64),
    ) -> Result<Translation, Fault> {
        let top = va >> self.iasize;
        let expected = if self.upper {
            u64::MAX >> self.iasize
        } else {
            0
        };
        if top != expected {
            return Err(Fault::AddressRange);
        }
        let mut top_bit = if level == self.start_level() {
            self.iasize
        } else {
            (4 - level) as u32 * self.stride + self.granulebits
        };
        loop {
            let low_bit = (3 - level) as u32 * self.stride + self.granulebits;
            let index = (va % (1 << top_bit)) / (1 << low_bit);
            let descriptor = read(base + 8 * index).ok_or(Fault::External(level))?;
            let is_leaf = match (descriptor % 4, level) {
                (3, 3) => true,
                (3, _) => false,
                (1, l) if l != 3 && l >= self.first_block_level => true,
                _ => return Err(Fault::Translation(level)),
            };
            if !is_leaf {
                visit(level, descriptor, limits);
                limits |= descriptor >> 59 << 59;
                base = output_address(self.format, descriptor, self.granulebits);
                top_bit = low_bit;
                level += 1;
                continue;
            }
            if descriptor >> 10 & 1 == 0 {
                return Err(Fault::AccessFlag(level));
            }
            // `StageOA`: a run gives its base only.
            let contiguous = descriptor >> 52 & 1 == 1;
            let mut size = low_bit;
            if contiguous && level >= 0 {
                size += self.contiguous[level as usize];
            }
            // `AArch64.ContiguousBitFaults`, where the implementation defines that it does.
            if size > self.iasize {
                return Err(Fault::Translation(level));
            }
            let output = output_address(self.format, descriptor, size);
            let (pxn_table, uxn_table) = (limits >> 59 & 1 == 1, limits >> 60 & 1 == 1);
            let ap_table = limits >> 61 & 3;
            let ap = descriptor >> 6 & 3;
            let read_only = ap >= 2 || ap_table >= 2;
            let el0_access = ap % 2 == 1 && ap_table % 2 == 0;
            let pxn = descriptor >> 53 & 1 == 1 || pxn_table;
            let uxn = descriptor >> 54 & 1 == 1 || uxn_table;
            // What EL0 can write, EL1 never executes.
            let el0_writes = el0_access && !read_only;
            return Ok(Translation {
                pa: output + va % (1 << size),
                level,
                el1_read: true,
                el1_write: !read_only,
                el1_execute: !pxn && !el0_writes,
                el0_access,
                el0_execute: !uxn,
                attr_indx: descriptor >> 2 & 7,
                shareability: match self.format {
                    Format::Lpa2 => 3,
                    _ => descriptor >> 8 & 3,
                },
                global: descriptor >> 11 & 1 == 0,
                contiguous,
            });
        }
    }
}
