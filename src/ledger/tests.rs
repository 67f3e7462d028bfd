use super::*;
use proptest::prelude::*;

/// A copy of what a ledger holds, as a successor gets it.
fn successor(ledger: &Ledger) -> Ledger {
    Ledger::inherit(ledger.descriptor().try_clone_to_owned().unwrap()).unwrap()
}

#[test]
fn what_was_put_last_is_what_a_successor_reads() {
    let ledger = Ledger::new().unwrap();
    assert_eq!(ledger.get(Page::Running).unwrap(), None);
    for text in ["one", "two, which is longer", "", "3"] {
        ledger.put(Page::Running, text.as_bytes()).unwrap();
        assert_eq!(successor(&ledger).get(Page::Running).unwrap().unwrap(), text.as_bytes());
    }
    ledger.put(Page::Counters, b"others").unwrap();
    assert_eq!(ledger.get(Page::Running).unwrap().unwrap(), b"3");
    assert_eq!(ledger.get(Page::Events).unwrap(), None);
}

#[test]
fn a_document_that_does_not_fit_changes_nothing() {
    let ledger = Ledger::new().unwrap();
    let content = ledger.content(CONTENTS - 1);
    content.put(b"before").unwrap();
    let room = (4 << 20) - 4096;
    assert_eq!(content.put(&vec![7; room + 1]).unwrap_err().kind(), io::ErrorKind::FileTooLarge);
    assert_eq!(content.get().unwrap().unwrap(), b"before");
    let large = vec![7; room];
    content.put(&large).unwrap();
    assert_eq!(content.get().unwrap().unwrap(), large);
}

#[test]
fn what_is_no_ledger_or_another_format_is_refused_in_words() {
    let file = || tempfile::tempfile().unwrap();
    let refusal = |file: std::fs::File| Ledger::inherit(file.into()).unwrap_err().to_string();
    assert_eq!(refusal(file()), "what was handed over is no ledger of ioband");
    let ledger = Ledger::new().unwrap();
    ledger.file.write(&7_u32.to_le_bytes(), 8).unwrap();
    let copy = File::from(ledger.descriptor().try_clone_to_owned().unwrap());
    assert_eq!(refusal(copy), "the ledger is of format 7, this program knows format 1: it cannot take over");
}

#[test]
fn records_are_found_wherever_they_are() {
    let ledger = Ledger::new().unwrap();
    assert_eq!(ledger.records().unwrap(), []);
    let record = |byte| [byte; RECORD_SIZE];
    let indices = [0, 1, 15, 16, 17, 4000, RECORDS - 1];
    for (index, byte) in indices.into_iter().zip(1..) {
        ledger.put_record(index, &record(byte)).unwrap();
    }
    // What lies behind the records is none.
    ledger.put(Page::Running, b"x").unwrap();
    ledger.content(0).write(b"x", 0).unwrap();
    let all: Vec<_> = indices.into_iter().zip((1..).map(record)).collect();
    assert_eq!(successor(&ledger).records().unwrap(), all);
    ledger.clear_record(16).unwrap();
    ledger.clear_record(0).unwrap();
    let left: Vec<_> = all.into_iter().filter(|(index, _)| ![0, 16].contains(index)).collect();
    assert_eq!(ledger.records().unwrap(), left);
    assert!(ledger.put_record(RECORDS, &record(1)).is_err());
}

#[test]
fn contents_are_apart_and_their_memory_is_given_back() {
    use std::os::unix::fs::MetadataExt;
    let ledger = Ledger::new().unwrap();
    let [first, second] = [0, 1].map(|number| ledger.content(number));
    let end = LARGEST_CONTENT;
    first.write(&vec![1; 1 << 20], end - (1 << 20)).unwrap();
    second.write(b"second", 2).unwrap();
    second.put(b"about it").unwrap();
    assert!(first.write(b"xy", end - 1).is_err() && first.read(end + 1).is_err());
    assert_eq!(second.read(9).unwrap(), b"\0\0second\0");
    let blocks = || ledger.file.0.metadata().unwrap().blocks();
    let before = blocks();
    first.clear().unwrap();
    assert!(blocks() + (1 << 11) <= before, "{} of {before}", blocks());
    assert!(first.read(end).unwrap().iter().all(|byte| *byte == 0));
    second.cut(4).unwrap();
    assert_eq!(second.read(6).unwrap(), b"\0\0se\0\0");
    second.cut(end).unwrap();
    assert_eq!(second.get().unwrap().unwrap(), b"about it");
    second.clear().unwrap();
    assert_eq!(second.get().unwrap(), None);
}

proptest! {
    /// Wherever the process ends, the page says what was put last, or what is just being put if that is whole.
    #[test]
    fn a_page_is_whole_wherever_the_process_ends(
        puts in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..300), 1..8),
        last in proptest::collection::vec(any::<u8>(), 1..9000),
        whole_steps in 0_usize..=2,
        torn in 0_usize..9000,
    ) {
        let ledger = Ledger::new().unwrap();
        for bytes in &puts {
            ledger.put(Page::Running, bytes).unwrap();
        }
        let steps = Page::Running.document().steps(&ledger.file, &last).unwrap();
        for (step, (at, bytes)) in steps.iter().enumerate() {
            // Bytes can be torn, the head cannot; and a torn one would be noticed.
            let len = if step < whole_steps { bytes.len() } else { torn.min(bytes.len() - 1) };
            ledger.file.write(&bytes[..len], *at).unwrap();
            if step >= whole_steps {
                break;
            }
        }
        let before = puts.last().unwrap();
        let found = successor(&ledger).get(Page::Running).unwrap().unwrap();
        match whole_steps {
            0 => prop_assert_eq!(&found, before),
            // What is missing of the head may happen to be what was there: then it is whole.
            1 => prop_assert!(found == *before || found == last),
            _ => prop_assert_eq!(&found, &last),
        }
        // And it goes on from there.
        let heir = successor(&ledger);
        heir.put(Page::Running, b"next").unwrap();
        prop_assert_eq!(heir.get(Page::Running).unwrap().unwrap(), b"next");
    }
}
