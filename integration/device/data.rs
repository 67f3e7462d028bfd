//! What was written is what is read: as a copy in memory says, by neighbours, and in the order of the submissions.

use crate::stage::{MIB, Opened, Place, answers, ask, assert_same, device, read};
use crate::support::Random;
use ioband::device::{BackendKind, Done, Op, Simulate};
use std::collections::HashMap;

/// A range of any alignment: mostly small ones, some around whole blocks, a few of several MiB.
fn range(random: &mut Random, size: u64) -> (u64, u64) {
    let longest =
        [600, 5000, 70_000, 300_000, 4 * MIB][[0, 0, 0, 1, 1, 1, 2, 2, 3, 4][random.below(10) as usize]];
    let mut len = 1 + random.below(longest);
    let mut offset = random.below(size - len + 1);
    if random.below(3) == 0 {
        let unit = [512, 4096][random.below(2) as usize];
        offset -= offset % unit;
        len = len.next_multiple_of(unit).min(size - offset);
    }
    (offset, len)
}

/// An operation that has been submitted and not answered.
struct Flight {
    offset: u64,
    end: u64,
    changes: bool,
    /// What a read has to give.
    wanted: Option<Vec<u8>>,
}

/// Random operations of all kinds, many in flight, against a copy in memory. Those that overlap wait for each
/// other here, because only then it is certain what a read must see.
pub(crate) fn every_byte(place: Place, backend: BackendKind, simulate: Option<Simulate>, operations: u64) {
    let on = Opened::new(place);
    let device = device(backend, simulate);
    let size = on.target.size().0;
    let mut model = vec![0u8; size as usize];
    let mut random = Random::new(0x10ba_4d00 + operations);
    let mut flying: HashMap<u64, Flight> = HashMap::new();
    let mut done: Vec<Done> = Vec::new();
    let mut settle = |flying: &mut HashMap<u64, Flight>| {
        device.wait(&mut done);
        for Done { token, result } in done.drain(..) {
            let Flight { offset, end, wanted, .. } =
                flying.remove(&token).expect("an answer to what was asked");
            let bytes = result.unwrap_or_else(|error| panic!("{token}, {offset}..{end}: {error}"));
            assert_eq!(bytes.is_some(), wanted.is_some());
            if let (Some(bytes), Some(wanted)) = (bytes, wanted) {
                assert_same(&bytes, &wanted, &format!("read {token}, {offset}..{end}"));
            }
        }
    };
    for token in 0..operations {
        let (offset, len) = range(&mut random, size);
        let end = offset + len;
        let op =
            [Op::Read, Op::Write, Op::Write, Op::Discard, Op::WriteZeroes, Op::Read, Op::Write, Op::Flush]
                [random.below(8) as usize];
        let changes = !matches!(op, Op::Read | Op::Flush);
        let conflicts = |flying: &HashMap<u64, Flight>| {
            let overlaps = |other: &Flight| other.offset < end && offset < other.end;
            flying.values().any(|other| (changes || other.changes) && overlaps(other))
        };
        while flying.len() >= 48 || (op != Op::Flush && conflicts(&flying)) {
            settle(&mut flying);
        }
        let place = offset as usize..end as usize;
        let mut flight = Flight { offset, end, changes, wanted: None };
        let part = match op {
            Op::Flush => {
                flight.end = offset;
                on.part(token, op, 0, 0)
            }
            Op::Read => {
                flight.wanted = Some(model[place].to_vec());
                on.part(token, op, offset, len)
            }
            Op::Write => {
                let data = random.bytes(len as usize);
                model[place].copy_from_slice(&data);
                on.write(token, offset, &data)
            }
            Op::Discard | Op::WriteZeroes => {
                model[place].fill(0);
                on.part(token, op, offset, len)
            }
        };
        flying.insert(token, flight);
        device.submit(part);
    }
    while !flying.is_empty() {
        settle(&mut flying);
    }
    assert_same(&read(&device, &on, 0, size), &model, "the whole in the end");
    ask(&device, on.part(1, Op::Flush, 0, 0)).expect("flushing");
    drop(device);
    let stored = std::fs::read(&on.file).expect("reading the file behind it");
    assert_same(&stored, &model, "what is stored in the end");
}

/// Writes to neighbouring bytes of the same blocks, from several threads at once, all survive; and where
/// blocks are shared, writes to the same bytes take effect in the order in which they came.
pub(crate) fn neighbours(place: Place, backend: BackendKind) {
    const CELL: u64 = 100;
    const CELLS: u64 = 1200;
    const THREADS: u64 = 4;
    let on = Opened::new(place);
    let device = device(backend, None);
    // Without blocks the page cache keeps neighbours apart, but nobody keeps order.
    let rounds = if on.target.is_direct() { 3 } else { 1 };
    let byte = |cell: u64, round: u64| (1 + (cell * 7 + round * 31) % 251) as u8;
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let (on, device) = (&on, &device);
            scope.spawn(move || {
                for round in 0..rounds {
                    for cell in (thread..CELLS).step_by(THREADS as usize) {
                        let data = [byte(cell, round); CELL as usize];
                        device.submit(on.write(round * CELLS + cell, cell * CELL, &data));
                    }
                }
            });
        }
        for (token, result) in answers(&device, (rounds * CELLS) as usize) {
            result.unwrap_or_else(|error| panic!("{token}: {error}"));
        }
    });
    let wanted: Vec<u8> = (0..CELLS).flat_map(|cell| [byte(cell, rounds - 1); CELL as usize]).collect();
    assert_same(&read(&device, &on, 0, CELLS * CELL), &wanted, "all neighbours");
}

/// Overlapping changes of parts of blocks, none waited for: the result is that of doing them in order.
pub(crate) fn order(place: Place, backend: BackendKind) {
    let on = Opened::new(place);
    if !on.target.is_direct() {
        return;
    }
    let device = device(backend, None);
    let block = u64::from(on.target.block_size());
    let blocks = 16;
    let span = blocks * block;
    let mut random = Random::new(7);
    let mut model = vec![0u8; span as usize];
    let count = 400;
    for round in 0..10 {
        let mut parts = Vec::new();
        for token in 0..count {
            let (offset, len) = if token % (count / blocks) == 0 {
                // A whole block, each of them once: whole blocks keep no order among themselves.
                (token / (count / blocks) * block, block)
            } else {
                // Odd at one end at least, so that it excludes all others that it touches.
                let offset = random.below(span - block);
                let len = 1 + random.below((span - offset).min(3 * block));
                let whole = offset.is_multiple_of(block) && (offset + len).is_multiple_of(block);
                (offset, len - u64::from(whole))
            };
            let place = offset as usize..(offset + len) as usize;
            if random.below(5) == 0 {
                model[place].fill(0);
                parts.push(on.part(token, [Op::Discard, Op::WriteZeroes][(token % 2) as usize], offset, len));
            } else {
                let data = random.bytes(len as usize);
                model[place].copy_from_slice(&data);
                parts.push(on.write(token, offset, &data));
            }
        }
        // All at once is more than a submission queue holds.
        if round % 2 == 0 {
            device.submit_all(parts)
        } else {
            parts.into_iter().for_each(|part| device.submit(part))
        }
        for (token, result) in answers(&device, count as usize) {
            result.unwrap_or_else(|error| panic!("{token}: {error}"));
        }
        assert_same(&read(&device, &on, 0, span), &model, &format!("after round {round}"));
    }
}
