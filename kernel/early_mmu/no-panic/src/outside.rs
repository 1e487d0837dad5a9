//! What the compiler cannot see through: numbers, memory and instructions come from function pointers.

use core::ffi::c_void;
use core::fmt;
use core::marker::PhantomData;

use early_mmu::{
    Geometry, MapError, PhysAddr, ReservedFrames, TableAlloc, TableMemory, TlbMaintenance,
};

/// The rest of the world.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Outside {
    word: extern "C" fn() -> u64,
    table: extern "C" fn(u64) -> *mut c_void,
    sink: extern "C" fn(u64),
}

impl Outside {
    /// Any number.
    pub fn word(&self) -> u64 {
        (self.word)()
    }

    /// Takes a result, so that computing it cannot be left out.
    pub fn sink(&self, result: u64) {
        (self.sink)(result);
    }
}

impl fmt::Write for Outside {
    fn write_str(&mut self, s: &str) -> fmt::Result {
        s.bytes().for_each(|byte| self.sink(byte.into()));
        Ok(())
    }
}

/// Table memory and frames, as a kernel has them.
pub struct Memory<G>(pub Outside, pub PhantomData<G>);

impl<G: Geometry> TableMemory<G> for Memory<G> {
    type Frame = &'static mut G::Table;

    fn table(&self, pa: PhysAddr) -> Option<&G::Table> {
        // SAFETY: nobody runs this; the pointer is to a table, or null.
        unsafe { (self.0.table)(pa.as_u64()).cast::<G::Table>().as_ref() }
    }

    fn before_link(&self) {
        self.0.sink(0);
    }
}

impl<G: Geometry> TableAlloc for Memory<G> {
    type Frame = &'static mut G::Table;
    type Reserved<'a> = &'a mut Self;

    fn reserve(&mut self, needed: usize) -> Result<&mut Self, MapError> {
        let available = self.0.word() as usize;
        if available < needed {
            return Err(MapError::OutOfFrames { needed, available });
        }
        Ok(self)
    }
}

impl<G: Geometry> ReservedFrames for &mut Memory<G> {
    type Frame = &'static mut G::Table;

    fn take(&mut self) -> (PhysAddr, &'static mut G::Table) {
        let pa = self.0.word();
        // SAFETY: nobody runs this; the pointer is to a frame of its own.
        let frame = unsafe { &mut *(self.0.table)(pa).cast::<G::Table>() };
        (PhysAddr::new(pa), frame)
    }
}

impl TlbMaintenance for Outside {
    fn store_barrier(&self) {
        self.sink(1);
    }
    fn invalidate_leaf(&self, operand: u64) {
        self.sink(operand);
    }
    fn invalidate_walk(&self, operand: u64) {
        self.sink(operand);
    }
    fn invalidate_all(&self) {
        self.sink(2);
    }
    fn has_ranges(&self) -> bool {
        self.word() == 0
    }
    fn invalidate_leaf_range(&self, operand: u64) {
        self.sink(operand);
    }
    fn invalidate_walk_range(&self, operand: u64) {
        self.sink(operand);
    }
    fn completion_barrier(&self) {
        self.sink(3);
    }
    fn context_synchronization(&self) {
        self.sink(4);
    }
}
