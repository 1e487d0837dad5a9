//! Finds devices in the tree, and where the CPU sees them.

use dtoolkit::fdt::{Fdt, FdtNode};
use dtoolkit::standard::NodeStandard;
use dtoolkit::{Node, Property};

use super::{Conduit, is_available, number};

/// How far down devices are looked for; the root is the first level.
const MAX_DEPTH: usize = 9;

/// A node, and the buses it lies on: from the root down.
struct Lineage<'a> {
    nodes: [FdtNode<'a>; MAX_DEPTH],
    len: usize,
}

impl<'a> Lineage<'a> {
    fn root(fdt: Fdt<'a>) -> Self {
        Self {
            nodes: [fdt.root(); MAX_DEPTH],
            len: 1,
        }
    }

    /// The node at `path`; a name in it without unit address takes any.
    fn at_path(fdt: Fdt<'a>, path: &str) -> Option<Self> {
        let mut lineage = Self::root(fdt);
        for name in path.split('/').filter(|name| !name.is_empty()) {
            let child = lineage.node().child(name)?;
            lineage.push(child)?;
        }
        Some(lineage)
    }

    /// The first available node that is `wanted` and not on a disabled bus.
    fn first(fdt: Fdt<'a>, wanted: fn(&FdtNode<'_>) -> bool) -> Option<Self> {
        let mut lineage = Self::root(fdt);
        lineage.descend(wanted).then_some(lineage)
    }

    /// Goes to the first such node below, if there is one. No deeper than
    /// MAX_DEPTH: that bounds the stack, and how often a subtree is skipped over.
    fn descend(&mut self, wanted: fn(&FdtNode<'_>) -> bool) -> bool {
        for child in self.node().children().filter(is_available) {
            if self.push(child).is_none() {
                return false;
            }
            if wanted(&child) || self.descend(wanted) {
                return true;
            }
            self.len -= 1;
        }
        false
    }

    fn node(&self) -> FdtNode<'a> {
        self.nodes[self.len - 1]
    }

    fn push(&mut self, child: FdtNode<'a>) -> Option<()> {
        *self.nodes.get_mut(self.len)? = child;
        self.len += 1;
        Some(())
    }

    /// Where the CPU sees the node's first register.
    fn address(&self) -> Option<u64> {
        let first = self.node().reg().ok()??.next()?;
        let buses = self.nodes[1..].iter().take(self.len.saturating_sub(2));
        buses
            .rev()
            .try_fold(number(first.address)?, |address, bus| {
                to_parent_bus(bus, address)
            })
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
    let psci = Lineage::first(fdt, is_psci)?;
    match psci.node().property("method")?.value() {
        b"hvc\0" => Some(Conduit::Hvc),
        b"smc\0" => Some(Conduit::Smc),
        _ => None,
    }
}

/// The first power manager of the Raspberry Pi's kind.
pub(super) fn find_power_manager(fdt: Fdt<'_>) -> Option<u64> {
    // The later name for the whole block comes with this one for its watchdog.
    let is_manager = |node: &FdtNode<'_>| node.is_compatible("brcm,bcm2835-pm-wdt");
    register_page(&Lineage::first(fdt, is_manager)?)
}

/// The PL011 that `/chosen/stdout-path` names, by path or alias; without one,
/// the first in the tree.
pub(super) fn find_console(fdt: Fdt<'_>) -> Option<u64> {
    named_pl011(fdt).or_else(|| register_page(&Lineage::first(fdt, is_pl011)?))
}

fn named_pl011(fdt: Fdt<'_>) -> Option<u64> {
    let chosen = fdt.root().child("chosen")?;
    let stdout = chosen.property("stdout-path")?.value_as::<&str>().ok()?;
    // Options such as the baud rate may follow.
    let path = stdout.split(':').next()?;
    let path = match path.starts_with('/') {
        true => path,
        false => {
            let aliases = fdt.root().child("aliases")?;
            aliases.property(path)?.value_as::<&str>().ok()?
        }
    };
    let named = Lineage::at_path(fdt, path)?;
    let usable = is_pl011(&named.node()) && is_available(&named.node());
    usable.then(|| register_page(&named))?
}

fn is_pl011(node: &FdtNode<'_>) -> bool {
    node.is_compatible("arm,pl011")
}

/// Where a device's registers are: a PrimeCell fills 4 KiB, and what starts in
/// their midst is neither one nor any other device here.
fn register_page(device: &Lineage<'_>) -> Option<u64> {
    device.address().filter(|address| address % 0x1000 == 0)
}
