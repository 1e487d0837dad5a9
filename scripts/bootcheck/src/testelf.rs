//! Small ELFs for tests: one segment of code, symbols, and whatever sections a test wants.

/// Where the code is linked.
pub const BASE: u64 = 0xffff_8000_8000_0000;
/// Its physical address.
pub const LOAD: u64 = 0x4020_0000;

const SYMTAB: u32 = 2;
const STRTAB: u32 = 3;
const PROGBITS: u32 = 1;

/// An ELF of this code with functions of these names, offsets and sizes.
pub fn image(functions: &[(&str, u64, u64)], code: &[u32]) -> Vec<u8> {
    with_sections(functions, code, &[])
}

/// The same with more sections: name, address, content.
pub fn with_sections(
    functions: &[(&str, u64, u64)],
    code: &[u32],
    sections: &[(&str, u64, &[u8])],
) -> Vec<u8> {
    let text: Vec<u8> = code.iter().flat_map(|word| word.to_le_bytes()).collect();
    let mut strings = vec![0];
    let mut symbols = vec![0; 24];
    let marked = [("_text", 0, 0)];
    for (name, offset, size) in marked.iter().chain(functions) {
        // Global; a function where it has a size, else a mere label.
        let info: u64 = if *size > 0 { 0x12 } else { 0x10 };
        let at = strings.len() as u64;
        words(
            &mut symbols,
            &[at | info << 32 | 1 << 48, BASE + offset, *size],
        );
        strings.extend(name.bytes().chain([0]));
    }

    let mut names = vec![0];
    let mut headers = vec![0; 64];
    let mut body = vec![0; 64 + 56];
    let mut add = |name: &str, kind: u32, flags, address, content: &[u8], link: u64, entry| {
        body.resize(body.len().next_multiple_of(8), 0);
        let at = names.len() as u64 | u64::from(kind) << 32;
        let offset = body.len() as u64;
        let size = content.len() as u64;
        words(
            &mut headers,
            &[at, flags, address, offset, size, link | 1 << 32, 8, entry],
        );
        names.extend(name.bytes().chain([0]));
        body.extend(content);
        offset
    };
    let code_at = add(".text", PROGBITS, 6, BASE, &text, 0, 0);
    add(".symtab", SYMTAB, 0, 0, &symbols, 3, 24);
    add(".strtab", STRTAB, 0, 0, &strings, 0, 0);
    for (name, address, content) in sections {
        add(name, PROGBITS, 2, *address, content, 0, 0);
    }
    // The names end with their own section's.
    let own = names.len() as u64 | u64::from(STRTAB) << 32;
    names.extend(b".shstrtab\0");
    body.resize(body.len().next_multiple_of(8), 0);
    words(
        &mut headers,
        &[own, 0, 0, body.len() as u64, names.len() as u64, 0, 1, 0],
    );
    body.extend(&names);
    body.resize(body.len().next_multiple_of(8), 0);
    let count = (headers.len() / 64) as u64;

    let mut header = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    let table = body.len() as u64;
    // EXEC, AArch64, version 1; entry, program and section headers; their sizes and numbers.
    words(&mut header, &[2 | 183 << 16 | 1 << 32, BASE, 64, table]);
    words(
        &mut header,
        &[
            64 << 32 | 56 << 48,
            1 | 64 << 16 | count << 32 | (count - 1) << 48,
        ],
    );
    let size = text.len() as u64;
    words(
        &mut header,
        &[1 | 5 << 32, code_at, BASE, LOAD, size, size, 8],
    );
    body[..header.len()].copy_from_slice(&header);
    body.extend(headers);
    body
}

fn words(out: &mut Vec<u8>, words: &[u64]) {
    out.extend(words.iter().flat_map(|word| word.to_le_bytes()));
}
