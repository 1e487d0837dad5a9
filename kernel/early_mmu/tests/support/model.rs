//! What the operations should do, said naively: a list of pages, a set of tables, page by page.
//!
//! Shares no code with the engine. It predicts the outcome of each call in full: the error with its
//! address and level, or the tables that are added and the flush that is left to do.

use std::collections::HashSet;

use early_mmu::{MapError, MemType, Prot};

/// Sizes as plain numbers.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    pub granule: u64,
    pub entries: u64,
    pub start_level: i32,
    pub first_block_level: i32,
    /// log2 of the entries of a contiguous run at levels 0 to 3.
    pub runs: [u32; 4],
    /// The physical page to which most requests map page 0.
    pub ppn: u64,
}

impl Shape {
    /// Pages per entry at `level`.
    pub fn pages(&self, level: i32) -> u64 {
        self.entries.pow((3 - level) as u32)
    }

    /// Pages per contiguous run at `level`; those of one entry where there are none.
    pub fn run_pages(&self, level: i32) -> u64 {
        let entries = usize::try_from(level).map_or(1, |level| 1 << self.runs[level]);
        entries * self.pages(level)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Page {
    /// Physical page number.
    pub ppn: u64,
    pub prot: Prot,
    pub global: bool,
    pub level: i32,
    /// Whether its leaf has the Contiguous hint.
    pub run: bool,
}

/// How a request may be laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    pub blocks: bool,
    pub runs: bool,
    pub global: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    Missing { page: u64, level: i32 },
    Split { page: u64, level: i32 },
    SplitRun { page: u64, level: i32 },
    BreakBeforeMake { page: u64, level: i32 },
    Mapped { page: u64, level: i32 },
    Unmapped { page: u64, level: i32 },
    OutOfFrames { needed: usize },
}

/// What a call did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Done {
    pub tables: usize,
    pub new_entries: bool,
    /// First page changed, last page changed, pages in the smallest leaf changed.
    pub changed: Option<(u64, u64, u64)>,
    /// Whether tables were unlinked.
    pub walks: bool,
}

impl Done {
    fn change(&mut self, first: u64, pages: u64) {
        self.change_range(first, first + pages - 1, pages);
    }

    fn change_range(&mut self, first: u64, last: u64, pages: u64) {
        let (a, b, c) = self.changed.unwrap_or((first, last, pages));
        self.changed = Some((a.min(first), b.max(last), c.min(pages)));
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Frames {
    Never,
    UpTo(usize),
}

#[derive(Clone, Debug)]
pub struct Model {
    pub shape: Shape,
    pub pages: Vec<Option<Page>>,
    /// Tables by level and by the number of the entry above that leads to them.
    pub tables: HashSet<(i32, u64)>,
}

/// A request in pages.
#[derive(Clone, Copy, Debug)]
pub struct Request {
    pub first: u64,
    pub count: u64,
}

impl Model {
    pub fn new(shape: Shape, pages: u64) -> Self {
        Self {
            shape,
            pages: vec![None; pages as usize],
            tables: HashSet::new(),
        }
    }

    /// Whether all that the entry for `page` at `level` translates lies within the request.
    fn within(&self, request: Request, page: u64, level: i32) -> bool {
        Self::contains(request, page, self.shape.pages(level))
    }

    fn contains(request: Request, page: u64, size: u64) -> bool {
        let start = page / size * size;
        start >= request.first && start + size <= request.first + request.count
    }

    pub fn map(
        &mut self,
        request: Request,
        ppn: u64,
        prot: Prot,
        layout: Layout,
        frames: Frames,
    ) -> Result<Done, Refusal> {
        let Layout { blocks, global, .. } = layout;
        let mut known_run = ((0, u64::MAX), false);
        let (mut next, mut done) = (self.clone(), Done::default());
        for page in request.first..request.first + request.count {
            let want = ppn + (page - request.first);
            if let Some(old) = self.pages[page as usize] {
                let level = old.level;
                if old.ppn != want {
                    return Err(Refusal::Mapped { page, level });
                }
                if (old.prot, old.global) == (prot, global) {
                    continue;
                }
                next.change(self, request, page, prot, global, &mut done)?;
                continue;
            }
            let mut level = self.shape.start_level;
            loop {
                let size = self.shape.pages(level);
                if level < 3 && next.tables.contains(&(level + 1, page / size)) {
                    level += 1;
                    continue;
                }
                let block_fits = blocks
                    && level >= self.shape.first_block_level
                    && self.within(request, page, level)
                    && want % size == page % size;
                if level == 3 || block_fits {
                    break;
                }
                if frames == Frames::Never {
                    return Err(Refusal::Missing {
                        page,
                        level: level + 1,
                    });
                }
                next.tables.insert((level + 1, page / size));
                done.tables += 1;
                level += 1;
            }
            // The same for all pages of a run, and much to look at.
            let key = (level, page / self.shape.run_pages(level));
            if known_run.0 != key {
                known_run = (
                    key,
                    layout.runs && self.run_is_free(request, page, want, level),
                );
            }
            let run = known_run.1;
            next.pages[page as usize] = Some(Page {
                ppn: want,
                prot,
                global,
                level,
                run,
            });
            done.new_entries = true;
        }
        self.commit(next, done, frames)
    }

    /// Whether all entries of the run to which the entry for `page` at `level` belongs are free, lie in
    /// the request and can translate with one base.
    fn run_is_free(&self, request: Request, page: u64, ppn: u64, level: i32) -> bool {
        let (size, entry) = (self.shape.run_pages(level), self.shape.pages(level));
        let start = page / size * size;
        let free = |page: u64| self.pages[page as usize].is_none();
        let no_table = |page: u64| !self.tables.contains(&(level + 1, page / entry));
        size > entry
            && Self::contains(request, page, size)
            && ppn % size == page % size
            && (start..start + size).all(free)
            && (level == 3 || (start..start + size).step_by(entry as usize).all(no_table))
    }

    /// Gives one mapped page other attributes, if its leaf allows that.
    fn change(
        &mut self,
        before: &Self,
        request: Request,
        page: u64,
        prot: Prot,
        global: bool,
        done: &mut Done,
    ) -> Result<(), Refusal> {
        let old = before.pages[page as usize].expect("mapped");
        let level = old.level;
        if !before.within(request, page, level) {
            return Err(Refusal::Split { page, level });
        }
        if !may_change(&old, prot, global) {
            return Err(Refusal::BreakBeforeMake { page, level });
        }
        if old.run && !Self::contains(request, page, before.shape.run_pages(level)) {
            return Err(Refusal::SplitRun { page, level });
        }
        self.pages[page as usize] = Some(Page {
            prot,
            global,
            ..old
        });
        let size = self.shape.pages(level);
        done.change(page / size * size, size);
        Ok(())
    }

    pub fn protect(&mut self, request: Request, prot: Prot) -> Result<Done, Refusal> {
        let (mut next, mut done) = (self.clone(), Done::default());
        for page in request.first..request.first + request.count {
            let Some(old) = self.pages[page as usize] else {
                return Err(Refusal::Unmapped {
                    page,
                    level: self.hole_level(page),
                });
            };
            if old.prot != prot {
                next.change(self, request, page, prot, old.global, &mut done)?;
            }
        }
        self.commit(next, done, Frames::Never)
    }

    fn hole_level(&self, page: u64) -> i32 {
        let mut level = self.shape.start_level;
        while level < 3
            && self
                .tables
                .contains(&(level + 1, page / self.shape.pages(level)))
        {
            level += 1;
        }
        level
    }

    pub fn create_tables(&mut self, request: Request, frames: Frames) -> Result<Done, Refusal> {
        let (mut next, mut done) = (self.clone(), Done::default());
        for page in request.first..request.first + request.count {
            if let Some(old) = self.pages[page as usize].filter(|old| old.level < 3) {
                return Err(Refusal::Split {
                    page,
                    level: old.level,
                });
            }
            for level in self.shape.start_level..3 {
                if next
                    .tables
                    .insert((level + 1, page / self.shape.pages(level)))
                {
                    done.tables += 1;
                    done.new_entries = true;
                }
            }
        }
        self.commit(next, done, frames)
    }

    /// Refuses what would leave a part of a leaf, or of a run, behind.
    fn check_whole(&self, request: Request, page: u64, old: &Page) -> Result<(), Refusal> {
        let level = old.level;
        if !self.within(request, page, level) {
            return Err(Refusal::Split { page, level });
        }
        if old.run && !Self::contains(request, page, self.shape.run_pages(level)) {
            return Err(Refusal::SplitRun { page, level });
        }
        Ok(())
    }

    pub fn unmap(&mut self, request: Request, free_tables: bool) -> Result<Done, Refusal> {
        let (mut next, mut done) = (self.clone(), Done::default());
        for page in request.first..request.first + request.count {
            let Some(old) = self.pages[page as usize] else {
                continue;
            };
            self.check_whole(request, page, &old)?;
            let size = self.shape.pages(old.level);
            done.change(page / size * size, size);
            next.pages[page as usize] = None;
        }
        let end = request.first + request.count;
        for level in (self.shape.start_level + 1..=3)
            .rev()
            .filter(|_| free_tables)
        {
            let size = self.shape.pages(level - 1);
            for number in request.first / size..=(end - 1) / size {
                let pages = number * size..((number + 1) * size).min(self.pages.len() as u64);
                let mapped = pages
                    .clone()
                    .any(|page| next.pages[page as usize].is_some());
                let inner = |&(l, n): &(i32, u64)| {
                    l == level + 1 && pages.contains(&(n * self.shape.pages(level)))
                };
                if mapped || next.tables.iter().any(inner) || !next.tables.remove(&(level, number))
                {
                    continue;
                }
                let last = end.min(pages.end) - 1;
                done.change_range(request.first.max(pages.start), last, size);
                done.walks = true;
            }
        }
        self.commit(next, done, Frames::Never)
    }

    /// Cuts leaves and runs at both ends of the request, if `wanted`.
    fn split_where(
        &mut self,
        request: Request,
        runs: bool,
        wanted: impl Fn(&Page) -> bool,
        done: &mut Done,
    ) {
        let cuts = [request.first, request.first + request.count];
        let cut_inside =
            |start: u64, size: u64| cuts.iter().any(|&cut| start < cut && cut < start + size);
        for cut in cuts {
            let Some(Some(old)) = self.pages.get(cut as usize).copied() else {
                continue;
            };
            if !wanted(&old) {
                continue;
            }
            let (size, run) = (self.shape.pages(old.level), self.shape.run_pages(old.level));
            if old.run && cut % run != 0 {
                for page in cut / run * run..(cut / run + 1) * run {
                    self.pages[page as usize].as_mut().expect("mapped").run = false;
                }
            }
            if cut % size == 0 {
                continue;
            }
            for page in cut / size * size..(cut / size + 1) * size {
                let mut level = old.level;
                loop {
                    let entry = self.shape.pages(level);
                    if level != old.level && !cut_inside(page / entry * entry, entry) {
                        break;
                    }
                    done.tables += usize::from(self.tables.insert((level + 1, page / entry)));
                    level += 1;
                }
                let run = self.shape.run_pages(level);
                let piece = self.pages[page as usize].as_mut().expect("mapped");
                piece.level = level;
                piece.run =
                    runs && run > self.shape.pages(level) && !cut_inside(page / run * run, run);
            }
        }
    }

    pub fn split(&mut self, request: Request, runs: bool, frames: Frames) -> Result<Done, Refusal> {
        let (mut next, mut done) = (self.clone(), Done::default());
        next.split_where(request, runs, |_| true, &mut done);
        self.commit(next, done, frames)
    }

    pub fn protect_splitting(
        &mut self,
        request: Request,
        prot: Prot,
        runs: bool,
        frames: Frames,
    ) -> Result<Done, Refusal> {
        // What would be refused even if it were whole.
        for page in request.first..request.first + request.count {
            let Some(old) = self.pages[page as usize] else {
                return Err(Refusal::Unmapped {
                    page,
                    level: self.hole_level(page),
                });
            };
            if old.prot != prot && !may_change(&old, prot, old.global) {
                return Err(Refusal::BreakBeforeMake {
                    page,
                    level: old.level,
                });
            }
        }
        let (mut next, mut done) = (self.clone(), Done::default());
        next.split_where(request, runs, |old| old.prot != prot, &mut done);
        next.protect(request, prot)
            .expect("nothing is covered in part");
        self.commit(next, done, frames)
    }

    pub fn merge(&mut self, request: Request, blocks: bool, runs: bool) {
        let shape = self.shape;
        let end = request.first + request.count;
        // Whether the pages from `start` on are leaves of `level` that one base could translate.
        let alike = |pages: &[Option<Page>], start: u64, size: u64, level: i32| {
            let Some(first) = pages[start as usize] else {
                return false;
            };
            first.ppn % size == 0
                && (0..size).all(|step| {
                    pages[(start + step) as usize].is_some_and(|page| {
                        page.level == level
                            && (page.prot, page.global) == (first.prot, first.global)
                            && page.ppn == first.ppn + step
                    })
                })
        };
        let aligned =
            |size: u64| request.first.next_multiple_of(size)..end.saturating_sub(size - 1);
        for level in (shape.start_level + 1..=3).rev().filter(|_| blocks) {
            let size = shape.pages(level - 1);
            if level - 1 < shape.first_block_level {
                continue;
            }
            for start in aligned(size).step_by(size as usize) {
                if self.tables.contains(&(level, start / size))
                    && alike(&self.pages, start, size, level)
                {
                    self.tables.remove(&(level, start / size));
                    for page in &mut self.pages[start as usize..(start + size) as usize] {
                        let page = page.as_mut().expect("mapped");
                        (page.level, page.run) = (level - 1, false);
                    }
                }
            }
        }
        for level in (shape.start_level.max(0)..=3).filter(|_| runs) {
            let size = shape.run_pages(level);
            if size == shape.pages(level) {
                continue;
            }
            for start in aligned(size).step_by(size as usize) {
                if alike(&self.pages, start, size, level) {
                    for page in &mut self.pages[start as usize..(start + size) as usize] {
                        page.as_mut().expect("mapped").run = true;
                    }
                }
            }
        }
    }

    fn commit(&mut self, next: Self, done: Done, frames: Frames) -> Result<Done, Refusal> {
        if let Frames::UpTo(available) = frames
            && done.tables > available
        {
            return Err(Refusal::OutOfFrames {
                needed: done.tables,
            });
        }
        *self = next;
        Ok(done)
    }
}

/// Whether a live leaf may get other attributes at once.
fn may_change(old: &Page, prot: Prot, global: bool) -> bool {
    let tag_only = |memory| matches!(memory, MemType::Normal | MemType::NormalTagged);
    let (from, to) = (old.prot.mem_type(), prot.mem_type());
    let same_memory = from == to || tag_only(from) && tag_only(to);
    same_memory && (!global || old.global)
}

/// An error of the crate in the model's terms, for tables that begin at `base`.
pub fn refusal(error: MapError, base: u64, granule: u64) -> Refusal {
    let page = |va: early_mmu::VirtAddr| (va.as_u64() - base) / granule;
    match error {
        MapError::MissingTable { level, va, .. } => Refusal::Missing {
            page: page(va),
            level: level.into(),
        },
        MapError::WouldSplitBlock { level, va, .. } => Refusal::Split {
            page: page(va),
            level: level.into(),
        },
        MapError::WouldSplitRun { level, va, .. } => Refusal::SplitRun {
            page: page(va),
            level: level.into(),
        },
        MapError::NeedsBreakBeforeMake { level, va, .. } => Refusal::BreakBeforeMake {
            page: page(va),
            level: level.into(),
        },
        MapError::AlreadyMapped { level, va, .. } => Refusal::Mapped {
            page: page(va),
            level: level.into(),
        },
        MapError::NotMapped { level, va } => Refusal::Unmapped {
            page: page(va),
            level: level.into(),
        },
        MapError::OutOfFrames { needed, .. } => Refusal::OutOfFrames { needed },
        other => panic!("not foreseen: {other}"),
    }
}
