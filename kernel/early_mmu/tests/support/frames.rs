//! Frames for tables, full of dirt, and held to what was reserved.

use std::marker::PhantomData;

use early_mmu::{MapError, PhysAddr, ReservedFrames, TableAlloc};

use super::geometries::{TestGeometry, TestTable};
use super::memory::{DIRT, slot_pa};

/// Frames for tables: the slots of a [`Memory`](super::Memory), in order.
pub struct Pool<G> {
    next: usize,
    left: usize,
    /// How often a call asked for frames.
    pub reservations: usize,
    /// Whether fewer may be taken than were reserved: if a table is linked in two places, what was done
    /// in one is found done in the other.
    pub may_keep: bool,
    geometry: PhantomData<G>,
}

impl<G: TestGeometry> Pool<G> {
    /// Frames for the slots from `first` on.
    pub fn new(first: usize, count: usize) -> Self {
        Self {
            next: first,
            left: count,
            reservations: 0,
            may_keep: false,
            geometry: PhantomData,
        }
    }

    pub fn len(&self) -> usize {
        self.left
    }
}

impl<G: TestGeometry> TableAlloc for Pool<G> {
    type Frame = Box<G::Table>;
    type Reserved<'a>
        = Taken<'a, G>
    where
        Self: 'a;

    fn reserve(&mut self, needed: usize) -> Result<Taken<'_, G>, MapError> {
        assert_ne!(needed, 0);
        self.reservations += 1;
        let available = self.left;
        if needed > available {
            return Err(MapError::OutOfFrames { needed, available });
        }
        Ok(Taken {
            pool: self,
            left: needed,
        })
    }
}

/// Frames that were reserved; all of them must be taken, and no more.
pub struct Taken<'a, G: TestGeometry> {
    pool: &'a mut Pool<G>,
    left: usize,
}

impl<G: TestGeometry> ReservedFrames for Taken<'_, G> {
    type Frame = Box<G::Table>;

    fn take(&mut self) -> (PhysAddr, Box<G::Table>) {
        self.left = self
            .left
            .checked_sub(1)
            .expect("more frames taken than reserved");
        let pa = slot_pa::<G>(self.pool.next);
        self.pool.next += 1;
        self.pool.left -= 1;
        (pa, G::Table::filled(DIRT))
    }
}

impl<G: TestGeometry> Drop for Taken<'_, G> {
    fn drop(&mut self) {
        if !std::thread::panicking() && !self.pool.may_keep {
            assert_eq!(self.left, 0, "fewer frames taken than reserved");
        }
    }
}
