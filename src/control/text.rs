//! dm-ioband's tables and statuses.
//!
//! ```text
//! NAME: START LENGTH ioband DEVICE_ID [ID READS DELAYED SECTORS WRITES DELAYED SECTORS ...]
//! ```
//!
//! That is a status; what a table is says [`super::grammar`]. START is 0, LENGTH counts sectors of 512 bytes, the id of the
//! default group is -1. Behind the id of a process that has ended stands `(gone)`.

use super::edit;
use super::grammar::escaped;
use crate::config::Plan;
use crate::engine::{BandStatus, DiskStatus};
use std::fmt::Write;

/// The tables of all ioband devices: what was asked for.
pub(super) fn table(plan: &Plan) -> String {
    plan.devices.iter().map(|device| format!("{}\n", edit::table(device))).collect()
}

/// The statuses of all ioband devices, in the order of the plan: what was got.
pub(super) fn status(plan: &Plan, disks: &[DiskStatus]) -> String {
    let line = |name: &str| {
        let mut bands = disks.iter().flat_map(|disk| disk.bands.iter().map(move |band| (disk.id, band)));
        let (id, band) = bands.find(|(_, band)| band.name == name)?;
        Some(status_line(band, id) + "\n")
    };
    plan.devices.iter().filter_map(|device| line(&device.name)).collect()
}

/// One status line, without the line end.
fn status_line(band: &BandStatus, id: u32) -> String {
    let mut line = format!("{}: 0 {} ioband {id}", band.name, band.sectors);
    for group in &band.groups {
        let id = group.id.as_ref().map_or_else(|| "-1".to_owned(), |id| escaped(&id.to_string()));
        let gone = if group.gone { "(gone)" } else { "" };
        let (r, w) = (group.counters.read, group.counters.write);
        // Writing to a String cannot fail.
        let _ = write!(
            line,
            " {id}{gone} {} {} {} {} {} {}",
            r.requests, r.delayed, r.sectors, w.requests, w.delayed, w.sectors
        );
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::classify::{GroupId, GroupType};
    use crate::engine::BandId;
    use crate::sched::{Cap, Counters, Direction, Limits};
    use crate::units::{Sectors, Weight};

    fn group(id: Option<u32>, weight: u32, [r, dr, sr, w, dw, sw]: [u64; 6]) -> GroupStatus {
        GroupStatus {
            id: id.map(GroupId::Number),
            weight: Weight::new(weight).expect("a test's weight is valid"),
            limits: Limits::default(),
            counters: Counters {
                read: Direction { requests: r, delayed: dr, sectors: sr },
                write: Direction { requests: w, delayed: dw, sectors: sw },
            },
            queued: 0,
            gone: false,
        }
    }

    fn band() -> BandStatus {
        BandStatus {
            id: BandId::default(),
            name: "ioband1".into(),
            sectors: Sectors(44371467),
            device: "8:29".into(),
            group_type: GroupType::User,
            policy: Policy::Weight,
            groups: vec![
                group(None, 100, [223, 172, 408, 211, 136, 600]),
                group(Some(1001), 80, [166, 107, 472, 139, 95, 352]),
                group(Some(1002), 20, [211, 146, 520, 210, 147, 504]),
            ],
        }
    }

    #[test]
    fn the_status_of_dm_iobands_document() {
        assert_eq!(
            status_line(&band(), 128),
            "ioband1: 0 44371467 ioband 128 -1 223 172 408 211 136 600 1001 166 107 472 139 95 352 \
             1002 211 146 520 210 147 504"
        );
    }

    #[test]
    fn a_path_is_one_word() {
        assert_eq!(word("/home/me/my stuff/disk"), "/home/me/my\\040stuff/disk");
        assert_eq!(word("a\\b\nc\u{a0}d"), "a\\134b\\012c\\302\\240d");
        assert_eq!(word("/dev/disk/by-id/ü"), "/dev/disk/by-id/ü");
    }

    #[test]
    fn a_table_has_every_argument() {
        let settings = Settings { io_throttle: 10, io_limit: 400, token_base: 2048 };
        assert_eq!(
            table_line(&band(), 128, &settings),
            "ioband1: 0 44371467 ioband 8:29 128 10 400 user weight 2048 :100 1001:80 1002:20"
        );
    }

    #[test]
    fn a_table_of_range_bw_has_bandwidths_in_kilobytes() {
        let rate = |rate| NonZeroU64::new(rate).expect("a test's rate is not zero");
        let mut band = band();
        band.policy = Policy::RangeBw;
        band.groups[1].limits.min_bandwidth = Some(rate(1000 << 10));
        band.groups[1].limits.max_bandwidth = Some(Cap::new(rate(2000 << 10)));
        // A single byte a second is not none.
        band.groups[2].limits.min_bandwidth = Some(rate(1));
        band.groups[2].limits.max_bandwidth = Some(Cap::new(rate(1025)));
        // Caps of requests have no place in it.
        band.groups[2].limits.max_iops = Some(Cap::new(rate(7)));
        assert_eq!(
            table_line(&band, 128, &Settings::default()),
            "ioband1: 0 44371467 ioband 8:29 128 0 0 user range-bw 2048 :0:0 1001:1000:2000 1002:1:2"
        );
    }
}
