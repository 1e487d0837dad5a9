//! What must be made visible, or forgotten, before a change to the tables counts.

use core::fmt;

use crate::VirtAddr;

/// The barriers and TLB maintenance of a CPU, one instruction each, executed by [`Flush::execute`].
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

    /// Waits until the invalidations are complete on every CPU: `dsb ish`.
    fn completion_barrier(&self);

    /// Makes this CPU fetch and translate afresh from here on: `isb`.
    fn context_synchronization(&self);
}

/// What is left to do after a change to the tables, for the change to take effect.
///
/// New mappings need no invalidation, since the architecture forbids caching entries that fault;
/// the barriers keep the next access from faulting all the same. Changed mappings need the old ones
/// to be invalidated. Several flushes can be [merged](Self::merge) and executed once.
#[must_use = "until it is executed, CPUs may use what was there before"]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flush {
    new_entries: bool,
    stale: Option<Stale>,
}

/// A range of addresses for which a TLB may hold translations that are no longer true.
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
}

impl Stale {
    /// Number of invalidations that cover the range.
    #[must_use]
    pub const fn invalidations(&self) -> u64 {
        let stride = if self.stride_bytes == 0 {
            1
        } else {
            self.stride_bytes
        };
        (self.last.as_u64().wrapping_sub(self.first.as_u64()) / stride).saturating_add(1)
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
    pub fn merge(self, other: Self) -> Self {
        let stale = match (self.stale, other.stale) {
            (Some(a), Some(b)) => Some(Stale {
                first: a.first.min(b.first),
                last: a.last.max(b.last),
                stride_bytes: a.stride_bytes.min(b.stride_bytes),
                last_level_only: a.last_level_only && b.last_level_only,
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

fn invalidate<T: TlbMaintenance>(stale: &Stale, tlb: &T) {
    let count = stale.invalidations();
    if count > T::MAX_INVALIDATIONS {
        return tlb.invalidate_all();
    }
    for step in 0..count {
        let va = stale
            .first
            .as_u64()
            .wrapping_add(step.wrapping_mul(stale.stride_bytes));
        match stale.last_level_only {
            true => tlb.invalidate_leaf(operand(va)),
            false => tlb.invalidate_walk(operand(va)),
        }
    }
}

/// The operand of a TLBI by address: `VA[55:12]` in bits 43:0 whatever the granule, and nothing
/// above. There `TTL` would promise a level and `ASID` name an address space, which the sign bits of
/// an upper-range address must not be taken for.
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
