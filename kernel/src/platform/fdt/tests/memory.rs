//! RAM banks and reservations.

use std::vec::Vec;

use super::blob::Blob;
use super::*;

/// QEMU lists its NUMA nodes from the top down; each comes with any size.
#[test]
fn banks_come_in_any_order_and_size() {
    let m = 0x10_0000;
    let firmware = good(
        Blob::new(2, 2)
            .memory("memory@46400000", &[0, 0x4640_0000, 0, 28 * m])
            .memory("memory@42100000", &[0, 0x4210_0000, 0, 67 * m])
            .memory("memory@40000000", &[0, 0x4000_0000, 0, 32 * m + m]),
    );
    // They touch: one range.
    let all = ranges(&[(0x4000_0000, 0x4000_0000 + 128 * u64::from(m))]);
    assert_eq!(firmware.memblock.memory.as_slice(), all);

    let apart = good(
        Blob::new(2, 1)
            .memory("memory@8,0", &[8, 0, 67 * m])
            .memory("memory", &[0, 0x4000_0000, 33 * m, 4, 0, 0x1234]),
    );
    let banks = ranges(&[
        (0x4000_0000, 0x4210_0000),
        (0x4_0000_0000, 0x4_0000_1234),
        (0x8_0000_0000, 0x8_0430_0000),
    ]);
    assert_eq!(apart.memblock.memory.as_slice(), banks);
    assert_eq!(apart.dropped_banks, 0);
}

#[test]
fn overlapping_banks_are_counted_once() {
    let firmware = good(Blob::new(1, 1).memory("memory", &[0x1000, 0x3000, 0x2000, 0x4000]));
    let bank = ranges(&[(0x1000, 0x6000)]);
    assert_eq!(firmware.memblock.memory.as_slice(), bank);
}

#[test]
fn banks_that_cannot_be_used_are_counted() {
    let banks = [
        [0, 0x1000, 0, 0],                  // Empty.
        [u32::MAX, u32::MAX, 0, 2],         // Wraps.
        [0, 0x1000, u32::MAX, 0xf000_0000], // Ends just below the top.
    ];
    let firmware = good(Blob::new(2, 2).memory("memory", banks.as_flattened()));
    let bank = ranges(&[(0x1000, 0xffff_ffff_f000_1000)]);
    assert_eq!(firmware.memblock.memory.as_slice(), bank);
    assert_eq!(firmware.dropped_banks, 2);
}

#[test]
fn more_banks_than_are_kept() {
    let bank = |i: u32| [0, i * 0x10_0000, 0, 0x1000];
    let of = |count| {
        let reg: Vec<_> = (0..count).flat_map(bank).collect();
        good(Blob::new(2, 2).memory("memory", &reg))
    };
    let kept = of(MAX_RANGES as u32);
    assert_eq!(kept.memblock.memory.as_slice().len(), MAX_RANGES);
    assert_eq!(kept.dropped_banks, 0);
    let too_many = of(MAX_RANGES as u32 + 3);
    assert_eq!(too_many.memblock.memory.as_slice().len(), MAX_RANGES);
    assert_eq!(too_many.dropped_banks, 3);
}

#[test]
fn what_is_no_memory() {
    let reg = |n: Blob| n.cells("reg", &[0, 0x8000_0000, 0, 0x1000]);
    let firmware = good(
        Blob::with_memory()
            // As on Linux, the name alone makes no memory,
            .node("memory@80000000", reg)
            // nor does another type,
            .node("memory@1", |n| reg(n).text("device_type", "memory2"))
            // nor a disabled node,
            .node("memory@2", |n| {
                reg(n)
                    .text("device_type", "memory")
                    .text("status", "disabled")
            })
            // nor one that is not at the top.
            .node("soc", |n| {
                n.node("memory@3", |n| reg(n).text("device_type", "memory"))
            }),
    );
    let bank = ranges(&[(0x4000_0000, 0x4800_0000)]);
    assert_eq!(firmware.memblock.memory.as_slice(), bank);
    assert_eq!(firmware.dropped_banks, 0);
}

#[test]
fn no_usable_memory() {
    let reg = [0, 0x4000_0000, 0, 0x1000];
    for (address_cells, size_cells, reg) in [
        (2, 2, &reg[..0]), // No bank.
        (2, 2, &reg[..3]), // Part of one.
        (3, 1, &reg[..]),  // An address of 96 bits.
        (1, 3, &reg[..]),  // A size of 96 bits.
        (0, 2, &reg[..]),  // No address: not the same as address 0.
        (2, 0, &reg[..]),  // No size.
        (0, 0, &reg[..]),
        (u32::MAX, u32::MAX, &reg[..]),
    ] {
        let blob = Blob::new(address_cells, size_cells).memory("memory", reg);
        let (mut firmware, blob) = (Firmware::new(), blob.finish());
        let case = std::format!("{address_cells} {size_cells} {reg:?}");
        let result = read(&blob, &mut firmware);
        assert_eq!(result, Err(FdtError::NoMemory), "{case}");
        // Told, unless it said itself that there is none.
        assert_eq!(firmware.dropped_banks > 0, !reg.is_empty(), "{case}");
    }
}

#[test]
fn memreserve() {
    let firmware = good(
        Blob::with_memory()
            .reserve(0x4100_0000, 0x1800)
            .reserve(0x4000_0000, 0x1000)
            // Of no size: neither the end of the list nor a range.
            .reserve(0x4050_0000, 0)
            // Wraps: what there is of it counts.
            .reserve(0xffff_ffff_ffff_0000, 0x2_0000)
            .reserve(0, 0x800),
    );
    let reserved = ranges(&[
        (0, 0x800),
        (0x4000_0000, 0x4000_1000),
        (0x4100_0000, 0x4100_1800),
        (0xffff_ffff_ffff_0000, u64::MAX),
    ]);
    assert_eq!(firmware.memblock.reserved.as_slice(), reserved);
    assert!(firmware.memblock.nomap.as_slice().is_empty());
}

fn reserved_memory(children: impl FnOnce(Blob) -> Blob) -> Blob {
    Blob::with_memory().node("reserved-memory", |n| {
        children(
            n.cells("#address-cells", &[1])
                .cells("#size-cells", &[1])
                .property("ranges", &[]),
        )
    })
}

#[test]
fn reserved_memory_with_and_without_no_map() {
    let firmware = good(reserved_memory(|n| {
        n.node("firmware@41000000", |n| {
            n.cells("reg", &[0x4100_0000, 0x1000, 0x4200_0000, 0x2000])
        })
        .node("secure@43000000", |n| {
            n.property("no-map", &[])
                .cells("reg", &[0x4300_0000, 0x3000, 0xffff_f000, 0xffff_ffff])
        })
        // Wherever there is room: nobody asks for it here.
        .node("pool", |n| n.cells("size", &[0x10_0000]))
        .node("unused", |n| {
            n.text("status", "disabled")
                .cells("reg", &[0x4400_0000, 0x1000])
        })
        .node("empty", |n| n.cells("reg", &[0x4500_0000, 0]))
    }));
    let reserved = ranges(&[(0x4100_0000, 0x4100_1000), (0x4200_0000, 0x4200_2000)]);
    assert_eq!(firmware.memblock.reserved.as_slice(), reserved);
    let nomap = ranges(&[(0x4300_0000, 0x4300_3000), (0xffff_f000, 0x1_ffff_efff)]);
    assert_eq!(firmware.memblock.nomap.as_slice(), nomap);
}

#[test]
fn reserved_memory_that_wraps_is_kept_as_far_as_it_goes() {
    let reg = [u32::MAX, 0xffff_0000, 0, 0x2_0000];
    let blob = Blob::with_memory().node("reserved-memory", |n| {
        n.cells("#address-cells", &[2])
            .cells("#size-cells", &[2])
            .node("a", |n| n.cells("reg", &reg))
            .node("b", |n| n.cells("reg", &reg).property("no-map", &[]))
    });
    let top = ranges(&[(0xffff_ffff_ffff_0000, u64::MAX)]);
    let memblock = good(blob).memblock;
    assert_eq!(memblock.reserved.as_slice(), top);
    assert_eq!(memblock.nomap.as_slice(), top);
}

/// Going on without it could hand the firmware's memory to someone else.
#[test]
fn a_reservation_that_cannot_be_read_is_an_error() {
    let cells = |address: u32, size: u32, reg: &[u32]| {
        reserved_memory(|n| n.node("firmware@0", |n| n.cells("reg", reg)))
            .node("reserved-memory@1", |n| {
                n.cells("#address-cells", &[address])
                    .cells("#size-cells", &[size])
                    .node("secure", |n| n.cells("reg", reg).property("no-map", &[]))
            })
            .finish()
    };
    assert!(read_blob(&cells(1, 1, &[0x4100_0000, 0x1000])).is_ok());
    for blob in [
        cells(1, 1, &[0x4100_0000, 0x1000, 0x4200_0000]),
        cells(3, 1, &[0, 0, 0x4100_0000, 0x1000]),
        cells(0, 2, &[0, 0x1000]),
    ] {
        assert_eq!(read_blob(&blob).err(), Some(FdtError::BadReservation));
    }
}

#[test]
fn more_reservations_than_are_kept_are_an_error() {
    let of = |count: u64| {
        let blobs = (0..count).fold(Blob::with_memory(), |blob, i| {
            blob.reserve(0x4000_0000 + i * 0x2000, 0x1000)
        });
        read_blob(&blobs.finish())
    };
    let most = MAX_RANGES as u64;
    let kept = of(most).unwrap().memblock.reserved;
    assert_eq!(kept.as_slice().len(), MAX_RANGES);
    assert_eq!(of(most + 1).unwrap_err(), FdtError::TooManyReservations);
}

/// Whoever refuses such a tree can say so, and switch off.
#[test]
fn a_bad_reservation_hides_neither_console_nor_psci() {
    let blob = Blob::with_memory()
        .node("psci", |n| {
            n.text("compatible", "arm,psci-0.2").text("method", "smc")
        })
        .node("reserved-memory", |n| {
            n.node("broken", |n| n.cells("reg", &[1]))
        })
        .pl011("serial@9040000", &[0, 0x904_0000, 0, 0x1000])
        .chosen(|n| n.text("bootargs", "loglevel=8"));
    let mut firmware = Firmware::new();
    let error = read(&blob.finish(), &mut firmware).unwrap_err();
    assert_eq!(error, FdtError::BadReservation);
    assert_eq!(firmware.uart, Some(0x904_0000));
    assert_eq!(firmware.psci, Some(Conduit::Smc));
    assert_eq!(firmware.bootargs.as_str(), "loglevel=8");
}
