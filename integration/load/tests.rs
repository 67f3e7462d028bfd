//! The generator against a plain file.

use super::*;
use std::io::Cursor;
use tempfile::NamedTempFile;

/// A file on tmpfs, which takes O_DIRECT without a disk.
fn file(bytes: u64) -> NamedTempFile {
    let file = NamedTempFile::new_in("/dev/shm").unwrap();
    file.as_file().set_len(bytes).unwrap();
    file
}

fn args(file: &NamedTempFile, words: &str) -> Args {
    let file = file.path().to_str().unwrap();
    Args::try_parse_from(["load", "--file", file].into_iter().chain(words.split_whitespace())).unwrap()
}

fn load(file: &NamedTempFile, words: &str) -> Report {
    run(&args(file, words), Cursor::new(""), &mut Vec::new()).unwrap()
}

#[test]
fn a_number_of_requests_is_made_exactly() {
    let file = file(1 << 20);
    for words in ["--depth 1", "--depth 4", "--threads 4 --off-main", "--rw randrw --depth 3"] {
        let report = load(&file, &format!("--requests 1000 --size 4K {words}"));
        assert_eq!((report.requests, report.bytes), (1000, 4_096_000), "{words}");
        assert!(report.errors.is_empty() && report.seconds > 0.0, "{report}");
    }
}

#[test]
fn writes_stay_in_their_range() {
    let file = file(64 << 10);
    load(&file, "--rw write --requests 500 --size 512,4K --offset-range 16K..32K");
    let data = std::fs::read(file.path()).unwrap();
    assert_eq!(data.len(), 64 << 10);
    assert!(data[..16 << 10].iter().chain(&data[32 << 10..]).all(|byte| *byte == 0));
    assert!(data[16 << 10..32 << 10].chunks(4096).all(|block| block.iter().any(|byte| *byte != 0)));
}

#[test]
fn only_the_window_counts() {
    let file = file(1 << 20);
    let report = load(&file, "--seconds 2.2 --window-start-ms 200");
    assert_eq!(format!("{:.3}", report.seconds), "2.000");
    assert!(report.requests > 0);
    let none = load(&file, "--seconds 0.1 --window-start-ms 200");
    assert_eq!((none.requests, none.seconds), (0, 0.0));
}

#[test]
fn it_is_ready_starts_at_a_line_and_stops_at_stop_or_the_end_of_stdin() {
    let file = file(1 << 20);
    for input in ["go\nstop\n", "go\n", "\nnoise\n"] {
        let mut output = Vec::new();
        let report = run(&args(&file, "--wait-stdin"), Cursor::new(input), &mut output).unwrap();
        assert_eq!(String::from_utf8(output).unwrap(), format!("ready {}\n", std::process::id()));
        assert!(report.errors.is_empty());
    }
    for input in ["", "stop\n"] {
        let report = run(&args(&file, "--wait-stdin"), Cursor::new(input), &mut Vec::new()).unwrap();
        assert_eq!(report.requests, 0, "{input:?} starts nothing");
    }
}

#[test]
fn errors_are_counted_by_their_number_and_are_no_requests() {
    let file = file(8192);
    let args = args(&file, "--requests 4 --size 4K --offset-range 4K..8K");
    let (opened, length) = open(&args).unwrap();
    let job = job(&args, opened, length).unwrap();
    file.as_file().set_len(4096).unwrap();
    let window = Window::open_now(0, None, args.requests);
    let mut report = job.run(0, &window).over(window.counted());
    report.record(1, Err(std::io::Error::from_raw_os_error(libc::EIO)));
    assert_eq!(report.requests, 0);
    assert!(report.to_string().contains(r#""errors":5,"errno":{"5":1,"short":4}"#), "{report}");
}

#[test]
fn what_cannot_work_is_refused() {
    let file = file(8192);
    for words in
        ["", "--requests 1 --size 100", "--requests 1 --size 16K", "--requests 1 --offset-range 4K..16K"]
    {
        assert!(run(&args(&file, words), Cursor::new(""), &mut Vec::new()).is_err(), "{words}");
    }
    assert!(parse_range("8..4").is_err() && parse_range("8").is_err());
    assert_eq!(parse_range("1K..2M").unwrap(), 1024..2 << 20);
}
