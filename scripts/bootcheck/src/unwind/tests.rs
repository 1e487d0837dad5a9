use super::*;
use crate::testelf::{self, BASE};

const NOP: u32 = 0xd503_201f;
const BL: u32 = 0x9400_0000;
const STACK: u64 = 0x5000_0000;

/// A stack of words from `STACK` on; nothing else can be read.
struct Stack(Vec<u64>);

impl Memory for Stack {
    fn read(&mut self, address: u64, buffer: &mut [u8]) -> Option<()> {
        let index = usize::try_from(address.checked_sub(STACK)? / 8).ok()?;
        let word = self.0.get(index).filter(|_| address.is_multiple_of(8))?;
        buffer.copy_from_slice(&word.to_le_bytes());
        Some(())
    }
}

/// Calls at 0x00, 0x10, 0x20, …, in functions of 0x10 bytes called f0, f1, f2, …
fn elf(sections: &[(&str, u64, &[u8])]) -> Symbols {
    let names: Vec<String> = (0..8).map(|number| format!("f{number}")).collect();
    let functions: Vec<(&str, u64, u64)> = names
        .iter()
        .zip(0..)
        .map(|(name, number)| (name.as_str(), number * 0x10, 0x10))
        .collect();
    let code = [BL, NOP, NOP, NOP].repeat(8);
    Symbols::parse(testelf::with_sections(&functions, &code, sections).into()).unwrap()
}

/// The return address behind the call in function `number`.
fn after_call(number: u64) -> u64 {
    BASE + number * 0x10 + 4
}

fn names(symbols: &Symbols, registers: Registers, stack: Vec<u64>) -> Vec<(String, Found)> {
    let positions = Positions::of(symbols);
    backtrace(symbols, &positions, &registers, &mut Stack(stack))
        .into_iter()
        .map(|frame| (frame.place.symbol.unwrap_or_default(), frame.found))
        .collect()
}

fn at(pc: u64, fp: u64) -> Registers {
    let mut registers = Registers {
        pc,
        sp: STACK,
        ..Registers::default()
    };
    registers.x[FP] = fp;
    registers
}

fn expected(list: &[(&str, Found)]) -> Vec<(String, Found)> {
    list.iter()
        .map(|(name, how)| ((*name).to_owned(), *how))
        .collect()
}

/// `.eh_frame` for f0 and f1: 32 bytes of stack, x30 at CFA-8, x29 as it was.
fn eh_frame() -> Vec<u8> {
    let mut table: Vec<u8> = Vec::new();
    let cie = [
        &[0, 0, 0, 0, 1][..], // a CIE, version 1
        b"zR\0",
        &[4, 0x78, 30, 1, 0x1b], // factors 4 and -8, return in x30, pointers relative, 32 bits
        &[0x0c, 31, 0],          // CFA = sp + 0
    ];
    let cie = cie.concat();
    entry(&mut table, &cie);
    let mut fde = (table.len() as u32 + 4).to_le_bytes().to_vec();
    let here = table.len() as i64 + 8;
    fde.extend((-0x1000 - here as i32).to_le_bytes()); // from BASE, which is 0x1000 before
    fde.extend(0x20_u32.to_le_bytes());
    fde.extend([0, 0x0e, 32, 0x80 | 30, 1]); // CFA = sp + 32, x30 at CFA - 8
    entry(&mut table, &fde);
    table.extend([0; 4]);
    table
}

fn entry(table: &mut Vec<u8>, content: &[u8]) {
    let length = content.len().next_multiple_of(4);
    table.extend((length as u32).to_le_bytes());
    table.extend(content);
    table.resize(table.len().next_multiple_of(4), 0); // DW_CFA_nop
}

#[test]
fn frame_records_lead_up_to_the_end_of_the_chain() {
    let symbols = elf(&[]);
    let stack = vec![0, 0, STACK + 32, after_call(1), 0, after_call(2)];
    assert_eq!(
        names(&symbols, at(BASE, STACK + 16), stack),
        expected(&[
            ("f0", Found::Registers),
            ("f1", Found::FramePointer),
            ("f2", Found::FramePointer),
        ])
    );
}

#[test]
fn call_frame_information_needs_no_frame_pointer() {
    let table = eh_frame();
    let symbols = elf(&[(".eh_frame", BASE + 0x1000, &table)]);
    // f0 and f1 have 32 bytes each and leave x29 alone; f2 is not covered.
    let mut stack = vec![0; 12];
    stack[3] = after_call(1);
    stack[7] = after_call(2);
    stack[8] = 0;
    stack[9] = after_call(3);
    assert_eq!(
        names(&symbols, at(BASE + 8, STACK + 64), stack),
        expected(&[
            ("f0", Found::Registers),
            ("f1", Found::Cfi),
            ("f2", Found::Cfi),
            ("f3", Found::FramePointer),
        ])
    );
}

#[test]
fn a_leaf_of_assembly_is_left_through_the_link_register() {
    let symbols = elf(&[]);
    let mut registers = at(BASE + 8, STACK + 16);
    registers.x[LR] = after_call(4);
    let stack = vec![0, 0, 0, after_call(5)];
    assert_eq!(
        names(&symbols, registers, stack.clone()),
        expected(&[
            ("f0", Found::Registers),
            ("f4", Found::LinkRegister),
            ("f5", Found::FramePointer),
        ])
    );
    // A jump to nowhere: the caller is known all the same.
    registers.pc = 0x10;
    assert_eq!(names(&symbols, registers, stack.clone())[1].0, "f4");
    // After a call of its own, x30 leads back into the function itself.
    registers.pc = BASE + 8;
    registers.x[LR] = after_call(0);
    assert_eq!(names(&symbols, registers, stack)[1].0, "f5");
}

#[test]
fn after_a_return_to_nowhere_the_stack_is_searched_for_a_whole_chain() {
    let symbols = elf(&[]);
    let wild = 0x5a5a_5a5a_5a5a_5a50;
    let lost = |stack: Vec<u64>| {
        let mut registers = at(wild, wild);
        registers.x[LR] = wild;
        names(&symbols, registers, stack)
    };
    let mut stack = vec![7, after_call(5), STACK + 64, after_call(6), 0, 0];
    stack.extend([STACK + 64, after_call(1), 0, after_call(2)]);
    assert_eq!(
        lost(stack.clone()),
        expected(&[
            ("", Found::Registers),
            ("f6", Found::Search),
            ("f2", Found::FramePointer),
        ])
    );
    // It leads to its end or nowhere.
    stack[9] = BASE + 8;
    assert_eq!(lost(stack).len(), 1);
    // Where the place is known, a broken x29 is the end.
    assert_eq!(
        names(&symbols, at(BASE, wild), vec![0, after_call(1)]).len(),
        1
    );
}

#[test]
fn a_stack_that_leads_in_circles_ends() {
    let symbols = elf(&[]);
    let here = vec![STACK, after_call(1), STACK, after_call(2)];
    assert_eq!(names(&symbols, at(BASE, STACK), here.clone()).len(), 2);
    assert_eq!(names(&symbols, at(BASE, STACK + 16), here).len(), 2);
    let endless: Vec<u64> = (0..1000)
        .flat_map(|frame| [STACK + 16 * (frame + 1), after_call(1)])
        .collect();
    assert_eq!(names(&symbols, at(BASE, STACK), endless).len(), MOST_FRAMES);
}

#[test]
fn what_is_no_return_address_ends_the_chain() {
    let symbols = elf(&[]);
    for lr in [0, BASE + 8, BASE + 6, u64::MAX, STACK] {
        assert_eq!(
            names(&symbols, at(BASE, STACK), vec![0, lr]).len(),
            1,
            "{lr:#x}"
        );
    }
    for fp in [0, 1, STACK - 16, STACK + (1 << 20), !7] {
        assert_eq!(
            names(&symbols, at(BASE, fp), vec![0, 0]).len(),
            1,
            "{fp:#x}"
        );
    }
}

#[test]
fn broken_tables_are_no_panic() {
    let good = eh_frame();
    for at in 0..good.len() {
        for value in [0, 0x7f, 0xff] {
            let mut table = good.clone();
            table[at] = value;
            let symbols = elf(&[(".eh_frame", BASE + 0x1000, &table)]);
            let _ = names(&symbols, super::tests::at(BASE + 8, STACK), vec![STACK; 32]);
        }
    }
}
