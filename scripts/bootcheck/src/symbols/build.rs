//! Whether an ELF and a raw image are of one build, and whether all of it is in the image.

use object::read::elf::ElfFile64;
use object::{LittleEndian as LE, Object, ObjectSection};

use super::{Segment, Symbols};

impl Symbols {
    /// Whether a raw image has the same code: other symbols would lead astray.
    #[must_use]
    pub fn is_of(&self, image: &[u8]) -> bool {
        let mut code = self.segments.iter().filter(|segment| segment.is_code);
        code.all(|segment| {
            self.placed(segment).is_some_and(|(start, content)| {
                let there = start
                    .checked_add(content.len())
                    .and_then(|end| image.get(start..end));
                there.is_some_and(|there| is_equal_but_signed(start, there, content))
            })
        })
    }

    /// How long a raw image is at least, of which this is only the beginning: its code is the same as far
    /// as it goes, and something other than zeros is missing. `None` if nothing is, or it is of another
    /// build.
    #[must_use]
    pub fn whole_length(&self, image: &[u8]) -> Option<usize> {
        let (mut end, mut has_code) = (0, false);
        for segment in &self.segments {
            // One that lies elsewhere in memory than it is linked to is elsewhere in the image, too.
            let linked = segment.address.wrapping_sub(self.base());
            if segment.physical.wrapping_sub(self.load_address()) != linked {
                return None;
            }
            let (start, content) = self.placed(segment)?;
            if segment.is_code {
                let there = image.get(start..).unwrap_or_default();
                let length = there.len().min(content.len());
                if !is_equal_but_signed(start, &there[..length], &content[..length]) {
                    return None;
                }
                has_code |= length > 0;
            }
            let used = content.iter().rposition(|byte| *byte != 0);
            end = end.max(used.map_or(0, |last| start.saturating_add(last + 1)));
        }
        (has_code && end > image.len()).then_some(end)
    }

    /// Whether a section ends there in a raw image. One as long as that may be all that was made: `objcopy`
    /// leaves out what `-R` or `-j` tells it to.
    #[must_use]
    pub fn has_section_end(&self, length: usize) -> bool {
        let Ok(elf) = ElfFile64::<LE>::parse(&*self.bytes) else {
            return false;
        };
        let end = self.base().wrapping_add(length as u64);
        elf.sections()
            .any(|section| section.address().wrapping_add(section.size()) == end)
    }

    /// Where a segment is in a raw image, and what of it.
    fn placed(&self, segment: &Segment) -> Option<(usize, &[u8])> {
        let content = &self.bytes[segment.file.clone()];
        let start = segment.address.wrapping_sub(self.base());
        // What a linker puts before `_text` is in no image.
        let skipped = self.base().saturating_sub(segment.address);
        let start = usize::try_from(start.wrapping_add(skipped)).ok()?;
        let content = content.get(usize::try_from(skipped).ok()?..);
        Some((start, content.unwrap_or_default()))
    }
}

/// Whether an image's content from `start` on is what the linker made of it. Signing it for secure
/// boot writes a checksum and the place of the signature into its PE header.
pub(super) fn is_equal_but_signed(start: usize, image: &[u8], linked: &[u8]) -> bool {
    let pe = linked.get(0x3c..0x40).filter(|_| start == 0);
    let pe = pe.map_or(0, |pe| {
        u32::from_le_bytes([pe[0], pe[1], pe[2], pe[3]]) as usize
    });
    if pe == 0 || !linked.starts_with(b"MZ") {
        return image == linked;
    }
    // CheckSum, and the certificate table's entry in the data directories of PE32+.
    let end = linked.len();
    let gaps = [pe + 0x58..pe + 0x5c, pe + 0xa8..pe + 0xb0, end..end];
    let mut from = 0;
    image.len() == end
        && gaps.into_iter().all(|gap| {
            let part = from.min(end)..gap.start.min(end);
            from = gap.end;
            image[part.clone()] == linked[part]
        })
}
