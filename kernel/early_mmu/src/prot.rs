//! What a mapping permits. Writable and executable at once cannot be written down.

use crate::descriptor::{self as bits, Descriptor};
use crate::geometry::Geometry;

/// A memory type, by its index into `MAIR_EL1` (Arm ARM DDI 0487, chapter D8, "Memory region attributes";
/// the types themselves: chapter B2, "Memory types and attributes").
///
/// The discriminants are `AttrIndx`; [`MAIR_EL1`] is computed from the same table, so that the
/// descriptors and the register cannot disagree. Numbers and order are Linux's (`MT_NORMAL` …).
#[allow(non_camel_case_types)] // nGnRE is how the Arm ARM spells it
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum MemType {
    /// Normal memory, write-back, read and write allocate.
    Normal = 0,
    /// Normal memory with allocation tags. The same as `Normal` until tag checking is set up and
    /// the MAIR byte becomes 0xf0; Linux boots with the same value.
    NormalTagged = 1,
    /// Normal memory, not cacheable: framebuffers, and buffers of devices that do not snoop. Linux:
    /// `pgprot_writecombine`.
    NormalNonCacheable = 2,
    /// Device memory: no gathering, no reordering, no early write acknowledgement.
    Device_nGnRnE = 3,
    /// Device memory: no gathering, no reordering, early write acknowledgement.
    Device_nGnRE = 4,
}

impl MemType {
    /// Every memory type, in order of `AttrIndx`.
    pub const ALL: [Self; 5] = [
        Self::Normal,
        Self::NormalTagged,
        Self::NormalNonCacheable,
        Self::Device_nGnRnE,
        Self::Device_nGnRE,
    ];

    /// The byte of `MAIR_EL1` that describes this type (Arm ARM DDI 0487, register `MAIR_EL1`).
    #[must_use]
    pub const fn mair_byte(self) -> u8 {
        match self {
            Self::Normal | Self::NormalTagged => 0xff,
            Self::NormalNonCacheable => 0x44,
            Self::Device_nGnRnE => 0x00,
            Self::Device_nGnRE => 0x04,
        }
    }

    /// The type's index into `MAIR_EL1`, the value of `AttrIndx`.
    #[must_use]
    pub const fn attr_indx(self) -> u64 {
        self as u64
    }

    /// The type with this index, or `None` if the index is not used.
    #[must_use]
    pub const fn from_attr_indx(index: u64) -> Option<Self> {
        if index < Self::ALL.len() as u64 {
            Some(Self::ALL[index as usize])
        } else {
            None
        }
    }

    /// Whether this is one of the Device types.
    #[must_use]
    pub const fn is_device(self) -> bool {
        matches!(self, Self::Device_nGnRnE | Self::Device_nGnRE)
    }

    /// The name in Linux's page-table dump.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Normal => "MEM/NORMAL",
            Self::NormalTagged => "MEM/NORMAL-TAGGED",
            Self::NormalNonCacheable => "MEM/NORMAL-NC",
            Self::Device_nGnRnE => "DEVICE/nGnRnE",
            Self::Device_nGnRE => "DEVICE/nGnRE",
        }
    }
}

/// The value of `MAIR_EL1` that every [`MemType`] relies on. Linux: `MAIR_EL1_SET`.
pub const MAIR_EL1: u64 = {
    let mut mair = 0;
    let mut index = 0;
    while index < MemType::ALL.len() {
        mair |= (MemType::ALL[index].mair_byte() as u64) << (8 * MemType::ALL[index].attr_indx());
        index += 1;
    }
    mair
};

/// What the kernel may do with a mapping (Arm ARM DDI 0487, chapter D8, "Memory access control"), and which
/// kind of memory it is.
///
/// There is no variant for writable and executable, nor for executable device memory. EL0 gets no
/// access and never executes (`UXN` is always set), `AF` is always set, memory is Inner Shareable.
///
/// The bits are those of Linux's `PAGE_KERNEL`, `PAGE_KERNEL_RO` and `PAGE_KERNEL_ROX` but for
/// `DBM` (Linux: `PTE_WRITE`), which stays 0: nothing here tracks dirty pages, and with
/// `TCR_EL1.HD` set a read-only page with `DBM` becomes writable at the first write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Prot {
    /// Read, neither write nor execute.
    ReadOnly(MemType),
    /// Read and write, never execute.
    ReadWrite(MemType),
    /// Read and execute; always Normal memory.
    ReadExecute,
}

/// Kernel data: Normal memory, read and write.
pub const PAGE_KERNEL: Prot = Prot::ReadWrite(MemType::Normal);
/// Kernel constants: Normal memory, read only.
pub const PAGE_KERNEL_RO: Prot = Prot::ReadOnly(MemType::Normal);
/// Kernel text: Normal memory, read and execute.
pub const PAGE_KERNEL_ROX: Prot = Prot::ReadExecute;
/// Device registers: read and write, writes acknowledged early.
#[allow(non_upper_case_globals)] // Linux's name
pub const PROT_DEVICE_nGnRE: Prot = Prot::ReadWrite(MemType::Device_nGnRE);
/// Device registers that must not acknowledge writes early.
#[allow(non_upper_case_globals)] // Linux's name
pub const PROT_DEVICE_nGnRnE: Prot = Prot::ReadWrite(MemType::Device_nGnRnE);

impl Prot {
    /// The bits of a leaf descriptor that a protection decides; the others (output address, type,
    /// `nG`, `GP`, Contiguous, software) are not its business.
    pub const MASK: u64 = bits::ATTR_INDX
        | bits::AP_EL0
        | bits::AP_RDONLY
        | bits::SH_INNER
        | bits::AF
        | bits::DBM
        | bits::PXN
        | bits::UXN;

    /// [`Prot::MASK`] where some of it may be output address: `SH` is, with `FEAT_LPA2`.
    #[must_use]
    #[inline(always)]
    pub const fn mask_in<G: Geometry>() -> u64 {
        Self::MASK & !G::OUTPUT_MASK
    }

    /// The descriptor bits for this protection in a geometry; always within [`Prot::mask_in`].
    #[must_use]
    #[inline(always)]
    pub const fn bits_in<G: Geometry>(self) -> u64 {
        self.bits() & !G::OUTPUT_MASK
    }

    /// The descriptor bits for this protection; always within [`Prot::MASK`].
    #[must_use]
    pub const fn bits(self) -> u64 {
        let access = match self {
            Self::ReadOnly(_) => bits::AP_RDONLY | bits::PXN,
            Self::ReadWrite(_) => bits::PXN,
            Self::ReadExecute => bits::AP_RDONLY,
        };
        let memory = self.mem_type().attr_indx() << bits::ATTR_INDX_SHIFT;
        access | memory | bits::SH_INNER | bits::AF | bits::UXN
    }

    /// The protection that a leaf descriptor has, or `None` if no `Prot` says it (writable and
    /// executable, access from EL0, and whatever else this crate does not write).
    #[must_use]
    pub const fn of(leaf: Descriptor) -> Option<Self> {
        let Some(memory) = leaf.mem_type() else {
            return None;
        };
        let prot = match (leaf.is_writable(), leaf.is_executable()) {
            (true, false) => Self::ReadWrite(memory),
            (false, false) => Self::ReadOnly(memory),
            (false, true) => Self::ReadExecute,
            (true, true) => return None,
        };
        if leaf.bits() & Self::MASK == prot.bits() {
            Some(prot)
        } else {
            None
        }
    }

    /// [`Prot::of`] for a leaf as it stands in a table of a geometry, where `SH` may be address.
    #[must_use]
    pub const fn of_in<G: Geometry>(leaf: Descriptor) -> Option<Self> {
        Self::of(leaf.with_shareability::<G>())
    }

    /// The memory type.
    #[must_use]
    pub const fn mem_type(self) -> MemType {
        match self {
            Self::ReadOnly(memory) | Self::ReadWrite(memory) => memory,
            Self::ReadExecute => MemType::Normal,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Linux's values, without `DBM`, and with `AttrIndx` 0 for Normal memory.
    #[test]
    fn bits_are_those_of_linux_without_dbm() {
        assert_eq!(
            PAGE_KERNEL.bits() | 0b11,
            0x0068_0000_0000_0703 & !bits::DBM
        );
        assert_eq!(PAGE_KERNEL_RO.bits() | 0b11, 0x0060_0000_0000_0783);
        assert_eq!(PAGE_KERNEL_ROX.bits() | 0b11, 0x0040_0000_0000_0783);
        assert_eq!(PROT_DEVICE_nGnRE.bits() | 0b11, 0x0060_0000_0000_0713);
    }

    #[test]
    fn mair_is_that_of_linux() {
        assert_eq!(MAIR_EL1, 0x0000_0004_0044_ffff);
    }

    #[test]
    fn the_types_have_their_indices_and_no_others() {
        use MemType::{Device_nGnRE, Device_nGnRnE};
        for (index, memory) in (0..).zip(MemType::ALL) {
            assert_eq!(memory.attr_indx(), index);
            assert_eq!(MemType::from_attr_indx(index), Some(memory));
            let device = [Device_nGnRE, Device_nGnRnE].contains(&memory);
            assert_eq!(memory.is_device(), device);
        }
        for index in [5, 6, 7, 8, u64::MAX] {
            assert_eq!(MemType::from_attr_indx(index), None);
        }
    }

    #[test]
    fn every_protection_survives_its_bits_and_none_is_writable_and_executable() {
        let all = MemType::ALL
            .iter()
            .flat_map(|&memory| [Prot::ReadOnly(memory), Prot::ReadWrite(memory)])
            .chain([Prot::ReadExecute]);
        for prot in all {
            let leaf = Descriptor::from_bits(prot.bits() | 0b11);
            assert_eq!(Prot::of(leaf), Some(prot));
            assert_eq!(prot.bits() & !Prot::MASK, 0);
            assert!(!(leaf.is_writable() && leaf.is_executable()));
            assert!(!(prot.mem_type().is_device() && leaf.is_executable()));
        }
    }

    #[test]
    fn what_cannot_be_said_is_not_decoded() {
        for odd in [
            PAGE_KERNEL.bits() & !bits::PXN,
            PAGE_KERNEL.bits() & !bits::AF,
            PAGE_KERNEL.bits() | bits::AP_EL0,
            PAGE_KERNEL.bits() & !bits::UXN,
            PAGE_KERNEL.bits() | 7 << bits::ATTR_INDX_SHIFT,
            PROT_DEVICE_nGnRE.bits() & !bits::PXN | bits::AP_RDONLY,
        ] {
            assert_eq!(
                Prot::of(Descriptor::from_bits(odd | 0b11)),
                None,
                "{odd:#x}"
            );
        }
    }
}
