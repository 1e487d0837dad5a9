//! Finds devices in the tree, and where the CPU sees them.

use dtoolkit::fdt::{Fdt, FdtNode, FdtProperty};
use dtoolkit::standard::NodeStandard;
use dtoolkit::{Node, Property};

use super::{Conduit, is_available, number};

/// How many levels below the root devices are looked for: that bounds the stack, and
/// how often a subtree is skipped over.
const MAX_LEVELS: u32 = 8;

/// A device, and where its first register is on the bus from which one looks.
struct Device<'a> {
    node: FdtNode<'a>,
    address: Option<u64>,
}

impl<'a> Device<'a> {
    /// Seen from its own bus.
    fn new(node: FdtNode<'a>) -> Self {
        let first = node.reg().ok().flatten().and_then(|mut reg| reg.next());
        let address = first.and_then(|first| number(first.address));
        Self { node, address }
    }

    /// Seen from the parent of `bus`, on which it was found.
    fn through(mut self, bus: &FdtNode<'_>) -> Self {
        self.address = self.address.and_then(|child| to_parent_bus(bus, child));
        self
    }

    /// The first available node below `bus` that is `wanted` and not on a disabled bus.
    fn first(bus: FdtNode<'a>, wanted: fn(&FdtNode<'_>) -> bool, levels: u32) -> Option<Self> {
        let levels = levels.checked_sub(1)?;
        bus.children()
            .filter(is_available)
            .find_map(|child| match wanted(&child) {
                true => Some(Self::new(child)),
                false => Some(Self::first(child, wanted, levels)?.through(&child)),
            })
    }

    /// The node that has these names on the way down from `bus`; one without unit
    /// address takes any.
    fn at_path(bus: FdtNode<'a>, path: &[u8], levels: u32) -> Option<Self> {
        let levels = levels.checked_sub(1)?;
        let start = path.iter().position(|&byte| byte != b'/')?;
        let path = &path[start..];
        let end = path.iter().position(|&byte| byte == b'/');
        let (name, rest) = path.split_at(end.unwrap_or(path.len()));
        let is_it = |node: &FdtNode<'_>| {
            node.name().as_bytes() == name || node.name_without_address().as_bytes() == name
        };
        let node = bus.children().find(is_it)?;
        match rest.iter().all(|&byte| byte == b'/') {
            true => Some(Self::new(node)),
            false => Some(Self::at_path(node, rest, levels)?.through(&node)),
        }
    }

    /// Where its registers are: a PrimeCell fills 4 KiB, and what starts in their
    /// midst is neither one nor any other device here.
    fn register_page(&self) -> Option<u64> {
        self.address.filter(|address| address % 0x1000 == 0)
    }
}

/// Translates an address on `bus` by its `ranges`. Empty means one to one; with
/// none at all, or none that fits, the CPU cannot get there.
fn to_parent_bus(bus: &FdtNode<'_>, address: u64) -> Option<u64> {
    if bus.property("ranges")?.value().is_empty() {
        return Some(address);
    }
    bus.ranges().ok()??.find_map(|range| {
        let offset = address.checked_sub(number(range.child_bus_address)?)?;
        let parent = number(range.parent_bus_address)?;
        (offset < number(range.length)?)
            .then(|| parent.checked_add(offset))
            .flatten()
    })
}

/// How the first PSCI node in the tree wants to be called.
pub(super) fn find_psci(fdt: Fdt<'_>) -> Option<Conduit> {
    // 0.1 has no SYSTEM_OFF.
    let is_psci = |node: &FdtNode<'_>| {
        node.is_compatible("arm,psci-0.2") || node.is_compatible("arm,psci-1.0")
    };
    let psci = Device::first(fdt.root(), is_psci, MAX_LEVELS)?;
    match psci.node.property("method")?.value() {
        b"hvc\0" => Some(Conduit::Hvc),
        b"smc\0" => Some(Conduit::Smc),
        _ => None,
    }
}

/// The first power manager of the Raspberry Pi's kind.
pub(super) fn find_power_manager(fdt: Fdt<'_>) -> Option<u64> {
    // The later name for the whole block comes with this one for its watchdog.
    let is_manager = |node: &FdtNode<'_>| node.is_compatible("brcm,bcm2835-pm-wdt");
    Device::first(fdt.root(), is_manager, MAX_LEVELS)?.register_page()
}

/// The PL011 that `stdout_path`, the property of `/chosen`, names by path or alias;
/// without one, the first in the tree.
pub(super) fn find_console(fdt: Fdt<'_>, stdout_path: Option<FdtProperty<'_>>) -> Option<u64> {
    let named = stdout_path.and_then(|path| named_pl011(fdt, path));
    named.or_else(|| Device::first(fdt.root(), is_pl011, MAX_LEVELS)?.register_page())
}

fn named_pl011(fdt: Fdt<'_>, stdout_path: FdtProperty<'_>) -> Option<u64> {
    let stdout = stdout_path.value_as::<&str>().ok()?;
    // Options such as the baud rate may follow.
    let end = stdout.bytes().position(|byte| byte == b':');
    let path = &stdout[..end.unwrap_or(stdout.len())];
    let path = match path.starts_with('/') {
        true => path,
        false => {
            let aliases = fdt.root().child("aliases")?;
            aliases.property(path)?.value_as::<&str>().ok()?
        }
    };
    let named = Device::at_path(fdt.root(), path.as_bytes(), MAX_LEVELS)?;
    let usable = is_pl011(&named.node) && is_available(&named.node);
    usable.then(|| named.register_page())?
}

fn is_pl011(node: &FdtNode<'_>) -> bool {
    node.is_compatible("arm,pl011")
}
