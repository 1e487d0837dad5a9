use super::*;
use crate::testelf::{self, BASE, LOAD};

const BL: u32 = 0x9400_0000;

/// Functions of 16 bytes, each of calls only.
fn elf() -> Symbols {
    let names = ["guilty", "caller", "rust_begin_unwind", "kmain"];
    let functions: Vec<(&str, u64, u64)> = names
        .iter()
        .zip(0..)
        .map(|(name, number)| (*name, number * 16, 16))
        .collect();
    Symbols::parse(testelf::image(&functions, &[BL; 16]).into()).unwrap()
}

fn functions(found: &Option<Whereabouts>) -> Vec<&str> {
    let steps = found.iter().flat_map(|found| &found.steps);
    steps
        .map(|step| step.function.as_deref().unwrap_or("?"))
        .collect()
}

const EXCEPTION: &str = "\
    [    0.1] INFO  early: Booting at EL1, image at 0x70000000, MIDR 0x1\n\
    Call trace:\n 0x70000034 _text+0x34\n\
    Unhandled exception: data abort\n\
    pc : 0x70000004 _text+0x4\n\
    lr : 0x70000018 _text+0x18\n\
    Call trace:\n 0x70000004 _text+0x4\n 0x70000028 _text+0x28 ?\n 0x70000018 _text+0x18\n\
    Code: 00000000\n\
    Call trace:\n 0x70000034 _text+0x34\n";

#[test]
fn the_report_on_the_console_tells() {
    let symbols = elf();
    let found = locate(Verdict::Exception, None, Some(EXCEPTION), Some(&symbols));
    assert_eq!(functions(&found), ["guilty", "caller"]);
    let found = found.unwrap();
    assert_eq!(found.steps[0].pc, BASE + 4);
    assert_eq!(found.summary.as_deref(), Some("guilty+0x4"));
    // Without symbols an offset leads nowhere; a whole address is at least told.
    assert_eq!(
        locate(Verdict::Exception, None, Some(EXCEPTION), None),
        None
    );
    let bare = EXCEPTION.replace(" _text", " _other");
    let found = locate(Verdict::Exception, None, Some(&bare), None).unwrap();
    assert_eq!(found.steps[0].pc, 0x7000_0004);
}

#[test]
fn a_jump_into_nowhere_has_a_place_and_a_caller() {
    let console = "Unhandled exception: instruction abort\npc : 0x000000001234567c \n\
                   Call trace:\n 0x000000001234567c \n 0x40200018 _text+0x18\n";
    let found = locate(Verdict::Exception, None, Some(console), Some(&elf()));
    assert_eq!(functions(&found), ["?", "caller"]);
    assert_eq!(found.unwrap().steps[0].pc, 0x1234_567c);
}

#[test]
fn linux_names_its_symbols_itself() {
    let console = "[    0.1] Unable to handle kernel paging request at virtual address 0\n\
                   [    0.1] pc : guilty+0x4/0x10\n\
                   [    0.1] lr : caller+0x8/0x10\n\
                   [    0.1] Call trace:\n\
                   [    0.1]  guilty+0x4/0x10\n\
                   [    0.1]  caller+0x8/0x10\n\
                   [    0.1] ---[ end trace ]---\n";
    let symbols = elf();
    let found = locate(Verdict::Exception, None, Some(console), Some(&symbols));
    assert_eq!(functions(&found), ["guilty", "caller"]);
}

#[test]
fn registers_and_memory_are_better_than_the_console() {
    let symbols = elf();
    let stack = 0x5000_0000_u64;
    let mut registers = Registers {
        pc: LOAD + 0x24,
        sp: stack,
        ..Registers::default()
    };
    registers.x[29] = stack;
    let mut memory = Snapshot::default();
    let words = [stack + 16, LOAD + 8, 0, LOAD + 0x38];
    memory.add(
        stack,
        words.iter().flat_map(|word| word.to_le_bytes()).collect(),
    );
    let mut scene = Scene {
        last: Some(registers),
        memory,
        ..Scene::default()
    };
    // The handler and what it called are taken off.
    let found = locate(
        Verdict::Panic,
        Some(&scene),
        Some(EXCEPTION),
        Some(&symbols),
    );
    assert_eq!(functions(&found), ["guilty", "kmain"]);
    let found = locate(Verdict::Hang, Some(&scene), None, Some(&symbols));
    assert_eq!(functions(&found), ["rust_begin_unwind", "guilty", "kmain"]);
    let found = locate(Verdict::Hang, Some(&scene), None, None);
    assert_eq!(found.unwrap().steps[0].pc, LOAD + 0x24);

    // KASLR: somewhere else, if told.
    scene.last = Some(Registers {
        pc: 0x9000_0004,
        ..Registers::default()
    });
    let found = locate(Verdict::Hang, Some(&scene), None, Some(&symbols));
    assert_eq!(functions(&found), ["?"]);
    scene.bases.push(0x9000_0000);
    let found = locate(Verdict::Hang, Some(&scene), None, Some(&symbols));
    assert_eq!(functions(&found), ["guilty"]);
}

#[test]
fn the_panic_is_where_one_of_the_cpus_panics() {
    let symbols = elf();
    let cpu = |offset| Registers {
        pc: LOAD + offset,
        ..Registers::default()
    };
    let mut panicking = cpu(0x24);
    panicking.x[30] = LOAD + 8;
    let mut scene = Scene {
        last: Some(cpu(0x34)),
        others: vec![cpu(0x14), panicking],
        ..Scene::default()
    };
    let found = locate(Verdict::Panic, Some(&scene), None, Some(&symbols));
    assert_eq!(functions(&found), ["guilty"]);
    // If none does, nothing is better than the first.
    scene.others.pop();
    let found = locate(Verdict::Panic, Some(&scene), None, Some(&symbols));
    assert_eq!(functions(&found), ["kmain"]);
}

#[test]
fn a_pass_is_nowhere() {
    assert_eq!(
        locate(
            Verdict::Pass,
            Some(&Scene::default()),
            Some(EXCEPTION),
            Some(&elf())
        ),
        None
    );
}
