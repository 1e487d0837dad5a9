//! How a mapping may be laid out.

use core::ops::{BitOr, BitOrAssign};

/// Options of a mapping; combined with `|`. Linux: `NO_BLOCK_MAPPINGS`,
/// `NO_CONT_MAPPINGS`, `NO_EXEC_MAPPINGS`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flags(u32);

impl Flags {
    /// The largest leaves that fit, global.
    pub const NONE: Self = Self(0);
    /// New leaves are pages, never blocks: for memory whose permissions will change by the page.
    /// Blocks that are there already are left as they are.
    pub const NO_BLOCK: Self = Self(1 << 0);
    /// New leaves get no Contiguous hint: for memory whose permissions will change in smaller pieces
    /// than a run (16 entries with 4 KiB pages; Arm ARM chapter D8, "The Contiguous bit"). Runs that are
    /// there already keep theirs.
    pub const NO_CONT: Self = Self(1 << 1);
    /// New tables forbid execution at EL1 for all below them (`PXNTable`), whatever is mapped there
    /// later. Tables that are there already stay as they are (Arm ARM chapter D8, "Memory access control",
    /// hierarchical control).
    pub const NO_EXEC: Self = Self(1 << 2);
    /// New leaves have `nG` set: they belong to one ASID (Arm ARM chapter D8, "Global and process-specific
    /// translation table entries"; Linux: `PTE_MAYBE_NG`).
    pub const NON_GLOBAL: Self = Self(1 << 31);

    /// Whether every flag of `other` is set.
    #[must_use]
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

impl BitOr for Flags {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl BitOrAssign for Flags {
    fn bitor_assign(&mut self, other: Self) {
        *self = *self | other;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_add_up() {
        let all = [
            Flags::NO_BLOCK,
            Flags::NO_CONT,
            Flags::NO_EXEC,
            Flags::NON_GLOBAL,
        ];
        let mut flags = Flags::NONE;
        for flag in all {
            assert!(!flags.contains(flag) && flags.contains(Flags::NONE));
            flags |= flag;
            // Twice is once.
            flags |= flag;
            assert!(flags.contains(flag) && (flags | flag) == flags);
        }
        assert!(all.iter().all(|&flag| flags.contains(flag)));
        assert!(!Flags::NO_BLOCK.contains(flags));
    }
}
