//! The texts that the fuzzers of `contrib/fuzz` start from.

use super::checks;
use std::path::Path;

/// How many files of this corpus are accepted, and how many refused.
fn replay(name: &str, check: impl Fn(&[u8]) -> bool) -> (usize, usize) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("contrib/fuzz/corpus").join(name);
    let files = std::fs::read_dir(folder).unwrap().map(|entry| std::fs::read(entry.unwrap().path()).unwrap());
    let accepted: Vec<bool> = files.map(|bytes| check(&bytes)).collect();
    (accepted.iter().filter(|yes| **yes).count(), accepted.iter().filter(|yes| !**yes).count())
}

#[test]
fn what_fuzzers_start_from_is_partly_good_and_reads_back() {
    // Who fuzzes here has more of both.
    for (name, check, (good, bad)) in [
        ("table", checks::table as fn(&[u8]) -> bool, (8, 2)),
        ("message", checks::message, (20, 3)),
        ("yaml", checks::yaml, (6, 1)),
    ] {
        let got = replay(name, check);
        assert!(got.0 >= good && got.1 >= bad, "{name}: {got:?}");
    }
}
