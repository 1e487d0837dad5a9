//! What must be made visible, or forgotten, before a change to the tables counts.

use core::fmt;

use crate::VirtAddr;
use crate::geometry::Geometry;
use crate::span::Span;

/// The barriers and TLB maintenance of a CPU, one instruction each, executed by [`Flush::execute`]
/// (Arm ARM DDI 0487, chapter D8, "TLB maintenance"; chapter C6 for the barriers). Linux: `asm/tlbflush.h`.
///
/// The compiler must not move loads and stores across any of them: `asm!` without `options(nomem)`. Tables that
/// only this CPU walks can do without `IS` and `ish`. What an erratum of a CPU asks for, as a second `TLBI` and `dsb`,
/// belongs into [`completion_barrier`](Self::completion_barrier).
pub trait TlbMaintenance {
    /// With more entries than this to invalidate, everything is invalidated at once.
    ///
    /// Linux gives up counting at the same number with 4 KiB pages (`MAX_DVM_OPS`).
    const MAX_INVALIDATIONS: u64 = 512;

    /// Makes the descriptors written so far visible to all table walkers: `dsb ishst`.
    fn store_barrier(&self);

    /// Invalidates what was cached from the last-level entry for one address, for every ASID:
    /// `TLBI VAALE1IS, operand`.
    fn invalidate_leaf(&self, operand: u64);

    /// The same, and what was cached from the tables above it: `TLBI VAAE1IS, operand`.
    fn invalidate_walk(&self, operand: u64);

    /// Invalidates everything cached for EL1&0: `TLBI VMALLE1IS`.
    fn invalidate_all(&self);

    /// Whether every CPU has `FEAT_TLBIRANGE` (`ID_AA64ISAR0_EL1.TLB` is 0b0010), and the two
    /// operations below execute it.
    fn has_ranges(&self) -> bool {
        false
    }

    /// As [`invalidate_leaf`](Self::invalidate_leaf) for a range: `TLBI RVAALE1IS, operand`.
    ///
    /// Called only if [`has_ranges`](Self::has_ranges) says so. The default is correct, and slow.
    fn invalidate_leaf_range(&self, operand: u64) {
        let _ = operand;
        self.invalidate_all();
    }

    /// As [`invalidate_walk`](Self::invalidate_walk) for a range: `TLBI RVAAE1IS, operand`.
    ///
    /// Called only if [`has_ranges`](Self::has_ranges) says so. The default is correct, and slow.
    fn invalidate_walk_range(&self, operand: u64) {
        let _ = operand;
        self.invalidate_all();
    }

    /// Waits until the invalidations are complete on every CPU: `dsb ish`.
    fn completion_barrier(&self);

    /// Makes this CPU fetch and translate afresh from here on: `isb`.
    fn context_synchronization(&self);
}

/// What is left to do after a change to the tables, for the change to take effect.
///
/// New mappings need no invalidation, since the architecture forbids caching entries that fault;
/// the barriers keep the next access from faulting all the same. Changed mappings need the old ones
/// to be invalidated (Arm ARM DDI 0487, chapter D8, "TLB maintenance"). Several flushes can be
/// [merged](Self::merge) and executed once. Linux: `flush_tlb_kernel_range`.
#[must_use = "until it is executed, CPUs may use what was there before"]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flush {
    new_entries: bool,
    stale: Option<Stale>,
}

/// A range of addresses for which a TLB may hold translations that are no longer true (Arm ARM DDI 0487,
/// chapter D8, "Translation Lookaside Buffers").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stale {
    /// The first address.
    pub first: VirtAddr,
    /// The last address; inclusive, so that it can be the last of the address space.
    pub last: VirtAddr,
    /// Size of the smallest block or page in the range: one invalidation in every so many bytes
    /// meets them all.
    pub stride_bytes: u64,
    /// Whether only blocks and pages changed: cached table entries are still true.
    pub last_level_only: bool,
    /// How operands of range invalidations count: pages of which size; `None` for more than one.
    pages: Option<PageUnit>,
}

/// What a range TLBI must know of a geometry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct PageUnit {
    /// log2 of the granule.
    shift: u32,
    /// Whether `TCR_EL1.DS` is 1: then `BaseADDR` counts in units of 64 KiB.
    lpa2: bool,
}

impl Stale {
    /// What TLBs may hold of leaves of `stride_bytes` each in a span of the range at `base`.
    pub(crate) const fn new<G: Geometry>(
        base: VirtAddr,
        span: Span,
        stride_bytes: u64,
        last_level_only: bool,
    ) -> Self {
        Self {
            first: VirtAddr::new(base.as_u64() | span.ia),
            last: VirtAddr::new(base.as_u64() | (span.end - 1)),
            stride_bytes,
            last_level_only,
            pages: Some(PageUnit {
                shift: G::GRANULE_SHIFT,
                lpa2: G::LPA2,
            }),
        }
    }

    /// Number of pages that the range touches.
    const fn page_count(&self, unit: PageUnit) -> u64 {
        let (first, last) = (self.first.as_u64(), self.last.as_u64());
        let pages = (last >> unit.shift).wrapping_sub(first >> unit.shift);
        pages.saturating_add(1)
    }

    /// Number of invalidations that cover the range, one by one.
    #[must_use]
    pub const fn invalidations(&self) -> u64 {
        if self.stride_bytes == 0 {
            return u64::MAX;
        }
        let distance = self.last.as_u64().wrapping_sub(self.start().as_u64());
        (distance / self.stride_bytes).saturating_add(1)
    }

    /// The address of the first invalidation. A range may begin within what a table translates; counted
    /// from there, the last steps could miss the table in which it ends.
    const fn start(&self) -> VirtAddr {
        self.first.align_down(self.stride_bytes)
    }
}

impl Flush {
    /// Nothing is left to do.
    pub const NOTHING: Self = Self {
        new_entries: false,
        stale: None,
    };

    pub(crate) const fn new(new_entries: bool, stale: Option<Stale>) -> Self {
        Self { new_entries, stale }
    }

    /// Whether nothing is left to do: nothing was written.
    #[must_use]
    pub const fn is_nothing(&self) -> bool {
        !self.new_entries && self.stale.is_none()
    }

    /// Whether entries became valid that were not.
    #[must_use]
    pub const fn has_new_entries(&self) -> bool {
        self.new_entries
    }

    /// The addresses whose old translations must be invalidated, if there are any.
    #[must_use]
    pub const fn stale(&self) -> Option<Stale> {
        self.stale
    }

    /// One flush that does the work of both; ranges are joined to the smallest that holds them.
    ///
    /// Not for what is unmapped and mapped anew, nor for a split at [`BbmLevel::Level2`](crate::BbmLevel::Level2)
    /// and what changes afterwards: there the first flush comes before the second call.
    pub fn merge(self, other: Self) -> Self {
        let stale = match (self.stale, other.stale) {
            (Some(a), Some(b)) => Some(Stale {
                first: a.first.min(b.first),
                last: a.last.max(b.last),
                stride_bytes: a.stride_bytes.min(b.stride_bytes),
                last_level_only: a.last_level_only && b.last_level_only,
                pages: a.pages.filter(|_| a.pages == b.pages),
            }),
            (a, b) => a.or(b),
        };
        Self {
            new_entries: self.new_entries || other.new_entries,
            stale,
        }
    }

    /// Does what is left to do, on all CPUs; afterwards the change is in effect.
    pub fn execute(self, tlb: &impl TlbMaintenance) {
        if self.is_nothing() {
            return;
        }
        // The new descriptors must be visible before the old ones are forgotten: a walker that is
        // faster would cache the old ones again.
        tlb.store_barrier();
        if let Some(stale) = self.stale {
            invalidate(&stale, tlb);
            tlb.completion_barrier();
        }
        tlb.context_synchronization();
    }

    /// Says why nothing needs to be done, and does nothing.
    ///
    /// The right reason is that no table walker uses these tables yet, as before the MMU is on.
    pub fn ignore_because(self, reason: &'static str) {
        let _ = reason;
    }
}

/// One range operation for each `SCALE` covers at most one page less than this.
const MAX_PAGES: u64 = 1 << 21;

/// With so many entries to invalidate, or fewer, ranges have nothing to save.
const FEW: u64 = 4;

fn invalidate<T: TlbMaintenance>(stale: &Stale, tlb: &T) {
    let count = stale.invalidations();
    if count > FEW
        && tlb.has_ranges()
        && let Some(unit) = stale.pages
        && stale.page_count(unit) < MAX_PAGES
    {
        return invalidate_by_range(stale, unit, tlb);
    }
    if count > T::MAX_INVALIDATIONS {
        return tlb.invalidate_all();
    }
    for step in 0..count {
        let va = stale
            .start()
            .as_u64()
            .wrapping_add(step.wrapping_mul(stale.stride_bytes));
        invalidate_one(stale, va, tlb);
    }
}

fn invalidate_one<T: TlbMaintenance>(stale: &Stale, va: u64, tlb: &T) {
    match stale.last_level_only {
        true => tlb.invalidate_leaf(operand(va)),
        false => tlb.invalidate_walk(operand(va)),
    }
}

/// A range operation covers (NUM + 1) × 2^(5 × SCALE + 1) pages (Arm ARM DDI 0487, `TLBI RVAE1IS`). So
/// the number of pages is taken apart in groups of five bits, from the upper ones down: then the
/// next base is always as aligned as `BaseADDR` needs it.
fn invalidate_by_range<T: TlbMaintenance>(stale: &Stale, unit: PageUnit, tlb: &T) {
    let mut va = stale.first.align_down(1 << unit.shift).as_u64();
    let mut pages = stale.page_count(unit);
    // With LPA2 a range can only begin at a multiple of 64 KiB.
    while unit.lpa2 && va & 0xffff != 0 && pages != 0 {
        invalidate_one(stale, va, tlb);
        va = va.wrapping_add(1 << unit.shift);
        pages -= 1;
    }
    for scale in [3, 2, 1, 0] {
        let group_shift = 5 * scale + 1;
        let groups = pages >> group_shift;
        if groups == 0 {
            continue;
        }
        let operand = range_operand(va, unit, scale, groups - 1);
        match stale.last_level_only {
            true => tlb.invalidate_leaf_range(operand),
            false => tlb.invalidate_walk_range(operand),
        }
        let covered = groups << group_shift;
        va = va.wrapping_add(covered << unit.shift);
        pages -= covered;
    }
    if pages != 0 {
        invalidate_one(stale, va, tlb);
    }
}

/// The operand of a range TLBI: `TG` in bits 47:46, `SCALE` 45:44, `NUM` 43:39, `TTL` 38:37, `BaseADDR`
/// 36:0; no ASID. `TTL` is 0, no hint: a range may hold leaves of several levels.
const fn range_operand(va: u64, unit: PageUnit, scale: u32, num: u64) -> u64 {
    let tg = match unit.shift {
        14 => 0b10,
        16 => 0b11,
        _ => 0b01,
    };
    let base_shift = if unit.lpa2 { 16 } else { unit.shift };
    let base = (va >> base_shift) & ((1 << 37) - 1);
    tg << 46 | (scale as u64) << 44 | num << 39 | base
}

/// The operand of a TLBI by address: `VA[55:12]` in bits 43:0 whatever the granule, and nothing
/// above. There `TTL` would promise a level and `ASID` name an address space, which the sign bits of
/// an upper-range address must not be taken for. No level is promised: 0 in `TTL` is no hint, and
/// always right.
const fn operand(va: u64) -> u64 {
    (va >> 12) & ((1 << 44) - 1)
}

impl fmt::Display for Flush {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.stale {
            Some(stale) => write!(
                f,
                "invalidate {}-{} by {:#x}",
                stale.first, stale.last, stale.stride_bytes
            ),
            None if self.new_entries => f.write_str("new entries only"),
            None => f.write_str("nothing"),
        }
    }
}
