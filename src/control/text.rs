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
    use crate::engine::{BandId, GroupStatus};
    use crate::sched::{Counters, Direction, Limits, Policy};
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
    fn an_id_is_one_word_and_says_if_its_process_has_gone() {
        let mut band = band();
        band.groups[1].gone = true;
        band.groups[2].id = Some(GroupId::Name("a\u{a0}b".into()));
        let line = status_line(&band, 128);
        assert!(line.contains(" 1001(gone) 166 "), "{line}");
        assert!(line.contains(" a\\302\\240b 211 "), "{line}");
    }
}
