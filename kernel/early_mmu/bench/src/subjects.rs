//! Who is measured. Everyone maps from virtual address 0 on.

pub mod aarch64_paging;
pub mod early_mmu;
pub mod limit;
pub mod page_table_generic;
pub mod page_table_multiarch;
pub mod patina_paging;

pub trait Subject {
    /// Whether it only stores and loads.
    const IS_LIMIT: bool = false;
    /// Whether it can split a block and keep the rest.
    const SPLITS: bool = true;

    /// Empty tables.
    fn new() -> Self;
    /// Maps 0.. to `pa`.. in leaves of `leaf` bytes.
    fn map(&mut self, pa: usize, size: usize, leaf: usize);
    /// Makes 0.., which `map` mapped to `pa`.. in pages, read-only.
    fn protect(&mut self, pa: usize, size: usize);
    fn translate(&self, va: usize) -> usize;
    fn unmap(&mut self, size: usize);
    /// Gives the first page of the 2 MiB block at `va` other rights than the rest.
    fn split(&mut self, va: usize);
}
