//! What nobody can do without: one store for each leaf, or its load and store, or four loads that depend on
//! each other. The frames are there, and nothing is planned, checked or linked but what a walk needs.

use crate::arena::{self, FRAME};

const LEAF: u64 = 0x0060_0000_0000_0703;

pub struct Stores {
    /// Tables of one level, one after the other in memory.
    first: usize,
    leaves: usize,
    root: usize,
}

impl super::Subject for Stores {
    const IS_LIMIT: bool = true;

    fn new() -> Self {
        Self {
            first: arena::frame(),
            leaves: 0,
            root: 0,
        }
    }

    fn map(&mut self, pa: usize, size: usize, leaf: usize) {
        self.leaves = size / leaf;
        let mut entry = pa as u64 | LEAF;
        for index in 0..self.leaves {
            // SAFETY: the arena has room for all leaves of every case behind its first frame.
            unsafe { (self.first as *mut u64).add(index).write_volatile(entry) };
            entry = entry.wrapping_add(leaf as u64);
        }
        if size == 1 << 30 {
            self.link();
        }
    }

    fn protect(&mut self, _: usize, _: usize) {
        for index in 0..self.leaves {
            // SAFETY: as in `map`.
            unsafe {
                let entry = (self.first as *mut u64).add(index);
                entry.write_volatile(entry.read_volatile() | 1 << 7);
            }
        }
    }

    #[inline(always)]
    fn translate(&self, va: usize) -> usize {
        let mut table = self.root;
        for shift in [39, 30, 21, 12] {
            // SAFETY: `link` made a tree of the tables for every address of the first GiB.
            let entry =
                unsafe { ((table + ((va >> shift & 511) << 3)) as *const usize).read_volatile() };
            table = entry & 0xffff_ffff_f000;
        }
        table | va & 0xfff
    }

    fn unmap(&mut self, _: usize) {
        for index in 0..self.leaves {
            // SAFETY: as in `map`.
            unsafe { (self.first as *mut u64).add(index).write_volatile(0) };
        }
    }

    /// 512 stores.
    fn split(&mut self, va: usize) {
        for index in 0..512 {
            // SAFETY: 512 blocks of 512 entries lie behind the first frame.
            unsafe {
                let entry = (self.first as *mut u64).add(va >> 21 << 9 | index);
                entry.write_volatile(LEAF | (index as u64) << 12);
            }
        }
    }
}

impl Stores {
    /// Three tables above those of the leaves.
    fn link(&mut self) {
        let behind = self.first + (self.leaves / 512 + 1) * FRAME;
        let [middle, upper, root] = [behind, behind + FRAME, behind + 2 * FRAME];
        self.root = root;
        for index in 0..512 {
            // SAFETY: three frames of the arena behind those of the leaves.
            unsafe {
                (middle as *mut usize)
                    .add(index)
                    .write(self.first + index * FRAME | 3);
                (upper as *mut usize).add(index).write(middle | 3);
                (root as *mut usize).add(index).write(upper | 3);
            }
        }
    }
}
