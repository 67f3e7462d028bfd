//! Groups come, go and change while hundreds of requests are held: nothing is lost, and shares follow at once.

use crate::daemon::{Counters, Transport, Vmdisk, after, ioband};
use crate::support::{folder, trial};
use crate::writers::Writers;
use libtest_mimic::Trial;

/// Two users write to two images, half of the threads to each, and half of those as each.
const THREADS: usize = 256;
/// What the disk does in the 100 ms that a change may take (share rule R10).
const GRACE: u64 = 200;
/// Requests of a window in which shares are looked at.
const COUNTED: u64 = 400;

pub(crate) fn trials() -> Vec<Trial> {
    let both = Transport::BOTH.map(|transport| {
        let name = format!("attach, detach, type and weight with hundreds held ({})", transport.name());
        trial(&name, transport.needs(), move || changes(transport))
    });
    both.into_iter().collect()
}

const CONFIG: &str = "devices: {d: {path: disk, size: 64MiB, simulate: {iops: 2000}}}\n\
     images: {a.img: {device: d, size: 32MiB}, b.img: {device: d, offset: 32MiB}}\n";

struct Stage(Vmdisk);

impl Stage {
    fn message(&self, words: &str) {
        let args: Vec<_> = ["message", "d", "0"].into_iter().chain(words.split(' ')).collect();
        let args = [&args[..], &["--mountpoint", "vmdisk"]].concat();
        let output = ioband(self.0.folder(), &args);
        assert!(output.status.success(), "{words}: {}", String::from_utf8_lossy(&output.stderr));
    }

    fn requests(&self) -> Vec<(String, u64)> {
        let count = |(id, counters): (String, Counters)| (id, counters[0] + counters[3]);
        self.0.groups().into_iter().map(count).collect()
    }

    /// The part in percent that each of the groups with something to do has from just after now on.
    fn expect(&self, what: &str, parts: &[(&str, f64)]) {
        after(|| self.requests(), &self.requests(), GRACE);
        let got = crate::daemon::parts(|| self.requests(), COUNTED);
        for (id, part) in parts {
            let percent = got.iter().find(|(group, _)| group == id).map_or(0.0, |(_, percent)| *percent);
            assert!(
                (percent - part).abs() < 4.0,
                "{what}: {id} got {percent:.1} % and not {part} %: {got:?}"
            );
        }
    }
}

fn changes(transport: Transport) {
    let stage = Stage(Vmdisk::mount_in(folder(), CONFIG, &transport.and(&[])));
    let images = [(stage.0.file("a.img"), 0), (stage.0.file("b.img"), 32 << 20)];
    let writers = Writers::start_as(&images, THREADS, |thread| 1001 + thread as u32 / 2 % 2);
    writers.wait_for(10);

    stage.message("type user");
    stage.message("attach 1001");
    stage.message("weight 1001:300");
    stage.expect("one is attached", &[("-1", 25.0), ("1001", 75.0)]);
    stage.message("attach 1002");
    stage.expect("another one", &[("-1", 0.0), ("1001", 75.0), ("1002", 25.0)]);
    stage.message("weight 1002:300");
    stage.expect("another weight", &[("1001", 50.0), ("1002", 50.0)]);
    stage.message("detach 1001");
    stage.expect("one is detached", &[("-1", 25.0), ("1002", 75.0)]);
    stage.message("detach 1002");
    stage.expect("the other one, too", &[("-1", 100.0)]);

    stage.message("type image");
    stage.message("attach b.img");
    stage.message("weight b.img:300");
    stage.expect("by image", &[("-1", 25.0), ("b.img", 75.0)]);
    stage.message("detach b.img");
    // What is held came when nobody wanted to know of its process.
    stage.message("type pid");
    let us = std::process::id().to_string();
    stage.message(&format!("attach {us}"));
    stage.expect("by process", &[("-1", 0.0), (us.as_str(), 100.0)]);

    writers.stop();
    let outcomes = writers.join();
    assert_eq!(outcomes.errors(), 0, "no change is an I/O error");
    outcomes.assert_on(&stage.0.folder().join("disk"));
}
