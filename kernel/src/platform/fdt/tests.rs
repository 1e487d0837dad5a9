//! What each kind of tree is read as.

mod blob;
mod chosen;
mod devices;
mod hostile;
mod memory;
pub(super) mod mutants;
mod structure;

use std::vec::Vec;

use self::blob::Blob;
use super::*;

/// QEMU 10's tree: `-M virt,dumpdtb=virt.dtb -cpu cortex-a72 -m 128M -nic none`,
/// cut to the 7,574 bytes in use.
pub(super) const VIRT: &[u8] = include_bytes!("virt.dtb");

fn read_blob(blob: &[u8]) -> Result<Firmware, FdtError> {
    let mut firmware = Firmware::new();
    read(blob, &mut firmware).map(|()| firmware)
}

/// What a boot does in two stages.
fn find_and_wipe(blob: &mut [u8]) -> Result<usize, FdtError> {
    let seeds = read_blob(blob)?.seeds;
    Ok(wipe_seeds(blob, &seeds).expect("found in this blob"))
}

fn good(blob: Blob) -> Firmware {
    read_blob(&blob.finish()).unwrap()
}

fn ranges(of: &[(u64, u64)]) -> Vec<PhysRange> {
    of.iter()
        .map(|&(start, end)| PhysRange { start, end })
        .collect()
}

#[test]
fn qemu_virt() {
    let firmware = read_blob(VIRT).unwrap();
    let memory = ranges(&[(0x4000_0000, 0x4800_0000)]);
    assert_eq!(firmware.memblock.memory.as_slice(), memory);
    assert_eq!(firmware.uart, Some(0x900_0000));
    assert_eq!(firmware.psci, Some(Conduit::Hvc));
    assert_eq!((firmware.initrd, firmware.dropped_banks), (None, 0));
    assert_eq!(firmware.bootargs.as_str(), "");
}
