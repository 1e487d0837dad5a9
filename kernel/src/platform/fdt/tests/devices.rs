//! The console and PSCI.

use super::blob::Blob;
use super::*;

/// Two UARTs, and an alias for the second.
fn two_uarts(stdout: Option<&[u8]>) -> Option<u64> {
    let blob = Blob::with_memory()
        .pl011("serial@9000000", &[0, 0x900_0000, 0, 0x1000])
        .pl011("serial@9040000", &[0, 0x904_0000, 0, 0x1000])
        .pl011("uart@9080000", &[0, 0x908_0000, 0, 0x1000])
        .node("aliases", |n| {
            n.text("serial0", "/serial@9040000")
                .property("broken", b"/serial@9040000")
                .text("nowhere", "/serial@1")
        })
        .chosen(|n| match stdout {
            Some(path) => n.property("stdout-path", path),
            None => n,
        });
    good(blob).uart
}

#[test]
fn stdout_path() {
    let (first, second, third) = (Some(0x900_0000), Some(0x904_0000), Some(0x908_0000));
    for (path, uart) in [
        (&b"/serial@9040000\0"[..], second),
        (b"/serial@9040000:115200n8\0", second),
        (b"//serial@9040000/\0", second),
        (b"serial0\0", second),
        (b"serial0:115200n8:x\0", second),
        // A name without unit address takes the first of that name.
        (b"/serial\0", first),
        (b"/uart\0", third),
        // Nothing that helps: the first in the tree.
        (b"/serial@9040001\0", first),
        (b"/uart/x\0", first),
        (b"/memory\0", first),
        (b"/\0", first),
        (b":\0", first),
        (b"\0", first),
        (b"", first),
        (b"/uart", first),
        (b"serial1\0", first),
        (b"broken\0", first),
        (b"nowhere\0", first),
        (b"/uart\xff\0", first),
    ] {
        assert_eq!(two_uarts(Some(path)), uart, "{}", path.escape_ascii());
    }
    assert_eq!(two_uarts(None), first);
}

#[test]
fn a_uart_that_cannot_be_used_is_none() {
    let good_reg = [0, 0x900_0000, 0, 0x1000];
    let uart = |fill: fn(Blob) -> Blob, reg: &[u32]| {
        let node = |n: Blob| fill(n).text("compatible", "arm,pl011").cells("reg", reg);
        let blob = Blob::with_memory()
            .node("serial@9000000", node)
            .chosen(|n| n.text("stdout-path", "/serial@9000000"));
        good(blob).uart
    };
    assert_eq!(uart(|n| n, &good_reg), Some(0x900_0000));
    assert_eq!(
        uart(|n| n.text("status", "okay"), &good_reg),
        Some(0x900_0000)
    );
    assert_eq!(
        uart(|n| n.text("status", "ok"), &good_reg),
        Some(0x900_0000)
    );
    assert_eq!(uart(|n| n.text("status", "disabled"), &good_reg), None);
    assert_eq!(uart(|n| n.text("status", "fail-sss"), &good_reg), None);
    assert_eq!(uart(|n| n.property("status", b"okay"), &good_reg), None);
    // The first of two properties counts, as in libfdt.
    assert_eq!(uart(|n| n.text("compatible", "ns16550a"), &good_reg), None);
    assert_eq!(uart(|n| n, &good_reg[..3]), None);
    assert_eq!(uart(|n| n, &[]), None);
    // Not at the start of 4 KiB.
    assert_eq!(uart(|n| n, &[0, 0x900_0004, 0, 0x1000]), None);
    assert_eq!(good(Blob::with_memory()).uart, None);
}

/// A PL011 at 0x7e201000 on a bus of the Raspberry Pi 3's kind.
fn behind(ranges: Option<&[u32]>, bus: fn(Blob) -> Blob) -> Option<u64> {
    let blob = Blob::new(1, 1)
        .memory("memory@0", &[0, 0x3b40_0000])
        .node("soc", |n| {
            let n = bus(n.cells("#address-cells", &[1]).cells("#size-cells", &[1]));
            match ranges {
                Some(ranges) => n.cells("ranges", ranges),
                None => n,
            }
            .pl011("serial@7e201000", &[0x7e20_1000, 0x200])
        });
    good(blob).uart
}

#[test]
fn addresses_on_a_bus_are_translated_by_its_ranges() {
    let raspi3b = [
        0x7e00_0000,
        0x3f00_0000,
        0x100_0000,
        0x4000_0000,
        0x4000_0000,
        0x1000,
    ];
    let on = |ranges: &[u32]| behind(Some(ranges), |n| n);
    assert_eq!(on(&raspi3b), Some(0x3f20_1000));
    // Empty: one to one. None at all: no way there (specification, 2.3.8).
    assert_eq!(on(&[]), Some(0x7e20_1000));
    assert_eq!(behind(None, |n| n), None);
    // The last byte of a range, and one past it.
    assert_eq!(
        on(&[0x7e00_0000, 0x3f00_0000, 0x20_1001]),
        Some(0x3f20_1000)
    );
    assert_eq!(on(&[0x7e00_0000, 0x3f00_0000, 0x20_1000]), None);
    // Part of an entry; and an address that would wrap.
    assert_eq!(on(&raspi3b[..5]), None);
    let wraps = |n: Blob| {
        let up = [0, 0x0, 0xffff_ffff, 0xffff_f000, 0xffff_ffff];
        n.node("bus", |n| {
            let n = n.cells("#address-cells", &[2]).cells("#size-cells", &[1]);
            n.property("ranges", &[]).node("bus", |n| {
                n.cells("#address-cells", &[2])
                    .cells("#size-cells", &[1])
                    .cells("ranges", &up)
                    .pl011("serial", &[0, 0x2000, 0x1000])
            })
        })
    };
    assert_eq!(good(wraps(Blob::with_memory())).uart, None);
    // Nothing on a bus that is switched off.
    assert_eq!(
        behind(Some(&raspi3b), |n| n.text("status", "disabled")),
        None
    );
}

#[test]
fn buses_are_followed_down_to_a_limit() {
    // The UART below so many buses.
    let below = |buses: u32| {
        let mut blob = Blob::with_memory();
        for _ in 0..buses {
            blob.begin("bus");
            blob = blob
                .cells("#address-cells", &[1])
                .cells("#size-cells", &[0])
                .cells("ranges", &[]);
        }
        let mut blob = blob.pl011("serial", &[0x900_0000]);
        (0..buses).for_each(|_| blob.word(2));
        good(blob).uart
    };
    assert_eq!(below(7), Some(0x900_0000));
    assert_eq!(below(8), None);
}

#[test]
fn the_power_manager_of_a_raspberry_pi() {
    // As Linux has it in bcm283x.dtsi: the block that counts comes first.
    let tree_with = |blob: Blob, compatible: &[u8], reg: &[u32]| {
        let blob = blob.memory("memory@0", &[0, 0x3b40_0000]).node("soc", |n| {
            let n = n.cells("#address-cells", &[1]).cells("#size-cells", &[1]);
            n.cells("ranges", &[0x7e00_0000, 0x3f00_0000, 0x100_0000])
                .node("watchdog@7e100000", |n| {
                    n.property("compatible", compatible).cells("reg", reg)
                })
        });
        good(blob).power_manager
    };
    let tree = |compatible: &[u8], reg: &[u32]| tree_with(Blob::new(1, 1), compatible, reg);
    let reg = [0x7e10_0000, 0x114, 0x7e00_a000, 0x24];
    let pi3 = b"brcm,bcm2835-pm\0brcm,bcm2835-pm-wdt\0";
    let pi4 = b"brcm,bcm2711-pm\0brcm,bcm2835-pm-wdt\0";
    assert_eq!(tree(pi3, &reg), Some(0x3f10_0000));
    assert_eq!(tree(pi4, &reg), Some(0x3f10_0000));
    assert_eq!(tree(b"brcm,bcm2835-pm\0", &reg), None);
    assert_eq!(tree(pi3, &[0x7e10_0004, 0x114]), None);
    assert_eq!(tree(pi3, &[]), None);
    assert_eq!(good(Blob::with_memory()).power_manager, None);

    // Where PSCI switches off, nothing else is wanted.
    let with_psci = |compatible: &[u8]| {
        let psci = |n: Blob| n.property("compatible", compatible).text("method", "smc");
        tree_with(Blob::new(1, 1).node("psci", psci), pi4, &reg)
    };
    assert_eq!(with_psci(b"arm,psci-0.2\0"), None);
    assert_eq!(with_psci(b"arm,psci\0"), Some(0x3f10_0000));
}

#[test]
fn psci() {
    let of = |compatible: &[u8], method: &str| {
        let node = |n: Blob| n.property("compatible", compatible).text("method", method);
        let top = good(Blob::with_memory().node("psci", node)).psci;
        // Some boards have it here.
        let below = good(Blob::with_memory().node("firmware", |n| n.node("psci", node))).psci;
        assert_eq!(top, below);
        top
    };
    assert_eq!(
        of(b"arm,psci-1.0\0arm,psci-0.2\0arm,psci\0", "hvc"),
        Some(Conduit::Hvc)
    );
    assert_eq!(of(b"arm,psci-0.2\0", "smc"), Some(Conduit::Smc));
    assert_eq!(of(b"arm,psci-1.0\0", "smc"), Some(Conduit::Smc));
    assert_eq!(of(b"arm,psci-1.0\0", "svc"), None);
    // 0.1 has no function to switch off with.
    assert_eq!(of(b"arm,psci\0", "smc"), None);
    assert_eq!(of(b"arm,psci-1.0", "smc"), None);
    assert_eq!(good(Blob::with_memory()).psci, None);
}
