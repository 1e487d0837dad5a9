//! What the fuzz targets found worth keeping, played again.

mod support;

use std::fs;
use std::path::Path;

fn replay(target: &str, play: impl Fn(&[u8])) {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("fuzz/corpus")
        .join(target);
    let mut played = 0;
    for file in fs::read_dir(&corpus).expect("the corpus") {
        let path = file.expect("an entry").path();
        println!("{}", path.display());
        play(&fs::read(&path).expect("an input"));
        played += 1;
    }
    assert!(played > 10, "{played} inputs in {}", corpus.display());
}

#[test]
fn operations() {
    replay("operations", support::fuzzed::operations);
}

#[test]
fn hostile() {
    replay("hostile", support::fuzzed::hostile);
}
