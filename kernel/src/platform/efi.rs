//! UEFI's memory map as RAM banks.

use crate::memblock::MAX_RANGES;
use crate::range::{PhysRange, RangeList};

/// Size of a page in the map, whatever the CPU's granule (UEFI Specification 2.10,
/// 2.3.6).
const EFI_PAGE_SIZE: u64 = 4096;

/// EFI_MEMORY_WB: may be mapped write-back cacheable.
const EFI_MEMORY_WB: u64 = 1 << 3;
/// EFI_MEMORY_SP: meant for somebody in particular.
const EFI_MEMORY_SP: u64 = 1 << 18;

/// EFI_MEMORY_DESCRIPTOR as far as it counts here; firmware may append fields.
const DESCRIPTOR_BYTES: usize = 40;

/// RAM as a memory map tells of it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ram {
    /// What is the kernel's once boot services are gone.
    pub banks: RangeList<MAX_RANGES>,
    /// How many more there were than are kept, or that make no sense.
    pub dropped: u32,
}

/// Reads the map that GetMemoryMap left in `map`, of descriptors that lie
/// `descriptor_bytes` apart. What is the firmware's beyond ExitBootServices, or no
/// RAM, is in no bank: nobody maps it. `None` if the firmware's figure is nonsense.
pub fn ram(map: &[u8], descriptor_bytes: usize) -> Option<Ram> {
    if descriptor_bytes < DESCRIPTOR_BYTES {
        return None;
    }
    let mut ram = Ram::default();
    for descriptor in map.chunks_exact(descriptor_bytes) {
        let field = |offset: usize| {
            let bytes = descriptor.get(offset..)?.first_chunk()?;
            Some(u64::from_le_bytes(*bytes))
        };
        // The type has 32 bits, and padding behind.
        let kind = field(0)? as u32;
        let (start, pages, attributes) = (field(8)?, field(24)?, field(32)?);
        if !is_ours(kind, attributes) {
            continue;
        }
        let range = pages
            .checked_mul(EFI_PAGE_SIZE)
            .and_then(|size| PhysRange::new(start, size));
        if range.is_none_or(|range| ram.banks.insert(range).is_err()) {
            ram.dropped += 1;
        }
    }
    Some(ram)
}

/// Loader and boot services code and data, and what was free all the time (UEFI
/// Specification 2.10, table 7.10). As on Linux (`is_usable_memory`), less ACPI's
/// tables, which would have to be kept.
fn is_ours(kind: u32, attributes: u64) -> bool {
    matches!(kind, 1..=4 | 7) && attributes & EFI_MEMORY_WB != 0 && attributes & EFI_MEMORY_SP == 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::xorshift::Xorshift;
    use std::vec::Vec;

    fn descriptor(kind: u32, start: u64, pages: u64, attributes: u64) -> Vec<u8> {
        let mut bytes = Vec::from(kind.to_le_bytes());
        // What firmware leaves in the padding is anything.
        bytes.extend([0xaa; 4]);
        for field in [start, u64::MAX, pages, attributes, 0x5555] {
            bytes.extend(field.to_le_bytes());
        }
        bytes
    }

    fn banks(descriptors: &[Vec<u8>]) -> (Vec<(u64, u64)>, u32) {
        let ram = ram(&descriptors.concat(), 48).unwrap();
        let banks = ram.banks.as_slice().iter();
        (
            banks.map(|bank| (bank.start, bank.end)).collect(),
            ram.dropped,
        )
    }

    #[test]
    fn what_is_free_after_boot_services_is_ram() {
        // One page of each type, with a page between them.
        let types = |attributes| -> Vec<_> {
            (0..16)
                .map(|kind| descriptor(kind, u64::from(kind) * 0x2000, 1, attributes))
                .collect()
        };
        let page = |kind: u64| (kind * 0x2000, kind * 0x2000 + 0x1000);
        let ours = Vec::from([1, 2, 3, 4, 7].map(page));
        assert_eq!(banks(&types(0xf)), (ours, 0));
        assert_eq!(banks(&types(0x7)), (Vec::new(), 0), "not cacheable");
        assert_eq!(banks(&types(0x4_000f)), (Vec::new(), 0), "specific purpose");
    }

    #[test]
    fn neighbours_join_in_any_order() {
        let map = [
            descriptor(4, 0x4100_0000, 0x10, 0xf),
            descriptor(7, 0x4000_0000, 0x1000, 0x800_000f),
            descriptor(6, 0x4101_0000, 0x10, 0x8000_0000_0000_000f),
        ];
        assert_eq!(banks(&map), (Vec::from([(0x4000_0000, 0x4101_0000)]), 0));
    }

    #[test]
    fn nonsense_is_dropped_and_counted() {
        for (start, pages) in [(0x1000, 0), (0x1000, u64::MAX), (u64::MAX - 0xfff, 2)] {
            assert_eq!(banks(&[descriptor(7, start, pages, 8)]), (Vec::new(), 1));
        }
        let many: Vec<_> = (0..MAX_RANGES as u64 + 3)
            .map(|i| descriptor(7, i * 0x2000, 1, 8))
            .collect();
        let (banks, dropped) = banks(&many);
        assert_eq!((banks.len(), dropped), (MAX_RANGES, 3));
    }

    #[test]
    fn no_map_makes_it_panic() {
        assert!(ram(&[], 39).is_none() && ram(&[0; 96], 0).is_none());
        assert_eq!(ram(&[0xff; 47], 48).map(|ram| ram.dropped), Some(0));
        let mut random = Xorshift::new(0x5eed_0004);
        for _ in 0..1000 {
            let map: Vec<u8> = (0..random.below(500))
                .map(|_| random.below(256) as u8)
                .collect();
            let _ = ram(&map, 40 + random.below(16) as usize);
        }
    }
}
